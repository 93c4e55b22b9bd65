//! A long text is tokenized in pieces that overlap: it takes the memory of a piece, some 130 bytes for each of its bytes, and threads
//! share the work.
//!
//! Two neighbours have the text around their border in common. They are joined where both have the same tokens at the same places
//! for a while: what stands further off has not changed them. So the tokens are those of the whole text, but for a text in which no
//! such place is found, as in a word of hundreds of thousands of letters; that is cut.

use crate::error::Result;
use rayon::prelude::*;

/// Tokens of a piece of text.
pub(super) struct Encoded {
    pub ids: Vec<u32>,
    /// Where each token begins, in bytes from the piece's begin; ascending.
    pub starts: Vec<usize>,
}

/// How a text is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Bytes between two borders.
    pub piece: usize,
    /// Bytes beyond a border, on either side, that both neighbours have.
    pub margin: usize,
    /// Tokens before and behind a joint that must be the same in both.
    pub same: usize,
}

impl Cut {
    pub(super) const USUAL: Cut = Cut { piece: 256 << 10, margin: 4 << 10, same: 32 };

    /// Whether a text is long enough to be cut.
    pub(super) fn cuts(self, text: &str) -> bool {
        text.len() > self.piece + self.margin
    }

    /// The tokens of `text`, from those of its pieces.
    ///
    /// # Errors
    /// Those of `encode`, the first in the order of the text.
    pub(super) fn encode(
        self, text: &str, encode: impl Fn(&str) -> Result<Encoded> + Sync,
    ) -> Result<Vec<u32>> {
        let borders: Vec<usize> =
            (self.piece..text.len()).step_by(self.piece).map(|at| char_boundary(text, at)).collect();
        let starts = std::iter::once(0).chain(borders.iter().map(|at| at - self.margin.min(*at)));
        let ends = borders.iter().map(|at| at + self.margin).chain([text.len()]);
        let pieces: Vec<Piece> = starts
            .zip(ends)
            .map(|(start, end)| (char_boundary(text, start), char_boundary(text, end.min(text.len()))))
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|(start, end)| Ok(Piece { start, end, encoded: encode(&text[start..end])? }))
            .collect::<Vec<Result<Piece>>>()
            .into_iter()
            .collect::<Result<_>>()?;
        self.join(text, &borders, pieces, encode)
    }

    fn join(
        self, text: &str, borders: &[usize], pieces: Vec<Piece>, encode: impl Fn(&str) -> Result<Encoded>,
    ) -> Result<Vec<u32>> {
        let mut pieces = pieces.into_iter();
        let (mut ids, mut first) = (Vec::new(), 0);
        let Some(mut left) = pieces.next() else { return Ok(ids) };
        for (mut right, border) in pieces.zip(borders) {
            let joint = self.joint(&left, &right, *border).filter(|(end, _)| *end >= first);
            let (end, next) = match joint {
                Some(joint) => joint,
                None => {
                    let (end, at) = left.before(*border, first);
                    let at = char_boundary(text, at);
                    right = Piece { start: at, end: right.end, encoded: encode(&text[at..right.end])? };
                    (end, 0)
                }
            };
            ids.extend_from_slice(&left.encoded.ids[first..end]);
            (left, first) = (right, next);
        }
        ids.extend_from_slice(&left.encoded.ids[first..]);
        Ok(ids)
    }

    /// Tokens of `left` before a joint and of `right` before it, the joint that is the first behind the border.
    fn joint(self, left: &Piece, right: &Piece, border: usize) -> Option<(usize, usize)> {
        (left.tokens_before(border)..left.encoded.starts.len()).find_map(|l| {
            let r = right.tokens_before(left.at(l)?);
            let around = |piece: &Piece, token: usize| {
                let tokens = token.checked_sub(self.same)?..token + self.same;
                let starts = piece.encoded.starts.get(tokens.clone())?.iter().map(|at| piece.start + at);
                Some((piece.encoded.ids[tokens].to_vec(), starts.collect::<Vec<_>>()))
            };
            let same = around(left, l)? == around(right, r)?;
            same.then_some((l, r))
        })
    }
}

struct Piece {
    /// Of the text, in bytes.
    start: usize,
    end: usize,
    encoded: Encoded,
}

impl Piece {
    /// Where a token begins, in bytes of the text.
    fn at(&self, token: usize) -> Option<usize> {
        self.encoded.starts.get(token).map(|start| self.start + start)
    }

