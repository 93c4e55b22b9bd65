//! The online softmax: what a query knows of the keys that it has met so far.

use super::super::isa::per_isa;
use super::super::math::{CpuFloat, LANES, exp, larger, max_lanes, sum_lanes};

/// The largest score so far and Σ exp(score − max).
///
/// Before the first visible key, max is −inf and sum 0; a query that never meets one keeps them, its output is 0 and its
/// log-sum-exp −inf. A NaN among the scores makes the sum NaN.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct State {
    pub max: f32,
    pub sum: f32,
}

impl State {
    pub(super) const EMPTY: State = State { max: f32::NEG_INFINITY, sum: 0.0 };

    /// What scores are taken relative to: the maximum, or 0 while there is none (−inf − −inf would be NaN).
    #[inline(always)]
    pub(super) fn base(max: f32) -> f32 {
        if max == f32::NEG_INFINITY { 0.0 } else { max }
    }

    /// log Σ exp(score).
    pub(super) fn log_sum_exp(self) -> f32 {
        self.max + self.sum.ln()
    }

    /// What the weighted sum of values is multiplied by at the end.
    #[inline(always)]
    pub(super) fn normalizer(self) -> f32 {
        if self.sum == 0.0 { 0.0 } else { 1.0 / self.sum }
    }
}

per_isa! {
    /// Takes a strip of scores into account: scores[r·ld ..][..n] for every state r, n a multiple of 16, hidden ones −inf.
    /// Writes p = exp(scale·score − max) to weights[r·ld ..] and rescales the row acc[r·width ..] where the maximum rose.
    pub(super) fn update[W: CpuFloat](
        states: &mut [State], scores: &[f32], weights: &mut [W], acc: &mut [f32], ld: usize, n: usize, scale: f32,
    ) => update_body;
}

#[inline(always)]
fn update_body<W: CpuFloat, const FMA: bool>(
    states: &mut [State], scores: &[f32], weights: &mut [W], acc: &mut [f32], ld: usize, n: usize, scale: f32,
) {
    let width = acc.len() / states.len();
    for (r, state) in states.iter_mut().enumerate() {
        let (scores, _) = scores[r * ld..][..n].as_chunks::<LANES>();
        let (weights, _) = weights[r * ld..][..n].as_chunks_mut::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in scores {
            for (top, s) in lanes.iter_mut().zip(chunk) {
                *top = larger(*s * scale, *top);
            }
        }
        let max = larger(max_lanes(lanes), state.max);
        let base = State::base(max);
        let factor = exp::<FMA>(state.max - base);
        let mut lanes = [0f32; LANES];
        for (chunk, weights) in scores.iter().zip(weights) {
            for l in 0..LANES {
                // Not fused: a tile that was scaled before, to be masked, must give the same bits.
                let p = exp::<FMA>(chunk[l] * scale - base);
                lanes[l] += p;
                weights[l] = W::narrow(p);
            }
        }
        *state = State { max, sum: state.sum * factor + sum_lanes(lanes) };
        if factor != 1.0 {
            acc[r * width..][..width].iter_mut().for_each(|x| *x *= factor);
        }
    }
}
