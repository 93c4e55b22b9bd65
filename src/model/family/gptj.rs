//! GPT-J (EleutherAI, 2021): interleaved pairs in the first `rotary_dim` elements of a head, LayerNorm, attention and a
//! GELU block side by side, a head with a bias. Plain multi-head attention.
//!
//! Names and defaults: transformers 5.23, models/gptj/configuration_gptj.py.

use super::names::{LayerNames, Names};
use super::shared::{self, Sizes, needed, no_dropout};
use super::{Arch, Family, Mlp, Norm};
use crate::backend::PairLayout;
use crate::error::Result;
use crate::model::config::{Config, MOST_HEAD, MOST_LAYERS, MOST_WIDTH, fields::Fields, rope_json};
use serde_json::{Map, Value, json};

pub static FAMILY: Family = Family {
    model_type: "gptj",
    architecture: "GPTJForCausalLM",
    names: NAMES,
    reads_rope: false,
    read,
    write,
};

const NAMES: Names = Names {
    embed: "transformer.wte",
    layers: "transformer.h",
    layer: LayerNames {
        input_norm: "ln_1",
        q: "attn.q_proj",
        k: "attn.k_proj",
        v: "attn.v_proj",
        o: "attn.out_proj",
        packed_qkv: None,
        q_norm: "",
        k_norm: "",
        post_norm: "",
        gate: "",
        up: "mlp.fc_in",
        down: "mlp.fc_out",
    },
    final_norm: "transformer.ln_f",
    head: "lm_head",
};

const ARCH: Arch = Arch {
    pairs: PairLayout::Interleaved,
    norm: Norm::Layer,
    mlp: Mlp::Gelu,
    parallel: true,
    head_bias: true,
    ..Arch::LLAMA
};

fn read(f: &mut Fields<'_>) -> Result<Config> {
    match f.text("activation_function")?.as_deref() {
        None | Some("gelu_new") => {}
        Some(other) => {
            return Err(
                f.error(format!("activation_function \"{other}\" is not supported; supported is gelu_new"))
            );
        }
    }
    ["resid_pdrop", "embd_pdrop", "attn_pdrop"].into_iter().try_for_each(|key| no_dropout(f, key))?;
    if f.map.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true) {
        return Err(
            f.error("tie_word_embeddings true is not supported for GPT-J: its head has a bias of its own")
        );
    }
    let (vocab, hidden) = (needed(f, "vocab_size", MOST_WIDTH)?, needed(f, "n_embd", MOST_WIDTH)?);
    let (layers, heads) = (needed(f, "n_layer", MOST_LAYERS)?, needed(f, "n_head", MOST_WIDTH)?);
    let positions = needed(f, "n_positions", u32::MAX as usize)?;
    if !hidden.is_multiple_of(heads) {
        return Err(f.error(format!("n_head {heads} does not divide n_embd {hidden}")));
    }
    let (head_dim, rotary_dim) = (hidden / heads, needed(f, "rotary_dim", MOST_HEAD)?);
    if rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) || !head_dim.is_multiple_of(2) {
        let problem = format!(
            "rotary_dim is {rotary_dim}, but it should be even and at most n_embd/n_head, {head_dim}"
        );
        return Err(f.error(problem));
    }
    let inner = f.size("n_inner", MOST_WIDTH)?.unwrap_or(4 * hidden);
    let norm_eps = f.number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let rope = rope_json::read(f, rotary_dim, positions)?;
    let kv_heads = heads;
    let sizes = Sizes { vocab, hidden, inner, layers, heads, kv_heads, head_dim, positions, norm_eps };
    shared::config(f, &FAMILY, sizes, ARCH, rope)
}

fn write(c: &Config, out: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    put("n_positions", json!(c.max_position_embeddings));
    put("n_embd", json!(c.hidden_size));
    put("n_layer", json!(c.num_hidden_layers));
    put("n_head", json!(c.num_attention_heads));
    put(
        "n_inner",
        if c.intermediate_size == 4 * c.hidden_size { Value::Null } else { json!(c.intermediate_size) },
    );
    put("rotary_dim", json!(c.rope.rotary_dim));
    put("activation_function", json!("gelu_new"));
    put("layer_norm_epsilon", json!(c.norm_eps));
    ["resid_pdrop", "embd_pdrop", "attn_pdrop"].into_iter().for_each(|key| _ = put(key, json!(0.0)));
}
