//! Qwen2 and Qwen2.5 (2407.10671, 2412.15115): LLaMA with biases in q, k and v.
//!
//! Names and defaults: transformers 5.23, models/qwen2/configuration_qwen2.py. The keys of the sliding window are read
//! and written back as they were.

use super::names::LLAMA_NAMES;
use super::{Arch, Family, shared};
use crate::error::Result;
use crate::model::config::{Config, fields::Fields};
use serde_json::{Map, Value};

pub static FAMILY: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    names: LLAMA_NAMES,
    reads_rope: true,
    read,
    write,
};

/// What transformers takes where a file has no such key.
const DEFAULT_WINDOW: usize = 4096;

fn read(f: &mut Fields<'_>) -> Result<Config> {
    shared::names_kv_heads(f)?;
    let window = window(f)?;
    shared::read(f, &FAMILY, Arch { qkv_bias: true, window, ..Arch::LLAMA }, None)
}

fn write(c: &Config, out: &mut Map<String, Value>) {
    shared::write(c, out);
}

/// The window that `use_sliding_window`, `sliding_window`, `max_window_layers` and `layer_types` give: of all layers,
/// or none. Where it is in use, layers from max_window_layers on have it, unless layer_types names each.
pub(super) fn window(f: &Fields<'_>) -> Result<Option<usize>> {
    const LONGEST: usize = u32::MAX as usize;
    let mut f = Fields { path: f.path, prefix: f.prefix, map: f.map.clone() };
    let layers = f.size("num_hidden_layers", LONGEST)?.unwrap_or(0);
    let in_use = f.boolean("use_sliding_window")?.unwrap_or(false);
    let window = match f.map.contains_key("sliding_window") {
        true => f.size("sliding_window", LONGEST)?,
        false => Some(DEFAULT_WINDOW),
    };
    let first = f.map.get("max_window_layers").map_or(Some(28), Value::as_u64);
    let first = f.require("max_window_layers", first)?.min(layers as u64) as usize;
    let sliding = match f.take("layer_types") {
        Some(Value::Array(types)) => types.iter().filter(|&t| t != "full_attention").count(),
        Some(_) => {
            return Err(
                f.error("layer_types should be a list of \"full_attention\" and \"sliding_attention\"")
            );
        }
        None => layers - first,
    };
    match window.filter(|_| in_use && sliding > 0) {
        None => Ok(None),
        Some(window) if sliding == layers => Ok(Some(window)),
        Some(window) => Err(f.error(format!(
            "use_sliding_window is true and {sliding} of {layers} layers have the window of {window} tokens; supported is a \
             window of all layers (max_window_layers 0) or of none (use_sliding_window false, as the published models have it)"
        ))),
    }
}
