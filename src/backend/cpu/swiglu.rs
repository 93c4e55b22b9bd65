//! The gated unit of the MLP and its gradient.

use super::buffer::Buf;
use super::check;
use super::isa::per_isa;
use super::math::{CpuFloat, exp, fma};
use super::{Cpu, RUN};
use crate::backend::operands;
use crate::error::Result;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn swiglu(&self, y: &mut Buf<E>, gate: &Buf<E>, up: &Buf<E>, len: usize) -> Result<()> {
        operands::swiglu::<Self>(check::DEVICE, y, gate, up, len)?;
        let run = self.workers.run_length(len, 0.5).next_multiple_of(RUN);
        let runs = y.as_mut_slice()[..len].chunks_mut(run);
        let runs = runs.zip(gate.as_slice()[..len].chunks(run)).zip(up.as_slice()[..len].chunks(run));
        self.workers.each(0.5 * len as f64, runs, |((y, gate), up)| forward(self.simd, y, gate, up));
        Ok(())
    }

    pub(super) fn swiglu_backward(
        &self, d_gate: &mut Buf<E>, d_up: &mut Buf<E>, dy: &Buf<E>, gate: &Buf<E>, up: &Buf<E>, len: usize,
    ) -> Result<()> {
        operands::swiglu_backward::<Self>(check::DEVICE, [d_gate, d_up], [dy, gate, up], len)?;
        let run = self.workers.run_length(len, 0.8).next_multiple_of(RUN);
        let runs =
            d_gate.as_mut_slice()[..len].chunks_mut(run).zip(d_up.as_mut_slice()[..len].chunks_mut(run));
        let runs = runs.zip(dy.as_slice()[..len].chunks(run));
        let runs = runs.zip(gate.as_slice()[..len].chunks(run)).zip(up.as_slice()[..len].chunks(run));
        self.workers.each(0.8 * len as f64, runs, |((((d_gate, d_up), dy), gate), up)| {
            backward(self.simd, d_gate, d_up, dy, gate, up);
        });
        Ok(())
    }
}

per_isa! {
    /// y = silu(gate)·up.
    fn forward[E: CpuFloat](y: &mut [E], gate: &[E], up: &[E]) => forward_body;
    /// d_gate = dy·up·σ·(1 + gate·(1−σ)), d_up = dy·gate·σ.
    fn backward[E: CpuFloat](
        d_gate: &mut [E], d_up: &mut [E], dy: &[E], gate: &[E], up: &[E],
    ) => backward_body;
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn forward_body<E: CpuFloat, const FMA: bool>(y: &mut [E], gate: &[E], up: &[E]) {
    let n = y.len();
    let (gate, up) = (&gate[..n], &up[..n]);
    for i in 0..n {
        let g = gate[i].widen();
        y[i] = E::narrow(g * sigmoid::<FMA>(g) * up[i].widen());
    }
}

#[inline(always)]
fn backward_body<E: CpuFloat, const FMA: bool>(
    d_gate: &mut [E], d_up: &mut [E], dy: &[E], gate: &[E], up: &[E],
) {
    let n = dy.len();
    let (d_gate, d_up, gate, up) = (&mut d_gate[..n], &mut d_up[..n], &gate[..n], &up[..n]);
    for i in 0..n {
        let (g, dy) = (gate[i].widen(), dy[i].widen());
        let sigma = sigmoid::<FMA>(g);
        let slope = sigma * fma::<FMA>(g, 1.0 - sigma, 1.0);
        d_gate[i] = E::narrow(dy * up[i].widen() * slope);
        d_up[i] = E::narrow(dy * g * sigma);
    }
}
