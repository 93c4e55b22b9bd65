//! The operations on a GPU: the kernels of `cuda/`, driven through cudarc.
//!
//! `images` holds what build.rs compiled, `driver` talks to the CUDA driver and has all that is unsafe, `buffer` is device
//! memory, `kernels` names what is launched. The operations lie by subject: here the element-wise and row-wise ones, then
//! `products`, `attention`, `kv`, `norms`, `head`, `optim`; `peak` is the benchmarks' yardstick, `scratch` working memory. Each checks lengths and divisibility before it launches.
//!
//! Everything runs on one stream in order, and the host waits only for downloads. Sums are taken in an order that the shape
//! alone decides, so results do not depend on how many multiprocessors a GPU has. (How much shared memory a block may have decides between
//! two kernels of attention at some head sizes, whose bits differ.)

mod attention;
mod buffer;
mod driver;
mod head;
mod images;
mod kernels;
mod kv;
mod norms;
mod optim;
mod peak;
mod products;
mod scratch;

pub use buffer::Buf;
pub use driver::{Description, count, describe, passed_over};
pub use images::architectures;

use super::{
    Adam8Tensor, AdamStep, AdamTensor, AttentionShape, Backend, Buffer, Direction, Element, Float, HeadGrad,
    HeadShape, KvShape, MatmulShape, NormShape, PairLayout, Places, Quantised, RopeShape, SampleShape,
    ScratchFor, Write, check, operands,
};
use crate::error::{Error, Result};
use crate::index::{DocumentId, TokenId};
use buffer::optional;
use driver::{Arg, Gpu, Grid};
use images::tiles;
use operands::Norm;
use scratch::Arena;
use std::marker::PhantomData;
use std::sync::Arc;

/// Why there is no CUDA in a build without nvcc.
pub const NO_KERNELS: &str =
    "this build has no CUDA kernels: scripts/install-nvcc and a new build make them; or use --device cpu";

/// What weights and activations can be on the GPU.
pub trait CudaFloat: Float {
    /// How kernels for it end.
    const SUFFIX: &'static str;
}
impl CudaFloat for half::bf16 {
    const SUFFIX: &'static str = "bf16";
}
impl CudaFloat for f32 {
    const SUFFIX: &'static str = "f32";
}

/// The backend of one GPU with weights and activations in `E`, bf16 or f32; sums are f32.
pub struct Cuda<E> {
    gpu: Arc<Gpu>,
    name: String,
    arena: Arena,
    optimizer: optim::Tables,
    kind: PhantomData<E>,
}

/// Blocks of a grid that strides over what there is to do.
const STRIDING: usize = 2048;
/// Blocks of rmsnorm at least, where there are rows for them.
const NORM_BLOCKS: usize = 256;

impl<E: CudaFloat> Cuda<E> {
    /// Opens device `ordinal` and finds every kernel.
    pub fn new(ordinal: usize) -> Result<Self> {
        let gpu = Gpu::open(ordinal, &kernels::names(E::SUFFIX))?;
        let optimizer = optim::Tables::new(&gpu)?;
        Ok(Cuda {
            name: format!("cuda:{ordinal}"),
            arena: Arena::new(&gpu),
            gpu,
            optimizer,
            kind: PhantomData,
        })
    }

    pub fn description(&self) -> &Description {
        &self.gpu.about
    }

    /// The stream that everything runs on, for other libraries that are to be timed beside this one.
    pub fn stream(&self) -> cudarc::driver::sys::CUstream {
        self.gpu.stream()
    }

    fn refuse(&self, problem: String) -> Error {
        check::refuse(&self.name, problem)
    }

    fn lengths(&self, op: &str, operands: &[(&str, usize, usize)]) -> Result<()> {
        check::lengths(&self.name, op, operands)
    }

    /// Blocks of a norm, which each load the weights once: with `rows` rows or more for each they are little beside the
    /// rows.
    fn norm_blocks(tokens: usize, rows: usize) -> usize {
        tokens.min((tokens / rows).clamp(NORM_BLOCKS, STRIDING))
    }

