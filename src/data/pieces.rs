//! A long text is tokenized in pieces that overlap: beside its tokens it takes the memory of some pieces, some 130 bytes for each of
//! their bytes, and threads share the work.
//!
//! Two neighbours have the text around their border in common. They are joined where both have the same tokens at the same places
//! for a while: what stands further off has not changed them. So the tokens are those of the whole text, but where no such place is
//! found: in a word of hundreds of thousands of letters, or under a tokenizer that does not say where its tokens are. There the text
//! is cut at the border, and each side tokenized by itself.

use crate::error::Result;
use rayon::prelude::*;

/// Tokens of a piece of text.
pub(super) struct Encoded {
    pub ids: Vec<u32>,
    /// Where each token begins and ends, in bytes of the piece, as far as the tokenizer knows.
    pub spans: Vec<(usize, usize)>,
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

/// Pieces that are tokenized before the next ones are begun.
const WAVE: usize = 32;

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
        let mut whole = Joined { cut: self, text, encode: &encode, ids: Vec::new(), last: None };
        for wave in self.ranges(text).chunks(WAVE) {
            let pieces: Vec<Result<Piece>> =
                wave.par_iter().map(|range| self.piece(text, *range, &encode)).collect();
            pieces.into_iter().try_for_each(|piece| whole.join(piece?))?;
        }
        Ok(whole.finish())
    }

    fn ranges(self, text: &str) -> Vec<Range> {
        let borders: Vec<usize> =
            (0..text.len()).step_by(self.piece).map(|at| char_boundary(text, at)).collect();
        let nexts = borders.iter().skip(1).copied().chain([text.len()]);
        let range = |(border, next): (&usize, usize)| Range {
            start: char_boundary(text, border.saturating_sub(self.margin)),
            border: *border,
            end: char_boundary(text, (next + self.margin).min(text.len())),
        };
        borders.iter().zip(nexts).map(range).collect()
    }

    fn piece(self, text: &str, range: Range, encode: &impl Fn(&str) -> Result<Encoded>) -> Result<Piece> {
        let piece = &text[range.start..range.end];
        let Encoded { ids, spans } = encode(piece)?;
        // A tokenizer that drops letters, or makes others of them, may lose count of where it is.
        let end = spans.last().map_or(0, |(_, end)| *end);
        let counts = spans.len() == ids.len() && (piece.trim_end().len()..=piece.len()).contains(&end);
        let starts = || spans.iter().map(|(start, _)| range.start + start);
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        if counts {
            let behind = range.end.saturating_sub(3 * self.margin);
            head = starts().take_while(|start| *start < range.border + 2 * self.margin).collect();
            tail = starts().skip_while(|start| *start < behind).collect();
        }
        Ok(Piece { range, ids, head, tail })
    }

    /// Tokens of `left` before a joint and of `right` before it, the joint that is the first behind the border.
    fn joint(self, left: &Piece, right: &Piece) -> Option<(usize, usize)> {
        let before = |starts: &[usize], at: usize| starts.partition_point(|start| *start < at);
        let skipped = left.ids.len() - left.tail.len();
        (before(&left.tail, right.range.border)..left.tail.len()).find_map(|l| {
            let r = before(&right.head, left.tail[l]);
            let around = |starts: &[usize], ids: &[u32], token: usize| {
                let tokens = token.checked_sub(self.same)?..token + self.same;
                Some((starts.get(tokens.clone())?.to_vec(), ids.get(tokens)?.to_vec()))
            };
            let ours = around(&left.tail, &left.ids[skipped..], l)?;
            (ours == around(&right.head, &right.ids, r)?).then_some((skipped + l, r))
        })
    }
}

/// A piece's bytes in the text, and where it would begin if nothing overlapped.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: usize,
    border: usize,
    end: usize,
}

struct Piece {
    range: Range,
    ids: Vec<u32>,
    /// Where its first tokens begin, those around the border, and its last ones, in bytes of the text; none where the tokenizer has lost
    /// count.
    head: Vec<usize>,
    tail: Vec<usize>,
}

/// The pieces up to one of them.
struct Joined<'a, F> {
    cut: Cut,
    text: &'a str,
    encode: &'a F,
    ids: Vec<u32>,
    /// The last piece, and how many of its first tokens are its predecessor's.
    last: Option<(Piece, usize)>,
}

