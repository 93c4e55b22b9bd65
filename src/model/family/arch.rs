//! The switches between the architectures that the one forward and backward pass knows.

/// How a model differs from LLaMA, which is [`Arch::LLAMA`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arch {
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has one.
    pub o_bias: bool,
    /// RMSNorm over each head of q and k, before they are rotated: `[head_dim]` weights, the same for all heads.
    pub qk_norm: bool,
    /// Sliding window: a query sees only keys less than this many tokens back (itself included), by order in the sequence and
    /// never by rope position. None: all of them.
    pub window: Option<usize>,
}

impl Arch {
    pub const LLAMA: Arch = Arch { qkv_bias: false, o_bias: false, qk_norm: false, window: None };
}
