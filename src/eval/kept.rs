//! What a session has read already of the text that it is to read next.
//!
//! Only whole chunks are reused that are cut alike: a chunk that is cut elsewhere is summed in another order. So what
//! is read has the same bits with and without.

use crate::index::TokenId;
use std::ops::Range;

/// A text that was read, and where its chunks end.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub ids: Vec<TokenId>,
    pub cuts: Vec<usize>,
}

impl Kept {
    /// The tokens of `ids`, cut at `cuts`, that were read the same way before.
    pub fn shared(&self, ids: &[TokenId], cuts: &[usize]) -> usize {
        let common = self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let alike = self.cuts.iter().zip(cuts).take_while(|(a, b)| a == b && **a <= common);
        alike.last().map_or(0, |(cut, _)| *cut)
    }
}

/// Where the chunks of a range that is read at one go end.
pub(super) fn chunk_ends(range: Range<usize>, chunk: usize) -> Vec<usize> {
    let end = range.end;
    range.step_by(chunk).map(|at| (at + chunk).min(end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_chunks_are_shared_that_are_cut_alike() {
        let ids = |n: u32| (0..n).map(TokenId).collect::<Vec<_>>();
        let kept = |n: u32, chunk| Kept { ids: ids(n), cuts: chunk_ends(0..n as usize, chunk) };
        let shared = |kept: Kept, next: &[TokenId]| kept.shared(next, &chunk_ends(0..next.len(), 4));
        assert_eq!(shared(Kept::default(), &ids(9)), 0);
        assert_eq!(shared(kept(9, 4), &ids(9)), 9);
        assert_eq!(shared(kept(8, 4), &ids(30)), 8);
        assert_eq!(shared(kept(7, 4), &ids(30)), 4);
        assert_eq!(shared(kept(7, 5), &ids(30)), 0);
        assert_eq!(shared(kept(30, 4), &[ids(6), ids(30)].concat()), 4);
        assert_eq!(shared(kept(30, 4), &[TokenId(7)]), 0);
    }

    #[test]
    fn chunks_end_with_their_range() {
        assert_eq!(chunk_ends(3..12, 4), [7, 11, 12]);
        assert_eq!(chunk_ends(3..11, 4), [7, 11]);
        assert_eq!(chunk_ends(3..3, 4), [0; 0]);
    }
}
