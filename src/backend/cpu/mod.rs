//! The operations in Rust with SIMD: AMX, AVX-512 with bf16 dot products, AVX-512, AVX2 or plain, picked at run time.
//!
//! Products and attention run on hand-written micro-kernels (`matmul`); what a token reads once, the softmax of attention and what
//! becomes of sums on vectors of each width (`vectors`); everything else is one generic body for each operation that the compiler
//! vectorises for each ISA (`isa`). Work is cut by output, never along a sum, or along it in places that the shape alone decides: the
//! same bits for any number of threads.
//!
//! Parallel sums over tokens, as in the gradients of norms, are taken over fixed blocks and added in order.

#![deny(unsafe_op_in_unsafe_fn)]
// Loops over an index into several slices of one length are what the compiler vectorises best.
#![allow(clippy::needless_range_loop)]

mod attend;
mod attention;
mod buffer;
mod check;
mod embed;
mod gelu;
mod guard;
mod head;
mod isa;
mod kv;
mod layernorm;
mod math;
mod matmul;
mod norm;
mod optim;
mod optim8;
mod peak;
mod pool;
mod prefetch;
mod products;
mod rope;
mod sample;
mod scale;
mod scratch;
mod sinks;
mod swiglu;
mod unit;
mod vectors;

pub use buffer::Buf;
pub use guard::Guard;
pub use isa::Isa;
pub use math::CpuFloat;
pub use matmul::Part;

use crate::backend::{
    Adam8Tensor, AdamStep, AdamTensor, AttentionShape, Backend, Buffer, Direction, Element, HeadGrad,
    HeadShape, KvShape, MatmulShape, NormShape, Peaks, Places, Quantised, RopeShape, SampleShape, ScratchFor,
    Write, operands,
};
use crate::error::Result;
use crate::index::{DocumentId, TokenId};
use isa::Simd;
use matmul::pack::Packer;
use norm::Undo;
use pool::Workers;
use scratch::{Arena, grain};
use std::marker::PhantomData;

/// The CPU backend with weights and activations in `E`, bf16 or f32; sums are f32.
///
/// One operation runs at a time; it uses all threads of the backend, the caller's among them.
#[derive(Debug)]
pub struct Cpu<E> {
    simd: Simd,
    packer: Packer,
    workers: Workers,
    arena: Arena,
    /// For tests: where a forbidden page lies beside each buffer.
    guard: Option<Guard>,
    /// For benchmarks: what is done of products.
    part: Part,
    kind: PhantomData<E>,
}

impl<E: CpuFloat> Cpu<E> {
    /// On `threads` threads, with the widest instructions there are, or those that `POSE_CPU_ISA` asks for.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_isa(threads, Isa::chosen()?)
    }

    /// With the given instructions; an error where the machine lacks them.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self> {
        let simd = Simd::new(isa)?;
        let workers = Workers::new(threads)?;
        let packer = Packer::of::<E>(simd);
        Ok(Cpu {
            simd,
            packer,
            workers,
            arena: Arena::new(),
            guard: None,
            part: Part::Whole,
            kind: PhantomData,
        })
    }

    /// The same with every buffer, and the scratch memory, against a page that may not be touched: what reads or writes beyond the
    /// end ends the process. For tests; an allocation takes two system calls more.
    pub fn guarded(self, guard: Guard) -> Self {
        Cpu { arena: Arena::guarded(guard), guard: Some(guard), ..self }
    }

    /// From now on nothing but that part of each product is done, and what they leave is no result. For benchmarks.
    pub fn only(&mut self, part: Part) {
        self.part = part;
    }

    pub fn isa(&self) -> Isa {
        self.simd.isa()
    }

    pub fn threads(&self) -> usize {
        self.workers.threads()
    }

    /// Measures what the machine can do at most, for about a second.
    pub fn measure_peak(&self) -> Peaks {
        peak::measure(self.simd, &self.workers)
    }

    /// GFLOP/s of the multiply-adds that products are made of, on registers alone, measured for a tenth of a second.
    pub fn measure_multiply_adds(&self) -> f64 {
        peak::multiply_adds(self.simd, &self.workers, self.packer.kernel.paired)
    }

    /// GB/s that all threads together read from memory, at the best in a few tens of milliseconds.
    pub fn measure_bandwidth(&self) -> f64 {
        peak::bandwidth(self.simd, &self.workers)
    }

    /// Bytes of scratch memory that the largest operation so far took.
    pub fn scratch_high_water(&self) -> usize {
        self.arena.high_water_bytes()
    }

    /// Columns of a task that sums along columns.
    fn columns_at_a_time(&self, columns: usize) -> usize {
        columns.div_ceil(2 * self.threads()).next_multiple_of(16).max(64)
    }
}

