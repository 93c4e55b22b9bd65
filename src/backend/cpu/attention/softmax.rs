//! The online softmax: what a query knows of the keys that it has met so far.
//!
//! Weights are relative to a *base*, `p = 2^(score·log2(e) − base)`, and any base gives the same output and the same log-sum-exp, as the sum of
//! the weights is relative to it too. So a row's base need not be the largest score so far, as long as nothing overflows: it is the
//! largest score when it was last moved, and it moves when the weights of a block sum to more than [`MOST`]. Most blocks are so read once, not
//! once for their maximum and once for the weights. (FlashAttention-4 leaves its sums as they are for small rises in the same way, but
//! asks for the maximum first.)

use super::super::isa::Simd;
use super::super::math::{CpuFloat, larger};
use super::super::matmul::kernel::{Kernel, Rows};
use super::super::vectors::{ACROSS, Arrays, Vectors, per_width};
use std::f32::consts::{LN_2, LOG2_E};
use std::marker::PhantomData;

/// What weights are relative to, in units of log 2, and Σ 2^(score·log2(e) − base).
///
/// Before the first visible key, base is −inf and sum 0; a query that never meets one keeps them, its output is 0 and its log-sum-exp
/// −inf. A NaN among the scores makes the sum NaN.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct State {
    base: f32,
    sum: f32,
}

/// The largest sum of a block's weights for which the base stays. A weight of this size has as many digits as a smaller one, in bf16 too,
/// and sums are far from overflowing.
const MOST: f32 = 65536.0;

impl State {
    pub(super) const EMPTY: State = State { base: f32::NEG_INFINITY, sum: 0.0 };

    /// What is added to scores: −base, or 0 while there is none (−inf − −inf would be NaN).
    #[inline(always)]
    fn offset(base: f32) -> f32 {
        if base == f32::NEG_INFINITY { 0.0 } else { -base }
    }

    /// log Σ exp(score).
    pub(super) fn log_sum_exp(self) -> f32 {
        self.base * LN_2 + self.sum.ln()
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
            let base = larger(state.base, other.base);
            let offset = State::offset(base);
            let [a, b, ..] = Arrays.exp2::<f32>([state.base + offset, other.base + offset, 0.0, 0.0]);
            *state = State { base, sum: state.sum * a + other.sum * b };
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

/// Rows of room before a strip's scores.
pub(super) const ROOM: usize = ACROSS;

/// A strip of scores to take into account. They become weights in their own memory, which so stays in the first-level cache: weights are
/// written from the strip's beginning on, [`ROOM`] rows behind the scores, that a row may be read again where its base moves.
pub(super) struct Update<'a> {
    pub states: &'a mut [State],
    /// [`ROOM`] rows of `ld`, and the scores: strip[(ROOM + r)·ld ..][..n] for every state r, n a multiple of [`PADDED`], hidden ones −inf.
    pub strip: &'a mut [f32],
    /// The weighted sums of values, a row for each state: rescaled where the base moves.
    pub acc: &'a mut [f32],
    pub ld: usize,
    pub n: usize,
    pub scale: f32,
}

impl Update<'_> {
    /// Leaves p = 2^(scale·log2(e)·score − base) in the strip as a matrix [rows][ld] in the precision of the products.
    pub(super) fn run(&mut self, simd: Simd, kernel: &Kernel) {
        if kernel.paired {
            update(simd, self, PhantomData::<half::bf16>);
        } else {
            update(simd, self, PhantomData::<f32>);
        }
    }
}

/// The weights that [`Update::run`] left in a strip, as rows of A.
pub(super) fn weights<'a>(kernel: &Kernel, strip: &'a [f32], ld: usize) -> Rows<'a> {
    Rows { bytes: bytemuck::cast_slice(strip), row: ld * if kernel.paired { 2 } else { 4 }, step: 4 }
}

