//! Which tensor is which: ggml's names, those of a Hugging Face checkpoint, and how rows are ordered.

use super::blocks::Format;
use super::reader::{Gguf, Tensor};
use crate::error::Result;
use crate::model::Config;
use crate::model::params::ParamSpec;

/// The architectures that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Llama,
    Qwen2,
}

impl Architecture {
    pub const NAMES: [&str; 2] = ["llama", "qwen2"];

    /// general.architecture, the prefix of the model's keys, and model_type in a config.json.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
        }
    }

    pub fn from_name(name: &str) -> Option<Architecture> {
        [Architecture::Llama, Architecture::Qwen2].into_iter().find(|a| a.name() == name)
    }

    /// Biases beside the projections of attention, by ggml's names.
    fn biases(self, config: &Config) -> &'static [&'static str] {
        match self {
            Architecture::Llama if config.attention_bias => &["attn_q", "attn_k", "attn_v", "attn_output"],
            Architecture::Llama => &[],
            Architecture::Qwen2 => &["attn_q", "attn_k", "attn_v"],
        }
    }
}

/// Tensors that hold no weights, but rotation.
pub const ROPE_TENSORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// A tensor of the checkpoint and where it comes from.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// In the checkpoint.
    pub name: String,
    pub tensor: &'a Tensor<'a>,
    /// Heads whose rows stand pair by pair in the file and half by half in the checkpoint; None: as they are.
    pub heads: Option<usize>,
}

/// What a checkpoint of this architecture holds: ggml's name, the checkpoint's, shape, heads to reorder.
fn table(architecture: Architecture, c: &Config) -> Vec<(String, String, Vec<usize>, Option<usize>)> {
    let (d, f) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    // ggml rotates neighbours in LLaMA, transformers halves; for Qwen2 both take halves
    let heads = |n: usize| (architecture == Architecture::Llama).then_some(n);
    let (q_heads, kv_heads) = (heads(c.num_attention_heads), heads(c.num_key_value_heads));
    let projections = [
        ("attn_q", "self_attn.q_proj", [q, d], q_heads),
        ("attn_k", "self_attn.k_proj", [kv, d], kv_heads),
        ("attn_v", "self_attn.v_proj", [kv, d], None),
        ("attn_output", "self_attn.o_proj", [d, q], None),
        ("ffn_gate", "mlp.gate_proj", [f, d], None),
        ("ffn_up", "mlp.up_proj", [f, d], None),
        ("ffn_down", "mlp.down_proj", [d, f], None),
    ];
    let norms = [("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];
    let biases = architecture.biases(c);
    let mut all =
        vec![("token_embd.weight".into(), "model.embed_tokens.weight".into(), vec![c.vocab_size, d], None)];
    for layer in 0..c.num_hidden_layers {
        let (ours, theirs) = (format!("model.layers.{layer}"), format!("blk.{layer}"));
        for (from, to) in norms {
            all.push((format!("{theirs}.{from}.weight"), format!("{ours}.{to}.weight"), vec![d], None));
        }
        for (from, to, shape, heads) in projections {
            all.push((
                format!("{theirs}.{from}.weight"),
                format!("{ours}.{to}.weight"),
                shape.to_vec(),
                heads,
            ));
            if biases.contains(&from) {
                all.push((
                    format!("{theirs}.{from}.bias"),
                    format!("{ours}.{to}.bias"),
                    vec![shape[0]],
                    heads,
                ));
            }
        }
    }
    all.push(("output_norm.weight".into(), "model.norm.weight".into(), vec![d], None));
    if !c.tie_word_embeddings {
        all.push(("output.weight".into(), "lm_head.weight".into(), vec![c.vocab_size, d], None));
    }
    all
}

/// Every tensor of the checkpoint, found in the file.
///
/// # Errors
/// A tensor that is missing, of another shape, or left over: what is not understood would be lost.
pub fn parts<'a>(gguf: &'a Gguf<'a>, architecture: Architecture, config: &Config) -> Result<Vec<Part<'a>>> {
    let mut left: std::collections::HashMap<&str, &Tensor<'_>> =
        gguf.tensors.iter().filter(|t| !ROPE_TENSORS.contains(&t.name)).map(|t| (t.name, t)).collect();
    let mut parts = Vec::new();
    for (from, name, shape, heads) in table(architecture, config) {
        let Some(tensor) = left.remove(from.as_str()) else {
            return Err(gguf.error(format!("has no tensor {from}")));
        };
        if tensor.shape != shape {
            return Err(
                gguf.error(format!("{from} is {:?}, and by the file's own keys {shape:?}", tensor.shape))
            );
        }
        if heads.is_some() && shape.len() == 1 && tensor.format.block().0 > 1 {
            return Err(
                gguf.error(format!("{from} is a bias in {:?}; biases are F32, F16 or BF16", tensor.format))
            );
        }
        parts.push(Part { name, tensor, heads });
    }
    match left.keys().min() {
        Some(name) => Err(gguf.error(format!(
            "has a tensor {name}, which no {} model that is read has; without it the model would be another",
            architecture.name()
        ))),
        None => Ok(parts),
    }
}

/// Whether the parts are what this program loads for `config`.
pub fn match_params(parts: &[Part<'_>], params: &[ParamSpec]) -> bool {
    parts.len() == params.len()
        && params.iter().all(|p| parts.iter().any(|part| part.name == p.name && part.tensor.shape == p.shape))
}

impl Part<'_> {
    /// Rows in the file, and numbers in each: a vector whose elements are reordered is a column.
    fn rows_and_columns(&self) -> (usize, usize) {
        let shape = &self.tensor.shape;
        match (shape.as_slice(), self.heads) {
            ([n], Some(_)) => (*n, 1),
            ([n], None) => (1, *n),
            _ => (shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]),
        }
    }

    /// Row r of the checkpoint is this row of the file. A head of the checkpoint has the first elements of all pairs and then the
    /// second ones; in the file the two elements of a pair are neighbours.
    fn row_in_file(&self, r: usize, rows: usize) -> usize {
        let Some(heads) = self.heads else { return r };
        let size = rows / heads;
        let (head, within) = (r / size, r % size);
        let (second, pair) = (within / (size / 2), within % (size / 2));
        head * size + 2 * pair + second
    }

    /// Hands the numbers to `sink`, row by row in the checkpoint's order.
    pub fn read<E>(
        &self, sink: &mut dyn FnMut(&[f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (rows, columns) = self.rows_and_columns();
        let format: Format = self.tensor.format;
        let bytes = format.bytes_of(&[columns]).unwrap_or(0);
        let mut numbers = Vec::with_capacity(columns);
        for r in 0..rows {
            let at = self.row_in_file(r, rows) * bytes;
            numbers.clear();
            format.read(&self.tensor.bytes[at..at + bytes], &mut numbers);
            sink(&numbers)?;
        }
        Ok(())
    }
}
