//! What becomes of the sums of a product: rounded and stored, added to what is there, or kept as they are.

use super::isa::{Simd, per_isa};
use super::math::CpuFloat;
use super::matmul::kernel::MAX_NR;
use super::matmul::{Sink, Tile};
use super::pool::Disjoint;
use super::prefetch::prefetch;

/// out = tile + bias + residual, rounded once.
pub(super) struct Rounded<'a, E> {
    pub simd: Simd,
    pub out: Disjoint<'a, E>,
    /// Elements from row to row of the output.
    pub ld: usize,
    /// One for each column.
    pub bias: Option<&'a [E]>,
    /// Of the output's shape.
    pub residual: Option<&'a [E]>,
}

/// out += tile, rounded once.
pub(super) struct AddRounded<'a, E> {
    pub simd: Simd,
    pub out: Disjoint<'a, E>,
    pub ld: usize,
}

/// out += tile in f32.
pub(super) struct AddExact<'a> {
    pub simd: Simd,
    pub out: Disjoint<'a, f32>,
    pub ld: usize,
}

/// out = tile in f32.
pub(super) struct StoreExact<'a> {
    pub simd: Simd,
    pub out: Disjoint<'a, f32>,
    pub ld: usize,
}

impl<E: CpuFloat> Sink for Rounded<'_, E> {
    fn prefetch(&self, row: usize, col: usize, rows: usize, cols: usize) {
        if let Some(residual) = self.residual {
            prefetch_rows(residual.as_ptr(), self.ld, row, col, rows, cols);
        }
        prefetch_rows(self.out.as_ptr(), self.ld, row, col, rows, cols);
    }
    fn store(&self, tile: Tile<'_>) {
        match (self.bias, self.residual) {
            (None, None) => store_rounded(self.simd, &self.out, self.ld, tile),
            (Some(bias), None) => store_with_bias(self.simd, &self.out, self.ld, tile, bias),
            (None, Some(residual)) => store_with_residual(self.simd, &self.out, self.ld, tile, residual),
            (Some(b), Some(r)) => store_with_both(self.simd, &self.out, self.ld, tile, b, r),
        }
    }
}

impl<E: CpuFloat> Sink for AddRounded<'_, E> {
    fn prefetch(&self, row: usize, col: usize, rows: usize, cols: usize) {
        prefetch_rows(self.out.as_ptr(), self.ld, row, col, rows, cols);
    }
    fn store(&self, tile: Tile<'_>) {
        add_rounded(self.simd, &self.out, self.ld, tile);
    }
}

impl Sink for AddExact<'_> {
    fn prefetch(&self, row: usize, col: usize, rows: usize, cols: usize) {
        prefetch_rows(self.out.as_ptr(), self.ld, row, col, rows, cols);
    }
    fn store(&self, tile: Tile<'_>) {
        add_exact(self.simd, &self.out, self.ld, tile);
    }
}

impl Sink for StoreExact<'_> {
    fn store(&self, tile: Tile<'_>) {
        store_exact(self.simd, &self.out, self.ld, tile);
    }
}

/// Asks for the lines of a tile's rows: a product takes longer than they take to come.
fn prefetch_rows<T>(data: *const T, ld: usize, row: usize, col: usize, rows: usize, cols: usize) {
    for r in row..row + rows {
        for at in (0..cols).step_by(64 / std::mem::size_of::<T>()) {
            prefetch(data.wrapping_add(r * ld + col + at));
        }
    }
}

per_isa! {
    fn store_rounded[E: CpuFloat](out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>) => store_rounded_body;
    fn store_with_bias[E: CpuFloat](
        out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>, bias: &[E],
    ) => store_with_bias_body;
    fn store_with_residual[E: CpuFloat](
        out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>, residual: &[E],
    ) => store_with_residual_body;
    fn store_with_both[E: CpuFloat](
        out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>, bias: &[E], residual: &[E],
    ) => store_with_both_body;
    fn add_rounded[E: CpuFloat](out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>) => add_rounded_body;
    fn add_exact(out: &Disjoint<'_, f32>, ld: usize, tile: Tile<'_>) => add_exact_body;
    fn store_exact(out: &Disjoint<'_, f32>, ld: usize, tile: Tile<'_>) => store_exact_body;
}

/// Calls `f` with every element of the output that the tile covers: (element, sum, column in the matrix, place in it).
#[inline(always)]
fn each<T>(out: &Disjoint<'_, T>, ld: usize, tile: &Tile<'_>, f: impl Fn(&mut T, f32, usize, usize)) {
    for r in 0..tile.rows {
        let at = (tile.row + r) * ld + tile.col;
        // SAFETY: `product` hands out every element of C in one tile, once.
        let row = unsafe { out.range(at, tile.cols) };
        let sums = &tile.data[r * tile.ld..][..tile.cols];
        // A full row has a length that the compiler knows, and becomes a few vectors.
        if let (Ok(row), Ok(sums)) =
            (<&mut [T; MAX_NR]>::try_from(&mut *row), <&[f32; MAX_NR]>::try_from(sums))
        {
            for i in 0..MAX_NR {
                f(&mut row[i], sums[i], tile.col + i, at + i);
            }
        } else {
            for (i, (out, sum)) in row.iter_mut().zip(sums).enumerate() {
                f(out, *sum, tile.col + i, at + i);
            }
        }
    }
}

#[inline(always)]
fn store_rounded_body<E: CpuFloat, const FMA: bool>(out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>) {
    each(out, ld, &tile, |out, sum, _, _| *out = E::narrow(sum));
}

#[inline(always)]
fn store_with_bias_body<E: CpuFloat, const FMA: bool>(
    out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>, bias: &[E],
) {
    each(out, ld, &tile, |out, sum, col, _| *out = E::narrow(sum + bias[col].widen()));
}

#[inline(always)]
fn store_with_residual_body<E: CpuFloat, const FMA: bool>(
    out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>, residual: &[E],
) {
    each(out, ld, &tile, |out, sum, _, at| *out = E::narrow(sum + residual[at].widen()));
}

#[inline(always)]
fn store_with_both_body<E: CpuFloat, const FMA: bool>(
    out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>, bias: &[E], residual: &[E],
) {
    each(out, ld, &tile, |out, sum, col, at| {
        *out = E::narrow(sum + bias[col].widen() + residual[at].widen())
    });
}

#[inline(always)]
fn add_rounded_body<E: CpuFloat, const FMA: bool>(out: &Disjoint<'_, E>, ld: usize, tile: Tile<'_>) {
    each(out, ld, &tile, |out, sum, _, _| *out = E::narrow(out.widen() + sum));
}

#[inline(always)]
fn add_exact_body<const FMA: bool>(out: &Disjoint<'_, f32>, ld: usize, tile: Tile<'_>) {
    each(out, ld, &tile, |out, sum, _, _| *out += sum);
}

#[inline(always)]
fn store_exact_body<const FMA: bool>(out: &Disjoint<'_, f32>, ld: usize, tile: Tile<'_>) {
    each(out, ld, &tile, |out, sum, _, _| *out = sum);
}
