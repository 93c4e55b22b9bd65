//! PoSE's chunks: their lengths l_i and skipping biases u_i.

use super::ChunkLengths;
use crate::index::{ChunkSpan, SeqIndex};
use crate::random::Stream;

/// Lengths of `chunks` chunks, each at least 1, that sum to `window`; 2 <= chunks <= window.
pub(super) fn lengths(stream: &mut Stream, window: usize, chunks: usize, rule: ChunkLengths) -> Vec<usize> {
    match rule {
        ChunkLengths::Paper => {
            // Different cut points between tokens and compositions into positive parts are the same thing.
            let cuts = stream.distinct_sorted(chunks - 1, window - 1).into_iter().map(|cut| cut + 1);
            let mut start = 0;
            cuts.chain([window]).map(|cut| cut - std::mem::replace(&mut start, cut)).collect()
        }
        ChunkLengths::Reference => {
            let limit = reference_limit(window, chunks);
            let mut lengths: Vec<usize> = (1..chunks).map(|_| 1 + stream.below_usize(limit)).collect();
            lengths.push(window - lengths.iter().sum::<usize>());
            lengths
        }
    }
}

/// The longest that a chunk but the last is by [`ChunkLengths::Reference`]: an even share of the window, rounded up as the
/// authors' `(len_chunk+1)//2` is, unless that would leave nothing for the last chunk.
pub(super) fn reference_limit(window: usize, chunks: usize) -> usize {
    window.div_ceil(chunks).min((window - 1) / (chunks - 1))
}

/// u_0 = 0, u_i ~ U{u_(i-1), ..., longest}, `longest` = Lt - Lc.
pub(super) fn skipping_biases(stream: &mut Stream, longest: usize, chunks: usize) -> Vec<usize> {
    let mut biases = vec![0];
    let mut last = 0;
    for _ in 1..chunks {
        last += stream.below_usize(longest - last + 1);
        biases.push(last);
    }
    biases
}

/// Lengths and biases as the kernels take them.
pub(super) fn spans(lengths: &[usize], biases: &[usize]) -> Vec<ChunkSpan> {
    let mut start = 0;
    let span = |(&length, &bias): (&usize, &usize)| {
        let span = ChunkSpan { start: SeqIndex(start as u32), bias: bias as u32 };
        start += length;
        span
    };
    lengths.iter().zip(biases).map(span).collect()
}
