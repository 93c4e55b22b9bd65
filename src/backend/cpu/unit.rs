//! Rows of unit length, and their gradient in place.

use super::Cpu;
use super::buffer::Buf;
use super::check;
use super::isa::per_isa;
use super::math::{CpuFloat, LANES, fma, sum_lanes, sum_products};
use crate::backend::{UNIT_LEAST, operands};
use crate::error::Result;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn unit_rows(
        &self, y: &mut Buf<E>, scale: &mut Buf<f32>, x: &Buf<E>, rows: usize, width: usize,
    ) -> Result<()> {
        let all = rows * width;
        operands::unit_rows::<Self>(check::DEVICE, y, scale, x, rows, width)?;
        let cost = 0.3 * width as f64;
        let run = self.workers.run_length(rows, cost);
        let chunk = (run * width).max(1);
        let parts =
            y.as_mut_slice()[..all].chunks_mut(chunk).zip(scale.as_mut_slice()[..rows].chunks_mut(run));
        let parts = parts.zip(x.as_slice()[..all].chunks(chunk));
        self.workers.each(cost * rows as f64, parts, |((y, scale), x)| {
            forward(self.simd, y, scale, x, width);
        });
        Ok(())
    }

    pub(super) fn unit_rows_backward(
        &self, d: &mut Buf<f32>, y: &Buf<E>, scale: &Buf<f32>, rows: usize, width: usize,
    ) -> Result<()> {
        let all = rows * width;
        operands::unit_rows_backward::<Self>(check::DEVICE, d, y, scale, rows, width)?;
        let cost = 0.5 * width as f64;
        let run = self.workers.run_length(rows, cost);
        let chunk = (run * width).max(1);
        let parts = d.as_mut_slice()[..all].chunks_mut(chunk).zip(y.as_slice()[..all].chunks(chunk));
        let parts = parts.zip(scale.as_slice()[..rows].chunks(run));
        self.workers.each(cost * rows as f64, parts, |((d, y), scale)| {
            backward(self.simd, d, y, scale, width);
        });
        Ok(())
    }
}

per_isa! {
    /// y = x·scale, scale = 1/max(‖x‖, least), row by row.
    fn forward[E: CpuFloat](y: &mut [E], scale: &mut [f32], x: &[E], width: usize) => forward_body;
    /// d = scale·(d − y·Σ d·y), row by row.
    fn backward[E: CpuFloat](d: &mut [f32], y: &[E], scale: &[f32], width: usize) => backward_body;
}

#[inline(always)]
fn forward_body<E: CpuFloat, const FMA: bool>(y: &mut [E], scale: &mut [f32], x: &[E], width: usize) {
    for (r, scale) in scale.iter_mut().enumerate() {
        let (y, x) = (&mut y[r * width..][..width], &x[r * width..][..width]);
        *scale = 1.0 / sum_products::<E, FMA, 2>([x, x]).sqrt().max(UNIT_LEAST as f32);
        for i in 0..width {
            y[i] = E::narrow(x[i].widen() * *scale);
        }
    }
}

#[inline(always)]
fn backward_body<E: CpuFloat, const FMA: bool>(d: &mut [f32], y: &[E], scale: &[f32], width: usize) {
    for (r, &scale) in scale.iter().enumerate() {
        let (d, y) = (&mut d[r * width..][..width], &y[r * width..][..width]);
        let mut along = [0f32; LANES];
        for (d, y) in d.as_chunks::<LANES>().0.iter().zip(y.as_chunks::<LANES>().0) {
            for l in 0..LANES {
                along[l] = fma::<FMA>(d[l], y[l].widen(), along[l]);
            }
        }
        let tail = d.as_chunks::<LANES>().1.iter().zip(y.as_chunks::<LANES>().1);
        let along = sum_lanes(along) + tail.map(|(d, y)| d * y.widen()).sum::<f32>();
        for i in 0..width {
            d[i] = scale * fma::<FMA>(-y[i].widen(), along, d[i]);
        }
    }
}
