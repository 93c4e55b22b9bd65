//! The one list of operations that training and inference are made of.
//!
//! Every operation is given by its formula, the shapes and dtypes of its operands and which outputs are written (`=`)
//! and which are accumulated (`+=`). [`reference::Reference`] computes them by plain loops in f64 and is the truth that
//! the others are held to; [`cpu::Cpu`] computes them with SIMD, [`cuda::Cuda`] on a GPU.
//!
//! Conventions, for every operation:
//! - Matrices are row-major and dense. `tokens` counts all tokens of all rows; a row is one sequence of the batch.
//! - `Act` is the storage type of weights and activations (bf16, f32; f64 in the reference), `Stat` the type of sums,
//!   statistics, gradients of weights, master weights and moments (f32; f64 in the reference). Products of `Act`s are
//!   accumulated in `Stat` and rounded once when stored.
//! - A buffer may be longer than the operation needs; the rest is neither read nor written. A shorter one is refused.
//! - Outputs come first, then inputs, then sizes. An output never aliases an input unless the operation says "in place".
//! - Gradients of activations are written (`=`) unless said otherwise; gradients of weights are accumulated (`+=`).
//! - Same inputs, same backend: the same bits, for any number of threads.
//! - FLOPs count a multiply-add as two. Bytes are the least that must move, each operand once.

mod check;
pub mod cpu;
pub mod cuda;
pub mod device;
mod operands;
pub mod reference;
mod shapes;

pub use shapes::*;

use crate::error::Result;
use crate::index::{ChunkSpan, DocumentId, RopePosition, TokenId};
use bytemuck::Pod;

/// What a device can do at most, measured.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// Multiply-adds of bf16 pairs (of f32, where there are none for bf16), two FLOPs each.
    pub bf16_gflops: f64,
    /// Multiply-adds of f32.
    pub f32_gflops: f64,
    /// Of memory that is in no cache: a CPU's by reading, a GPU's by copying (read and written).
    pub bandwidth_gbs: f64,
}

/// What a buffer may hold.
pub trait Element: Pod + Send + Sync + Default + std::fmt::Debug + 'static {
    const NAME: &'static str;
}

/// A number that weights, activations or statistics are kept in.
pub trait Float: Element + PartialOrd {
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
}

