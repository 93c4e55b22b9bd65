//! What a family calls its modules; `.weight` and `.bias` come behind.

use crate::model::lora::Target;

#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub embed: &'static str,
    /// Before the number of a layer.
    pub layers: &'static str,
    /// Behind it.
    pub layer: LayerNames,
    pub final_norm: &'static str,
    pub head: &'static str,
}

/// What a family does not have is never asked for.
#[derive(Clone, Copy, Debug)]
pub struct LayerNames {
    pub input_norm: &'static str,
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub o: &'static str,
    /// Where checkpoints keep the matrices of q, k and v one below the other in a single tensor, its module.
    pub packed_qkv: Option<&'static str>,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub post_norm: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

/// LlamaForCausalLM and those who took its names over.
pub const LLAMA_NAMES: Names = Names {
    embed: "model.embed_tokens",
    layers: "model.layers",
    layer: LayerNames {
        input_norm: "input_layernorm",
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
        o: "self_attn.o_proj",
        packed_qkv: None,
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        post_norm: "post_attention_layernorm",
        gate: "mlp.gate_proj",
        up: "mlp.up_proj",
        down: "mlp.down_proj",
    },
    final_norm: "model.norm",
    head: "lm_head",
};

impl LayerNames {
    pub fn projection(&self, target: Target) -> &'static str {
        match target {
            Target::Q => self.q,
            Target::K => self.k,
            Target::V => self.v,
            Target::O => self.o,
            Target::Gate => self.gate,
            Target::Up => self.up,
            Target::Down => self.down,
        }
    }
}

/// The last part of a module's name, by which PEFT finds it: `q_proj` of `self_attn.q_proj`.
pub fn short(name: &'static str) -> &'static str {
    name.rsplit('.').next().unwrap_or(name)
}
