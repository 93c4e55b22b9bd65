//! Samplers that cut a row where its text says: LongRecipe at the ends of sentences, axolotl at given tokens.

use super::chunks;
use crate::index::{ChunkSpan, RopePosition};
use crate::random::Stream;

/// Tokens of a sentence where there is no text to look at, as in `coverage`: about what one of English has.
pub const SYNTHETIC_PIECE: usize = 24;

/// LongRecipe (arXiv 2409.00509): the first r ~ U{1..⌊(Lc+1)/2⌋} tokens stay at positions 0 to r-1; the rest is cut before each
/// token that `starts` a sentence, and the pieces are moved by sorted values from U{0..Lt-Lc}. So a sentence is never torn,
/// and the gaps between sentences are those of random points.
pub(super) fn sentences(
    stream: &mut Stream, window: usize, target: usize, starts: &dyn Fn(usize) -> bool,
) -> Vec<RopePosition> {
    let first = 1 + stream.below_usize(window.div_ceil(2));
    let cuts: Vec<usize> = (first..window).filter(|&t| t == first || starts(t)).collect();
    let mut biases: Vec<usize> = cuts.iter().map(|_| stream.below_usize(target - window + 1)).collect();
    biases.sort_unstable();
    shifted(window, &cuts, &biases)
}

/// The chunks of axolotl's `add_pose_position_ids`: equal ones at multiples of ⌊Lc/N⌋, the last with what is left over. The skip
/// before each chunk but the first is uniform in what the target has left, which is what PoSE's biases are too.
pub(super) fn equal(stream: &mut Stream, window: usize, target: usize, chunk_count: usize) -> Vec<ChunkSpan> {
    let mut lengths = vec![window / chunk_count; chunk_count];
    lengths[chunk_count - 1] += window % chunk_count;
    chunks::spans(&lengths, &chunks::skipping_biases(stream, target - window, chunk_count))
}

/// The same, but a chunk begins at each token that `starts` one, save for the first two of the row.
pub(super) fn at_tokens(
    stream: &mut Stream, window: usize, target: usize, starts: &dyn Fn(usize) -> bool,
) -> Vec<RopePosition> {
    let cuts: Vec<usize> = (2..window).filter(|&t| starts(t)).collect();
    let biases = chunks::skipping_biases(stream, target - window, cuts.len() + 1);
    shifted(window, &cuts, &biases[1..])
}

/// Positions of tokens 0..window, each moved by the bias of the last cut at or before it.
fn shifted(window: usize, cuts: &[usize], biases: &[usize]) -> Vec<RopePosition> {
    let (mut positions, mut bias, mut next) = (Vec::with_capacity(window), 0, 0);
    for t in 0..window {
        if cuts.get(next) == Some(&t) {
            bias = biases[next];
            next += 1;
        }
        positions.push(RopePosition((t + bias) as u32));
    }
    positions
}
