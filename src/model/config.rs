//! What a model is, as the `config.json` of a Hugging Face LlamaForCausalLM says it.
//!
//! Names and defaults are those of transformers 5.23 (models/llama/configuration_llama.py).

mod dtype;
mod fields;
mod preset;
mod rope_json;
#[cfg(test)]
mod tests;

pub use dtype::Dtype;
pub use preset::preset_names;

use super::lora::Lora;
use crate::error::{Error, Result};
use crate::rope::{Rope, Scaling};
use fields::Fields;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Bounds that keep every product of two sizes far from overflow.
const MOST_WIDTH: usize = 1 << 24;
const MOST_LAYERS: usize = 1 << 16;

/// A LLaMA model: sizes, rotation, special tokens. A value of this type has been through [`Config::check`], unless it was
/// put together by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
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
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding; then the checkpoint has no lm_head.weight.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
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
    /// No such file, not JSON, a model_type other than llama, a missing key, or a value that cannot be: one sentence that
    /// names the key.
    pub fn load(dir: &Path) -> Result<Config> {
        let path = dir.join("config.json");
        let text =
            std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "reading the model's config", e))?;
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
        refuse_other_models(&mut f)?;
        let config = read(&mut f)?;
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
            ("head_dim", self.head_dim, MOST_WIDTH),
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
        if self.rope.rotary_dim != self.head_dim {
            return Err(format!("{} rotated elements in heads of {}", self.rope.rotary_dim, self.head_dim));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(format!("rms_norm_eps is {}, but it should lie between 0 and 1", self.rms_norm_eps));
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
        let mut put = |key: &str, value: Value| out.insert(key.into(), value);
        put("architectures", json!(["LlamaForCausalLM"]));
        put("model_type", json!("llama"));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", json!(self.num_attention_heads));
        put("num_key_value_heads", json!(self.num_key_value_heads));
        put("head_dim", json!(self.head_dim));
        put("hidden_act", json!("silu"));
        put("rms_norm_eps", json!(self.rms_norm_eps));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        put("attention_bias", json!(self.attention_bias));
        put("attention_dropout", json!(0.0));
        put("mlp_bias", json!(false));
        put("max_position_embeddings", json!(self.max_position_embeddings));
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
        let warnings = rope_json::write(&self.rope, &mut out);
        for (key, value) in &self.extra {
            out.entry(key.clone()).or_insert_with(|| value.clone());
        }
        (Value::Object(out), warnings)
    }
}

/// What is not a plain LLaMA would load here with other numbers than its own software gives it.
fn refuse_other_models(f: &mut Fields<'_>) -> Result<()> {
    let model_type = f.text("model_type")?;
    match f.require("model_type", model_type)?.as_str() {
        "llama" => {}
        other => return Err(f.error(format!("model_type \"{other}\" is not supported; supported is llama"))),
    }
    match f.text("hidden_act")?.as_deref() {
        None | Some("silu" | "swish") => {}
        Some(other) => {
            return Err(f.error(format!("hidden_act \"{other}\" is not supported; supported is silu")));
        }
    }
    if f.boolean("mlp_bias")?.unwrap_or(false) {
        return Err(f.error("mlp_bias true is not supported: the feed-forward block has no biases here"));
    }
    if f.number("attention_dropout")?.is_some_and(|p| p != 0.0) {
        return Err(f.error("attention_dropout above 0 is not supported; set it to 0"));
    }
    if f.number("partial_rotary_factor")?.is_some_and(|p| p != 1.0) {
        return Err(f.error("partial_rotary_factor other than 1 is not supported"));
    }
    if f.map.get("quantization_config").is_some_and(|q| !q.is_null()) {
        return Err(f.error(
            "quantization_config: quantized checkpoints are not supported; use the full-precision model",
        ));
    }
    f.take("architectures");
    Ok(())
}

fn read(f: &mut Fields<'_>) -> Result<Config> {
    let mut needed = |key: &str, most| {
        let value = f.size(key, most)?;
        f.require(key, value)
    };
    let vocab_size = needed("vocab_size", MOST_WIDTH)?;
    let hidden_size = needed("hidden_size", MOST_WIDTH)?;
    let intermediate_size = needed("intermediate_size", MOST_WIDTH)?;
    let num_hidden_layers = needed("num_hidden_layers", MOST_LAYERS)?;
    let heads = needed("num_attention_heads", MOST_WIDTH)?;
    let positions = needed("max_position_embeddings", u32::MAX as usize)?;
    let head_dim = match f.size("head_dim", MOST_WIDTH)? {
        Some(given) => given,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(f.error(format!(
                "head_dim is missing and num_attention_heads {heads} does not divide hidden_size {hidden_size}"
            )));
        }
    };
    if !head_dim.is_multiple_of(2) {
        return Err(f.error(format!("head_dim is {head_dim}, but it must be even: rotation turns pairs")));
    }
    Ok(Config {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: f.size("num_key_value_heads", MOST_WIDTH)?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
        tie_word_embeddings: f.boolean("tie_word_embeddings")?.unwrap_or(false),
        attention_bias: f.boolean("attention_bias")?.unwrap_or(false),
        max_position_embeddings: positions,
        bos_token_id: f.tokens("bos_token_id", false)?.first().copied(),
        eos_token_ids: f.tokens("eos_token_id", true)?,
        initializer_range: f.number("initializer_range")?.unwrap_or(0.02),
        dtype: read_dtype(f)?,
        rope: rope_json::read(f, head_dim, positions)?,
        lora: None,
        extra: Map::new(),
    })
}

/// `dtype` (5.x) or `torch_dtype` (4.x).
fn read_dtype(f: &mut Fields<'_>) -> Result<Option<Dtype>> {
    let (new, old) = (f.text("dtype")?, f.text("torch_dtype")?);
    let Some(name) = f.agree(("dtype", new), ("torch_dtype", old), |n| format!("\"{n}\""))? else {
        return Ok(None);
    };
    match Dtype::from_hf_name(&name) {
        Some(dtype) => Ok(Some(dtype)),
        None if name == "auto" => Ok(None),
        None => Err(
            f.error(format!("dtype \"{name}\" is not supported; supported are float32, float16, bfloat16"))
        ),
    }
}