impl<F: Fn(&str) -> Result<Encoded>> Joined<'_, F> {
    fn join(&mut self, right: Piece) -> Result<()> {
        let Some((left, first)) = self.last.take() else {
            self.last = Some((right, 0));
            return Ok(());
        };
        let joint = self.cut.joint(&left, &right).filter(|(end, _)| *end >= first);
        self.last = Some(match joint {
            Some((end, next)) => {
                self.ids.extend_from_slice(&left.ids[first..end]);
                (right, next)
            }
            None => {
                let border = right.range.border;
                let cut = (self.encode)(&self.text[left.range.start..border])?;
                self.ids.extend_from_slice(cut.ids.get(first..).unwrap_or_default());
                (self.cut.piece(self.text, Range { start: border, ..right.range }, self.encode)?, 0)
            }
        });
        Ok(())
    }

    fn finish(mut self) -> Vec<u32> {
        if let Some((last, first)) = self.last {
            self.ids.extend_from_slice(&last.ids[first..]);
        }
        self.ids
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
    use tokenizers::models::bpe::{BPE, BpeTrainer, Vocab};
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
        Encoded { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() }
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

    const SMALL: Cut = Cut { piece: 100, margin: 20, same: 4 };

    fn letters() -> String {
        (0..1000u32).filter_map(|i| char::from_u32(0x400 + i % 200)).collect()
    }

    fn id(c: char) -> u32 {
        c as u32 - 0x400
    }

    /// A token a letter, with what the tokenizer says of its place.
    fn spelled(text: &str, place: impl Fn(usize) -> usize) -> Encoded {
        let spans = text.char_indices().map(|(at, c)| (place(at), place(at + c.len_utf8())));
        Encoded { ids: text.chars().map(id).collect(), spans: spans.collect() }
    }

    fn all_letters(ids: Vec<u32>) {
        assert_eq!(
            ids.into_iter().map(|id| id % 1000).collect::<Vec<_>>(),
            letters().chars().map(id).collect::<Vec<_>>()
        );
    }

    /// Nothing is lost or said twice where no joint is found: the neighbours never agree.
    #[test]
    fn a_text_without_a_joint_is_cut() {
        // each text has ids of its own
        let seen = std::sync::atomic::AtomicU32::new(0);
        let ids = SMALL.encode(&letters(), |text| {
            let offset = 1000 * seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Encoded { ids, spans } = spelled(text, |at| at);
            Ok(Encoded { ids: ids.into_iter().map(|id| offset + id).collect(), spans })
        });
        all_letters(ids.unwrap());
    }

    /// Some tokenizers do not know where they are: they say too much, too little, or nothing.
    #[test]
    fn a_tokenizer_that_loses_count_loses_no_token() {
        for place in [
            |at| 3 * at,
            |at: usize| at.saturating_sub(at / 10),
            |_| 0,
            |_| usize::MAX / 2,
            |at: usize| 7 * at % 90,
        ] {
            all_letters(SMALL.encode(&letters(), |text| Ok(spelled(text, place))).unwrap());
        }
        let nowhere = |text: &str| Ok(Encoded { spans: Vec::new(), ..spelled(text, |at| at) });
        all_letters(SMALL.encode(&letters(), nowhere).unwrap());
    }

    /// A vocabulary without a token for what it does not know: such letters have no tokens, and what stands behind them is
    /// said to stand where they do.
    #[test]
    fn letters_that_have_no_token_are_not_counted_twice() {
        let vocabulary: Vocab = (b'a'..=b'z').map(|c| (char::from(c).to_string(), u32::from(c))).collect();
        let model = BPE::builder().vocab_and_merges(vocabulary, Vec::new()).build().unwrap();
        let tokenizer = Tokenizer::new(model);
        let text = ("a".repeat(300) + "\u{e9}").repeat(100);
        let whole = encoded(&tokenizer, &text);
        assert_eq!(whole.ids.len(), 30_000);
        for piece in [1500, 4096] {
            let cut = Cut { piece, margin: 500, same: 16 };
            assert_eq!(cut.encode(&text, |text| Ok(encoded(&tokenizer, text))).unwrap(), whole.ids);
        }
    }

    /// A token that goes on beyond the piece: what is left of the text is another one.
    #[test]
    fn a_token_longer_than_a_piece_is_cut() {
        let whole = |text: &str| Ok(Encoded { ids: vec![text.len() as u32], spans: vec![(0, text.len())] });
        let ids = SMALL.encode(&"a".repeat(1000), whole).unwrap();
        assert_eq!(ids.iter().sum::<u32>(), 1000, "{ids:?}");
    }
}
