//! The losses of a document's tokens by windows: what every measure of perplexity sums.
//!
//! Sliding: windows begin at 0, stride, 2·stride, ...; a window is tokens[begin .. min(begin + window, n)] at positions
//! 0, 1, ...; it scores the tokens that no earlier window scored, except the first of the text, which nothing predicts;
//! the last window is the first one that reaches the end. Truncate: one window, the document's first.

use crate::backend::Backend;
use crate::data::Document;
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::infer::Scorer;
use crate::model::Model;
use serde::Serialize;
use std::ops::Range;

/// Which tokens of a document are scored, and with how much before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every token, by overlapping windows.
    #[default]
    Sliding,
    /// The document's first window only.
    Truncate,
}

/// One way to go over a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Windows {
    /// Tokens of a window, the opening one among them.
    pub window: usize,
    /// Tokens from one window's begin to the next's.
    pub stride: usize,
    pub mode: Mode,
    /// The token that opens each window, if any.
    pub bos: Option<u32>,
}

impl Windows {
    /// Over a text of `n` tokens: each window, with the first token that it scores.
    pub fn over(&self, n: usize) -> Vec<(Range<usize>, usize)> {
        let room = self.window - usize::from(self.bos.is_some()).min(self.window - 1);
        windows_of(n, room, self.stride.min(room), self.mode)
    }

    /// Tokens of a text of `n` that go through the model.
    pub fn reads(&self, n: usize) -> usize {
        self.over(n).iter().map(|(range, _)| range.len() + usize::from(self.bos.is_some())).sum()
    }
}

/// The windows over a text of `n` tokens, each with the first token that it scores.
fn windows_of(n: usize, window: usize, stride: usize, mode: Mode) -> Vec<(Range<usize>, usize)> {
    let mut windows = Vec::new();
    let mut scored = 1;
    let mut begin = 0;
    while begin < n {
        let end = (begin + window).min(n);
        windows.push((begin..end, scored.max(begin + 1)));
        scored = end;
        if end == n || mode == Mode::Truncate {
            break;
        }
        begin += stride;
    }
    windows
}

/// Hands the losses of a document's tokens, in nats, to `visit`: window by window, as (first token, losses of it and
/// those after it). No token comes twice. `progress` is told of tokens read.
pub fn losses<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, document: &Document, windows: &Windows,
    progress: &mut dyn FnMut(usize), visit: &mut dyn FnMut(usize, &[f32]),
) -> Result<()> {
    let opening: Vec<TokenId> = windows.bos.map(TokenId).into_iter().collect();
    for (range, first) in windows.over(document.tokens.len()) {
        // with a BOS even the first token of the text is predicted by something
        let first = if range.start == 0 && !opening.is_empty() { 0 } else { first };
        let from = first - range.start + opening.len();
        let ids: Vec<TokenId> = opening.iter().chain(&document.tokens[range]).copied().collect();
        let nll = scorer.score(b, model, &ids, None, from, progress)?.nll;
        finite(&nll, &document.name)?;
        visit(first, &nll);
    }
    Ok(())
}

/// Refuses a loss that is no number.
pub(super) fn finite(nll: &[f32], name: &str) -> Result<()> {
    match nll.iter().find(|loss| !loss.is_finite()) {
        Some(loss) => {
            Err(Error::NonFinite(format!("the loss of a token of {name} is {loss}: the model is broken")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_scored_once() {
        for n in [1, 2, 5, 16, 17, 63, 64, 65, 100] {
            for window in [2, 5, 16, 64] {
                // a stride of a whole window leaves the first token of each window unpredicted
                for stride in [1, window / 2, window - 1] {
                    let windows = windows_of(n, window, stride.max(1), Mode::Sliding);
                    let scored: Vec<usize> = windows.iter().flat_map(|(r, first)| *first..r.end).collect();
                    assert_eq!(scored, (1..n).collect::<Vec<_>>(), "n {n} window {window} stride {stride}");
                }
            }
        }
    }

    #[test]
    fn truncate_is_one_window() {
        assert_eq!(windows_of(100, 16, 8, Mode::Truncate), vec![(0..16, 1)]);
        assert_eq!(windows_of(10, 16, 8, Mode::Truncate), vec![(0..10, 1)]);
    }
}