macro_rules! element {
    ($($ty:ty => $name:literal),* $(,)?) => { $(impl Element for $ty { const NAME: &'static str = $name; })* };
}
element! {
    half::bf16 => "bf16", f32 => "f32", f64 => "f64", i8 => "i8", u8 => "u8", u64 => "u64",
    TokenId => "u32", RopePosition => "u32", DocumentId => "u32", ChunkSpan => "2xu32",
}

impl Float for half::bf16 {
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        half::bf16::from_f64(x)
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}
impl Float for f32 {
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}
impl Float for f64 {
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

/// A run of elements in the memory of a backend.
pub trait Buffer<T>: Send + Sync {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The operations. Sizes in brackets are those of the operands' used part.
pub trait Backend: Send + Sync + Sized + 'static {
    type Act: Float;
    type Stat: Float;
    type Buf<T: Element>: Buffer<T>;

    /// Whether buffers lie in the memory that the program itself lives in.
    const SHARES_HOST_MEMORY: bool = true;
    /// Bytes of the memory for buffers that are free now; None where the system does not say.
    fn free_bytes(&self) -> Option<usize> {
        crate::memory::available_bytes()
    }

    /// Waits until everything that was started is done. Only timing needs it: a download waits by itself.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    /// A zeroed buffer. Zero elements are allowed and take no memory.
    fn alloc<T: Element>(&self, len: usize) -> Result<Self::Buf<T>>;
    /// `dst[at .. at+src.len()] = src`.
    fn upload<T: Element>(&self, dst: &mut Self::Buf<T>, at: usize, src: &[T]) -> Result<()>;
    /// `dst = src[at .. at+dst.len()]`.
    fn download<T: Element>(&self, dst: &mut [T], src: &Self::Buf<T>, at: usize) -> Result<()>;
    /// `dst[dst_at .. dst_at+len] = src[src_at .. src_at+len]`.
    fn copy<T: Element>(
        &self, dst: &mut Self::Buf<T>, dst_at: usize, src: &Self::Buf<T>, src_at: usize, len: usize,
    ) -> Result<()>;
    /// `x[0..len] = 0`.
    fn zero<T: Element>(&self, x: &mut Self::Buf<T>, len: usize) -> Result<()>;
    /// x and y exchange their memory. Each has as many elements afterwards as fit into what it got; what they are is
    /// unspecified.
    fn exchange(&self, x: &mut Self::Buf<Self::Act>, y: &mut Self::Buf<Self::Stat>);

    /// Bytes of working memory that the operation takes beside its operands.
    fn scratch_bytes(&self, op: ScratchFor) -> usize;
    /// Bytes that an optimizer's step keeps beside its operands, tensors of so many elements, from the first one on.
    fn optimizer_bytes(&self, _lengths: &[usize]) -> usize {
        0
    }
    /// Takes the working memory for all operations to come; called once, before the first.
    fn reserve_scratch(&self, bytes: usize) -> Result<()>;

    /// `y[t,:] = table[ids[t],:]`. `y[tokens,width]`, `table[vocab,width]`, `ids[tokens]` below vocab.
    fn embed(
        &self, y: &mut Self::Buf<Self::Act>, table: &Self::Buf<Self::Act>, ids: &Self::Buf<TokenId>,
        s: HeadShape,
    ) -> Result<()>;
    /// Undoes `embed`: `d_table[ids[t],:] += dy[t,:]`, tokens in ascending order.
    fn embed_backward(
        &self, d_table: &mut Self::Buf<Self::Stat>, dy: &Self::Buf<Self::Act>, ids: &Self::Buf<TokenId>,
        s: HeadShape,
    ) -> Result<()>;

    /// `y[t,i] = x[t,i]·rstd[t]·w[i]`, `rstd[t] = 1/sqrt(mean_i x[t,i]² + eps)`. `y, x[tokens,width]`, `w[width]`,
    /// `rstd[tokens]`.
    fn rmsnorm(
        &self, y: &mut Self::Buf<Self::Act>, rstd: &mut Self::Buf<Self::Stat>, x: &Self::Buf<Self::Act>,
        w: &Self::Buf<Self::Act>, s: NormShape,
    ) -> Result<()>;
    /// Undoes `rmsnorm`: with `g = dy·w` and `x̂ = x·rstd`,
    /// `dx[t,i] += rstd[t]·(g[t,i] − x̂[t,i]·mean_j(g[t,j]·x̂[t,j]))`, `dw[i] += Σ_t dy[t,i]·x̂[t,i]`. dx is accumulated
    /// because it already holds the residual branch's gradient; no dw where w is frozen.
    fn rmsnorm_backward(
        &self, dx: &mut Self::Buf<Self::Act>, dw: Option<&mut Self::Buf<Self::Stat>>,
        dy: &Self::Buf<Self::Act>, x: &Self::Buf<Self::Act>, rstd: &Self::Buf<Self::Stat>,
        w: &Self::Buf<Self::Act>, s: NormShape,
    ) -> Result<()>;

    /// LayerNorm (1607.06450): `y[t,i] = (x[t,i] − μ[t])·rstd[t]·w[i] + bias[i]`, `μ[t] = mean_i x[t,i]`,
    /// `rstd[t] = 1/sqrt(mean_i (x[t,i] − μ[t])² + eps)`. `y, x[tokens,width]`, `w, bias[width]`, and the pairs
    /// (μ, rstd) in `stats[tokens,2]`.
    fn layernorm(
        &self, y: &mut Self::Buf<Self::Act>, stats: &mut Self::Buf<Self::Stat>, x: &Self::Buf<Self::Act>,
        w: &Self::Buf<Self::Act>, bias: &Self::Buf<Self::Act>, s: NormShape,
    ) -> Result<()>;
    /// Undoes `layernorm` but for its bias, which is [`Backend::bias_backward`] of dy: with `g = dy·w` and
    /// `x̂ = (x − μ)·rstd`, `dx[t,i] += rstd[t]·(g[t,i] − mean_j g[t,j] − x̂[t,i]·mean_j(g[t,j]·x̂[t,j]))`,
    /// `dw[i] += Σ_t dy[t,i]·x̂[t,i]`. Working memory: that of [`ScratchFor::NormBackward`].
    fn layernorm_backward(
        &self, dx: &mut Self::Buf<Self::Act>, dw: Option<&mut Self::Buf<Self::Stat>>,
        dy: &Self::Buf<Self::Act>, x: &Self::Buf<Self::Act>, stats: &Self::Buf<Self::Stat>,
        w: &Self::Buf<Self::Act>, s: NormShape,
    ) -> Result<()>;

    /// Rows of unit length: `y[r,i] = x[r,i]·scale[r]`, `scale[r] = 1/max(sqrt(Σ_i x[r,i]²), `[`UNIT_LEAST`]`)`.
    /// `y, x[rows,width]`, `scale[rows]`.
    fn unit_rows(
        &self, y: &mut Self::Buf<Self::Act>, scale: &mut Self::Buf<Self::Stat>, x: &Self::Buf<Self::Act>,
        rows: usize, width: usize,
    ) -> Result<()>;
    /// Undoes `unit_rows`, in place: `d[r,i] = scale[r]·(d[r,i] − y[r,i]·Σ_j d[r,j]·y[r,j])`. `d[rows,width]` holds the
    /// gradient of y and then that of x.
    fn unit_rows_backward(
        &self, d: &mut Self::Buf<Self::Stat>, y: &Self::Buf<Self::Act>, scale: &Self::Buf<Self::Stat>,
        rows: usize, width: usize,
    ) -> Result<()>;

    /// `y = x·wᵀ (+ bias) (+ residual)`. `y[m,n]`, `x[m,k]`, `w[n,k]`, `bias[n]`, `residual[m,n]`.
    fn matmul_nt(
        &self, y: &mut Self::Buf<Self::Act>, x: &Self::Buf<Self::Act>, w: &Self::Buf<Self::Act>,
        bias: Option<&Self::Buf<Self::Act>>, residual: Option<&Self::Buf<Self::Act>>, s: MatmulShape,
    ) -> Result<()>;
    /// Undoes `matmul_nt` for x: dx (= or +=) dy·w. `dx[m,k]`, `dy[m,n]`, `w[n,k]`.
    fn matmul_nn(
        &self, dx: &mut Self::Buf<Self::Act>, dy: &Self::Buf<Self::Act>, w: &Self::Buf<Self::Act>,
        write: Write, s: MatmulShape,
    ) -> Result<()>;
    /// Undoes `matmul_nt` for w: `dw += dyᵀ·x`. `dw[n,k]`, `dy[m,n]`, `x[m,k]`.
    fn matmul_tn(
        &self, dw: &mut Self::Buf<Self::Stat>, dy: &Self::Buf<Self::Act>, x: &Self::Buf<Self::Act>,
        s: MatmulShape,
    ) -> Result<()>;
    /// Undoes the bias of `matmul_nt`: `db[n] += Σ_m dy[m,n]`.
    fn bias_backward(
        &self, db: &mut Self::Buf<Self::Stat>, dy: &Self::Buf<Self::Act>, m: usize, n: usize,
    ) -> Result<()>;

    /// In place: each pair (a,b) of q and k becomes `f·(a·cos φ − b·sin φ, b·cos φ + a·sin φ)`,
    /// `φ = ±position·2π·turns[pair]/2^64` (wrapping product: exact), f the attention factor.
    /// `q[rows,tokens,heads,head_dim]`, k likewise with kv_heads, `turns[rotary_dim/2]`: each pair's frequency in turns per
    /// position as a 64-bit binary fraction.
    fn rope(
        &self, q: &mut Self::Buf<Self::Act>, k: &mut Self::Buf<Self::Act>, places: Places<'_, Self>,
        turns: &Self::Buf<u64>, direction: Direction, s: RopeShape,
    ) -> Result<()>;

    /// `y[i] = silu(gate[i])·up[i]`, `silu(x) = x/(1+e^-x)`.
    fn swiglu(
        &self, y: &mut Self::Buf<Self::Act>, gate: &Self::Buf<Self::Act>, up: &Self::Buf<Self::Act>,
        len: usize,
    ) -> Result<()>;
    /// Undoes `swiglu`: with `σ = 1/(1+e^-gate)`, `d_gate = dy·up·σ·(1 + gate·(1−σ))`, `d_up = dy·gate·σ`.
    fn swiglu_backward(
        &self, d_gate: &mut Self::Buf<Self::Act>, d_up: &mut Self::Buf<Self::Act>, dy: &Self::Buf<Self::Act>,
        gate: &Self::Buf<Self::Act>, up: &Self::Buf<Self::Act>, len: usize,
    ) -> Result<()>;

    /// GELU (1606.08415) by its tanh: `y = ½·x·(1 + tanh u) = x·σ(2u)`, `u = √(2/π)·(x + 0.044715·x³)`,
    /// `σ(x) = 1/(1+e^-x)`.
    fn gelu(&self, y: &mut Self::Buf<Self::Act>, x: &Self::Buf<Self::Act>, len: usize) -> Result<()>;
    /// Undoes `gelu`: with `σ = σ(2u)` and `u' = √(2/π)·(1 + 3·0.044715·x²)`, `dx = dy·σ·(1 + 2·x·(1−σ)·u')`.
    fn gelu_backward(
        &self, dx: &mut Self::Buf<Self::Act>, dy: &Self::Buf<Self::Act>, x: &Self::Buf<Self::Act>, len: usize,
    ) -> Result<()>;

    /// `o_i = Σ_j p_ij v_j`, `p_ij = exp(scale·q_i·k_j − lse_i)`, over the keys that query i sees: causal by sequence index,
    /// within the window, of the same document (`documents[rows,keys]`). `o, q[rows,queries,heads,head_dim]`,
    /// `k, v[rows,keys,kv_heads,head_dim]`, `lse[rows,heads,queries]` the log-sum-exp of the scores. Nothing of size T×T
    /// exists.
    fn attention(
        &self, o: &mut Self::Buf<Self::Act>, lse: &mut Self::Buf<Self::Stat>, q: &Self::Buf<Self::Act>,
        k: &Self::Buf<Self::Act>, v: &Self::Buf<Self::Act>, documents: Option<&Self::Buf<DocumentId>>,
        s: AttentionShape,
    ) -> Result<()>;
    /// Keys or values as 8-bit integers, one scale for each head of a token: `scale = max_i |x_i|/127` (0 where that is below
    /// [`KV_SCALE_LEAST`]) and `code_i = round(x_i/scale)`, 0 where scale is 0, so that `|x_i − scale·code_i| ≤ scale/2`. Where
    /// any x_i is no finite number scale is NaN, and so is all attention that comes to meet it. Written from token `at` on:
    /// `codes[at + t, kv_heads, head_dim]`, `scales[at + t, kv_heads]` of `x[tokens,kv_heads,head_dim]`.
    fn kv_quantise(
        &self, codes: &mut Self::Buf<i8>, scales: &mut Self::Buf<Self::Stat>, at: usize,
        x: &Self::Buf<Self::Act>, s: KvShape,
    ) -> Result<()>;
    /// `attention` over keys and values that were quantised: `k, v = scale·code`. An element that becomes an operand of a
    /// product in `Act` is rounded to it once.
    fn attention_int8(
        &self, o: &mut Self::Buf<Self::Act>, lse: &mut Self::Buf<Self::Stat>, q: &Self::Buf<Self::Act>,
        k: Quantised<'_, Self>, v: Quantised<'_, Self>, documents: Option<&Self::Buf<DocumentId>>,
        s: AttentionShape,
    ) -> Result<()>;
    /// Undoes `attention` (queries == keys): with `δ_i = do_i·o_i`, `ds_ij = p_ij·(do_i·v_j − δ_i)`,
    /// `dq_i = scale·Σ_j ds_ij k_j`, `dk_j = scale·Σ_i ds_ij q_i`, `dv_j = Σ_i p_ij do_i`; p is recomputed from lse.
    fn attention_backward(
        &self, dq: &mut Self::Buf<Self::Act>, dk: &mut Self::Buf<Self::Act>, dv: &mut Self::Buf<Self::Act>,
        d_o: &Self::Buf<Self::Act>, o: &Self::Buf<Self::Act>, lse: &Self::Buf<Self::Stat>,
        q: &Self::Buf<Self::Act>, k: &Self::Buf<Self::Act>, v: &Self::Buf<Self::Act>,
        documents: Option<&Self::Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()>;

    /// Head and cross-entropy in one chunked step: `nll[t] = log Σ_j exp(z_tj) − z_t,target`, `z = x·wᵀ (+ bias)`; 0
    /// where the target is [`TokenId::IGNORED`]. With `grad` and `dz_t = scale·weights[t]·(softmax(z_t) − onehot)`,
    /// weights 1 where none are given: `dx = dz·w`, `dw += dzᵀ·x`, `db += Σ_t dz_t`, zero for ignored tokens. nll is never
    /// weighted. `nll, weights[tokens]`, `x[tokens,width]`, `w[vocab,width]`, `bias[vocab]`. No buffer of size
    /// `[tokens, vocab]` exists.
    fn head_loss(
        &self, nll: &mut Self::Buf<Self::Stat>, x: &Self::Buf<Self::Act>, w: &Self::Buf<Self::Act>,
        bias: Option<&Self::Buf<Self::Act>>, targets: &Self::Buf<TokenId>, grad: Option<HeadGrad<'_, Self>>,
        s: HeadShape,
    ) -> Result<()>;
    /// `logits = x·wᵀ (+ bias)`, unrounded. `logits[tokens,vocab]` in `Stat`; for a few tokens at a time.
    fn head_logits(
        &self, logits: &mut Self::Buf<Self::Stat>, x: &Self::Buf<Self::Act>, w: &Self::Buf<Self::Act>,
        bias: Option<&Self::Buf<Self::Act>>, s: HeadShape,
    ) -> Result<()>;

    /// Which token comes next in each row. With `w_i = exp((z_i − max z)/temperature)` the nucleus (1904.09751) is
    /// `{i: w_i ≥ τ}`, τ the largest with `Σ_nucleus w ≥ top_p·Σ w`: the fewest likeliest tokens, equals together. Drawn is
    /// the first token, by index, at which the running sum of the nucleus's weights exceeds `unit·(their sum)`; at
    /// temperature 0 it is the first of the largest logits. A row with a logit that is no finite number gets
    /// [`TokenId::IGNORED`]. `tokens[rows]`, `logits[rows,vocab]` is scratch afterwards, `units[rows]` in [0, 1).
    fn sample(
        &self, tokens: &mut Self::Buf<TokenId>, logits: &mut Self::Buf<Self::Stat>,
        units: &Self::Buf<Self::Stat>, s: SampleShape,
    ) -> Result<()>;

    /// In place: `x[i] = factor·x[i]` over 0..len, rounded once.
    fn scale(&self, x: &mut Self::Buf<Self::Act>, factor: f64, len: usize) -> Result<()>;

    /// `y = x` in full precision, of `len` elements: master weights from weights.
    fn widen(&self, y: &mut Self::Buf<Self::Stat>, x: &Self::Buf<Self::Act>, len: usize) -> Result<()>;

    /// `Σ x[i]²` over 0..len of each (x, len), in f64 and in a fixed order: of all gradients at once, for their norm.
    fn sum_squares(&self, tensors: &[(&Self::Buf<Self::Stat>, usize)]) -> Result<Vec<f64>>;
    /// AdamW (Loshchilov & Hutter, 1711.05101) on every tensor: `g = grad·grad_scale`, `m = β1·m + (1−β1)·g`,
    /// `v = β2·v + (1−β2)·g²`, `p −= lr·(m̂/(√v̂ + eps) + decay·p)` with `m̂ = m/(1−β1^step)`, `v̂ = v/(1−β2^step)`;
    /// param = p rounded.
    fn adamw(&self, tensors: &mut [AdamTensor<'_, Self>], step: AdamStep) -> Result<()>;
    /// `adamw` with moments that are kept in 8 bits. They are decoded, by block of [`MOMENT_BLOCK`] with scales s_m and s_v,
    /// `m = s_m·sign(c)·(c/127)²`, `v = (s_v·(c/255)²)²`, advanced and used as in `adamw`, and encoded anew with
    /// `s_m = max |m|`, `s_v = max √v` of the block (0, and all codes 0, below [`MOMENT_SCALE_LEAST`]).
    ///
    /// Encoding rounds at random, so that what is decoded is the moment in the mean: with `x = 127²·|m|/s_m`, k = 2, or
    /// `x = 255⁴·v/s_v²`, k = 4, and `c = ⌊x^(1/k)⌋`, the code is c+1 where `u·((c+1)^k − c^k) < x − c^k`, else c; it is at
    /// least 1 for every `v > 0`, so that no step is divided by eps alone. u is (16 bits + ½)/2^16, the low half (for v the
    /// high half) of word i of [`Stream`](crate::random::Stream)`(seed, Purpose::Rounding, step, t)` for element i of
    /// `tensors[t]`.
    ///
    /// Where an m or v is no finite number the block's scale is NaN, and so are its parameters from the next step on.
    fn adamw8(&self, tensors: &mut [Adam8Tensor<'_, Self>], step: AdamStep, seed: u64) -> Result<()>;
}