    /// A size as kernels take it.
    fn int(&self, op: &str, n: usize) -> Result<Arg> {
        i32::try_from(n)
            .map(Arg::int)
            .map_err(|_| self.refuse(format!("{op}: {n} is more than a kernel counts to")))
    }

    fn launch(&self, op: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        self.gpu.launch(&format!("{op}_{}", E::SUFFIX), grid, args)
    }
}

/// Elements of `T` in 16 bytes.
fn vector<T>() -> usize {
    16 / size_of::<T>()
}

fn line(blocks: usize, threads: usize) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads, shared: 0 }
}

/// A grid that strides over `pieces`, of which a thread takes one at a time: 16 bytes in most kernels.
fn striding(pieces: usize) -> Grid {
    line(pieces.div_ceil(tiles::ELEMENTWISE_THREADS).min(STRIDING), tiles::ELEMENTWISE_THREADS)
}

impl<E: CudaFloat> Backend for Cuda<E> {
    type Act = E;
    type Stat = f32;
    type Buf<T: Element> = Buf<T>;

    const SHARES_HOST_MEMORY: bool = false;

    fn free_bytes(&self) -> Option<usize> {
        self.gpu.memory().ok().map(|(free, _)| free)
    }

    fn synchronize(&self) -> Result<()> {
        self.gpu.synchronize()
    }

    fn alloc<T: Element>(&self, len: usize) -> Result<Buf<T>> {
        Buf::zeroed(&self.gpu, len)
    }

    fn upload<T: Element>(&self, dst: &mut Buf<T>, at: usize, src: &[T]) -> Result<()> {
        check::range(&self.name, "upload", "dst", dst.len(), at, src.len())?;
        self.gpu.upload(dst.at(at), bytemuck::cast_slice(src))
    }

    fn download<T: Element>(&self, dst: &mut [T], src: &Buf<T>, at: usize) -> Result<()> {
        check::range(&self.name, "download", "src", src.len(), at, dst.len())?;
        self.gpu.download(bytemuck::cast_slice_mut(dst), src.at(at))
    }

    fn copy<T: Element>(
        &self, dst: &mut Buf<T>, dst_at: usize, src: &Buf<T>, src_at: usize, len: usize,
    ) -> Result<()> {
        check::range(&self.name, "copy", "dst", dst.len(), dst_at, len)?;
        check::range(&self.name, "copy", "src", src.len(), src_at, len)?;
        self.gpu.copy(dst.at(dst_at), src.at(src_at), len * size_of::<T>())
    }

    fn zero<T: Element>(&self, x: &mut Buf<T>, len: usize) -> Result<()> {
        self.lengths("zero", &[("x", x.len(), len)])?;
        self.gpu.zero(x.at(0), len * size_of::<T>())
    }

    fn exchange(&self, x: &mut Buf<E>, y: &mut Buf<f32>) {
        x.exchange(y);
    }

    fn scratch_bytes(&self, op: ScratchFor) -> usize {
        match op {
            ScratchFor::MatmulNt(_) | ScratchFor::MatmulNn(_) | ScratchFor::MatmulTn(_) => 0,
            ScratchFor::NormBackward(s) => 4 * tiles::NORM_BACKWARD_BLOCKS * s.width,
            ScratchFor::Attention(s) => self.forward_scratch(s),
            ScratchFor::AttentionInt8(s) => self.int8_scratch(s),
            ScratchFor::AttentionBackward(s) => 8 * s.rows * s.heads * s.queries,
            ScratchFor::HeadLoss(s, with_grad) => Self::head_scratch(s, with_grad),
        }
    }

    fn optimizer_bytes(&self, lengths: &[usize]) -> usize {
        optim::table_bytes(lengths)
    }

