//! LayerNorm and its gradient. As RMSNorm's (`norm`): sums along rows, those over tokens in blocks and in a fixed
//! order.

use super::Cpu;
use super::buffer::Buf;
use super::check;
use super::isa::per_isa;
use super::math::{CpuFloat, LANES, fma, sum_lanes};
use super::norm::Undo;
use crate::backend::operands::Norm;
use crate::backend::{NormShape, operands};
use crate::error::Result;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn layernorm(
        &self, y: &mut Buf<E>, stats: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        let NormShape { tokens, width, eps } = s;
        let all = tokens * width;
        operands::layernorm::<Self>(check::DEVICE, y, stats, x, [w, bias], s)?;
        let cost = 0.4 * width as f64;
        let run = self.workers.run_length(tokens, cost);
        let chunk = (run * width).max(1);
        let rows = y.as_mut_slice()[..all].chunks_mut(chunk);
        let rows = rows.zip(stats.as_mut_slice()[..2 * tokens].chunks_mut(2 * run));
        let rows = rows.zip(x.as_slice()[..all].chunks(chunk));
        let (w, bias) = (&w.as_slice()[..width], &bias.as_slice()[..width]);
        self.workers.each(cost * tokens as f64, rows, |((y, stats), x)| {
            forward(self.simd, y, stats, x, w, bias, eps as f32);
        });
        Ok(())
    }
}

impl<E: CpuFloat> Undo<E> {
    pub const LAYER: Undo<E> = Undo { norm: Norm::LAYER, ns: 0.8, rows: backward::<E> };
}

per_isa! {
    /// y = (x − μ)·rstd·w + bias, row by row; stats = (μ, rstd).
    fn forward[E: CpuFloat](
        y: &mut [E], stats: &mut [f32], x: &[E], w: &[E], bias: &[E], eps: f32,
    ) => forward_body;
    /// dx += rstd·(g − mean(g) − x̂·mean(g·x̂)), g = dy·w, x̂ = (x − μ)·rstd, row by row; dw += Σ dy·x̂ over these
    /// rows.
    fn backward[E: CpuFloat](
        dx: &mut [E], dw: &mut [f32], dy: &[E], x: &[E], stats: &[f32], w: &[E],
    ) => backward_body;
}

/// Σ x.
#[inline(always)]
fn sum<E: CpuFloat>(x: &[E]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut acc = [0f32; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] += chunk[l].widen();
        }
    }
    sum_lanes(acc) + tail.iter().map(|x| x.widen()).sum::<f32>()
}

/// Σ (x − mean)²: the mean is taken off first, for what is left of Σ x² otherwise may be nothing but rounding.
#[inline(always)]
fn sum_squares_about<E: CpuFloat, const FMA: bool>(x: &[E], mean: f32) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut acc = [0f32; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            let off = chunk[l].widen() - mean;
            acc[l] = fma::<FMA>(off, off, acc[l]);
        }
    }
    sum_lanes(acc) + tail.iter().map(|x| (x.widen() - mean) * (x.widen() - mean)).sum::<f32>()
}

/// Σ dy·w and Σ dy·w·(x − mean).
#[inline(always)]
fn gradient_sums<E: CpuFloat, const FMA: bool>(dy: &[E], w: &[E], x: &[E], mean: f32) -> (f32, f32) {
    let n = x.len();
    let [dy, w, x] = [dy, w, x].map(|v| v[..n].as_chunks::<LANES>());
    let (mut plain, mut along) = ([0f32; LANES], [0f32; LANES]);
    for c in 0..n / LANES {
        for l in 0..LANES {
            let g = dy.0[c][l].widen() * w.0[c][l].widen();
            plain[l] += g;
            along[l] = fma::<FMA>(g, x.0[c][l].widen() - mean, along[l]);
        }
    }
    let (mut plain, mut along) = (sum_lanes(plain), sum_lanes(along));
    for i in 0..n % LANES {
        let g = dy.1[i].widen() * w.1[i].widen();
        plain += g;
        along += g * (x.1[i].widen() - mean);
    }
    (plain, along)
}

#[inline(always)]
fn forward_body<E: CpuFloat, const FMA: bool>(
    y: &mut [E], stats: &mut [f32], x: &[E], w: &[E], bias: &[E], eps: f32,
) {
    let n = w.len();
    let bias = &bias[..n];
    for (r, stats) in stats.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let (y, x) = (&mut y[r * n..][..n], &x[r * n..][..n]);
        let mean = sum::<E>(x) / n as f32;
        let rstd = 1.0 / (sum_squares_about::<E, FMA>(x, mean) / n as f32 + eps).sqrt();
        *stats = [mean, rstd];
        for i in 0..n {
            y[i] = E::narrow(fma::<FMA>((x[i].widen() - mean) * rstd, w[i].widen(), bias[i].widen()));
        }
    }
}

#[inline(always)]
fn backward_body<E: CpuFloat, const FMA: bool>(
    dx: &mut [E], dw: &mut [f32], dy: &[E], x: &[E], stats: &[f32], w: &[E],
) {
    let n = w.len();
    let dw = &mut dw[..n];
    for (r, &[mean, rstd]) in stats.as_chunks::<2>().0.iter().enumerate() {
        let (dx, dy, x) = (&mut dx[r * n..][..n], &dy[r * n..][..n], &x[r * n..][..n]);
        let (plain, along) = gradient_sums::<E, FMA>(dy, w, x, mean);
        let (plain, along) = (plain / n as f32, rstd * along / n as f32);
        for i in 0..n {
            let (dy, xhat) = (dy[i].widen(), (x[i].widen() - mean) * rstd);
            dw[i] = fma::<FMA>(dy, xhat, dw[i]);
            let g = fma::<FMA>(-xhat, along, dy * w[i].widen() - plain);
            dx[i] = E::narrow(fma::<FMA>(rstd, g, dx[i].widen()));
        }
    }
}
