//! RMSNorm and its gradient, and the gradient of biases: sums along rows, and over tokens in a fixed order.

use super::isa::per_isa;
use super::math::{CpuFloat, fma, sum_products};

per_isa! {
    /// y = x·rstd·w, row by row; rstd = 1/sqrt(mean x² + eps).
    pub(super) fn forward[E: CpuFloat](
        y: &mut [E], rstd: &mut [f32], x: &[E], w: &[E], eps: f32,
    ) => forward_body;
    /// dx += rstd·(g − x̂·mean(g·x̂)), g = dy·w, x̂ = x·rstd, row by row; dw += Σ dy·x̂ over these rows.
    pub(super) fn backward[E: CpuFloat](
        dx: &mut [E], dw: &mut [f32], dy: &[E], x: &[E], rstd: &[f32], w: &[E],
    ) => backward_body;
    /// sum[i] += Σ_r rows[r·stride + i], rows in ascending order.
    pub(super) fn add_rows[E: CpuFloat](sum: &mut [f32], rows: &[E], stride: usize) => add_rows_body;
}

#[inline(always)]
fn forward_body<E: CpuFloat, const FMA: bool>(y: &mut [E], rstd: &mut [f32], x: &[E], w: &[E], eps: f32) {
    let n = w.len();
    for (r, rstd) in rstd.iter_mut().enumerate() {
        let (y, x) = (&mut y[r * n..][..n], &x[r * n..][..n]);
        let squares = sum_products::<E, FMA, 2>([x, x]);
        *rstd = 1.0 / (squares / n as f32 + eps).sqrt();
        for i in 0..n {
            y[i] = E::narrow(x[i].widen() * *rstd * w[i].widen());
        }
    }
}

#[inline(always)]
fn backward_body<E: CpuFloat, const FMA: bool>(
    dx: &mut [E], dw: &mut [f32], dy: &[E], x: &[E], rstd: &[f32], w: &[E],
) {
    let n = w.len();
    let dw = &mut dw[..n];
    for (r, &rstd) in rstd.iter().enumerate() {
        let (dx, dy, x) = (&mut dx[r * n..][..n], &dy[r * n..][..n], &x[r * n..][..n]);
        let mean = rstd * sum_products::<E, FMA, 3>([dy, w, x]) / n as f32;
        for i in 0..n {
            let (dy, xhat) = (dy[i].widen(), x[i].widen() * rstd);
            dw[i] = fma::<FMA>(dy, xhat, dw[i]);
            let g = fma::<FMA>(-xhat, mean, dy * w[i].widen());
            dx[i] = E::narrow(fma::<FMA>(rstd, g, dx[i].widen()));
        }
    }
}

#[inline(always)]
fn add_rows_body<E: CpuFloat, const FMA: bool>(sum: &mut [f32], rows: &[E], stride: usize) {
    let n = sum.len();
    for row in rows.chunks(stride) {
        let row = &row[..n];
        for i in 0..n {
            sum[i] += row[i].widen();
        }
    }
}
