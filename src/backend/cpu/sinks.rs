//! What becomes of the sums of a product: stored, with a bias, a residual or what was there before, and rounded once.

use super::isa::Simd;
use super::math::CpuFloat;
use super::matmul::{Sink, Tile};
use super::pool::Disjoint;
use super::prefetch::{LINE, prefetch};
use super::vectors::{Vectors, per_width};

/// out = sums + bias + residual, or out += sums, in T.
pub(super) struct Output<'a, T> {
    simd: Simd,
    out: Disjoint<'a, T>,
    /// Elements from row to row of the output.
    ld: usize,
    bias: Option<&'a [T]>,
    residual: Option<&'a [T]>,
    adds: bool,
}

impl<'a, T> Output<'a, T> {
    /// out = sums, rows of the output `ld` elements apart.
    pub fn new(simd: Simd, out: &'a mut [T], ld: usize) -> Self {
        Output { simd, out: Disjoint::new(out), ld, bias: None, residual: None, adds: false }
    }

    /// With a bias, one for each column, and a residual of the output's shape.
    pub fn with(self, bias: Option<&'a [T]>, residual: Option<&'a [T]>) -> Self {
        Output { bias, residual, ..self }
    }

    /// Added to what is there.
    pub fn added(self) -> Self {
        Output { adds: true, ..self }
    }
}

impl<T: CpuFloat> Sink for Output<'_, T> {
    /// A product takes longer than the lines of a tile's rows take to come.
    fn prefetch(&self, row: usize, col: usize, rows: usize, cols: usize) {
        let residual = self.residual.map(|residual| residual.as_ptr());
        for data in residual.into_iter().chain([self.out.as_ptr()]) {
            for r in row..row + rows {
                for at in (0..cols).step_by(LINE / std::mem::size_of::<T>()) {
                    prefetch(data.wrapping_add(r * self.ld + col + at));
                }
            }
        }
    }

    fn store(&self, tile: Tile<'_>) {
        write(self.simd, self, tile);
    }
}

per_width! {
    fn write[T: CpuFloat](to: &Output<'_, T>, tile: Tile<'_>) => write_body;
}

#[inline(always)]
fn write_body<V: Vectors, T: CpuFloat>(v: V, to: &Output<'_, T>, tile: Tile<'_>) {
    let bias = to.bias.map(|bias| Addend { data: bias[tile.col..][..tile.cols].as_ptr(), row: 0 });
    let residual = to.residual.map(|residual| {
        let all = &residual[tile.row * to.ld + tile.col..][..(tile.rows - 1) * to.ld + tile.cols];
        Addend { data: all.as_ptr(), row: to.ld }
    });
    match (bias, residual) {
        (None, None) if to.adds => write_rows::<V, T, 0, true>(v, to, tile, []),
        (None, None) => write_rows::<V, T, 0, false>(v, to, tile, []),
        (Some(one), None) | (None, Some(one)) => write_rows::<V, T, 1, false>(v, to, tile, [one]),
        (Some(bias), Some(residual)) => write_rows::<V, T, 2, false>(v, to, tile, [bias, residual]),
    }
}

/// What is added to a tile, `row` elements from row to row; as many as the tile has can be read.
#[derive(Clone, Copy)]
struct Addend<T> {
    data: *const T,
    row: usize,
}

#[inline(always)]
fn write_rows<V: Vectors, T: CpuFloat, const N: usize, const ADDS: bool>(
    v: V, to: &Output<'_, T>, tile: Tile<'_>, addends: [Addend<T>; N],
) {
    let whole = tile.cols / (2 * V::LANES) * (2 * V::LANES);
    for r in 0..tile.rows {
        let sums = &tile.data[r * tile.ld..][..tile.cols];
        // SAFETY: `product` hands out every element of C in one tile, once.
        let out = unsafe { to.out.range((tile.row + r) * to.ld + tile.col, tile.cols) };
        for c in (0..whole).step_by(2 * V::LANES) {
            let out = out[c..].as_mut_ptr();
            // SAFETY: two vectors of the row from column c on, of sums, output and addends.
            unsafe {
                let mut x = load_two(v, sums[c..].as_ptr());
                for addend in addends {
                    x = plus(v, x, load_two(v, addend.data.add(r * addend.row + c)));
                }
                if ADDS {
                    x = plus(v, x, load_two(v, out.cast_const()));
                }
                v.store_two(out, x);
            }
        }
        for c in whole..tile.cols {
            let mut x = sums[c];
            for addend in addends {
                // SAFETY: the addend has column c of the row.
                x += unsafe { addend.data.add(r * addend.row + c).read() }.widen();
            }
            out[c] = T::narrow(if ADDS { x + out[c].widen() } else { x });
        }
    }
}

/// # Safety
/// Two vectors can be read.
#[inline(always)]
unsafe fn load_two<V: Vectors, T: CpuFloat>(v: V, from: *const T) -> [V::Vector; 2] {
    // SAFETY: the caller's promise.
    unsafe { [v.load(from), v.load(from.add(V::LANES))] }
}

#[inline(always)]
fn plus<V: Vectors>(v: V, a: [V::Vector; 2], b: [V::Vector; 2]) -> [V::Vector; 2] {
    [v.add(a[0], b[0]), v.add(a[1], b[1])]
}
