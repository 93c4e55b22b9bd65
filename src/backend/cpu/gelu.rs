//! GELU by its tanh, and its gradient.

use super::buffer::Buf;
use super::check;
use super::isa::per_isa;
use super::math::{CpuFloat, exp, fma};
use super::{Cpu, RUN};
use crate::backend::{GELU_CUBE, GELU_SCALE, operands};
use crate::error::Result;

const SCALE: f32 = GELU_SCALE as f32;
const CUBE: f32 = GELU_CUBE as f32;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn gelu(&self, y: &mut Buf<E>, x: &Buf<E>, len: usize) -> Result<()> {
        operands::gelu::<Self>(check::DEVICE, y, x, len)?;
        let run = self.workers.run_length(len, 0.5).next_multiple_of(RUN);
        let runs = y.as_mut_slice()[..len].chunks_mut(run).zip(x.as_slice()[..len].chunks(run));
        self.workers.each(0.5 * len as f64, runs, |(y, x)| forward(self.simd, y, x));
        Ok(())
    }

    pub(super) fn gelu_backward(&self, dx: &mut Buf<E>, dy: &Buf<E>, x: &Buf<E>, len: usize) -> Result<()> {
        operands::gelu_backward::<Self>(check::DEVICE, dx, dy, x, len)?;
        let run = self.workers.run_length(len, 0.7).next_multiple_of(RUN);
        let runs = dx.as_mut_slice()[..len].chunks_mut(run).zip(dy.as_slice()[..len].chunks(run));
        let runs = runs.zip(x.as_slice()[..len].chunks(run));
        self.workers.each(0.7 * len as f64, runs, |((dx, dy), x)| backward(self.simd, dx, dy, x));
        Ok(())
    }
}

per_isa! {
    /// y = x·σ(2u).
    fn forward[E: CpuFloat](y: &mut [E], x: &[E]) => forward_body;
    /// dx = dy·σ·(1 + 2·x·(1−σ)·u').
    fn backward[E: CpuFloat](dx: &mut [E], dy: &[E], x: &[E]) => backward_body;
}

/// σ(2u), u = √(2/π)·(x + 0.044715·x³).
#[inline(always)]
fn gate<const FMA: bool>(x: f32) -> f32 {
    let u = SCALE * x * fma::<FMA>(CUBE * x, x, 1.0);
    1.0 / (1.0 + exp::<FMA>(-2.0 * u))
}

#[inline(always)]
fn forward_body<E: CpuFloat, const FMA: bool>(y: &mut [E], x: &[E]) {
    let n = y.len();
    let x = &x[..n];
    for i in 0..n {
        let x = x[i].widen();
        y[i] = E::narrow(x * gate::<FMA>(x));
    }
}

#[inline(always)]
fn backward_body<E: CpuFloat, const FMA: bool>(dx: &mut [E], dy: &[E], x: &[E]) {
    let n = dx.len();
    let (dy, x) = (&dy[..n], &x[..n]);
    for i in 0..n {
        let x = x[i].widen();
        let gate = gate::<FMA>(x);
        let slope = SCALE * fma::<FMA>(3.0 * CUBE * x, x, 1.0);
        dx[i] = E::narrow(dy[i].widen() * gate * fma::<FMA>(2.0 * x * (1.0 - gate), slope, 1.0));
    }
}