    /// Tokens that begin before byte `at` of the text.
    fn tokens_before(&self, at: usize) -> usize {
        self.encoded.starts.partition_point(|start| self.start + start < at)
    }

    /// Tokens up to about the border, `first` at least, and the byte at which the next one begins.
    fn before(&self, border: usize, first: usize) -> (usize, usize) {
        let tokens = self.tokens_before(border).max(first);
        (tokens, self.at(tokens).unwrap_or(self.end))
    }
}

/// The first boundary of a character at or before byte `at`.
fn char_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::normalizers::{Prepend, Replace, Sequence};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{NormalizerWrapper, Tokenizer};

    /// Sentences of words of one to nine letters, with lines, numbers, spaces in a row and letters of several bytes.
    fn text(bytes: usize) -> String {
        let (mut state, mut text) = (1u64, String::new());
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        while text.len() < bytes {
            for _ in 0..=draw(8) {
                text.push(char::from(b'a' + (draw(9) * draw(3)) as u8));
            }
            text += match draw(40) {
                0 => ".\n\n",
                1 => ", \u{e9}t\u{e9} ",
                2 => " 1984 ",
                3 => "   ",
                4 => "\n\t",
                5 => " \u{1f600} ",
                _ => " ",
            };
        }
        text
    }

    fn trained(mut tokenizer: Tokenizer, vocabulary: usize) -> Tokenizer {
        let mut trainer: TrainerWrapper =
            BpeTrainer::builder().show_progress(false).vocab_size(vocabulary).build().into();
        tokenizer.train(&mut trainer, [text(100_000)].iter()).expect("a vocabulary");
        tokenizer
    }

    fn of_bytes() -> Tokenizer {
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::default()));
        trained(tokenizer, 600)
    }

    /// As LLaMA's: the whole text is one word, spaces are letters of it, and one stands in front.
    fn of_one_word() -> Tokenizer {
        let space = "\u{2581}";
        let steps: Vec<NormalizerWrapper> =
            vec![Prepend::new(space.into()).into(), Replace::new(" ", space).expect("a pattern").into()];
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_normalizer(Some(Sequence::new(steps)));
        trained(tokenizer, 500)
    }

    fn encoded(tokenizer: &Tokenizer, text: &str) -> Encoded {
        let encoding = tokenizer.encode(text, false).expect("tokens");
        let starts = encoding.get_offsets().iter().map(|(start, _)| *start).collect();
        Encoded { ids: encoding.get_ids().to_vec(), starts }
    }

    #[test]
    fn pieces_have_the_tokens_of_the_whole() {
        let text = text(60_000);
        for (name, tokenizer) in [("bytes", of_bytes()), ("one word", of_one_word())] {
            let whole = encoded(&tokenizer, &text).ids;
            for piece in [1500, 4096, 10_001] {
                let cut = Cut { piece, margin: 500, same: 16 };
                let ids = cut.encode(&text, |text| Ok(encoded(&tokenizer, text))).unwrap();
                assert!(ids == whole, "{name}, pieces of {piece}");
            }
        }
    }

    /// Nothing is lost or said twice where no joint is found: the neighbours never agree.
    #[test]
    fn a_text_without_a_joint_is_cut() {
        let cut = Cut { piece: 100, margin: 20, same: 4 };
        let text: String = (0..1000u32).filter_map(|i| char::from_u32(0x400 + i % 200)).collect();
        // each text has ids of its own, one for a letter
        let seen = std::sync::atomic::AtomicU32::new(0);
        let ids = cut.encode(&text, |text| {
            let offset = 1000 * seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let ids = text.chars().map(|c| offset + c as u32 - 0x400).collect();
            Ok(Encoded { ids, starts: text.char_indices().map(|(at, _)| at).collect() })
        });
        let letters: Vec<u32> = ids.unwrap().into_iter().map(|id| id % 1000).collect();
        assert_eq!(letters, text.chars().map(|c| c as u32 - 0x400).collect::<Vec<_>>());
    }

    /// A token that goes on beyond the piece: what is left of the text is another one.
    #[test]
    fn a_token_longer_than_a_piece_is_cut() {
        let cut = Cut { piece: 100, margin: 20, same: 4 };
        let mut ends = Vec::new();
        let whole = |text: &str| Ok(Encoded { ids: vec![text.len() as u32], starts: vec![0] });
        ends.extend(cut.encode(&"a".repeat(1000), whole).unwrap());
        assert_eq!(ends.iter().sum::<u32>(), 1000, "{ends:?}");
    }
}
