//! The products of [`Backend`](crate::backend::Backend): which operand is which, and what becomes of the sums.

use super::Cpu;
use super::buffer::Buf;
use super::check;
use super::isa::per_isa;
use super::math::CpuFloat;
use super::matmul::skinny::{self, MAX_ROWS};
use super::matmul::{self, Operand, Plan, Size, Tile};
use super::pool::Disjoint;
use crate::backend::{Buffer, MatmulShape, Write};
use crate::error::Result;

/// Rows of w that a task of the skinny product takes.
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
    pub(super) fn plan(&self, m: usize, n: usize, k: usize, a_along_k: bool) -> Plan {
        Plan::new::<E>(self.packer, self.workers.threads(), Size { m, n, k }, a_along_k)
    }

    /// x·wᵀ with what is done to each tile of it: the general way, or for a few rows of x the skinny one.
    pub(super) fn nt(
        &self, scratch: &mut [u32], x: &[E], w: &[E], s: MatmulShape, store: &(dyn Fn(Tile<'_>) + Sync),
    ) {
        let MatmulShape { m, n, k } = s;
        if m == 0 || m > MAX_ROWS {
            let size = Size { m, n, k };
            return matmul::product(
                (self.packer, &self.workers),
                scratch,
                lines(x, k),
                lines(w, k),
                size,
                store,
            );
        }
        let ns = 0.05 * (n * k) as f64;
        self.workers.each(ns, (0..n).step_by(SKINNY_ROWS), |col| {
            let cols = SKINNY_ROWS.min(n - col);
            let mut sums = [[0f32; MAX_ROWS]; SKINNY_ROWS];
            skinny::dots(self.packer, &mut sums[..cols], x, &w[col * k..], m, k);
            for row in 0..m {
                let data = sums.map(|sums| sums[row]);
                store(Tile { row, col, rows: 1, cols, data: &data, ld: SKINNY_ROWS });
            }
        });
    }

    /// Words of scratch for [`Self::nt`].
    pub(super) fn nt_words(&self, s: MatmulShape) -> usize {
        if s.m > MAX_ROWS { self.plan(s.m, s.n, s.k, true).scratch_words(self.packer) } else { 0 }
    }

    pub(super) fn matmul_nt(
        &self, y: &mut Buf<E>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, residual: Option<&Buf<E>>,
        s: MatmulShape,
    ) -> Result<()> {
        let MatmulShape { m, n, k } = s;
        let mut operands = vec![("y", y.len(), m * n), ("x", x.len(), m * k), ("w", w.len(), n * k)];
        operands.extend(bias.map(|b| ("bias", b.len(), n)));
        operands.extend(residual.map(|r| ("residual", r.len(), m * n)));
        check::lengths("matmul_nt", &operands)?;
        let words = self.nt_words(s);
        let mut scratch = self.arena.take(words);
        let y = Disjoint::new(y.as_mut_slice());
        let added = Added { bias: bias.map(|b| b.as_slice()), residual: residual.map(|r| r.as_slice()) };
        self.nt(scratch.words(words), x.as_slice(), w.as_slice(), s, &|tile| {
            store_rounded(self.simd, &y, n, tile, added);
        });
        Ok(())
    }

    pub(super) fn matmul_nn(
        &self, dx: &mut Buf<E>, dy: &Buf<E>, w: &Buf<E>, write: Write, s: MatmulShape,
    ) -> Result<()> {
        let MatmulShape { m, n, k } = s;
        check::lengths(
            "matmul_nn",
            &[("dx", dx.len(), m * k), ("dy", dy.len(), m * n), ("w", w.len(), n * k)],
        )?;
        let words = self.plan(m, k, n, true).scratch_words(self.packer);
        let mut scratch = self.arena.take(words);
        let dx = Disjoint::new(dx.as_mut_slice());
        let (a, b) = (lines(dy.as_slice(), n), columns(w.as_slice(), k));
        let size = Size { m, n: k, k: n };
        matmul::product(
            (self.packer, &self.workers),
            scratch.words(words),
            a,
            b,
            size,
            &|tile| match write {
                Write::Overwrite => {
                    store_rounded(self.simd, &dx, k, tile, Added { bias: None, residual: None })
                }
                Write::Accumulate => add_rounded(self.simd, &dx, k, tile),
            },
        );
        Ok(())
    }

    pub(super) fn matmul_tn(&self, dw: &mut Buf<f32>, dy: &Buf<E>, x: &Buf<E>, s: MatmulShape) -> Result<()> {
        let MatmulShape { m, n, k } = s;
        check::lengths(
            "matmul_tn",
            &[("dw", dw.len(), n * k), ("dy", dy.len(), m * n), ("x", x.len(), m * k)],
        )?;
        let words = self.plan(n, k, m, false).scratch_words(self.packer);
        let mut scratch = self.arena.take(words);
        let dw = Disjoint::new(dw.as_mut_slice());
        let (a, b) = (columns(dy.as_slice(), n), columns(x.as_slice(), k));
        let size = Size { m: n, n: k, k: m };
        matmul::product((self.packer, &self.workers), scratch.words(words), a, b, size, &|tile| {
            add_exact(self.simd, &dw, k, tile);
        });
        Ok(())
    }
}

/// What is added to a product before it is rounded.
#[derive(Clone, Copy)]
pub(super) struct Added<'a, E> {
    /// One for each column.
    pub bias: Option<&'a [E]>,
    /// Of the output's shape.
    pub residual: Option<&'a [E]>,
}