    fn reserve_scratch(&self, bytes: usize) -> Result<()> {
        self.arena.reserve(bytes)
    }

    fn embed(&self, y: &mut Buf<E>, table: &Buf<E>, ids: &Buf<TokenId>, s: HeadShape) -> Result<()> {
        let HeadShape { tokens, width, vocab } = s;
        operands::embed::<Self>(&self.name, y, table, ids, s)?;
        let sizes = [self.int("embed", tokens)?, self.int("embed", width)?, self.int("embed", vocab)?];
        let args = [&[y.arg(), table.arg(), ids.arg()][..], &sizes].concat();
        let pieces = if width.is_multiple_of(vector::<E>()) { vector::<E>() } else { 1 };
        self.launch("embed", striding(tokens * width / pieces), &args)
    }

    fn embed_backward(
        &self, d_table: &mut Buf<f32>, dy: &Buf<E>, ids: &Buf<TokenId>, s: HeadShape,
    ) -> Result<()> {
        let HeadShape { tokens, width, vocab } = s;
        const OP: &str = "embed_backward";
        operands::embed_backward::<Self>(&self.name, d_table, dy, ids, s)?;
        let columns = width.div_ceil(tiles::EMBED_BACKWARD_COLUMNS * tiles::EMBED_BACKWARD_THREADS);
        let blocks = [columns, tiles::EMBED_BACKWARD_SHARES, 1];
        let grid = Grid { blocks, threads: tiles::EMBED_BACKWARD_THREADS, shared: 0 };
        let sizes = [self.int(OP, tokens)?, self.int(OP, width)?, self.int(OP, vocab)?];
        self.launch(OP, grid, &[&[d_table.arg(), dy.arg(), ids.arg()][..], &sizes].concat())
    }

    fn rmsnorm(
        &self, y: &mut Buf<E>, rstd: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        self.norm_about_zero(y, rstd, x, w, s)
    }

    fn rmsnorm_backward(
        &self, dx: &mut Buf<E>, dw: Option<&mut Buf<f32>>, dy: &Buf<E>, x: &Buf<E>, rstd: &Buf<f32>,
        w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        self.undo_norm(Norm::RMS, (dx, dw), [dy, x], rstd, w, s)
    }

    fn layernorm(
        &self, y: &mut Buf<E>, stats: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        self.norm_about_mean(y, stats, x, [w, bias], s)
    }

    fn layernorm_backward(
        &self, dx: &mut Buf<E>, dw: Option<&mut Buf<f32>>, dy: &Buf<E>, x: &Buf<E>, stats: &Buf<f32>,
        w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        self.undo_norm(Norm::LAYER, (dx, dw), [dy, x], stats, w, s)
    }

    fn unit_rows(
        &self, y: &mut Buf<E>, scale: &mut Buf<f32>, x: &Buf<E>, rows: usize, width: usize,
    ) -> Result<()> {
        self.make_unit_rows(y, scale, x, rows, width)
    }

    fn unit_rows_backward(
        &self, d: &mut Buf<f32>, y: &Buf<E>, scale: &Buf<f32>, rows: usize, width: usize,
    ) -> Result<()> {
        self.undo_unit_rows(d, y, scale, rows, width)
    }

    fn matmul_nt(
        &self, y: &mut Buf<E>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, residual: Option<&Buf<E>>,
        s: MatmulShape,
    ) -> Result<()> {
        operands::matmul_nt::<Self>(&self.name, [y, x, w], bias, residual, s)?;
        self.nt(&[y.arg(), x.arg(), w.arg(), optional(bias), optional(residual)], s)
    }

    fn matmul_nn(
        &self, dx: &mut Buf<E>, dy: &Buf<E>, w: &Buf<E>, write: Write, s: MatmulShape,
    ) -> Result<()> {
        operands::matmul_nn::<Self>(&self.name, dx, dy, w, s)?;
        self.nn(dx.arg(), dy.arg(), w.arg(), write, s)
    }

