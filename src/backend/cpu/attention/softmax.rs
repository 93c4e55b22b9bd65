//! The online softmax: what a query knows of the keys that it has met so far.
//!
//! Weights are relative to a *base*, `p = 2^(score·log2(e) − base)`, and any base gives the same output and the same log-sum-exp, as the sum of
//! the weights is relative to it too. So a row's base need not be the largest score so far, as long as nothing overflows: it is the
//! largest score when it was last moved, and it moves when a lane's sum of new weights is more than [`MOST`]. Most scores are so read once,
//! not once for their maximum and once for the weights. (FlashAttention-4 leaves its sums as they are for small rises in the same way, but
//! asks for the maximum first.)
//!
//! A block of keys, whose weights are then multiplied with values at once, is weighed some keys at a time, that their scores lie in the
//! first-level cache when they are read.

use super::super::isa::Simd;
use super::super::math::{CpuFloat, LANES, larger};
use super::super::matmul::kernel::Kernel;
use super::super::vectors::{ACROSS, Arrays, Vectors, per_width};
use std::f32::consts::{LN_2, LOG2_E};
use std::marker::PhantomData;
use std::ops::Range;

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

/// The largest sum of a lane's new weights for which the base stays. A weight of this size has as many digits as a smaller one, in bf16 too,
/// and sums are far from overflowing.
const MOST: f32 = 4096.0;

impl State {
    pub(super) const EMPTY: State = State { base: f32::NEG_INFINITY, sum: 0.0 };

    /// What is added to scores: −base, or 0 while there is none (−inf − −inf would be NaN).
    #[inline(always)]
    fn offset(base: f32) -> f32 {
        if base == f32::NEG_INFINITY { 0.0 } else { -base }
    }

    /// Raises the base to `top`, if it is lower; returns what is left of a weight that was relative to it.
    fn rise(&mut self, top: f32) -> f32 {
        let base = larger(top, self.base);
        let [factor, ..] = Arrays.exp2::<f32>([self.base + State::offset(base); 4]);
        *self = State { base, sum: self.sum * factor };
        factor
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

/// Rows that take a block of keys into account, some of them at a time.
pub(super) struct Update<'a> {
    pub states: &'a mut [State],
    /// The weighted sums of values, a row for each state: rescaled where the base rises.
    pub acc: &'a mut [f32],
    /// [rows][ld] in the precision of the products: the block's weights, rows of A.
    pub weights: &'a mut [u32],
    pub ld: usize,
    /// [rows][[`LANES`]]: sums of the block's weights, until its last keys.
    pub sums: &'a mut [f32],
    pub scale: f32,
}

/// Scores of some keys of a block.
pub(super) struct Scores<'a> {
    /// rows[r·ld ..][..keys.len()] for every state r, hidden ones −inf.
    pub rows: &'a [f32],
    pub ld: usize,
    /// Which of the block they are: from its beginning on, in order, multiples of [`PADDED`].
    pub keys: Range<usize>,
    /// Whether no more of the block follow.
    pub last: bool,
}

impl Update<'_> {
    /// Writes p = 2^(scale·log2(e)·score − base) to weights[r·ld + keys.start ..].
    pub(super) fn take(&mut self, simd: Simd, kernel: &Kernel, scores: &Scores<'_>) {
        if kernel.paired {
            take(simd, self, scores, PhantomData::<half::bf16>);
        } else {
            take(simd, self, scores, PhantomData::<f32>);
        }
    }
}

per_width! {
    fn take[W: CpuFloat](x: &mut Update<'_>, scores: &Scores<'_>, precision: PhantomData<W>) => take_body;
}

