//! The switches between the architectures that the one forward and backward pass knows.

use crate::backend::PairLayout;

/// The norms of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// RMSNorm (1910.07467): a weight.
    Rms,
    /// LayerNorm (1607.06450): a weight and a bias.
    Layer,
}

/// The feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// (silu(x·gateᵀ)·(x·upᵀ))·downᵀ (2002.05202), without biases.
    SwiGlu,
    /// gelu(x·upᵀ + bias)·downᵀ + bias (1606.08415).
    Gelu,
}

/// How a model differs from LLaMA, which is [`Arch::LLAMA`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arch {
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has one.
    pub o_bias: bool,
    /// RMSNorm over each head of q and k, before they are rotated: `[head_dim]` weights, the same for all heads.
    pub qk_norm: bool,
    /// Sliding window: a query sees only keys less than this many tokens back (itself included), by order in the
    /// sequence and never by rope position. None: all of them.
    pub window: Option<usize>,
    /// Which elements of a head are rotated together.
    pub pairs: PairLayout,
    pub norm: Norm,
    pub mlp: Mlp,
    /// Attention and the feed-forward block both read the same normed state, and both are added: no second norm.
    pub parallel: bool,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// Whether the rows of the head are brought to unit length before they meet a state.
    pub unit_head: bool,
}

impl Arch {
    pub const LLAMA: Arch = Arch {
        qkv_bias: false,
        o_bias: false,
        qk_norm: false,
        window: None,
        pairs: PairLayout::HalfSplit,
        norm: Norm::Rms,
        mlp: Mlp::SwiGlu,
        parallel: false,
        head_bias: false,
        unit_head: false,
    };

    /// Statistics that a norm leaves for each row.
    pub fn norm_stats(&self) -> usize {
        match self.norm {
            Norm::Rms => 1,
            Norm::Layer => 2,
        }
    }
}
