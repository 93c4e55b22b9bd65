//! The products of [`Backend`](crate::backend::Backend): which operand is which, and where the sums go.

use super::Cpu;
use super::buffer::Buf;
use super::check;
use super::math::CpuFloat;
use super::matmul::pack::Packer;
use super::matmul::skinny::{self, MAX_ROWS};
use super::matmul::{self, Means, Operand, Plan, Sink, Size, Tile};
use super::norm::add_rows;
use super::sinks::Output;
use crate::backend::{MatmulShape, Write, operands};
use crate::error::Result;

/// Rows of w whose sums the skinny product keeps at a time.
const SKINNY_ROWS: usize = 64;

/// A row-major matrix whose rows run along k.
pub(super) fn lines<E>(data: &[E], k: usize) -> Operand<'_, E> {
    Operand { data, stride: k, along_k: true }
}

/// A row-major matrix whose rows are `stride` apart and lie across k.
pub(super) fn columns<E>(data: &[E], stride: usize) -> Operand<'_, E> {
    Operand { data, stride, along_k: false }
}

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn means(&self) -> Means<'_> {
        Means { packer: self.packer, workers: &self.workers, part: self.part }
    }

    /// Words of scratch for A·B with an A like this one (its data is not looked at).
    pub(super) fn product_words(&self, m: usize, n: usize, k: usize, a: Operand<'_, E>) -> usize {
        Plan::new(self.packer, self.workers.threads(), Size { m, n, k }, &a).scratch_words()
    }

    /// x·wᵀ with what is done to each tile of it: the general way, or for a few rows of x the skinny one.
    pub(super) fn nt(&self, scratch: &mut [u32], x: &[E], w: &[E], s: MatmulShape, sink: &dyn Sink) {
        let MatmulShape { m, n, k } = s;
        if m == 0 || m > MAX_ROWS {
            let size = Size { m, n, k };
            return matmul::product(self.means(), scratch, lines(x, k), lines(w, k), size, sink);
        }
        let ns = 0.05 * (n * k) as f64;
        // One stretch of w for each thread: memory gives most to few long streams.
        let run = n.div_ceil(self.threads()).max(1);
        self.workers.each(ns, (0..n).step_by(run), |first| {
            let end = n.min(first + run);
            for col in (first..end).step_by(SKINNY_ROWS) {
                let cols = SKINNY_ROWS.min(end - col);
                let mut sums = [[0f32; MAX_ROWS]; SKINNY_ROWS];
                skinny::dots(Packer::for_reading::<E>(self.simd), &mut sums[..cols], x, &w[col * k..], m, k);
                for row in 0..m {
                    let data = sums.map(|sums| sums[row]);
                    sink.store(Tile { row, col, rows: 1, cols, data: &data, ld: SKINNY_ROWS });
                }
            }
        });
    }

    /// Words of scratch for [`Self::nt`].
    pub(super) fn nt_words(&self, s: MatmulShape) -> usize {
        if s.m > MAX_ROWS { self.product_words(s.m, s.n, s.k, lines(&[], s.k)) } else { 0 }
    }

    pub(super) fn matmul_nt(
        &self, y: &mut Buf<E>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, residual: Option<&Buf<E>>,
        s: MatmulShape,
    ) -> Result<()> {
        operands::matmul_nt::<Self>(check::DEVICE, [y, x, w], bias, residual, s)?;
        let words = self.nt_words(s);
        let mut scratch = self.arena.take(words);
        let (bias, residual) = (bias.map(|b| b.as_slice()), residual.map(|r| r.as_slice()));
        let sink = Output::new(self.simd, y.as_mut_slice(), s.n).with(bias, residual);
        self.nt(scratch.words(words), x.as_slice(), w.as_slice(), s, &sink);
        Ok(())
    }

    pub(super) fn matmul_nn(
        &self, dx: &mut Buf<E>, dy: &Buf<E>, w: &Buf<E>, write: Write, s: MatmulShape,
    ) -> Result<()> {
        let MatmulShape { m, n, k } = s;
        operands::matmul_nn::<Self>(check::DEVICE, dx, dy, w, s)?;
        let (a, b) = (lines(dy.as_slice(), n), columns(w.as_slice(), k));
        let words = self.product_words(m, k, n, a);
        let mut scratch = self.arena.take(words);
        let size = Size { m, n: k, k: n };
        let sink = Output::new(self.simd, dx.as_mut_slice(), k);
        let sink = if write == Write::Accumulate { sink.added() } else { sink };
        matmul::product(self.means(), scratch.words(words), a, b, size, &sink);
        Ok(())
    }

    pub(super) fn matmul_tn(&self, dw: &mut Buf<f32>, dy: &Buf<E>, x: &Buf<E>, s: MatmulShape) -> Result<()> {
        let MatmulShape { m, n, k } = s;
        operands::matmul_tn::<Self>(check::DEVICE, dw, dy, x, s)?;
        let (a, b) = (columns(dy.as_slice(), n), columns(x.as_slice(), k));
        let words = self.product_words(n, k, m, a);
        let mut scratch = self.arena.take(words);
        let sink = Output::new(self.simd, dw.as_mut_slice(), k).added();
        let size = Size { m: n, n: k, k: m };
        matmul::product(self.means(), scratch.words(words), a, b, size, &sink);
        Ok(())
    }

    pub(super) fn bias_backward(&self, db: &mut Buf<f32>, dy: &Buf<E>, m: usize, n: usize) -> Result<()> {
        operands::bias_backward::<Self>(check::DEVICE, db, dy, m, n)?;
        if m == 0 {
            return Ok(());
        }
        let run = self.columns_at_a_time(n);
        let dy = &dy.as_slice()[..m * n];
        let columns = db.as_mut_slice()[..n].chunks_mut(run).enumerate();
        self.workers.each(0.2 * (m * n) as f64, columns, |(c, db)| {
            add_rows(self.simd, db, &dy[c * run..], n);
        });
        Ok(())
    }
}
