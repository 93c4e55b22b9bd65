//! The online softmax: what a query knows of the keys that it has met so far.

use super::super::isa::{Simd, per_isa};
use super::super::math::{CpuFloat, LANES, exp, larger, max_lanes, sum_lanes};
use super::super::matmul::kernel::{Kernel, Rows};
use half::bf16;

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

/// Merges parts into the first, in order. A part, `part_words` long, has its rows' weighted sums [rows][columns] and states.
pub(super) fn merge(
    pieces: &mut [u32], part_words: usize, rows: usize, columns: usize,
) -> (&mut [f32], &mut [State]) {
    let (first, others) = pieces.split_at_mut(part_words);
    let (acc, states) = first.split_at_mut(rows * columns);
    let acc: &mut [f32] = bytemuck::cast_slice_mut(acc);
    let states: &mut [State] = bytemuck::cast_slice_mut(&mut states[..2 * rows]);
    for piece in others.chunks_exact(part_words) {
        let (other_acc, other_states) = piece.split_at(rows * columns);
        let other_acc: &[f32] = bytemuck::cast_slice(other_acc);
        let other_states: &[State] = bytemuck::cast_slice(&other_states[..2 * rows]);
        for (r, (state, other)) in states.iter_mut().zip(other_states).enumerate() {
            let max = larger(state.max, other.max);
            let base = State::base(max);
            let (a, b) = (exp::<false>(state.max - base), exp::<false>(other.max - base));
            *state = State { max, sum: state.sum * a + other.sum * b };
            let row = &mut acc[r * columns..][..columns];
            for (x, y) in row.iter_mut().zip(&other_acc[r * columns..]) {
                *x = *x * a + y * b;
            }
        }
    }
    (acc, states)
}

/// Scores are taken into account in runs of this many.
pub(super) const PADDED: usize = 32;

/// A strip of scores to take into account: scores[r·ld ..][..n] for every state r, n a multiple of [`PADDED`], hidden ones
/// −inf.
pub(super) struct Update<'a> {
    pub states: &'a mut [State],
    pub scores: &'a [f32],
    /// The weighted sums of values, a row for each state: rescaled where the maximum rises.
    pub acc: &'a mut [f32],
    pub ld: usize,
    pub n: usize,
    pub scale: f32,
}

impl Update<'_> {
    /// Writes p = exp(scale·score − max) to weights[r·ld ..], in the precision of the products: rows of A.
    pub(super) fn run<'w>(self, simd: Simd, kernel: &Kernel, weights: &'w mut [u32]) -> Rows<'w> {
        let row = self.ld * if kernel.paired { 2 } else { 4 };
        if kernel.paired {
            self.run_paired(simd, bytemuck::cast_slice_mut(weights));
        } else {
            update::<f32>(simd, self, bytemuck::cast_slice_mut(weights));
        }
        Rows { bytes: bytemuck::cast_slice(weights), row, step: 4 }
    }

    fn run_paired(self, simd: Simd, weights: &mut [bf16]) {
        #[cfg(target_arch = "x86_64")]
        if simd.isa().has_pairs() && self.scale > 0.0 {
            let Update { states, scores, acc, ld, n, scale } = self;
            // SAFETY: a Simd of this ISA exists only where the CPU has its features.
            return unsafe { super::avx512::update(states, scores, weights, acc, ld, n, scale) };
        }
        update(simd, self, weights);
    }
}

per_isa! {
    fn update[W: CpuFloat](x: Update<'_>, weights: &mut [W]) => update_body;
}

#[inline(always)]
fn update_body<W: CpuFloat, const FMA: bool>(x: Update<'_>, weights: &mut [W]) {
    let Update { states, scores, acc, ld, n, scale } = x;
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
