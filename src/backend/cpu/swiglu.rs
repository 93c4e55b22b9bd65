//! The gated unit of the MLP and its gradient.

use super::isa::per_isa;
use super::math::{CpuFloat, exp, fma};

per_isa! {
    /// y = silu(gate)·up.
    pub(super) fn forward[E: CpuFloat](y: &mut [E], gate: &[E], up: &[E]) => forward_body;
    /// d_gate = dy·up·σ·(1 + gate·(1−σ)), d_up = dy·gate·σ.
    pub(super) fn backward[E: CpuFloat](
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