    fn matmul_tn(&self, dw: &mut Buf<f32>, dy: &Buf<E>, x: &Buf<E>, s: MatmulShape) -> Result<()> {
        operands::matmul_tn::<Self>(&self.name, dw, dy, x, s)?;
        self.tn(dw.arg(), dy.arg(), x.arg(), s)
    }

    fn bias_backward(&self, db: &mut Buf<f32>, dy: &Buf<E>, m: usize, n: usize) -> Result<()> {
        operands::bias_backward::<Self>(&self.name, db, dy, m, n)?;
        self.column_sum::<E>(db, dy.arg(), m, n)
    }

    fn rope(
        &self, q: &mut Buf<E>, k: &mut Buf<E>, places: Places<'_, Self>, turns: &Buf<u64>,
        direction: Direction, s: RopeShape,
    ) -> Result<()> {
        let tokens = s.rows * s.tokens;
        operands::rope::<Self>(&self.name, [q, k], &places, turns, s)?;
        let (at, per_row) = match &places {
            Places::Spans { spans, per_row } => (spans.arg(), *per_row),
            Places::List(list) => (list.arg(), 0),
        };
        let mut args = vec![q.arg(), k.arg(), at, turns.arg()];
        for size in [per_row, s.tokens, s.heads, s.kv_heads, s.head_dim, s.rotary_dim] {
            args.push(self.int("rope", size)?);
        }
        let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
        args.push(Arg::int((s.pairs == PairLayout::Interleaved).into()));
        args.extend([Arg::float(sign), Arg::float(s.attention_factor)]);
        let shared = 4 * s.rotary_dim;
        self.launch("rope", Grid { blocks: [tokens, 1, 1], threads: tiles::ROPE_THREADS, shared }, &args)
    }

    fn swiglu(&self, y: &mut Buf<E>, gate: &Buf<E>, up: &Buf<E>, len: usize) -> Result<()> {
        operands::swiglu::<Self>(&self.name, y, gate, up, len)?;
        let args = [y.arg(), gate.arg(), up.arg(), Arg::long(len as i64)];
        self.launch("swiglu", striding(len.div_ceil(vector::<E>())), &args)
    }

    fn swiglu_backward(
        &self, d_gate: &mut Buf<E>, d_up: &mut Buf<E>, dy: &Buf<E>, gate: &Buf<E>, up: &Buf<E>, len: usize,
    ) -> Result<()> {
        operands::swiglu_backward::<Self>(&self.name, [d_gate, d_up], [dy, gate, up], len)?;
        let args = [d_gate.arg(), d_up.arg(), dy.arg(), gate.arg(), up.arg(), Arg::long(len as i64)];
        self.launch("swiglu_backward", striding(len.div_ceil(vector::<E>())), &args)
    }

    fn gelu(&self, y: &mut Buf<E>, x: &Buf<E>, len: usize) -> Result<()> {
        operands::gelu::<Self>(&self.name, y, x, len)?;
        self.launch("gelu", striding(len.div_ceil(vector::<E>())), &[y.arg(), x.arg(), Arg::long(len as i64)])
    }

    fn gelu_backward(&self, dx: &mut Buf<E>, dy: &Buf<E>, x: &Buf<E>, len: usize) -> Result<()> {
        operands::gelu_backward::<Self>(&self.name, dx, dy, x, len)?;
        let args = [dx.arg(), dy.arg(), x.arg(), Arg::long(len as i64)];
        self.launch("gelu_backward", striding(len.div_ceil(vector::<E>())), &args)
    }

    fn attention(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, q: &Buf<E>, k: &Buf<E>, v: &Buf<E>,
        documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        self.forward(o, lse, [q, k, v], documents, s)
    }

    fn kv_quantise(
        &self, codes: &mut Buf<i8>, scales: &mut Buf<f32>, at: usize, x: &Buf<E>, s: KvShape,
    ) -> Result<()> {
        self.quantise(codes, scales, at, x, s)
    }

