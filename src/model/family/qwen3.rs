//! Qwen3 (2505.09388): LLaMA with RMSNorm over each head of q and k, and heads of a size of their own.
//!
//! Names and defaults: transformers 5.23, models/qwen3/configuration_qwen3.py.

use super::names::LLAMA_NAMES;
use super::{Arch, Family, qwen2, shared};
use crate::error::Result;
use crate::model::config::{Config, fields::Fields};
use serde_json::{Map, Value, json};

pub static FAMILY: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    names: LLAMA_NAMES,
    reads_rope: true,
    read,
    write,
};

/// Where a file has no head_dim, whatever the hidden size.
const DEFAULT_HEAD_DIM: usize = 128;

fn read(f: &mut Fields<'_>) -> Result<Config> {
    shared::names_kv_heads(f)?;
    let biased = f.boolean("attention_bias")?.unwrap_or(false);
    let arch =
        Arch { qkv_bias: biased, o_bias: biased, qk_norm: true, window: qwen2::window(f)?, ..Arch::LLAMA };
    shared::read(f, &FAMILY, arch, Some(DEFAULT_HEAD_DIM))
}

fn write(c: &Config, out: &mut Map<String, Value>) {
    shared::write(c, out);
    out.insert("attention_bias".into(), json!(c.arch.qkv_bias));
}
