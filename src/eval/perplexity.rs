//! Perplexity of long documents by window.
//!
//! Sliding: windows begin at 0, stride, 2·stride, ...; a window is tokens[begin .. min(begin + window, n)] at positions
//! 0, 1, ...; it scores the tokens that no earlier window scored, except the first of the text, which nothing predicts;
//! the last window is the first one that reaches the end. Truncate: one window, the document's first. Perplexity is
//! exp(Σ NLL / scored tokens) over all documents (token-weighted); beside it stand the mean over documents of each one's
//! perplexity and the standard error of that mean.

use super::mean_and_error;
use crate::backend::Backend;
use crate::data::{Corpus, Document, Tokenizer};
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

/// Whether each window is opened by the beginning-of-sequence token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Bos {
    /// If the tokenizer adds one to a text by itself.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How perplexity is measured; printed with every result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Protocol {
    pub mode: Mode,
    /// Tokens from one window's begin to the next's; None: half the window.
    pub stride: Option<usize>,
    /// The token that opens each window (and counts towards its length), if any.
    pub bos: Option<u32>,
}

impl Protocol {
    /// Resolves [`Bos`] with the tokenizer at hand.
    pub fn bos_token(bos: Bos, tokenizer: &Tokenizer) -> Result<Option<u32>> {
        match bos {
            Bos::Off => Ok(None),
            Bos::Auto => Ok(if tokenizer.adds_bos() { tokenizer.bos_id() } else { None }),
            Bos::On => tokenizer.bos_id().map(Some).ok_or_else(|| {
                Error::usage(
                    "--bos",
                    "on",
                    "this tokenizer has no beginning-of-sequence token; use --bos off",
                )
            }),
        }
    }

    pub fn stride_of(&self, window: usize) -> usize {
        self.stride.unwrap_or(window / 2).clamp(1, window)
    }

    /// One sentence for people.
    pub fn describe(&self) -> String {
        let bos = self.bos.map_or("no BOS".to_string(), |id| format!("BOS {id} opens each window"));
        match self.mode {
            Mode::Sliding => {
                let stride = self.stride.map_or("half the window".to_string(), |s| s.to_string());
                format!(
                    "sliding windows, stride {stride}, {bos}; each token scored once; ppl = exp(sum of NLL / scored tokens)"
                )
            }
            Mode::Truncate => {
                format!("first window of each document, {bos}; ppl = exp(sum of NLL / scored tokens)")
            }
        }
    }
}

/// The windows over a text of `n` tokens, each with the first token that it scores.
pub fn windows_of(n: usize, window: usize, stride: usize, mode: Mode) -> Vec<(Range<usize>, usize)> {
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

/// One document's losses at one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DocumentScore {
    pub name: String,
    pub tokens: usize,
    pub scored: usize,
    /// Mean negative log-likelihood, nats per token.
    pub nll: f64,
    pub ppl: f64,
}

/// All documents at one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowReport {
    pub window: usize,
    pub stride: usize,
    pub tokens: usize,
    pub scored: usize,
    pub nll: f64,
    /// Token-weighted over all documents.
    pub ppl: f64,
    /// Mean over documents of each one's perplexity.
    pub mean_ppl: f64,
    pub standard_error: Option<f64>,
    pub seconds: f64,
    pub documents: Vec<DocumentScore>,
}

/// Perplexity of `corpus` at one window. The scorer must have room for `window` tokens; `progress` is told of tokens read.
pub fn run<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, corpus: &Corpus, protocol: &Protocol, window: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<WindowReport> {
    let start = std::time::Instant::now();
    let score = |document: &Document| score_document(b, model, scorer, document, protocol, window, progress);
    let documents: Vec<DocumentScore> = corpus.documents.iter().map(score).collect::<Result<_>>()?;
    let scored: usize = documents.iter().map(|d| d.scored).sum();
    let nll = documents.iter().map(|d| d.nll * d.scored as f64).sum::<f64>() / scored.max(1) as f64;
    let (mean_ppl, standard_error) = mean_and_error(&documents.iter().map(|d| d.ppl).collect::<Vec<_>>());
    Ok(WindowReport {
        window,
        stride: protocol.stride_of(window),
        tokens: documents.iter().map(|d| d.tokens).sum(),
        scored,
        nll,
        ppl: nll.exp(),
        mean_ppl,
        standard_error,
        seconds: start.elapsed().as_secs_f64(),
        documents,
    })
}

fn score_document<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, document: &Document, protocol: &Protocol, window: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<DocumentScore> {
    let (mut sum, mut scored) = (0.0, 0);
    let text = &document.tokens;
    let opening: Vec<TokenId> = protocol.bos.map(TokenId).into_iter().collect();
    let room = window - opening.len().min(window - 1);
    let stride = protocol.stride_of(window).min(room);
    for (range, first) in windows_of(text.len(), room, stride, protocol.mode) {
        // with a BOS even the first token of the text is predicted by something
        let first = if range.start == 0 && !opening.is_empty() { 0 } else { first - range.start };
        let ids: Vec<TokenId> = opening.iter().chain(&text[range]).copied().collect();
        let losses = scorer.score(b, model, &ids, first + opening.len(), progress)?.nll;
        if let Some(i) = losses.iter().position(|l| !l.is_finite()) {
            let what =
                format!("the loss of a token of {} is {}: the model is broken", document.name, losses[i]);
            return Err(Error::NonFinite(what));
        }
        sum += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
        scored += losses.len();
    }
    let nll = sum / scored.max(1) as f64;
    Ok(DocumentScore { name: document.name.clone(), tokens: text.len(), scored, nll, ppl: nll.exp() })
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
