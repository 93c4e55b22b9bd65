//! Baichuan2-7B (2309.10305): LLaMA whose q, k and v lie in one tensor of the checkpoint and whose head has rows of
//! unit length; and Baichuan-7B, the first version, which has a plain head. Both say `model_type` baichuan, and nothing
//! in their config.json but the vocabulary tells them apart. The models of 13B have ALiBi, hence no rotation to extend.
//!
//! Names and keys: configuration_baichuan.py and modeling_baichuan.py, which lie beside the published weights.

use super::names::{LLAMA_NAMES, LayerNames, Names};
use super::{Arch, Family, shared};
use crate::error::Result;
use crate::model::config::{Config, fields::Fields};
use serde_json::{Map, Value, json};

pub static FAMILY: Family = Family {
    model_type: "baichuan",
    architecture: "BaichuanForCausalLM",
    names: Names {
        layer: LayerNames { packed_qkv: Some("self_attn.W_pack"), ..LLAMA_NAMES.layer },
        ..LLAMA_NAMES
    },
    reads_rope: false,
    read,
    write,
};

/// Of Baichuan-7B, whose head is plain.
const FIRST_VOCAB: usize = 64_000;
/// Another name that its config.json has for max_position_embeddings.
const LENGTH: &str = "model_max_length";

fn read(f: &mut Fields<'_>) -> Result<Config> {
    if !f.map.contains_key("max_position_embeddings") {
        return Err(f.error(
            "max_position_embeddings is missing: the Baichuan models of 13B have ALiBi, which no rope position extends; \
             supported are those of 7B",
        ));
    }
    if f.map.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true) {
        return Err(f.error("tie_word_embeddings true is not supported for Baichuan"));
    }
    f.take(LENGTH);
    let config = shared::read(f, &FAMILY, Arch { unit_head: true, ..Arch::LLAMA }, None)?;
    // its file has no keys for these, so they could not be saved
    if config.num_key_value_heads != config.num_attention_heads
        || config.head_dim * config.num_attention_heads != config.hidden_size
    {
        return Err(f.error(
            "num_key_value_heads or head_dim: Baichuan has as many keys as queries, in heads of hidden_size / num_attention_heads",
        ));
    }
    let unit_head = config.vocab_size != FIRST_VOCAB;
    Ok(Config { arch: Arch { unit_head, ..config.arch }, ..config })
}

fn write(c: &Config, out: &mut Map<String, Value>) {
    shared::write(c, out);
    // keys that its own config has not
    ["num_key_value_heads", "head_dim", "attention_dropout"]
        .into_iter()
        .for_each(|key| _ = out.shift_remove(key));
    out.insert(LENGTH.into(), json!(c.max_position_embeddings));
}
