//! CREAM (arXiv 2406.07138): a head at the start, a tail at the end, and a middle part that is placed with a preference for
//! the middle of the context.
//!
//! With N = Lc and f = Lt/N, a row is positions [0, head) ∪ (e-mid, e] ∪ [Lt-tail, Lt), mid = N - head - tail. A coin decides
//! between head = tail = ⌊N/3⌋ (the middle part continues the head and leads on to the tail: "continuity") and
//! head = tail = ⌊4f⌋ (nearly all of the window lies in the middle: "relativity"). The middle's end e is uniform in
//! [⌊head + (mid-1)·α/2⌋, ⌊α·N/2⌋ - tail - 1], with α = ⌊x⌋ and x from the normal distribution of mean 1+f and standard
//! deviation 3, truncated to [2, 2f]. The authors toss one coin for a batch of examples; here each row has its own.
//!
//! The truncation is the paper's. The authors' code inverts the untruncated normal's distribution function, which does not run from
//! 0 to 1 over [2, 2f]: a draw outside of what it reaches becomes 2 or 2f, so the tails collect there. P(α = 2f) is 0.369 with
//! that at f = 2, 0.159 at f = 4 and at most 0.001 here; P(α = 2) at f = 4 is 0.252 with it and 0.137 here; from f = 8 on the two
//! differ by 0.01 at most.

use crate::index::{ChunkSpan, SeqIndex};
use crate::random::Stream;

/// Standard deviation of x; points that the authors evaluate its distribution at.
const SIGMA: f64 = 3.0;
const POINTS: usize = 1000;

/// ⌊4·Lt/Lc⌋, the length of head and tail for relativity.
pub(super) fn short_end(window: usize, target: usize) -> usize {
    (4 * target as u64 / window as u64) as usize
}

/// The longest target that leaves the middle part a token beside two short ends: 2·⌊4·Lt/Lc⌋ < Lc.
pub(super) fn longest_target(window: usize) -> usize {
    // ⌊4·Lt/Lc⌋ <= k if and only if 4·Lt < (k + 1)·Lc
    let k = (window as u64 - 1) / 2;
    (((k + 1) * window as u64 - 1) / 4) as usize
}

/// Head, middle and tail of one row; 3 <= window <= target <= [`longest_target`].
pub(super) fn spans(stream: &mut Stream, window: usize, target: usize) -> Vec<ChunkSpan> {
    let end = if stream.below(2) == 0 { window / 3 } else { short_end(window, target) };
    let middle = window - 2 * end;
    let alpha = truncated_normal(stream, target as f64 / window as f64).floor() as usize;
    let (low, high) = (end + (middle - 1) * alpha / 2, alpha * window / 2 - end - 1);
    let last = low + stream.below_usize(high - low + 1);
    let span = |start: usize, bias: usize| ChunkSpan { start: SeqIndex(start as u32), bias: bias as u32 };
    vec![span(0, 0), span(end, last + 1 - middle - end), span(end + middle, target - window)]
}

/// x from N(1+f, σ²) truncated to [2, 2f], by the inverse of its distribution function over points of equal spacing.
fn truncated_normal(stream: &mut Stream, f: f64) -> f64 {
    let x = |i: usize| 2.0 + (2.0 * f - 2.0) * i as f64 / (POINTS - 1) as f64;
    let density = |i: usize| (-0.5 * ((x(i) - 1.0 - f) / SIGMA).powi(2)).exp();
    let wanted = stream.unit_f64() * (0..POINTS).map(density).sum::<f64>();
    let mut sum = 0.0;
    let reached = |i: &usize| {
        sum += density(*i);
        sum > wanted
    };
    x((0..POINTS).find(reached).unwrap_or(POINTS - 1))
}
