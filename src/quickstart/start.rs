//! The untrained model: a Hugging Face directory with fresh weights.
//!
//! Keys start as copies of queries and outputs as transposes of values (mimetic initialisation, Trockman & Kolter,
//! 2305.09828): attention then begins by finding what is alike and copying it, and a model this small learns to recall
//! in a million tokens. From plain random weights it had not after five million.

use super::words::{tokenizer_json, vocabulary};
use crate::checkpoint::{Bytes, Existing, SHARD_BYTES, Staging, TensorSource, TensorSpec, write_model};
use crate::error::Result;
use crate::model::config::Dtype;
use crate::model::{Config, params};
use crate::random::{Purpose, Stream};
use std::path::Path;

const EMBED_STD: f64 = 0.1;
const QUERY_STD: f64 = 0.06;
const VALUE_STD: f64 = 0.04;
const MLP_STD: f64 = 0.06;

/// Width of the residual stream, layers, heads, width of the feed-forward block.
const SHAPE: (usize, usize, usize, usize) = (128, 2, 4, 128);
/// Small, so that positions beyond the training window look unlike any within it.
const THETA: f64 = 200.0;

/// The architecture, trained at windows of `window` tokens.
pub fn config(window: usize) -> Config {
    let (width, layers, heads, inner) = SHAPE;
    let json = serde_json::json!({
        "model_type": "llama", "vocab_size": vocabulary().len(), "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "max_position_embeddings": window, "rope_theta": THETA,
    });
    Config::from_json(&json.to_string(), Path::new("quickstart")).expect("a constant that a test reads")
}

/// Fresh weights, a function of the seed.
struct Fresh {
    specs: Vec<TensorSpec>,
    seed: u64,
}

impl Fresh {
    fn new(config: &Config, seed: u64) -> Fresh {
        let spec =
            |p: params::ParamSpec| TensorSpec { name: p.name, shape: p.shape, dtype: Dtype::F32.into() };
        Fresh { specs: params::table(config).into_iter().map(spec).collect(), seed }
    }

    fn normal(&self, i: usize, std: f64) -> Vec<f32> {
        let mut stream = Stream::new(self.seed, Purpose::Init, 0, i as u32);
        (0..self.specs[i].shape.iter().product()).map(|_| (stream.normal() * std) as f32).collect()
    }

    /// The tensor of the same layer whose name ends differently.
    fn sibling(&self, i: usize, from: &str, to: &str) -> usize {
        let name = self.specs[i].name.replace(from, to);
        self.specs.iter().position(|s| s.name == name).unwrap_or(i)
    }

    fn values(&self, i: usize) -> Vec<f32> {
        let TensorSpec { name, shape, .. } = &self.specs[i];
        match name.as_str() {
            n if n.contains("norm") => vec![1.0; shape[0]],
            n if n.contains("q_proj") => self.normal(i, QUERY_STD),
            n if n.contains("k_proj") => self.normal(self.sibling(i, "k_proj", "q_proj"), QUERY_STD),
            n if n.contains("v_proj") => self.normal(i, VALUE_STD),
            n if n.contains("o_proj") => {
                let (rows, columns) = (shape[0], shape[1]);
                let v = self.normal(self.sibling(i, "o_proj", "v_proj"), VALUE_STD);
                (0..rows * columns).map(|at| v[(at % columns) * rows + at / columns]).collect()
            }
            n if n.contains("mlp") => self.normal(i, MLP_STD),
            _ => self.normal(i, EMBED_STD),
        }
    }
}

impl TensorSource for Fresh {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }
    fn bytes(&self, i: usize, sink: &mut Bytes<'_>) -> Result<()> {
        sink(bytemuck::cast_slice(&self.values(i)))
    }
}

/// Writes the untrained model and its tokenizer to `dir`.
pub fn write(dir: &Path, window: usize, seed: u64) -> Result<()> {
    let config = config(window);
    let staging = Staging::create(dir, Existing::Refuse)?;
    write_model(&staging, &config, &Fresh::new(&config, seed), None, SHARD_BYTES)?;
    staging.write("tokenizer.json", tokenizer_json().as_bytes())?;
    staging.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mirror_queries_and_outputs_mirror_values() {
        let config = config(64);
        let fresh = Fresh::new(&config, 1);
        let by_name = |name: &str| {
            let i =
                fresh.specs.iter().position(|s| s.name == format!("model.layers.1.self_attn.{name}.weight"));
            fresh.values(i.expect("such a tensor"))
        };
        let (v, o, d) = (by_name("v_proj"), by_name("o_proj"), config.hidden_size);
        assert_eq!(by_name("q_proj"), by_name("k_proj"));
        assert_eq!((o[5 * d + 7], o[100 * d + 3]), (v[7 * d + 5], v[3 * d + 100]));
    }
}
