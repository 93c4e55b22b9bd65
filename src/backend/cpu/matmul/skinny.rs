//! y = x·wᵀ for a few rows of x (decoding): w is read once, where it lies, as dot products along k.

use super::super::isa::per_isa;
use super::super::math::{CpuFloat, LANES, fma, sum_lanes};
use super::pack::Packer;

pub(in crate::backend::cpu) use super::kernel::MAX_ROWS;

/// out[j][i] = Σ_k x[i,k]·w[j,k] for the rows i of x[m,k], m <= MAX_ROWS, and j of w[n,k].
pub(in crate::backend::cpu) fn dots<E: CpuFloat>(
    packer: Packer, out: &mut [[f32; MAX_ROWS]], x: &[E], w: &[E], m: usize, k: usize,
) {
    if !packer.kernel.dots(out, (m, k), x, w) {
        plain_dots(packer.simd, out, x, w, m, k);
    }
}

per_isa! {
    fn plain_dots[E: CpuFloat](
        out: &mut [[f32; MAX_ROWS]], x: &[E], w: &[E], m: usize, k: usize,
    ) => dots_body;
}

#[inline(always)]
fn dots_body<E: CpuFloat, const FMA: bool>(
    out: &mut [[f32; MAX_ROWS]], x: &[E], w: &[E], m: usize, k: usize,
) {
    match m {
        1 => dots_of::<E, FMA, 1>(out, x, w, k),
        2 => dots_of::<E, FMA, 2>(out, x, w, k),
        3 => dots_of::<E, FMA, 3>(out, x, w, k),
        _ => dots_of::<E, FMA, 4>(out, x, w, k),
    }
}

/// Two vectors of w at a time: with M rows of x, 2·M sums are under way.
#[inline(always)]
fn dots_of<E: CpuFloat, const FMA: bool, const M: usize>(
    out: &mut [[f32; MAX_ROWS]], x: &[E], w: &[E], k: usize,
) {
    const STEP: usize = 2 * LANES;
    let rows: [&[E]; M] = std::array::from_fn(|i| &x[i * k..][..k]);
    for (j, sums) in out.iter_mut().enumerate() {
        let (chunks, tail) = w[j * k..][..k].as_chunks::<STEP>();
        let mut acc = [[0f32; STEP]; M];
        for (c, chunk) in chunks.iter().enumerate() {
            let mut b = [0f32; STEP];
            for l in 0..STEP {
                b[l] = chunk[l].widen();
            }
            for i in 0..M {
                let a = &rows[i][c * STEP..][..STEP];
                for l in 0..STEP {
                    acc[i][l] = fma::<FMA>(a[l].widen(), b[l], acc[i][l]);
                }
            }
        }
        for i in 0..M {
            let rest = &rows[i][k - tail.len()..];
            let tail: f32 = rest.iter().zip(tail).map(|(a, b)| a.widen() * b.widen()).sum();
            let mut halves = [0f32; LANES];
            for l in 0..LANES {
                halves[l] = acc[i][l] + acc[i][l + LANES];
            }
            sums[i] = sum_lanes(halves) + tail;
        }
    }
}