per_width! {
    fn update[W: CpuFloat](x: &mut Update<'_>, precision: PhantomData<W>) => update_body;
}

#[inline(always)]
fn update_body<V: Vectors, W: CpuFloat>(v: V, x: &mut Update<'_>, _: PhantomData<W>) {
    let Update { states, strip, acc, ld, n, scale } = x;
    let (ld, n) = (*ld, *n);
    assert!(n.is_multiple_of(2 * V::LANES) && n <= ld && !states.is_empty() && size_of::<W>() <= 4);
    assert!((ROOM + states.len() - 1) * ld + n <= strip.len());
    let width = acc.len() / states.len();
    let start = strip.as_mut_ptr();
    for (i, states) in states.chunks_mut(ACROSS).enumerate() {
        let r = i * ACROSS;
        // SAFETY: row r of weights begins no later than row r of the strip, ROOM rows before its scores.
        let (scores, weights) = unsafe { (start.add((ROOM + r) * ld), start.cast::<W>().add(r * ld)) };
        let strip = Strip { v, slope: v.splat(*scale * LOG2_E), scores, weights, ld, n };
        // SAFETY: as many rows as there are states, of n scores and weights, n whole pairs of vectors (asserted). The weights of ACROSS rows
        // end where the scores of the first of them begin, at the latest.
        unsafe { strip.update(states, &mut acc[r * width..], width) };
    }
}

/// At most [`ACROSS`] rows of n scores and of the weights that are written, `ld` apart.
struct Strip<V: Vectors, W> {
    v: V,
    slope: V::Vector,
    scores: *const f32,
    weights: *mut W,
    ld: usize,
    n: usize,
}

impl<V: Vectors, W: CpuFloat> Strip<V, W> {
    /// # Safety
    /// As many rows as states, and n is a multiple of two vectors: so of all functions here.
    #[inline(always)]
    unsafe fn update(&self, states: &mut [State], acc: &mut [f32], width: usize) {
        let mut sums = [self.v.splat(f32::INFINITY); ACROSS];
        for (r, state) in states.iter().enumerate() {
            if state.base != f32::NEG_INFINITY {
                // SAFETY: the caller's promise.
                sums[r] = unsafe { self.weigh(r, state.base) };
            }
        }
        let sums = self.v.sums(sums);
        let mut stays = [true; ACROSS];
        for (r, state) in states.iter_mut().enumerate() {
            // Not of NaN.
            stays[r] = sums[r] <= MOST;
            state.sum += if stays[r] { sums[r] } else { 0.0 };
        }
        if stays != [true; ACROSS] {
            // SAFETY: the caller's promise.
            unsafe { self.rebase(states, stays, acc, width) }
        }
    }

    /// Moves the bases of the rows that do not stay to their largest score.
    ///
    /// # Safety
    /// As of `update`.
    #[inline(always)]
    unsafe fn rebase(&self, states: &mut [State], stays: [bool; ACROSS], acc: &mut [f32], width: usize) {
        let (mut tops, mut moved) = ([self.v.splat(f32::NEG_INFINITY); ACROSS], [self.v.splat(0.0); ACROSS]);
        for r in 0..states.len() {
            if !stays[r] {
                // SAFETY: the caller's promise.
                tops[r] = unsafe { self.top(r) };
            }
        }
        let tops = self.v.largest(tops);
        for r in 0..states.len() {
            if !stays[r] {
                // SAFETY: the caller's promise.
                moved[r] = unsafe { self.weigh(r, larger(tops[r], states[r].base)) };
            }
        }
        let moved = self.v.sums(moved);
        for (r, state) in states.iter_mut().enumerate() {
            if !stays[r] {
                let base = larger(tops[r], state.base);
                let [factor, ..] = Arrays.exp2::<f32>([state.base + State::offset(base); 4]);
                *state = State { base, sum: state.sum * factor + moved[r] };
                acc[r * width..][..width].iter_mut().for_each(|x| *x *= factor);
            }
        }
    }

    /// Writes a row's weights relative to `base`, and returns the lanes of their sum.
    ///
    /// # Safety
    /// As of `update`.
    #[inline(always)]
    unsafe fn weigh(&self, r: usize, base: f32) -> V::Vector {
        let (v, slope, offset) = (self.v, self.slope, self.v.splat(State::offset(base)));
        let mut sums = [v.splat(0.0); 2];
        for at in (0..self.n).step_by(2 * V::LANES) {
            // SAFETY: two vectors of row r from `at` on.
            unsafe {
                let from = self.scores.add(r * self.ld + at);
                let (low, high) = (v.load(from), v.load(from.add(V::LANES)));
                let p = [
                    v.exp2::<W>(v.multiply_add(low, slope, offset)),
                    v.exp2::<W>(v.multiply_add(high, slope, offset)),
                ];
                sums = [v.add(sums[0], p[0]), v.add(sums[1], p[1])];
                v.store_two(self.weights.add(r * self.ld + at), p);
            }
        }
        v.add(sums[0], sums[1])
    }

    /// The lanes of a row's largest score that is not NaN, times the slope.
    ///
    /// # Safety
    /// As of `update`.
    #[inline(always)]
    unsafe fn top(&self, r: usize) -> V::Vector {
        let (v, slope) = (self.v, self.slope);
        let mut tops = [v.splat(f32::NEG_INFINITY); 2];
        for at in (0..self.n).step_by(2 * V::LANES) {
            // SAFETY: two vectors of row r from `at` on.
            unsafe {
                let from = self.scores.add(r * self.ld + at);
                tops[0] = v.larger(v.multiply(v.load(from), slope), tops[0]);
                tops[1] = v.larger(v.multiply(v.load(from.add(V::LANES)), slope), tops[1]);
            }
        }
        v.larger(tops[0], tops[1])
    }
}
