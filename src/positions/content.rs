//! Which tokens of the document the chunks are made of: the paper's v_i.
//!
//! Chunk i is x[v_i + st_i .. v_i + st_i + l_i] with v_i ascending, so chunks keep the document's order and never overlap.
//! Every token predicts the token that follows it *in the document*, also at the end of a chunk. (Implementations that cut
//! the chunks first and shift the labels after train the last token of a chunk to predict the first of the next one, which
//! is noise unless the text is contiguous.) So a chunk needs l_i + 1 tokens, and v_i runs from 0 to `room` = Lx - (Lc + 1).
//!
//! The reference code cuts documents to their first 5·Lc tokens and always starts at token 0. Here the whole document is
//! used, each rule with its own offset:
//!
//! - contiguous: v_i = b for all i, b ~ U{0..room}: every window of the document is equally likely.
//! - uniform: N independent values from U{0..room}, sorted. Drawing v_i ~ U{v_(i-1)..room} one after the other, as the
//!   biases are, halves the room left with every chunk: from a random v_0 it would push the later chunks to the document's
//!   end. Sorted values are ascending too, and a chunk picked at random lies uniformly in the document.
//! - aligned: v_i = b + u_i, b ~ U{0..room - u_(N-1)}: two tokens are as far apart in the text as in position. In a document
//!   too short for that the skips are shrunk in proportion to what there is: v_i = floor(u_i·room / u_(N-1)).

use super::{Content, span_ranges};
use crate::index::ChunkSpan;
use crate::random::Stream;
use std::ops::Range;

/// One range of the document's tokens for each span of a row of `window` tokens.
pub(super) fn ranges(
    stream: &mut Stream, rule: Content, spans: &[ChunkSpan], window: usize, room: usize,
) -> Vec<Range<usize>> {
    let offsets = offsets(stream, rule, spans, room);
    let shifted = |((range, _), offset): ((Range<usize>, _), usize)| range.start + offset..range.end + offset;
    span_ranges(spans, window).zip(offsets).map(shifted).collect()
}

/// v_i for each span, ascending, at most `room`.
fn offsets(stream: &mut Stream, rule: Content, spans: &[ChunkSpan], room: usize) -> Vec<usize> {
    match rule {
        Content::Contiguous => vec![stream.below_usize(room + 1); spans.len()],
        Content::Uniform => {
            let mut offsets: Vec<usize> = spans.iter().map(|_| stream.below_usize(room + 1)).collect();
            offsets.sort_unstable();
            offsets
        }
        Content::Aligned => {
            let longest = spans.last().map_or(0, |span| span.bias as usize);
            if longest <= room {
                let base = stream.below_usize(room - longest + 1);
                spans.iter().map(|span| base + span.bias as usize).collect()
            } else {
                let shrunk = |span: &ChunkSpan| u128::from(span.bias) * room as u128 / longest as u128;
                spans.iter().map(|span| shrunk(span) as usize).collect()
            }
        }
    }
}
