//! What the operations of [`Backend`] are told beside their buffers: sizes, and operands that go together.

use super::{Backend, Element};
use crate::index::{ChunkSpan, RopePosition};

/// Elements of a shape; more than any buffer has where that is beyond counting.
pub(super) fn size<const N: usize>(dimensions: [usize; N]) -> usize {
    dimensions.into_iter().fold(1, usize::saturating_mul)
}

/// `y[m,n]` from `x[m,k]` and `w[n,k]` (and the two products that undo it). FLOPs 2·m·n·k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulShape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// Whether a product overwrites its output or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// `=`: the output is never read.
    Overwrite,
    /// `+=`: read, added in `Stat`, rounded once.
    Accumulate,
}

#[derive(Clone, Copy, Debug)]
pub struct NormShape {
    pub tokens: usize,
    pub width: usize,
    /// Added to the mean square under the root.
    pub eps: f64,
}

/// Which elements of a head form the pairs that are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairLayout {
    /// `(x[i], x[i + rotary_dim/2])`: LLaMA and most others.
    HalfSplit,
    /// `(x[2i], x[2i+1])`: GPT-J.
    Interleaved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By +angle, as in the forward pass.
    Forward,
    /// By -angle: the gradient of the forward rotation, which is its transpose.
    Backward,
}

#[derive(Clone, Copy, Debug)]
pub struct RopeShape {
    pub rows: usize,
    /// Tokens per row.
    pub tokens: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Leading elements of each head that are rotated; even, at most head_dim.
    pub rotary_dim: usize,
    pub pairs: PairLayout,
    /// Multiplies cos and sin (YaRN's attention factor), in both directions; 1 for plain RoPE.
    pub attention_factor: f64,
}

/// The rope position of every token, as the kernel takes it.
pub enum Places<'a, B: Backend> {
    /// `per_row` spans for each row, [rows, per_row], starts ascending, the first 0.
    Spans { spans: &'a B::Buf<ChunkSpan>, per_row: usize },
    /// One position for each token, [rows, tokens].
    List(&'a B::Buf<RopePosition>),
}

#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Sequences; each attends only within itself.
    pub rows: usize,
    /// Queries per row. Query i sits at sequence index keys - queries + i and sees keys 0..=that index.
    pub queries: usize,
    /// Keys per row, at least `queries`. More than `queries` when the first ones come from a KV cache.
    pub keys: usize,
    pub heads: usize,
    /// Divides `heads`; head h reads key/value head h / (heads / kv_heads).
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Multiplies the scores before the softmax, 1/sqrt(head_dim) as a rule.
    pub scale: f64,
    /// Sliding window: a query sees only keys less than this many places back (itself included). None: all of them.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Of q, and of o; more than any buffer has where that is beyond counting.
    pub fn query_elements(self) -> usize {
        size([self.rows, self.queries, self.heads, self.head_dim])
    }

    /// Of k, and of v.
    pub fn key_elements(self) -> usize {
        size([self.rows, self.keys, self.kv_heads, self.head_dim])
    }

    /// Multiply-adds of the causal forward pass, as FLOPs: two products over the visible pairs.
    pub fn flops(&self) -> f64 {
        let past = (self.keys - self.queries) as f64;
        let pairs = self.queries as f64 * past + 0.5 * self.queries as f64 * (self.queries as f64 + 1.0);
        4.0 * self.rows as f64 * self.heads as f64 * self.head_dim as f64 * pairs
    }

    /// The same of the backward pass: five products, the scores once more and a gradient of each operand of both.
    pub fn backward_flops(&self) -> f64 {
        2.5 * self.flops()
    }
}

/// Tokens of keys (or values), one row.
#[derive(Clone, Copy, Debug)]
pub struct KvShape {
    pub tokens: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// The largest code of [`Backend::kv_quantise`].
pub const KV_CODE_MAX: f64 = 127.0;
/// Scales below this, the least normal f32, count as 0.
pub const KV_SCALE_LEAST: f64 = f32::MIN_POSITIVE as f64;

/// Keys or values as [`Backend::kv_quantise`] left them: x = scale·code.
pub struct Quantised<'a, B: Backend> {
    /// `[.., kv_heads, head_dim]`
    pub codes: &'a B::Buf<i8>,
    /// `[.., kv_heads]`
    pub scales: &'a B::Buf<B::Stat>,
}

#[derive(Clone, Copy, Debug)]
pub struct HeadShape {
    pub tokens: usize,
    pub width: usize,
    pub vocab: usize,
}

