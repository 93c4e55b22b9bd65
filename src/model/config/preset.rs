//! Shapes of models to start from without a checkpoint.

use super::{Config, Dtype};
use crate::error::{Error, Result};
use crate::model::family::{Arch, LLAMA};
use crate::names;
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

/// A model of others, in its own vocabulary.
struct Known {
    shape: Shape,
    vocab: usize,
    theta: f64,
    eps: f64,
    tied: bool,
    begin: u32,
    end: u32,
}

const KNOWN_MODELS: [Known; 3] = [
    Known {
        shape: ("smollm2-135m", [30, 576, 1536, 9, 3, 64, 8192]),
        vocab: 49152,
        theta: 100_000.0,
        eps: 1e-5,
        tied: true,
        begin: 1,
        end: 2,
    },
    Known {
        shape: ("llama-7b", [32, 4096, 11008, 32, 32, 128, 2048]),
        vocab: 32000,
        theta: 10_000.0,
        eps: 1e-6,
        tied: false,
        begin: 1,
        end: 2,
    },
    Known {
        shape: ("llama-3-8b", [32, 4096, 14336, 32, 8, 128, 8192]),
        vocab: 128_256,
        theta: 500_000.0,
        eps: 1e-5,
        tied: false,
        begin: 128_000,
        end: 128_001,
    },
];

/// The names that [`Config::preset`] knows.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    BYTE_MODELS.iter().map(|(name, _)| *name).chain(KNOWN_MODELS.iter().map(|known| known.shape.0))
}

impl Config {
    /// A model by name: `tiny` (0.2 million parameters), `small` (1 million) and `10m` (10 million) have a vocabulary of
    /// bytes (ids 0..=255, begin 256, end 257). `smollm2-135m`, `llama-7b` (LLaMA of 2023, trained at 2k) and `llama-3-8b`
    /// have the shapes and vocabularies of those models, to plan and to time with: trained on bytes, they leave most of
    /// their vocabulary unused.
    pub fn preset(name: &str) -> Result<Config> {
        if let Some((_, shape)) = BYTE_MODELS.iter().find(|(n, _)| *n == name) {
            return Ok(build(*shape, BYTE_VOCAB, 10_000.0, BYTE_BEGIN, BYTE_END));
        }
        if let Some(known) = KNOWN_MODELS.iter().find(|known| known.shape.0 == name) {
            let config = build(known.shape.1, known.vocab, known.theta, known.begin, known.end);
            return Ok(Config { norm_eps: known.eps, tie_word_embeddings: known.tied, ..config });
        }
        let known: Vec<&str> = preset_names().collect();
        Err(Error::usage("--preset", name, names::unknown("preset", name, &known)))
    }
}

fn build(shape: [usize; 7], vocab_size: usize, theta: f64, begin: u32, end: u32) -> Config {
    let [layers, hidden, inner, heads, kv_heads, head_dim, positions] = shape;
    Config {
        family: LLAMA,
        arch: Arch::LLAMA,
        vocab_size,
        hidden_size: hidden,
        intermediate_size: inner,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        norm_eps: 1e-5,
        tie_word_embeddings: true,
        max_position_embeddings: positions,
        bos_token_id: Some(begin),
        eos_token_ids: vec![end],
        initializer_range: 0.02,
        dtype: Some(Dtype::Bf16),
        rope: Rope { theta, rotary_dim: head_dim, scaling: Scaling::None },
        lora: None,
        extra: Map::new(),
    }
}