    fn attention_int8(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, q: &Buf<E>, k: Quantised<'_, Self>,
        v: Quantised<'_, Self>, documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        self.forward_int8(o, lse, q, [k, v], documents, s)
    }

    fn attention_backward(
        &self, dq: &mut Buf<E>, dk: &mut Buf<E>, dv: &mut Buf<E>, d_o: &Buf<E>, o: &Buf<E>, lse: &Buf<f32>,
        q: &Buf<E>, k: &Buf<E>, v: &Buf<E>, documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        self.backward([dq, dk, dv], [d_o, o], lse, [q, k, v], documents, s)
    }

    fn head_loss(
        &self, nll: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, targets: &Buf<TokenId>,
        grad: Option<HeadGrad<'_, Self>>, s: HeadShape,
    ) -> Result<()> {
        self.loss(nll, x, w, bias, targets, grad, s)
    }

    fn head_logits(
        &self, logits: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, s: HeadShape,
    ) -> Result<()> {
        let HeadShape { tokens, width, vocab } = s;
        operands::head_logits::<Self>(&self.name, logits, [x, w], bias, s)?;
        self.logits(logits.arg(), x.arg(), w.arg(), MatmulShape { m: tokens, n: vocab, k: width })?;
        bias.map_or(Ok(()), |bias| self.add_bias(logits.arg(), bias, tokens, vocab))
    }

    fn sample(
        &self, tokens: &mut Buf<TokenId>, logits: &mut Buf<f32>, units: &Buf<f32>, s: SampleShape,
    ) -> Result<()> {
        self.choose(tokens, logits, units, s)
    }

    fn scale(&self, x: &mut Buf<E>, factor: f64, len: usize) -> Result<()> {
        self.lengths("scale", &[("x", x.len(), len)])?;
        let args = [x.arg(), Arg::float(factor), Arg::long(len as i64)];
        self.launch("scale", striding(len.div_ceil(vector::<E>())), &args)
    }

    fn widen(&self, y: &mut Buf<f32>, x: &Buf<E>, len: usize) -> Result<()> {
        self.lengths("widen", &[("y", y.len(), len), ("x", x.len(), len)])?;
        self.launch(
            "widen",
            striding(len.div_ceil(vector::<f32>())),
            &[y.arg(), x.arg(), Arg::long(len as i64)],
        )
    }

    fn sum_squares(&self, tensors: &[(&Buf<f32>, usize)]) -> Result<Vec<f64>> {
        tensors.iter().try_for_each(|(x, len)| self.lengths("sum_squares", &[("x", x.len(), *len)]))?;
        self.optimizer.sum_squares(&self.gpu, tensors)
    }

    fn adamw(&self, tensors: &mut [AdamTensor<'_, Self>], step: AdamStep) -> Result<()> {
        operands::adamw(&self.name, tensors)?;
        self.step(tensors, step)
    }

    fn adamw8(&self, tensors: &mut [Adam8Tensor<'_, Self>], step: AdamStep, seed: u64) -> Result<()> {
        operands::adamw8(&self.name, tensors)?;
        self.step8(tensors, step, seed)
    }
}

impl<E: CudaFloat> Cuda<E> {
    /// out[i] += Σ_r x[r,i], of rows of `T`.
    fn column_sum<T: CudaFloat>(&self, out: &mut Buf<f32>, x: Arg, rows: usize, width: usize) -> Result<()> {
        let kernel = &format!("column_sum_{}", T::SUFFIX);
        if rows == 0 {
            return Ok(());
        }
        let args = [out.arg(), x, self.int(kernel, rows)?, self.int(kernel, width)?];
        let piece = if width.is_multiple_of(vector::<T>()) { vector::<T>() } else { 1 };
        let grid = line(width.div_ceil(32 * piece), tiles::COLUMN_SUM_THREADS);
        self.gpu.launch(kernel, grid, &args)
    }
}
