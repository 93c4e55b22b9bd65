//! Shapes of models to start from without a checkpoint.

use super::{Config, Dtype};
use crate::error::{Error, Result};
use crate::rope::{Rope, Scaling};
use serde_json::Map;

/// Bytes 0..=255, begin of text 256, end of text 257, and room up to a multiple of eight.
const BYTE_VOCAB: usize = 264;
const BYTE_BEGIN: u32 = 256;
const BYTE_END: u32 = 257;

/// Layers, hidden, inner, heads, key/value heads, head size, trained length in tokens.
type Shape = (&'static str, [usize; 7]);

const BYTE_MODELS: [Shape; 3] = [
    ("tiny", [4, 64, 176, 4, 2, 16, 256]),
    ("small", [5, 128, 352, 4, 2, 32, 512]),
    ("10m", [6, 384, 1024, 6, 2, 64, 1024]),
];
const SMOLLM2: Shape = ("smollm2-135m", [30, 576, 1536, 9, 3, 64, 8192]);

/// The names that [`Config::preset`] knows.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    BYTE_MODELS.iter().chain([&SMOLLM2]).map(|(name, _)| *name)
}

impl Config {
    /// A model by name: `tiny` (0.2 million parameters), `small` (1 million) and `10m` (10 million) have a vocabulary of
    /// bytes (ids 0..=255, begin 256, end 257); `smollm2-135m` has the shape of SmolLM2-135M.
    pub fn preset(name: &str) -> Result<Config> {
        if let Some((_, shape)) = BYTE_MODELS.iter().find(|(n, _)| *n == name) {
            return Ok(build(*shape, BYTE_VOCAB, 10_000.0, BYTE_BEGIN, BYTE_END));
        }
        if name == SMOLLM2.0 {
            return Ok(build(SMOLLM2.1, 49152, 100_000.0, 1, 2));
        }
        let known = preset_names().collect::<Vec<_>>().join(", ");
        Err(Error::usage("--preset", name, format!("there is no such preset; there are {known}")))
    }
}

fn build(shape: [usize; 7], vocab_size: usize, theta: f64, begin: u32, end: u32) -> Config {
    let [layers, hidden, inner, heads, kv_heads, head_dim, positions] = shape;
    Config {
        vocab_size,
        hidden_size: hidden,
        intermediate_size: inner,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        attention_bias: false,
        max_position_embeddings: positions,
        bos_token_id: Some(begin),
        eos_token_ids: vec![end],
        initializer_range: 0.02,
        dtype: Some(Dtype::Bf16),
        rope: Rope { theta, rotary_dim: head_dim, scaling: Scaling::None },
        extra: Map::new(),
    }
}
