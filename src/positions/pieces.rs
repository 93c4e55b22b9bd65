//! Samplers that cut a row where its text says: LongRecipe at the ends of sentences, axolotl at given tokens.

use super::chunks;
use crate::index::{ChunkSpan, RopePosition};
use crate::random::Stream;

/// Tokens of a sentence where there is no text to look at, as in `coverage`: about what one of English has.
pub const SYNTHETIC_PIECE: usize = 24;

/// LongRecipe (arXiv 2409.00509), as its authors' code does it: the n sentences of the row, each from a token that `starts` one,
/// are laid into the Lt-Lc free positions in order, every way to do so as likely as any other; sentence 0 is then put to position
/// 0, and the first r ~ U{1..⌊(Lc+1)/2⌋} tokens to 0 to r-1. Sentence k is moved by b_k = s_k - k, where s is a sorted choice of
/// n numbers out of {0..Lt-Lc+n-1}. So the skip at r is that of the sentence r falls into, the sum of all gaps before
/// it, and no other sentence is torn.
pub(super) fn sentences(
    stream: &mut Stream, window: usize, target: usize, starts: &dyn Fn(usize) -> bool,
) -> Vec<RopePosition> {
    let first = 1 + stream.below_usize(window.div_ceil(2));
    let cuts: Vec<usize> = (1..window).filter(|&t| starts(t)).collect();
    let count = cuts.len() + 1;
    let places = stream.distinct_sorted(count, target - window + count);
    let biases: Vec<usize> = places.iter().enumerate().map(|(k, place)| place - k).collect();
    let mut positions = shifted(window, &cuts, &biases[1..]);
    positions.iter_mut().zip(0..first).for_each(|(position, t)| position.0 = t as u32);
    positions
}

/// The chunks of axolotl's `add_pose_position_ids`: equal ones at multiples of ⌊Lc/N⌋, the last with what is left over. The skip
/// before each chunk but the first is uniform in what the target has left, which is what PoSE's biases are too; before token 1
/// there is none, so where chunks are of one token the first two are one.
pub(super) fn equal(stream: &mut Stream, window: usize, target: usize, chunk_count: usize) -> Vec<ChunkSpan> {
    let length = window / chunk_count;
    let mut lengths = vec![length; chunk_count];
    lengths[chunk_count - 1] += window % chunk_count;
    let unskipped = usize::from(length == 1);
    let mut biases = vec![0; unskipped];
    biases.extend(chunks::skipping_biases(stream, target - window, chunk_count - unskipped));
    chunks::spans(&lengths, &biases)
}

/// The same, but a chunk begins at each token that `starts` one. The first such token is passed over if it is token 0 or 1; after
/// a token 0 that was, token 1 does begin a chunk.
pub(super) fn at_tokens(
    stream: &mut Stream, window: usize, target: usize, starts: &dyn Fn(usize) -> bool,
) -> Vec<RopePosition> {
    let mut cuts: Vec<usize> = (0..window).filter(|&t| starts(t)).collect();
    if cuts.first().is_some_and(|&t| t < 2) {
        cuts.remove(0);
    }
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
