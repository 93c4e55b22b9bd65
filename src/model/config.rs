//! What a model is, as the `config.json` of a Hugging Face directory says it: what is the same for every family.
//! `model/family` reads and writes the rest.

mod dtype;
pub(super) mod fields;
mod preset;
pub(super) mod rope_json;
#[cfg(test)]
mod tests;

pub use dtype::Dtype;
pub use preset::preset_names;

use super::family::{Arch, Family, Norm};
use super::lora::Lora;
use crate::error::{Error, Result};
use crate::regular;
use crate::rope::{Rope, Scaling};
use fields::Fields;
use rope_json::DEFAULT_THETA;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Bounds that keep every product of two sizes far from overflow.
pub(super) const MOST_WIDTH: usize = 1 << 24;
/// A rotation is a list as long as half a head.
pub(super) const MOST_HEAD: usize = 1 << 16;
/// Each layer is a dozen parameters with a name and a shape, 8 KiB a layer, which a short file asks for by one number. The deepest models
/// have some 130 layers, those stacked from two or three of them 300.
pub(super) const MOST_LAYERS: usize = 512;

/// A model: family, sizes, rotation, special tokens. A value of this type has been through [`Config::check`], unless it
/// was put together by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub family: &'static Family,
    /// How it differs from LLaMA.
    pub arch: Arch,
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Divides num_attention_heads.
    pub num_key_value_heads: usize,
    /// Elements of one head; even. heads × head_dim need not be hidden_size.
    pub head_dim: usize,
    /// Added under the root of every norm.
    pub norm_eps: f64,
    /// Whether the head is the embedding; then the checkpoint has no lm_head.weight.
    pub tie_word_embeddings: bool,
    /// Context length in tokens.
    pub max_position_embeddings: usize,
    pub bos_token_id: Option<u32>,
    /// Any of these ends a text.
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// What the checkpoint's weights are stored in, where it says so.
    pub dtype: Option<Dtype>,
    pub rope: Rope,
    /// Adapters that are trained on the model. config.json does not tell of them.
    pub lora: Option<Lora>,
    /// Keys that this program does not use; written back as they were.
    pub extra: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` of a Hugging Face directory.
    ///
    /// # Errors
    /// No such file, not JSON, a model_type of no family, a missing key, or a value that cannot be: one sentence that
    /// names the key.
    pub fn load(dir: &Path) -> Result<Config> {
        let path = dir.join("config.json");
        let text =
            regular::read_to_string(&path).map_err(|e| Error::io(&path, "reading the model's config", e))?;
        Config::from_json(&text, &path)
    }

    /// Reads the text of a `config.json`; `path` is for messages.
    pub fn from_json(text: &str, path: &Path) -> Result<Config> {
        let map = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map,
            Ok(_) => return Err(Error::file(path, "is JSON, but not an object")),
            Err(e) => return Err(Error::file(path, format!("is not JSON: {e}"))),
        };
        let mut f = Fields { path, prefix: "", map };
        let model_type = f.text("model_type")?;
        let model_type = f.require("model_type", model_type)?;
        let family = Family::find(&model_type).map_err(|problem| f.error(problem))?;
        if f.map.get("quantization_config").is_some_and(|q| !q.is_null()) {
            return Err(f.error(
                "quantization_config: quantized checkpoints are not supported; use the full-precision model",
            ));
        }
        f.take("architectures");
        let config = (family.read)(&mut f)?;
        config.check().map_err(|problem| Error::file(path, problem))?;
        Ok(Config { extra: f.map, ..config })
    }

    /// Whether the sizes fit together; the error is one sentence.
    pub fn check(&self) -> std::result::Result<(), String> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let sizes = [
            ("vocab_size", self.vocab_size, MOST_WIDTH),
            ("hidden_size", self.hidden_size, MOST_WIDTH),
            ("intermediate_size", self.intermediate_size, MOST_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("num_attention_heads", heads, MOST_WIDTH),
            ("num_key_value_heads", kv_heads, MOST_WIDTH),
            ("head_dim", self.head_dim, MOST_HEAD),
            ("max_position_embeddings", self.max_position_embeddings, u32::MAX as usize),
        ];
        if let Some((name, value, most)) =
            sizes.into_iter().find(|&(_, value, most)| value == 0 || value > most)
        {
            return Err(format!("{name} is {value}, but it should be a whole number from 1 to {most}"));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}, so heads cannot share keys evenly"
            ));
        }
        if !self.hidden_size.is_multiple_of(heads) {
            // transformers refuses it too, even where head_dim is given
            return Err(format!(
                "num_attention_heads {heads} does not divide hidden_size {}",
                self.hidden_size
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {}, but it must be even: rotation turns pairs", self.head_dim));
        }
        if heads.saturating_mul(self.head_dim) > MOST_WIDTH {
            return Err(format!(
                "num_attention_heads {heads} times head_dim {} is above {MOST_WIDTH}",
                self.head_dim
            ));
        }
        if self.rope.rotary_dim > self.head_dim {
            return Err(format!("{} rotated elements in heads of {}", self.rope.rotary_dim, self.head_dim));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            let key = match self.arch.norm {
                Norm::Rms => "rms_norm_eps",
                Norm::Layer => "layer_norm_epsilon",
            };
            return Err(format!("{key} is {}, but it should lie between 0 and 1", self.norm_eps));
        }
        if !(self.initializer_range >= 0.0 && self.initializer_range <= 1.0) {
            return Err(format!(
                "initializer_range is {}, but it should lie between 0 and 1",
                self.initializer_range
            ));
        }
        self.rope.check()
    }

    /// The context length that the rotation's frequencies were trained for, in tokens: a scaling's original length, or
    /// all of it where nothing is scaled.
    pub fn original_length(&self) -> usize {
        self.rope.scaling.original().unwrap_or(self.max_position_embeddings)
    }

    /// The context length in tokens that a rotation of this model was made for. One that is scaled already may state as its own the
    /// length before or after.
    pub fn reach(&self, rope: &Rope) -> usize {
        let stated =
            if rope.scaling.name() == self.rope.scaling.name() { self.max_position_embeddings } else { 0 };
        stated.max((self.original_length() as f64 * rope.scaling.factor().unwrap_or(1.0)).round() as usize)
    }

    /// The same model with another rotation and context length: what a run trains and saves.
    pub fn extended(&self, rope: Rope, max_position_embeddings: usize) -> Config {
        // a dynamic scaling counts from this length, so there it must stay
        let counted_from = match &rope.scaling {
            Scaling::Dynamic(dynamic) => dynamic.original,
            _ => max_position_embeddings,
        };
        Config { rope, max_position_embeddings: counted_from, ..self.clone() }
    }

    /// The `config.json` to save, with rope in the spelling of transformers 4.x and of 5.x, and the warnings that the user
    /// should see: what other software will read differently.
    pub fn to_json(&self) -> (Value, Vec<String>) {
        let mut out = Map::new();
        out.insert("architectures".into(), json!([self.family.architecture]));
        out.insert("model_type".into(), json!(self.family.model_type));
        out.insert("vocab_size".into(), json!(self.vocab_size));
        (self.family.write)(self, &mut out);
        let mut put = |key: &str, value: Value| out.insert(key.into(), value);
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        put("initializer_range", json!(self.initializer_range));
        put("bos_token_id", json!(self.bos_token_id));
        put(
            "eos_token_id",
            match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                several => json!(several),
            },
        );
        if let Some(dtype) = self.dtype {
            put("dtype", json!(dtype.hf_name()));
            put("torch_dtype", json!(dtype.hf_name()));
        }
        let plain =
            self.rope.as_saved().scaling == Scaling::None && self.rope.as_saved().theta == DEFAULT_THETA;
        let mut warnings = Vec::new();
        if self.family.reads_rope || !plain {
            warnings.extend(rope_json::write(&self.rope, &mut out));
        }
        if !self.family.reads_rope && !plain {
            warnings.push(format!(
                "{} rotates by plain RoPE of base {DEFAULT_THETA} and reads no rope keys: only pose-engine reads the scaling that \
                 config.json names, other software will compute different frequencies",
                self.family.architecture
            ));
        }
        for (key, value) in &self.extra {
            out.entry(key.clone()).or_insert_with(|| value.clone());
        }
        (Value::Object(out), warnings)
    }
}
