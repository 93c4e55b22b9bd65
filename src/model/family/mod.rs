//! Families of models: how each spells its `config.json`, what it calls its parameters, and where its architecture
//! differs from LLaMA's. One file a family; docs/families.md says how to add one.
//!
//! A family computes nothing: it sets the switches of [`Arch`], which the one forward and backward pass of
//! `model/block.rs` reads.

mod arch;
mod baichuan;
mod gptj;
mod llama;
mod mistral;
mod names;
mod qwen2;
mod qwen3;
mod shared;
#[cfg(test)]
mod tests;

pub use arch::{Arch, Mlp, Norm};
pub use names::{LayerNames, Names, short};

use super::config::{Config, fields::Fields};
use crate::error::Result;
use crate::names::unknown;
use serde_json::{Map, Value};

/// What the model directories of a family have in common.
pub struct Family {
    /// As `model_type` of a config.json.
    pub model_type: &'static str,
    /// As `architectures` of a config.json.
    pub architecture: &'static str,
    pub names: Names,
    /// Whether its own software reads base and scaling of the rotation from the config.json; else it has plain RoPE.
    pub reads_rope: bool,
    /// Takes the family's own keys out of a config.json.
    pub(super) read: fn(&mut Fields<'_>) -> Result<Config>,
    /// Puts them back.
    pub(super) write: fn(&Config, &mut Map<String, Value>),
}

/// Every family there is; the order is that of messages.
pub static FAMILIES: [&Family; 6] =
    [&llama::FAMILY, &mistral::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &gptj::FAMILY, &baichuan::FAMILY];

/// LLaMA, whose presets need no config.json.
pub static LLAMA: &Family = &llama::FAMILY;
pub static QWEN2: &Family = &qwen2::FAMILY;

impl Family {
    /// The family of a `model_type`.
    ///
    /// # Errors
    /// A sentence with the families that there are, and the one that may have been meant.
    pub fn find(model_type: &str) -> std::result::Result<&'static Family, String> {
        FAMILIES.into_iter().find(|family| family.model_type == model_type).ok_or_else(|| {
            let known = FAMILIES.map(|family| family.model_type);
            format!("model_type \"{model_type}\": {}", unknown("family", model_type, &known))
        })
    }
}

/// By name: two families never share one.
impl PartialEq for Family {
    fn eq(&self, other: &Family) -> bool {
        self.model_type == other.model_type
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.model_type)
    }
}
