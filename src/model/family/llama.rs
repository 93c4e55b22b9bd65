//! LLaMA 1, 2 and 3 (2302.13971, 2307.09288, 2407.21783), and every model that says it is one: SmolLM2, TinyLlama, Yi.
//!
//! Names and defaults: transformers 5.23, models/llama/configuration_llama.py.

use super::names::LLAMA_NAMES;
use super::{Arch, Family, shared};
use crate::error::Result;
use crate::model::config::{Config, fields::Fields};
use serde_json::{Map, Value, json};

pub static FAMILY: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    names: LLAMA_NAMES,
    reads_rope: true,
    read,
    write,
};

fn read(f: &mut Fields<'_>) -> Result<Config> {
    if f.boolean("mlp_bias")?.unwrap_or(false) {
        return Err(f.error("mlp_bias true is not supported: the feed-forward block has no biases here"));
    }
    let biased = f.boolean("attention_bias")?.unwrap_or(false);
    shared::read(f, &FAMILY, Arch { qkv_bias: biased, o_bias: biased, ..Arch::LLAMA }, None)
}

fn write(c: &Config, out: &mut Map<String, Value>) {
    shared::write(c, out);
    out.insert("attention_bias".into(), json!(c.arch.qkv_bias));
    out.insert("mlp_bias".into(), json!(false));
}
