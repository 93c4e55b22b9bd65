//! y = x·wᵀ for a few rows of x (decoding): w is read once, where it lies, as dot products along k.

use super::super::math::CpuFloat;
use super::super::prefetch::{LINE, STREAM_AHEAD, prefetch_l2};
use super::super::vectors::{Vectors, per_width};
use super::pack::Packer;

pub(in crate::backend::cpu) use super::kernel::MAX_ROWS;

/// out[j][i] = Σ_k x[i,k]·w[j,k] for the rows i of x[m,k], m <= MAX_ROWS, and j of w[n,k].
pub(in crate::backend::cpu) fn dots<E: CpuFloat>(
    packer: Packer, out: &mut [[f32; MAX_ROWS]], x: &[E], w: &[E], m: usize, k: usize,
) {
    if !packer.kernel.dots(out, (m, k), x, w) {
        wide_dots(packer.simd, out, x, w, m, k);
    }
}

per_width! {
    fn wide_dots[E: CpuFloat](
        out: &mut [[f32; MAX_ROWS]], x: &[E], w: &[E], m: usize, k: usize,
    ) => dots_body;
}

#[inline(always)]
fn dots_body<V: Vectors, E: CpuFloat>(
    vectors: V, out: &mut [[f32; MAX_ROWS]], x: &[E], w: &[E], m: usize, k: usize,
) {
    assert!((1..=MAX_ROWS).contains(&m) && x.len() >= m * k && w.len() >= out.len() * k);
    let rows = Rows { x: x.as_ptr(), k };
    for (j, sums) in out.iter_mut().enumerate() {
        let w = w[j * k..].as_ptr();
        // SAFETY: x has m rows of k elements and w another from j·k on (asserted).
        *sums = unsafe {
            match m {
                1 => rows.dots::<V, 1, 4>(vectors, w),
                2 => rows.dots::<V, 2, 4>(vectors, w),
                3 => rows.dots::<V, 3, 2>(vectors, w),
                _ => rows.dots::<V, 4, 2>(vectors, w),
            }
        };
    }
}

/// Rows of k elements, one after the other.
struct Rows<E> {
    x: *const E,
    k: usize,
}

impl<E: CpuFloat> Rows<E> {
    /// Vectors of w that are asked for and read in one go.
    const VECTORS: usize = 4;

    /// The products of the first M rows with w, by sums in M x N vectors, which hide the latency of the additions.
    ///
    /// # Safety
    /// There are M rows, and k elements of w.
    #[inline(always)]
    unsafe fn dots<V: Vectors, const M: usize, const N: usize>(&self, v: V, w: *const E) -> [f32; MAX_ROWS] {
        let (k, step) = (self.k, Self::VECTORS * V::LANES);
        let mut acc = [[v.splat(0.0); N]; M];
        for at in (0..k / step * step).step_by(step) {
            for line in (0..step * std::mem::size_of::<E>()).step_by(LINE) {
                prefetch_l2(w.wrapping_add(at).wrapping_byte_add(STREAM_AHEAD + line));
            }
            for i in 0..Self::VECTORS {
                let at = at + i * V::LANES;
                // SAFETY: at + LANES <= k.
                let b = unsafe { v.load(w.add(at)) };
                for (row, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: likewise, of row < M.
                    let a = unsafe { v.load(self.x.add(row * k + at)) };
                    acc[i % N] = v.multiply_add(a, b, acc[i % N]);
                }
            }
        }
        for at in (k / step * step..k).step_by(V::LANES) {
            for (row, acc) in acc.iter_mut().enumerate() {
                // SAFETY: there are k - at elements, more than none, of row < M and of w.
                let (a, b) = unsafe {
                    (v.load_up_to(self.x.add(row * k + at), k - at), v.load_up_to(w.add(at), k - at))
                };
                acc[0] = v.multiply_add(a, b, acc[0]);
            }
        }
        let mut sums = [v.splat(0.0); MAX_ROWS];
        for (sum, acc) in sums.iter_mut().zip(&acc) {
            *sum = acc[1..].iter().fold(acc[0], |sum, x| v.add(sum, *x));
        }
        v.sums(sums)
    }
}
