//! The keys of a config.json that LlamaConfig and its relatives share, and those that every family has.

use super::{Arch, Family};
use crate::error::Result;
use crate::model::config::{Config, Dtype, MOST_HEAD, MOST_LAYERS, MOST_WIDTH, fields::Fields, rope_json};
use crate::rope::Rope;
use serde_json::{Map, Value, json};

/// Sizes, under whatever keys a family keeps them.
pub(super) struct Sizes {
    pub vocab: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Context length in tokens.
    pub positions: usize,
    pub norm_eps: f64,
}

/// A size that must be there.
pub(super) fn needed(f: &mut Fields<'_>, key: &str, most: usize) -> Result<usize> {
    let value = f.size(key, most)?;
    f.require(key, value)
}

/// The whole config: the keys of every family are taken out of `f`.
pub(super) fn config(
    f: &mut Fields<'_>, family: &'static Family, s: Sizes, arch: Arch, rope: Rope,
) -> Result<Config> {
    Ok(Config {
        family,
        arch,
        vocab_size: s.vocab,
        hidden_size: s.hidden,
        intermediate_size: s.inner,
        num_hidden_layers: s.layers,
        num_attention_heads: s.heads,
        num_key_value_heads: s.kv_heads,
        head_dim: s.head_dim,
        norm_eps: s.norm_eps,
        tie_word_embeddings: f.boolean("tie_word_embeddings")?.unwrap_or(false),
        max_position_embeddings: s.positions,
        bos_token_id: f.tokens("bos_token_id", false)?.first().copied(),
        eos_token_ids: f.tokens("eos_token_id", true)?,
        initializer_range: f.number("initializer_range")?.unwrap_or(0.02),
        dtype: dtype(f)?,
        rope,
        lora: None,
        extra: Map::new(),
    })
}

/// `dtype` (transformers 5.x) or `torch_dtype` (4.x).
fn dtype(f: &mut Fields<'_>) -> Result<Option<Dtype>> {
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

/// Refuses a dropout that is not 0.
pub(super) fn no_dropout(f: &mut Fields<'_>, key: &str) -> Result<()> {
    match f.number(key)? {
        Some(p) if p != 0.0 => Err(f.error(format!("{key} above 0 is not supported; set it to 0"))),
        _ => Ok(()),
    }
}

/// A config whose keys are LlamaConfig's. `head_dim` where the file has none: None is hidden_size /
/// num_attention_heads.
pub(super) fn read(
    f: &mut Fields<'_>, family: &'static Family, arch: Arch, head_dim: Option<usize>,
) -> Result<Config> {
    match f.text("hidden_act")?.as_deref() {
        None | Some("silu" | "swish") => {}
        Some(other) => {
            return Err(f.error(format!("hidden_act \"{other}\" is not supported; supported is silu")));
        }
    }
    no_dropout(f, "attention_dropout")?;
    if f.number("partial_rotary_factor")?.is_some_and(|p| p != 1.0) {
        return Err(f.error("partial_rotary_factor other than 1 is not supported"));
    }
    let (vocab, hidden) = (needed(f, "vocab_size", MOST_WIDTH)?, needed(f, "hidden_size", MOST_WIDTH)?);
    let inner = needed(f, "intermediate_size", MOST_WIDTH)?;
    let layers = needed(f, "num_hidden_layers", MOST_LAYERS)?;
    let heads = needed(f, "num_attention_heads", MOST_WIDTH)?;
    let positions = needed(f, "max_position_embeddings", u32::MAX as usize)?;
    let head_dim = match f.size("head_dim", MOST_HEAD)?.or(head_dim) {
        Some(given) => given,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(f.error(format!(
                "head_dim is missing and num_attention_heads {heads} does not divide hidden_size {hidden}"
            )));
        }
    };
    if !head_dim.is_multiple_of(2) {
        return Err(f.error(format!("head_dim is {head_dim}, but it must be even: rotation turns pairs")));
    }
    let kv_heads = f.size("num_key_value_heads", MOST_WIDTH)?.unwrap_or(heads);
    let norm_eps = f.number("rms_norm_eps")?.unwrap_or(1e-6);
    let rope = rope_json::read(f, head_dim, positions)?;
    let sizes = Sizes { vocab, hidden, inner, layers, heads, kv_heads, head_dim, positions, norm_eps };
    config(f, family, sizes, arch, rope)
}

/// What [`read`] takes, but for what every family has.
pub(super) fn write(c: &Config, out: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    put("hidden_size", json!(c.hidden_size));
    put("intermediate_size", json!(c.intermediate_size));
    put("num_hidden_layers", json!(c.num_hidden_layers));
    put("num_attention_heads", json!(c.num_attention_heads));
    put("num_key_value_heads", json!(c.num_key_value_heads));
    put("head_dim", json!(c.head_dim));
    put("hidden_act", json!("silu"));
    put("rms_norm_eps", json!(c.norm_eps));
    put("attention_dropout", json!(0.0));
    put("max_position_embeddings", json!(c.max_position_embeddings));
}

/// Some families default to a number of key/value heads that is another for each; their files always name it.
pub(super) fn names_kv_heads(f: &Fields<'_>) -> Result<()> {
    f.require("num_key_value_heads", f.map.get("num_key_value_heads").filter(|v| !v.is_null())).map(|_| ())
}
