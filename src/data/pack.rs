//! Which short documents share a row.
//!
//! A document of L tokens has L - 1 that predict something, its own next token, and takes so many places of a row. A
//! longer one than fits is cut into pieces that each fill a row; every token but the document's first is still a target
//! once.
//!
//! Pieces are put into rows by best fit, the longest first: each into the row with the least room that still takes it
//! (Johnson et al., "Worst-case performance bounds for simple one-dimensional packing algorithms", 1974: of many rows
//! at most 11/9 of those that are needed). Then every piece is in one row, and rows that are drawn uniformly make every
//! piece, and with it every token of the corpus, as likely as any other. (Filling a row by drawing documents until none
//! fits would prefer the short ones.)

use super::corpus::Corpus;
use crate::random::{Purpose, Stream};
use std::collections::BTreeMap;
use std::ops::Range;

/// A document, or what of it goes into one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index into the corpus' documents.
    pub document: usize,
    /// Its tokens that take a place; their targets are one further.
    pub tokens: Range<usize>,
}

/// The rows of a corpus.
#[derive(Debug)]
pub(super) struct Pack {
    rows: Vec<Vec<Piece>>,
}

impl Pack {
    /// Rows of `window` places. Every document has two tokens at least.
    pub(super) fn new(corpus: &Corpus, window: usize) -> Pack {
        let lengths = corpus.documents.iter().map(|document| document.tokens.len());
        let mut pieces: Vec<Piece> = lengths.enumerate().flat_map(|(i, len)| cut(i, len, window)).collect();
        // stable: documents of one length stay in their order
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.tokens.len()));
        let mut rows: Vec<Vec<Piece>> = Vec::new();
        // rows by the room that they have left
        let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for piece in pieces {
            let len = piece.tokens.len();
            let (row, room) = take(&mut by_room, len).unwrap_or((rows.len(), window));
            match rows.get_mut(row) {
                Some(row) => row.push(piece),
                None => rows.push(vec![piece]),
            }
            if room > len {
                by_room.entry(room - len).or_default().push(row);
            }
        }
        Pack { rows }
    }

    /// The pieces of a row.
    pub(super) fn row(&self, seed: u64, step: u64, row: u32) -> &[Piece] {
        &self.rows[Stream::new(seed, Purpose::Document, step, row).below_usize(self.rows.len())]
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }
}

/// Pieces of at most `window` places.
fn cut(document: usize, len: usize, window: usize) -> impl Iterator<Item = Piece> {
    let places = len.saturating_sub(1);
    let piece = move |start: usize| Piece { document, tokens: start..places.min(start + window) };
    (0..places).step_by(window).map(piece)
}

/// A row with the least room that is at least `len`, and that room; it is in no list from then on.
fn take(by_room: &mut BTreeMap<usize, Vec<usize>>, len: usize) -> Option<(usize, usize)> {
    let (&room, rows) = by_room.range_mut(len..).next()?;
    let row = rows.pop()?;
    if rows.is_empty() {
        by_room.remove(&room);
    }
    Some((row, room))
}

#[cfg(test)]
mod tests {
    use super::super::corpus::Document;
    use super::*;
    use crate::index::TokenId;
    use proptest::prelude::*;

    fn corpus(lengths: &[usize]) -> Corpus {
        let document = |&len: &usize| Document { name: String::new(), tokens: vec![TokenId::default(); len] };
        Corpus { documents: lengths.iter().map(document).collect() }
    }

    proptest! {
        #[test]
        fn every_token_is_a_target_in_one_row(
            lengths in prop::collection::vec(2usize..40, 1..60), window in 1usize..24,
        ) {
            let pack = Pack::new(&corpus(&lengths), window);
            let mut seen: Vec<Vec<u32>> = lengths.iter().map(|&len| vec![0; len]).collect();
            for row in &pack.rows {
                prop_assert!(!row.is_empty());
                prop_assert!(row.iter().map(|piece| piece.tokens.len()).sum::<usize>() <= window);
                for piece in row {
                    piece.tokens.clone().for_each(|t| seen[piece.document][t + 1] += 1);
                }
            }
            for targets in seen {
                prop_assert!(targets[0] == 0 && targets[1..].iter().all(|&n| n == 1), "{:?}", targets);
            }
            // what opened a row fitted into none before it: no two rows could have been one
            let mut taken: Vec<usize> =
                pack.rows.iter().map(|row| row.iter().map(|piece| piece.tokens.len()).sum()).collect();
            taken.sort_unstable();
            prop_assert!(taken.len() < 2 || taken[0] + taken[1] > window, "{taken:?}");
        }
    }

    #[test]
    fn documents_go_where_they_fit_best() {
        // places 6, 5, 3, 2, 2 in rows of 8: 6+2, 5+3, 2
        let pack = Pack::new(&corpus(&[3, 7, 4, 6, 3]), 8);
        let rows: Vec<Vec<usize>> =
            pack.rows.iter().map(|row| row.iter().map(|piece| piece.document).collect()).collect();
        assert_eq!(rows, [vec![1, 0], vec![3, 2], vec![4]]);
    }
}
