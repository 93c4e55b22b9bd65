//! Mistral (2310.06825): LLaMA with a sliding window, in the first version; later ones have none.
//!
//! Names and defaults: transformers 5.23, models/mistral/configuration_mistral.py.

use super::names::LLAMA_NAMES;
use super::{Arch, Family, shared};
use crate::error::Result;
use crate::model::config::{Config, fields::Fields};
use serde_json::{Map, Value, json};

pub static FAMILY: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    names: LLAMA_NAMES,
    reads_rope: true,
    read,
    write,
};

/// What transformers takes where a file has no such key; null there means no window.
const DEFAULT_WINDOW: usize = 4096;

fn read(f: &mut Fields<'_>) -> Result<Config> {
    shared::names_kv_heads(f)?;
    let window = match f.map.contains_key("sliding_window") {
        true => f.size("sliding_window", u32::MAX as usize)?,
        false => Some(DEFAULT_WINDOW),
    };
    shared::read(f, &FAMILY, Arch { window, ..Arch::LLAMA }, None)
}

fn write(c: &Config, out: &mut Map<String, Value>) {
    shared::write(c, out);
    out.insert("sliding_window".into(), json!(c.arch.window));
}
