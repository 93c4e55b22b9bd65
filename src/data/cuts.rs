//! Where a text falls into pieces, by its tokens: for samplers that move whole sentences.

use super::tokenizer::Tokenizer;
use crate::index::TokenId;

/// The tokens at which pieces begin or end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// `[largest id + 1]`
    marked: Vec<bool>,
    /// Whether a marked token is the last of its piece, and not the first.
    ends: bool,
}

impl Cuts {
    /// A piece begins at each of these tokens.
    pub fn before(ids: &[u32]) -> Cuts {
        Cuts { marked: mark(ids.iter().copied()), ends: false }
    }

    /// A piece ends with each of these tokens. Several in a row (a full stop and a line's end) belong to the same piece.
    pub fn after(ids: &[u32]) -> Cuts {
        Cuts { marked: mark(ids.iter().copied()), ends: true }
    }

    /// After each token whose text ends a sentence: a full stop, question or exclamation mark of some script, perhaps before
    /// closing quotes or brackets, or a line's end.
    pub fn sentences(tokenizer: &Tokenizer) -> Cuts {
        let ends = |&id: &u32| tokenizer.decode(&[TokenId(id)], true).is_ok_and(|text| ends_sentence(&text));
        Cuts { marked: mark((0..tokenizer.vocab_size() as u32).filter(ends)), ends: true }
    }

    /// Whether token i of the text begins a piece.
    pub fn starts(&self, text: &[TokenId], i: usize) -> bool {
        let marked =
            |i: usize| text.get(i).is_some_and(|t| self.marked.get(t.0 as usize).is_some_and(|&m| m));
        if self.ends { i > 0 && marked(i - 1) && !marked(i) } else { marked(i) }
    }
}

fn mark(ids: impl Iterator<Item = u32>) -> Vec<bool> {
    let mut marked = Vec::new();
    for id in ids {
        if marked.len() <= id as usize {
            marked.resize(id as usize + 1, false);
        }
        marked[id as usize] = true;
    }
    marked
}

/// Whether the text of a token ends a sentence, or a line.
pub fn ends_sentence(text: &str) -> bool {
    if text.contains('\n') {
        return true;
    }
    let closing = |c: char| c.is_whitespace() || "\"')]}»”’".contains(c);
    text.trim_end_matches(closing).ends_with(['.', '!', '?', '…', '。', '！', '？', '।', '؟'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_readers_say_so() {
        for end in [".", "?\"", "!", " end.", "…", "。", "\n", ".\n\n", ".)", "a\nb"] {
            assert!(ends_sentence(end), "{end:?}");
        }
        for none in ["", " ", "a", ",", ";", "\"", ")", "3.1", "’"] {
            assert!(!ends_sentence(none), "{none:?}");
        }
    }

    #[test]
    fn several_ends_are_one() {
        let text = "Yes. No?!\n\nSo. ".bytes().map(|b| TokenId(b.into())).collect::<Vec<_>>();
        let cuts = Cuts::sentences(&Tokenizer::bytes());
        let starts: Vec<usize> = (0..text.len()).filter(|&i| cuts.starts(&text, i)).collect();
        assert_eq!(starts, [4, 11, 14]);
        assert_eq!(
            Cuts::after(&[u32::from(b'.'), u32::from(b'?'), u32::from(b'!'), u32::from(b'\n')]).marked.len(),
            64
        );
        let before = Cuts::before(&[u32::from(b'o')]);
        assert_eq!((0..text.len()).filter(|&i| before.starts(&text, i)).collect::<Vec<_>>(), [6, 12]);
        assert!(!Cuts::default().starts(&text, 3));
    }
}
