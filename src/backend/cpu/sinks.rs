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
        write(self.simd, &self.out, self.ld, tile, self);
    }
}

impl<E: CpuFloat> Becomes<E> for Rounded<'_, E> {
    #[inline(always)]
    fn becomes(&self, _: [E; WIDE], mut sums: [f32; WIDE], place: Place) -> [E; WIDE] {
        if let Some(bias) = self.bias {
            sums = plus(sums, padded(&bias[place.column..][..place.columns]));
        }
        if let Some(residual) = self.residual {
            sums = plus(sums, padded(&residual[place.at..][..place.columns]));
        }
        rounded(sums)
    }
}

impl<E: CpuFloat> Sink for AddRounded<'_, E> {
    fn prefetch(&self, row: usize, col: usize, rows: usize, cols: usize) {
        prefetch_rows(self.out.as_ptr(), self.ld, row, col, rows, cols);
    }
    fn store(&self, tile: Tile<'_>) {
        write(self.simd, &self.out, self.ld, tile, self);
    }
}

impl<E: CpuFloat> Becomes<E> for AddRounded<'_, E> {
    #[inline(always)]
    fn becomes(&self, was: [E; WIDE], sums: [f32; WIDE], _: Place) -> [E; WIDE] {
        rounded(plus(sums, was))
    }
}

impl Sink for AddExact<'_> {
    fn prefetch(&self, row: usize, col: usize, rows: usize, cols: usize) {
        prefetch_rows(self.out.as_ptr(), self.ld, row, col, rows, cols);
    }
    fn store(&self, tile: Tile<'_>) {
        write(self.simd, &self.out, self.ld, tile, self);
    }
}

impl Becomes<f32> for AddExact<'_> {
    #[inline(always)]
    fn becomes(&self, was: [f32; WIDE], sums: [f32; WIDE], _: Place) -> [f32; WIDE] {
        plus(sums, was)
    }
}

impl Sink for StoreExact<'_> {
    fn prefetch(&self, row: usize, col: usize, rows: usize, cols: usize) {
        prefetch_rows(self.out.as_ptr(), self.ld, row, col, rows, cols);
    }
    fn store(&self, tile: Tile<'_>) {
        write(self.simd, &self.out, self.ld, tile, self);
    }
}

impl Becomes<f32> for StoreExact<'_> {
    #[inline(always)]
    fn becomes(&self, _: [f32; WIDE], sums: [f32; WIDE], _: Place) -> [f32; WIDE] {
        sums
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

/// Columns that are taken at a time.
const WIDE: usize = MAX_NR;

/// Some columns of a row: the first one in the matrix, its place in the output, how many.
#[derive(Clone, Copy)]
struct Place {
    column: usize,
    at: usize,
    columns: usize,
}

/// What some columns of the output become, of what was there and the sums; zeros stand where there are fewer columns. To be inlined, like a
/// body of `per_isa`: a closure as large as this would not be.
trait Becomes<T>: Sync {
    fn becomes(&self, was: [T; WIDE], sums: [f32; WIDE], place: Place) -> [T; WIDE];
}

per_isa! {
    fn write[T: CpuFloat, B: Becomes<T>](
        out: &Disjoint<'_, T>, ld: usize, tile: Tile<'_>, to: &B,
    ) => write_body;
}

/// All of a row's columns are read before any is written, so that the compiler makes vectors of them whatever it knows of the pointers.
/// Whole rows apart from others: their arrays are registers, those of others memory.
#[inline(always)]
fn write_body<T: CpuFloat, B: Becomes<T>, const FMA: bool>(
    out: &Disjoint<'_, T>, ld: usize, tile: Tile<'_>, to: &B,
) {
    if tile.cols != WIDE {
        return write_some(out, ld, tile, to);
    }
    for r in 0..tile.rows {
        let place = Place { column: tile.col, at: (tile.row + r) * ld + tile.col, columns: WIDE };
        // SAFETY: `product` hands out every element of C in one tile, once.
        let row = unsafe { out.range(place.at, WIDE) };
        let row: &mut [T; WIDE] = row.try_into().expect("as long as asked for");
        let sums = tile.data[r * tile.ld..].first_chunk().expect("a row of the tile");
        *row = to.becomes(*row, *sums, place);
    }
}

/// [`write_body`] for any number of columns.
#[inline(never)]
fn write_some<T: CpuFloat, B: Becomes<T>>(out: &Disjoint<'_, T>, ld: usize, tile: Tile<'_>, to: &B) {
    for r in 0..tile.rows {
        for first in (0..tile.cols).step_by(WIDE) {
            let columns = WIDE.min(tile.cols - first);
            let column = tile.col + first;
            let place = Place { column, at: (tile.row + r) * ld + column, columns };
            // SAFETY: as above.
            let row = unsafe { out.range(place.at, columns) };
            let sums = &tile.data[r * tile.ld + first..][..columns];
            row.copy_from_slice(&to.becomes(padded(row), padded(sums), place)[..columns]);
        }
    }
}

/// Up to [`WIDE`] elements, and zeros behind them.
#[inline(always)]
fn padded<T: CpuFloat>(x: &[T]) -> [T; WIDE] {
    if let Ok(whole) = <&[T; WIDE]>::try_from(x) {
        return *whole;
    }
    let mut out = [T::default(); WIDE];
    out[..x.len()].copy_from_slice(x);
    out
}

#[inline(always)]
fn rounded<E: CpuFloat>(sums: [f32; WIDE]) -> [E; WIDE] {
    let mut out = [E::default(); WIDE];
    for i in 0..WIDE {
        out[i] = E::narrow(sums[i]);
    }
    out
}

#[inline(always)]
fn plus<E: CpuFloat>(mut sums: [f32; WIDE], x: [E; WIDE]) -> [f32; WIDE] {
    for i in 0..WIDE {
        sums[i] += x[i].widen();
    }
    sums
}
