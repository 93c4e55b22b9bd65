//! The three products of a linear layer (`cuda/matmul.cu`, `cuda/matmul_few.cu`, `cuda/matmul_f32.cu`).

use super::driver::{Arg, Grid};
use super::images::tiles;
use super::{Cuda, CudaFloat};
use crate::backend::{MatmulShape, Write};
use crate::error::Result;

impl<E: CudaFloat> Cuda<E> {
    fn in_bf16() -> bool {
        E::SUFFIX == "bf16"
    }

    /// Blocks for an output of rows x columns.
    fn tiles_of(rows: usize, columns: usize) -> Grid {
        let (height, width, threads, shared) = if Self::in_bf16() {
            (tiles::MATMUL_M, tiles::MATMUL_N, tiles::MATMUL_THREADS, tiles::MATMUL_SHARED_BYTES)
        } else {
            (tiles::MATMUL_F32_M, tiles::MATMUL_F32_N, tiles::MATMUL_F32_THREADS, 0)
        };
        Grid { blocks: [columns.div_ceil(width), rows.div_ceil(height), 1], threads, shared }
    }

    /// The kernel for a product of operands with rows of these lengths: in bf16 the one that goes element by element where not
    /// every row starts on 16 bytes.
    fn product_kernel(op: &str, rows: &[usize]) -> String {
        let aligned = rows.iter().all(|n| n.is_multiple_of(8));
        let ragged = if Self::in_bf16() && !aligned { "ragged_" } else { "" };
        format!("{op}_{ragged}{}", E::SUFFIX)
    }

    /// Whether x is a few rows that the kernel for decoding takes.
    fn is_few(s: MatmulShape) -> bool {
        Self::in_bf16() && s.m <= tiles::MATMUL_FEW_ROWS && s.k.is_multiple_of(8)
    }

    /// Kernel and grid of a product of few rows.
    fn few(op: &str, s: MatmulShape) -> (String, Grid) {
        let blocks = [s.n.div_ceil(tiles::MATMUL_FEW_OUTPUTS), 1, 1];
        (format!("{op}_{}", E::SUFFIX), Grid { blocks, threads: tiles::MATMUL_FEW_THREADS, shared: 0 })
    }

    fn sizes(&self, op: &str, s: MatmulShape) -> Result<[Arg; 3]> {
        Ok([self.int(op, s.m)?, self.int(op, s.n)?, self.int(op, s.k)?])
    }

    /// y = x·wᵀ (+ bias) (+ residual); operands in this order, null where there is none.
    pub(super) fn nt(&self, operands: &[Arg; 5], s: MatmulShape) -> Result<()> {
        let args = [&operands[..], &self.sizes("matmul_nt", s)?].concat();
        let (kernel, grid) = if Self::is_few(s) {
            Self::few("matmul_few", s)
        } else {
            (Self::product_kernel("matmul_nt", &[s.k]), Self::tiles_of(s.m, s.n))
        };
        self.gpu.launch(&kernel, grid, &args)
    }

    /// dx (= or +=) dy·w
    pub(super) fn nn(&self, dx: Arg, dy: Arg, w: Arg, write: Write, s: MatmulShape) -> Result<()> {
        let accumulate = Arg::int((write == Write::Accumulate).into());
        let args = [&[dx, dy, w, accumulate][..], &self.sizes("matmul_nn", s)?].concat();
        self.gpu.launch(&Self::product_kernel("matmul_nn", &[s.n, s.k]), Self::tiles_of(s.m, s.k), &args)
    }

    /// dw += dyᵀ·x
    pub(super) fn tn(&self, dw: Arg, dy: Arg, x: Arg, s: MatmulShape) -> Result<()> {
        let args = [&[dw, dy, x][..], &self.sizes("matmul_tn", s)?].concat();
        self.gpu.launch(&Self::product_kernel("matmul_tn", &[s.n, s.k]), Self::tiles_of(s.n, s.k), &args)
    }

    /// Tiles of a row of logits that [`Cuda::logits_with_stats`] leaves a pair of numbers for; none in f32.
    pub(super) fn logit_tiles(vocab: usize) -> usize {
        if Self::in_bf16() { vocab.div_ceil(tiles::MATMUL_N) } else { 0 }
    }

    /// z = x·wᵀ, unrounded, and for the loss `stats[m, logit_tiles]` pairs (max, Σ exp(z − max)).
    pub(super) fn logits_with_stats(
        &self, z: Arg, stats: Arg, [x, w]: [Arg; 2], s: MatmulShape,
    ) -> Result<()> {
        if !Self::in_bf16() {
            return self.logits(z, x, w, s);
        }
        let args = [&[z, x, w, stats][..], &self.sizes("head_loss", s)?].concat();
        self.gpu.launch(&Self::product_kernel("matmul_nt_f32out", &[s.k]), Self::tiles_of(s.m, s.n), &args)
    }

    /// z = x·wᵀ, unrounded.
    pub(super) fn logits(&self, z: Arg, x: Arg, w: Arg, s: MatmulShape) -> Result<()> {
        if !Self::in_bf16() {
            return self.nt(&[z, x, w, Arg::NULL, Arg::NULL], s);
        }
        if !Self::is_few(s) {
            return self.logits_with_stats(z, Arg::NULL, [x, w], s);
        }
        let args = [&[z, x, w][..], &self.sizes("head_logits", s)?].concat();
        let (kernel, grid) = Self::few("matmul_few_f32out", s);
        self.gpu.launch(&kernel, grid, &args)
    }
}