/// How the next tokens are chosen in [`Backend::sample`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleShape {
    pub rows: usize,
    pub vocab: usize,
    /// Divides the logits; 0 is greedy.
    pub temperature: f64,
    /// The share of the probability that the nucleus has at least, in (0, 1].
    pub top_p: f64,
}

/// Where [`Backend::head_loss`] leaves gradients.
pub struct HeadGrad<'a, B: Backend> {
    /// `[tokens, width]`, `=`.
    pub dx: &'a mut B::Buf<B::Act>,
    /// `[vocab, width]`, `+=`; None where the head is frozen: its product is not made.
    pub dw: Option<&'a mut B::Buf<B::Stat>>,
    /// `[vocab]`, `+=`; None where the bias is frozen or there is none.
    pub db: Option<&'a mut B::Buf<B::Stat>>,
    /// Multiplies every token's gradient: 1 / (tokens that are scored in the whole optimizer step).
    pub scale: f64,
    /// `[tokens]`: multiplies each token's gradient beside `scale`, and not its nll; None: all weigh 1.
    pub weights: Option<&'a B::Buf<B::Stat>>,
}

/// One parameter in [`Backend::adamw`]. All buffers have the same length.
pub struct AdamTensor<'a, B: Backend> {
    /// What the forward pass reads; written.
    pub param: &'a mut B::Buf<B::Act>,
    /// The parameter in full precision. None where `Act` is already as fine as `Stat`: then `param` is the master.
    pub master: Option<&'a mut B::Buf<B::Stat>>,
    /// First moment.
    pub m: &'a mut B::Buf<B::Stat>,
    /// Second moment.
    pub v: &'a mut B::Buf<B::Stat>,
    pub grad: &'a B::Buf<B::Stat>,
    /// Decoupled weight decay of this tensor (0 for norms and biases).
    pub decay: f64,
}

/// The step's numbers in [`Backend::adamw`].
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// 1, 2, 3, ...: for the bias corrections 1 - beta^step.
    pub step: u64,
    /// Multiplies every gradient first: clipping by global norm.
    pub grad_scale: f64,
}

/// Elements of a tensor, one after the other, that share a scale in [`Backend::adamw8`]; the last block may be shorter.
pub const MOMENT_BLOCK: usize = 256;
/// The largest codes of the first and of the second moment.
pub const M_CODE_MAX: f64 = 127.0;
pub const V_CODE_MAX: f64 = 255.0;
/// Scales below this, the least normal f32, count as 0.
pub const MOMENT_SCALE_LEAST: f64 = f32::MIN_POSITIVE as f64;

/// A moment as [`Backend::adamw8`] keeps it.
pub struct MomentCodes<'a, B: Backend, C: Element> {
    /// As many as the parameter has elements.
    pub codes: &'a mut B::Buf<C>,
    /// One for each block of [`MOMENT_BLOCK`].
    pub scales: &'a mut B::Buf<B::Stat>,
}

/// One parameter in [`Backend::adamw8`].
pub struct Adam8Tensor<'a, B: Backend> {
    /// As in [`AdamTensor`].
    pub param: &'a mut B::Buf<B::Act>,
    /// As in [`AdamTensor`].
    pub master: Option<&'a mut B::Buf<B::Stat>>,
    /// First moment: codes -127..=127.
    pub m: MomentCodes<'a, B, i8>,
    /// Second moment, by its root: codes 0..=255.
    pub v: MomentCodes<'a, B, u8>,
    pub grad: &'a B::Buf<B::Stat>,
    /// As in [`AdamTensor`].
    pub decay: f64,
}

/// Rows shorter than this are divided by it in [`Backend::unit_rows`].
pub const UNIT_LEAST: f64 = 1e-12;
/// In u of [`Backend::gelu`]: √(2/π) and the weight of the cube.
pub const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
pub const GELU_CUBE: f64 = 0.044715;

/// An operation with its sizes, to ask how much scratch memory it takes.
#[derive(Clone, Copy, Debug)]
pub enum ScratchFor {
    MatmulNt(MatmulShape),
    MatmulNn(MatmulShape),
    MatmulTn(MatmulShape),
    NormBackward(NormShape),
    Attention(AttentionShape),
    AttentionInt8(AttentionShape),
    AttentionBackward(AttentionShape),
    /// `true` with gradients.
    HeadLoss(HeadShape, bool),
}
