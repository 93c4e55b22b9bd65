//! RMSNorm and its gradient, and the gradient of biases: sums along rows, and over tokens in a fixed order.

use super::Cpu;
use super::buffer::Buf;
use super::check;
use super::isa::{Simd, per_isa};
use super::math::{CpuFloat, fma, sum_products};
use super::scratch::grain;
use crate::backend::NormShape;
use crate::backend::operands::{self, Norm};
use crate::error::Result;

/// Tokens of a block whose sums are kept apart, at most 64 blocks of at least 32; by the number of tokens alone.
pub(super) fn block(tokens: usize) -> usize {
    tokens.div_ceil(64).max(32)
}

/// How the rows of a norm are undone: (dx, dw, dy, x, statistics, w), as [`backward`].
type UndoRows<E> = fn(Simd, &mut [E], &mut [f32], &[E], &[E], &[f32], &[E]);

/// A norm's backward pass.
pub(super) struct Undo<E> {
    pub norm: Norm,
    /// ns an element.
    pub ns: f64,
    pub rows: UndoRows<E>,
}

impl<E: CpuFloat> Undo<E> {
    pub const RMS: Undo<E> = Undo { norm: Norm::RMS, ns: 0.6, rows: backward::<E> };
}

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn rmsnorm(
        &self, y: &mut Buf<E>, rstd: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        let NormShape { tokens, width, eps } = s;
        let all = tokens * width;
        operands::rmsnorm::<Self>(check::DEVICE, y, rstd, x, w, s)?;
        let cost = 0.3 * width as f64;
        let run = self.workers.run_length(tokens, cost);
        let chunk = (run * width).max(1);
        let rows =
            y.as_mut_slice()[..all].chunks_mut(chunk).zip(rstd.as_mut_slice()[..tokens].chunks_mut(run));
        let rows = rows.zip(x.as_slice()[..all].chunks(chunk));
        let w = &w.as_slice()[..width];
        self.workers.each(cost * tokens as f64, rows, |((y, rstd), x)| {
            forward(self.simd, y, rstd, x, w, eps as f32);
        });
        Ok(())
    }

    /// dx += the norm's share, dw += the sums over all tokens: kept apart by [`block`], then added up in order.
    pub(super) fn undo_norm(
        &self, undo: &Undo<E>, dx: &mut Buf<E>, dw: Option<&mut Buf<f32>>, dy: &Buf<E>, x: &Buf<E>,
        stats: &Buf<f32>, w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        let NormShape { tokens, width, .. } = s;
        operands::norm_backward::<Self>(check::DEVICE, undo.norm, (dx, dw.as_deref()), [dy, x], stats, w, s)?;
        let (per_token, all) = (undo.norm.per_token, tokens * width);
        if all == 0 {
            return Ok(());
        }
        let (block, per_block) = (block(tokens), grain(width));
        let words = tokens.div_ceil(block) * per_block;
        let mut scratch = self.arena.take(words);
        let sums: &mut [f32] = bytemuck::cast_slice_mut(scratch.words(words));
        let w = &w.as_slice()[..width];
        let blocks = dx.as_mut_slice()[..all].chunks_mut(block * width).zip(sums.chunks_exact_mut(per_block));
        let blocks = blocks.zip(dy.as_slice()[..all].chunks(block * width));
        let blocks = blocks.zip(x.as_slice()[..all].chunks(block * width));
        let blocks = blocks.zip(stats.as_slice()[..per_token * tokens].chunks(per_token * block));
        self.workers.each(undo.ns * all as f64, blocks, |((((dx, sum), dy), x), stats)| {
            sum.fill(0.0);
            (undo.rows)(self.simd, dx, sum, dy, x, stats, w);
        });
        if let Some(dw) = dw {
            add_rows(self.simd, &mut dw.as_mut_slice()[..width], sums, per_block);
        }
        Ok(())
    }
}

per_isa! {
    /// y = x·rstd·w, row by row; rstd = 1/sqrt(mean x² + eps).
    fn forward[E: CpuFloat](
        y: &mut [E], rstd: &mut [f32], x: &[E], w: &[E], eps: f32,
    ) => forward_body;
    /// dx += rstd·(g − x̂·mean(g·x̂)), g = dy·w, x̂ = x·rstd, row by row; dw += Σ dy·x̂ over these rows.
    fn backward[E: CpuFloat](
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
