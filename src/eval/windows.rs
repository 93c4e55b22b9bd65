//! The losses of a document's tokens by windows: what every measure of perplexity sums.
//!
//! Sliding: windows begin at 0, stride, 2·stride, ...; a window is tokens[begin .. min(begin + window, n)] at positions
//! 0, 1, ...; it scores the tokens that no earlier window scored, except its own first where no token opens it, which
//! nothing predicts; the last window is the first one that reaches the end. Truncate: one window, the document's first.

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
    /// Half a window from one to the next where no stride is given.
    pub fn new(window: usize, stride: Option<usize>, mode: Mode, bos: Option<u32>) -> Windows {
        let stride = stride.unwrap_or(window / 2).clamp(1, window.max(1));
        Windows { window, stride, mode, bos }
    }

    /// Over a text of `n` tokens: each window, with the first token that it scores.
    pub fn over(&self, n: usize) -> Vec<(Range<usize>, usize)> {
        let opened = self.bos.is_some();
        let room = self.window - usize::from(opened).min(self.window - 1);
        windows_of(n, room, self.stride.min(room), self.mode, opened)
    }

    /// Tokens of a text of `n` that go through the model.
    pub fn reads(&self, n: usize) -> usize {
        self.over(n).iter().map(|(range, _)| range.len() + usize::from(self.bos.is_some())).sum()
    }
}

/// The windows over a text of `n` tokens, each with the first token that it scores; one that is `opened` has something
/// before its first.
fn windows_of(
    n: usize, window: usize, stride: usize, mode: Mode, opened: bool,
) -> Vec<(Range<usize>, usize)> {
    let mut windows = Vec::new();
    let mut scored = 0;
    let mut begin = 0;
    while begin < n {
        let end = (begin + window).min(n);
        windows.push((begin..end, scored.max(begin + usize::from(!opened))));
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

    /// Every text, window and stride that may be asked for, with the tokens that are scored, in their order.
    fn each_way(bos: Option<u32>, mut look: impl FnMut(usize, &Windows, Vec<usize>)) {
        for n in [1, 2, 5, 16, 17, 63, 64, 65, 100] {
            for window in [2, 3, 5, 16, 64] {
                for stride in std::iter::once(None).chain((1..=window).map(Some)) {
                    let windows = Windows::new(window, stride, Mode::Sliding, bos);
                    let all = windows.over(n);
                    assert!(all.iter().all(|(r, _)| r.len() + usize::from(bos.is_some()) <= window));
                    look(n, &windows, all.into_iter().flat_map(|(r, first)| first..r.end).collect());
                }
            }
        }
    }

    #[test]
    fn every_token_is_scored_once_where_a_token_opens_the_windows() {
        each_way(Some(1), |n, windows, scored| {
            assert_eq!(scored, (0..n).collect::<Vec<_>>(), "n {n} {windows:?}");
        });
    }

    #[test]
    fn without_one_the_first_of_the_text_is_not_and_windows_that_do_not_overlap_leave_out_theirs() {
        each_way(None, |n, windows, scored| {
            let apart = windows.stride == windows.window;
            let left_out = |t: usize| t == 0 || apart && t.is_multiple_of(windows.window);
            let expected: Vec<usize> = (0..n).filter(|&t| !left_out(t)).collect();
            assert_eq!(scored, expected, "n {n} {windows:?}");
        });
    }

    #[test]
    fn truncate_is_one_window() {
        for (bos, over) in [(None, (0..16, 1)), (Some(1), (0..15, 0))] {
            assert_eq!(Windows::new(16, Some(8), Mode::Truncate, bos).over(100), vec![over]);
        }
        assert_eq!(Windows::new(16, Some(8), Mode::Truncate, None).over(10), vec![(0..10, 1)]);
    }
}