#[inline(always)]
fn take_body<V: Vectors, W: CpuFloat>(v: V, x: &mut Update<'_>, scores: &Scores<'_>, _: PhantomData<W>) {
    let (rows, n, ld, at) = (x.states.len(), scores.keys.len(), x.ld, scores.keys.start);
    let weights: &mut [W] = bytemuck::cast_slice_mut(x.weights);
    assert!(n.is_multiple_of(2 * V::LANES) && n <= scores.ld && scores.keys.end <= ld && rows > 0);
    assert!((rows - 1) * scores.ld + n <= scores.rows.len());
    assert!((rows - 1) * ld + scores.keys.end <= weights.len());
    assert!(rows * LANES <= x.sums.len() && V::LANES <= LANES);
    let (slope, width) = (v.splat(x.scale * LOG2_E), x.acc.len() / rows);
    let (weights, sums) = (weights[at..].as_mut_ptr(), x.sums.as_mut_ptr());
    let mut row = Row { scores: scores.rows.as_ptr(), weights, sums, n, slope };
    for (r, state) in x.states.iter_mut().enumerate() {
        // SAFETY: a row has n scores and at + n weights, n whole pairs of vectors; no vector is wider than a row of sums (asserted).
        unsafe {
            let mut sum = v.splat(f32::INFINITY);
            if state.base != f32::NEG_INFINITY {
                sum = row.weigh(v, state.base);
            }
            if v.exceeds(sum, MOST) {
                let factor = state.rise(row.top(v));
                rescale(&mut x.acc[r * width..][..width], factor);
                if at > 0 {
                    v.store(row.sums, v.multiply(v.load(row.sums), v.splat(factor)));
                    rescale(std::slice::from_raw_parts_mut(row.weights.sub(at), at), factor);
                }
                sum = row.weigh(v, state.base);
            }
            if at > 0 {
                sum = v.add(sum, v.load(row.sums));
            }
            v.store(row.sums, sum);
        }
        row.scores = row.scores.wrapping_add(scores.ld);
        row.weights = row.weights.wrapping_add(ld);
        row.sums = row.sums.wrapping_add(LANES);
    }
    if scores.last {
        add_sums(v, x.states, x.sums);
    }
}

/// What a row has so far, where its base rises: seldom.
#[cold]
#[inline(never)]
fn rescale<W: CpuFloat>(row: &mut [W], factor: f32) {
    row.iter_mut().for_each(|x| *x = W::narrow(x.widen() * factor));
}

/// What the lanes of each row's sum are together, to the row's state.
#[inline(always)]
fn add_sums<V: Vectors>(v: V, states: &mut [State], sums: &[f32]) {
    let (states, sums) = (states.chunks_mut(ACROSS), sums.chunks(ACROSS * LANES));
    for (states, sums) in states.zip(sums) {
        let mut rows = [v.splat(0.0); ACROSS];
        for r in 0..states.len() {
            // SAFETY: no vector is wider than LANES.
            rows[r] = unsafe { v.load(sums[r * LANES..][..LANES].as_ptr()) };
        }
        for (state, sum) in states.iter_mut().zip(v.sums(rows)) {
            state.sum += sum;
        }
    }
}

/// n scores of a row, the weights that are written, and the row's sums.
struct Row<S, W> {
    scores: *const f32,
    weights: *mut W,
    sums: *mut f32,
    n: usize,
    /// scale·log2(e) in each lane.
    slope: S,
}

impl<S: Copy, W: CpuFloat> Row<S, W> {
    /// Writes the weights relative to `base`, and returns the lanes of their sum.
    ///
    /// # Safety
    /// There are n scores and weights, n whole pairs of vectors: so of both functions here.
    #[inline(always)]
    unsafe fn weigh<V: Vectors<Vector = S>>(&self, v: V, base: f32) -> S {
        let (slope, offset) = (self.slope, v.splat(State::offset(base)));
        let mut sums = [v.splat(0.0); 2];
        for at in (0..self.n).step_by(2 * V::LANES) {
            // SAFETY: two vectors from `at` on.
            unsafe {
                let from = self.scores.add(at);
                let (low, high) = (v.load(from), v.load(from.add(V::LANES)));
                let low = v.exp2::<W>(v.multiply_add(low, slope, offset));
                let high = v.exp2::<W>(v.multiply_add(high, slope, offset));
                sums = [v.add(sums[0], low), v.add(sums[1], high)];
                v.store_two(self.weights.add(at), [low, high]);
            }
        }
        v.add(sums[0], sums[1])
    }

    /// The largest score that is not NaN, times the slope.
    ///
    /// # Safety
    /// As of `weigh`.
    #[inline(always)]
    unsafe fn top<V: Vectors<Vector = S>>(&self, v: V) -> f32 {
        let mut tops = [v.splat(f32::NEG_INFINITY); ACROSS];
        for at in (0..self.n).step_by(2 * V::LANES) {
            // SAFETY: two vectors from `at` on.
            unsafe {
                let from = self.scores.add(at);
                tops[0] = v.larger(v.multiply(v.load(from), self.slope), tops[0]);
                tops[1] = v.larger(v.multiply(v.load(from.add(V::LANES)), self.slope), tops[1]);
            }
        }
        tops[0] = v.larger(tops[0], tops[1]);
        v.largest(tops)[0]
    }
}