per_isa! {
    /// out = tile + bias + residual, rounded once. `ld`: elements from row to row of the output.
    pub(super) fn store_rounded[E: CpuFloat](
        out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>, added: Added<'_, E>,
    ) => store_rounded_body;
    /// out += tile, rounded once.
    pub(super) fn add_rounded[E: CpuFloat](out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>) => add_rounded_body;
    /// out += tile in f32.
    pub(super) fn add_exact(out: &Disjoint<'_, f32>, ld: usize, tile: Tile<'_>) => add_exact_body;
    /// out = tile in f32.
    pub(super) fn store_exact(out: &Disjoint<'_, f32>, ld: usize, tile: Tile<'_>) => store_exact_body;
}

/// Calls `f` with every row of the output that the tile covers, the tile's row, and where the row begins.
#[inline(always)]
fn rows_of<T>(out: &Disjoint<'_, T>, ld: usize, tile: &Tile<'_>, f: impl Fn(&mut [T], &[f32], usize)) {
    for r in 0..tile.rows {
        let at = (tile.row + r) * ld + tile.col;
        // SAFETY: `product` hands out every element of C in one tile, once.
        let row = unsafe { out.range(at, tile.cols) };
        f(row, &tile.data[r * tile.ld..][..tile.cols], at);
    }
}

#[inline(always)]
fn store_rounded_body<E: CpuFloat, const FMA: bool>(
    out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>, added: Added<'_, E>,
) {
    let n = tile.cols;
    rows_of(out, ld, &tile, |out, sums, at| {
        let bias = added.bias.map(|bias| &bias[tile.col..][..n]);
        let residual = added.residual.map(|residual| &residual[at..][..n]);
        match (bias, residual) {
            (None, None) => (0..n).for_each(|i| out[i] = E::narrow(sums[i])),
            (Some(b), None) => (0..n).for_each(|i| out[i] = E::narrow(sums[i] + b[i].widen())),
            (None, Some(r)) => (0..n).for_each(|i| out[i] = E::narrow(sums[i] + r[i].widen())),
            (Some(b), Some(r)) => {
                (0..n).for_each(|i| out[i] = E::narrow(sums[i] + b[i].widen() + r[i].widen()));
            }
        }
    });
}

#[inline(always)]
fn add_rounded_body<E: CpuFloat, const FMA: bool>(out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>) {
    rows_of(out, ld, &tile, |out, sums, _| {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = E::narrow(out.widen() + sum);
        }
    });
}

#[inline(always)]
fn add_exact_body<const FMA: bool>(out: &Disjoint<'_, f32>, ld: usize, tile: Tile<'_>) {
    rows_of(out, ld, &tile, |out, sums, _| {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out += sum;
        }
    });
}

#[inline(always)]
fn store_exact_body<const FMA: bool>(out: &Disjoint<'_, f32>, ld: usize, tile: Tile<'_>) {
    rows_of(out, ld, &tile, |out, sums, _| out.copy_from_slice(sums));
}
