//! y = x·wᵀ for a few rows of x (decoding): w is read once, where it lies, as dot products along k.

use super::super::isa::per_isa;
use super::super::math::{CpuFloat, LANES, fma, sum_lanes};

/// Most rows of x for which this is the faster way.
pub(in crate::backend::cpu) const MAX_ROWS: usize = 4;

per_isa! {
    /// out[j·MAX_ROWS + i] = Σ_k x[i,k]·w[j,k] for the rows i of x[m,k], m <= MAX_ROWS, and j of w[n,k].
    pub(in crate::backend::cpu) fn dots[E: CpuFloat](
        out: &mut [[f32; MAX_ROWS]], x: &[E], w: &[E], m: usize, k: usize,
    ) => dots_body;
}

#[inline(always)]
fn dots_body<E: CpuFloat, const FMA: bool>(
    out: &mut [[f32; MAX_ROWS]],
    x: &[E],
    w: &[E],
    m: usize,
    k: usize,
) {
    match m {
        1 => dots_of::<E, FMA, 1>(out, x, w, k),
        2 => dots_of::<E, FMA, 2>(out, x, w, k),
        3 => dots_of::<E, FMA, 3>(out, x, w, k),
        _ => dots_of::<E, FMA, 4>(out, x, w, k),
    }
}

#[inline(always)]
fn dots_of<E: CpuFloat, const FMA: bool, const M: usize>(
    out: &mut [[f32; MAX_ROWS]],
    x: &[E],
    w: &[E],
    k: usize,
) {
    let rows: [&[E]; M] = std::array::from_fn(|i| &x[i * k..][..k]);
    let whole = k / LANES * LANES;
    for (j, sums) in out.iter_mut().enumerate() {
        let line = &w[j * k..][..k];
        let mut acc = [[0f32; LANES]; M];
        let mut at = 0;
        while at < whole {
            let b: [f32; LANES] = std::array::from_fn(|l| line[at + l].widen());
            for (acc, row) in acc.iter_mut().zip(&rows) {
                for (l, sum) in acc.iter_mut().enumerate() {
                    *sum = fma::<FMA>(row[at + l].widen(), b[l], *sum);
                }
            }
            at += LANES;
        }
        for i in 0..M {
            let tail: f32 = (whole..k).map(|at| rows[i][at].widen() * line[at].widen()).sum();
            sums[i] = sum_lanes(acc[i]) + tail;
        }
    }
}