/// Elements that a task of an element-wise operation takes at least.
const RUN: usize = 8192;

impl<E: CpuFloat> Backend for Cpu<E> {
    type Act = E;
    type Stat = f32;
    type Buf<T: Element> = Buf<T>;

    fn alloc<T: Element>(&self, len: usize) -> Result<Buf<T>> {
        Ok(match self.guard {
            None => Buf::zeroed(len),
            Some(guard) => Buf::guarded(len, guard),
        })
    }

    fn upload<T: Element>(&self, dst: &mut Buf<T>, at: usize, src: &[T]) -> Result<()> {
        check::range("upload", "dst", dst.len(), at, src.len())?;
        dst.as_mut_slice()[at..][..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn download<T: Element>(&self, dst: &mut [T], src: &Buf<T>, at: usize) -> Result<()> {
        check::range("download", "src", src.len(), at, dst.len())?;
        dst.copy_from_slice(&src.as_slice()[at..][..dst.len()]);
        Ok(())
    }

    fn copy<T: Element>(
        &self, dst: &mut Buf<T>, dst_at: usize, src: &Buf<T>, src_at: usize, len: usize,
    ) -> Result<()> {
        check::range("copy", "dst", dst.len(), dst_at, len)?;
        check::range("copy", "src", src.len(), src_at, len)?;
        dst.as_mut_slice()[dst_at..][..len].copy_from_slice(&src.as_slice()[src_at..][..len]);
        Ok(())
    }

    fn zero<T: Element>(&self, x: &mut Buf<T>, len: usize) -> Result<()> {
        check::lengths("zero", &[("x", x.len(), len)])?;
        let run = self.workers.run_length(len, 0.2);
        self.workers
            .each(0.2 * len as f64, x.as_mut_slice()[..len].chunks_mut(run), |x| x.fill(T::default()));
        Ok(())
    }

    fn exchange(&self, x: &mut Buf<E>, y: &mut Buf<f32>) {
        x.exchange(y);
    }

    fn scratch_bytes(&self, op: ScratchFor) -> usize {
        let words = match op {
            ScratchFor::MatmulNt(s) => self.nt_words(s),
            ScratchFor::MatmulNn(s) => self.product_words(s.m, s.k, s.n, products::lines(&[], s.n)),
            ScratchFor::MatmulTn(s) => self.product_words(s.n, s.k, s.m, products::columns(&[], s.n)),
            ScratchFor::NormBackward(s) => s.tokens.div_ceil(norm::block(s.tokens)) * grain(s.width),
            ScratchFor::Attention(s) => self.forward_plan(s).scratch_words(),
            ScratchFor::AttentionInt8(s) => self.int8_plan(s).scratch_words(),
            ScratchFor::AttentionBackward(s) => self.backward_plan(s).scratch_words(),
            ScratchFor::HeadLoss(s, with_grad) => self.head_words(s, with_grad),
        };
        4 * words
    }

    fn reserve_scratch(&self, bytes: usize) -> Result<()> {
        self.arena.reserve(bytes.div_ceil(4));
        Ok(())
    }

    fn embed(&self, y: &mut Buf<E>, table: &Buf<E>, ids: &Buf<TokenId>, s: HeadShape) -> Result<()> {
        Cpu::embed(self, y, table, ids, s)
    }

    fn embed_backward(
        &self, d_table: &mut Buf<f32>, dy: &Buf<E>, ids: &Buf<TokenId>, s: HeadShape,
    ) -> Result<()> {
        Cpu::embed_backward(self, d_table, dy, ids, s)
    }

    fn rmsnorm(
        &self, y: &mut Buf<E>, rstd: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        Cpu::rmsnorm(self, y, rstd, x, w, s)
    }

    fn rmsnorm_backward(
        &self, dx: &mut Buf<E>, dw: Option<&mut Buf<f32>>, dy: &Buf<E>, x: &Buf<E>, rstd: &Buf<f32>,
        w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        self.undo_norm(&Undo::RMS, dx, dw, dy, x, rstd, w, s)
    }

    fn layernorm(
        &self, y: &mut Buf<E>, stats: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        Cpu::layernorm(self, y, stats, x, w, bias, s)
    }

    fn layernorm_backward(
        &self, dx: &mut Buf<E>, dw: Option<&mut Buf<f32>>, dy: &Buf<E>, x: &Buf<E>, stats: &Buf<f32>,
        w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        self.undo_norm(&Undo::LAYER, dx, dw, dy, x, stats, w, s)
    }

    fn unit_rows(
        &self, y: &mut Buf<E>, scale: &mut Buf<f32>, x: &Buf<E>, rows: usize, width: usize,
    ) -> Result<()> {
        Cpu::unit_rows(self, y, scale, x, rows, width)
    }

    fn unit_rows_backward(
        &self, d: &mut Buf<f32>, y: &Buf<E>, scale: &Buf<f32>, rows: usize, width: usize,
    ) -> Result<()> {
        Cpu::unit_rows_backward(self, d, y, scale, rows, width)
    }

    fn matmul_nt(
        &self, y: &mut Buf<E>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, residual: Option<&Buf<E>>,
        s: MatmulShape,
    ) -> Result<()> {
        Cpu::matmul_nt(self, y, x, w, bias, residual, s)
    }

    fn matmul_nn(
        &self, dx: &mut Buf<E>, dy: &Buf<E>, w: &Buf<E>, write: Write, s: MatmulShape,
    ) -> Result<()> {
        Cpu::matmul_nn(self, dx, dy, w, write, s)
    }

    fn matmul_tn(&self, dw: &mut Buf<f32>, dy: &Buf<E>, x: &Buf<E>, s: MatmulShape) -> Result<()> {
        Cpu::matmul_tn(self, dw, dy, x, s)
    }

    fn bias_backward(&self, db: &mut Buf<f32>, dy: &Buf<E>, m: usize, n: usize) -> Result<()> {
        Cpu::bias_backward(self, db, dy, m, n)
    }

    fn rope(
        &self, q: &mut Buf<E>, k: &mut Buf<E>, places: Places<'_, Self>, turns: &Buf<u64>,
        direction: Direction, s: RopeShape,
    ) -> Result<()> {
        Cpu::rope(self, q, k, places, turns, direction, s)
    }

    fn swiglu(&self, y: &mut Buf<E>, gate: &Buf<E>, up: &Buf<E>, len: usize) -> Result<()> {
        Cpu::swiglu(self, y, gate, up, len)
    }

    fn swiglu_backward(
        &self, d_gate: &mut Buf<E>, d_up: &mut Buf<E>, dy: &Buf<E>, gate: &Buf<E>, up: &Buf<E>, len: usize,
    ) -> Result<()> {
        Cpu::swiglu_backward(self, d_gate, d_up, dy, gate, up, len)
    }

    fn gelu(&self, y: &mut Buf<E>, x: &Buf<E>, len: usize) -> Result<()> {
        Cpu::gelu(self, y, x, len)
    }

    fn gelu_backward(&self, dx: &mut Buf<E>, dy: &Buf<E>, x: &Buf<E>, len: usize) -> Result<()> {
        Cpu::gelu_backward(self, dx, dy, x, len)
    }

    fn attention(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, q: &Buf<E>, k: &Buf<E>, v: &Buf<E>,
        documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        Cpu::attention(self, o, lse, q, k, v, documents, s)
    }

    fn kv_quantise(
        &self, codes: &mut Buf<i8>, scales: &mut Buf<f32>, at: usize, x: &Buf<E>, s: KvShape,
    ) -> Result<()> {
        Cpu::kv_quantise(self, codes, scales, at, x, s)
    }

    fn attention_int8(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, q: &Buf<E>, k: Quantised<'_, Self>,
        v: Quantised<'_, Self>, documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        Cpu::attention_int8(self, o, lse, q, k, v, documents, s)
    }

    fn attention_backward(
        &self, dq: &mut Buf<E>, dk: &mut Buf<E>, dv: &mut Buf<E>, d_o: &Buf<E>, o: &Buf<E>, lse: &Buf<f32>,
        q: &Buf<E>, k: &Buf<E>, v: &Buf<E>, documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        Cpu::attention_backward(self, dq, dk, dv, d_o, o, lse, q, k, v, documents, s)
    }

    fn head_loss(
        &self, nll: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, targets: &Buf<TokenId>,
        grad: Option<HeadGrad<'_, Self>>, s: HeadShape,
    ) -> Result<()> {
        Cpu::head_loss(self, nll, x, w, bias, targets, grad, s)
    }

    fn head_logits(
        &self, logits: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, s: HeadShape,
    ) -> Result<()> {
        Cpu::head_logits(self, logits, x, w, bias, s)
    }

    fn sample(
        &self, tokens: &mut Buf<TokenId>, logits: &mut Buf<f32>, units: &Buf<f32>, s: SampleShape,
    ) -> Result<()> {
        operands::sample::<Self>(check::DEVICE, tokens, logits, units, s)?;
        let rows = logits.as_mut_slice().chunks_exact_mut(s.vocab).zip(units.as_slice());
        for (token, (logits, unit)) in tokens.as_mut_slice()[..s.rows].iter_mut().zip(rows) {
            *token = sample::choose(self.simd, logits, *unit, s);
        }
        Ok(())
    }

    fn scale(&self, x: &mut Buf<E>, factor: f64, len: usize) -> Result<()> {
        Cpu::scale(self, x, factor, len)
    }

    fn widen(&self, y: &mut Buf<f32>, x: &Buf<E>, len: usize) -> Result<()> {
        Cpu::widen(self, y, x, len)
    }

    fn sum_squares(&self, tensors: &[(&Buf<f32>, usize)]) -> Result<Vec<f64>> {
        let sum = |&(x, len): &(&Buf<f32>, usize)| {
            check::lengths("sum_squares", &[("x", x.len(), len)])?;
            let run = len.div_ceil(256).max(1 << 15);
            let mut sums = [0f64; 256];
            let runs = x.as_slice()[..len].chunks(run).zip(&mut sums);
            self.workers.each(0.2 * len as f64, runs, |(x, sum)| *sum = optim::sum_squares(self.simd, x));
            Ok(sums.iter().sum())
        };
        tensors.iter().map(sum).collect()
    }

    fn adamw(&self, tensors: &mut [AdamTensor<'_, Self>], step: AdamStep) -> Result<()> {
        operands::adamw(check::DEVICE, tensors)?;
        let elements: usize = tensors.iter().map(|t| t.param.len()).sum();
        let pieces = tensors.iter_mut().flat_map(|t| optim::pieces(t, step));
        self.workers.each(1.0 * elements as f64, pieces, |piece| optim::step(self.simd, piece));
        Ok(())
    }

    fn adamw8(&self, tensors: &mut [Adam8Tensor<'_, Self>], step: AdamStep, seed: u64) -> Result<()> {
        operands::adamw8(check::DEVICE, tensors)?;
        let elements: usize = tensors.iter().map(|t| t.param.len()).sum();
        let pieces = tensors.iter_mut().enumerate().flat_map(|(at, t)| optim8::pieces(t, at, step, seed));
        self.workers.each(2.0 * elements as f64, pieces, |piece| optim8::step(self.simd, piece));
        Ok(())
    }
}
