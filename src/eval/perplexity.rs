//! Perplexity of long documents by window (see [`windows`](super::windows)): exp(Σ NLL / scored tokens) over all
//! documents (token-weighted), with the standard error that these texts' lengths give it; beside it stand the mean over
//! documents of each one's perplexity and the standard error of that mean, which is larger by how documents differ.

use super::windows::losses;
use super::{BlockSums, Mode, Partial, TextMean, Windows, mean_and_error, pooled};
use crate::backend::Backend;
use crate::data::{Corpus, Document};
use crate::error::Result;
use crate::infer::Scorer;
use crate::model::Model;
use serde::{Deserialize, Serialize};

/// Of a protocol: "no BOS", or "BOS 1 opens each window".
pub(super) fn bos_text(bos: Option<u32>, does: &str) -> String {
    bos.map_or("no BOS".into(), |id| format!("BOS {id} {does}"))
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
    /// How a text is gone over at one window.
    pub fn windows(&self, window: usize) -> Windows {
        Windows::new(window, self.stride, self.mode, self.bos)
    }

    /// One sentence for people, of a measure at these windows.
    pub fn describe(&self, windows: &[usize]) -> String {
        let bos = bos_text(self.bos, "opens each window");
        match self.mode {
            Mode::Sliding => {
                let stride = self.stride.map_or("half the window".to_string(), |s| s.to_string());
                // where windows do not overlap, what begins one has nothing before it
                let apart = |&&w: &&usize| self.bos.is_none() && self.windows(w).stride == w;
                let but = windows.iter().find(apart).map_or(String::new(), |window| {
                    format!(" but for the first of each window of {window}, which nothing predicts")
                });
                format!(
                    "sliding windows, stride {stride}, {bos}; each token scored once{but}; ppl = exp(sum of NLL / scored tokens)"
                )
            }
            Mode::Truncate => {
                format!("first window of each document, {bos}; ppl = exp(sum of NLL / scored tokens)")
            }
        }
    }
}

/// One document's losses at one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentScore {
    pub name: String,
    pub tokens: usize,
    pub scored: usize,
    /// Mean negative log-likelihood, nats per token.
    pub nll: f64,
    /// Standard error of that mean, see [`BlockSums`]; None in a text of one block.
    pub nll_error: Option<f64>,
    /// None where nothing was scored, as in a document of one token.
    pub ppl: Option<f64>,
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
    /// Its standard error, ppl times that of `nll`, of other text of the same documents; None for one short document.
    pub ppl_error: Option<f64>,
    /// Mean over the documents that have a perplexity.
    pub mean_ppl: f64,
    /// Standard error of that mean.
    pub mean_ppl_error: Option<f64>,
    pub seconds: f64,
    pub documents: Vec<DocumentScore>,
}

/// Perplexity of `corpus` at one window, without the documents that `partial` has. The scorer must have room for
/// `window` tokens; `progress` is told of tokens read.
pub fn run<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, corpus: &Corpus, protocol: &Protocol, window: usize,
    partial: &mut Partial, progress: &mut dyn FnMut(usize),
) -> Result<WindowReport> {
    let windows = protocol.windows(window);
    let (mut documents, mut seconds) = (Vec::new(), 0.0);
    for (i, document) in corpus.documents.iter().enumerate() {
        let measure = || score_document(b, model, scorer, document, &windows, progress);
        let unit = partial.unit(&("ppl", window, i), measure)?;
        if unit.resumed {
            progress(windows.reads(document.tokens.len()));
        }
        seconds += unit.seconds;
        documents.push(unit.result);
    }
    let scored: usize = documents.iter().map(|d: &DocumentScore| d.scored).sum();
    let of_documents: Vec<f64> = documents.iter().filter(|d| d.scored > 0).filter_map(|d| d.ppl).collect();
    let text = |d: &DocumentScore| TextMean { losses: d.scored, mean: d.nll, error: d.nll_error };
    let (nll, nll_error) = pooled(documents.iter().map(text));
    let (mean_ppl, mean_ppl_error) = mean_and_error(&of_documents);
    Ok(WindowReport {
        window,
        stride: windows.stride,
        tokens: documents.iter().map(|d| d.tokens).sum(),
        scored,
        nll,
        ppl: nll.exp(),
        ppl_error: nll_error.map(|error| nll.exp() * error),
        mean_ppl,
        mean_ppl_error,
        seconds,
        documents,
    })
}

fn score_document<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, document: &Document, windows: &Windows,
    progress: &mut dyn FnMut(usize),
) -> Result<DocumentScore> {
    let mut sums = BlockSums::default();
    losses(b, model, scorer, document, windows, progress, &mut |first, nll| {
        (first..).zip(nll).for_each(|(token, &loss)| sums.add(token, f64::from(loss)));
    })?;
    let TextMean { losses: scored, mean: nll, error: nll_error } = sums.mean();
    let (name, tokens, ppl) = (document.name.clone(), document.tokens.len(), (scored > 0).then(|| nll.exp()));
    Ok(DocumentScore { name, tokens, scored, nll, nll_error, ppl })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_says_which_tokens_are_left_out() {
        let said = |stride, mode, bos| Protocol { mode, stride, bos }.describe(&[128, 64]);
        let part = "scored once but for the first of each window of 64, which nothing predicts;";
        assert!(
            said(Some(64), Mode::Sliding, None).contains(part),
            "{}",
            said(Some(64), Mode::Sliding, None)
        );
        for whole in [said(Some(63), Mode::Sliding, None), said(None, Mode::Sliding, None)] {
            assert!(whole.contains("each token scored once;"), "{whole}");
        }
        assert!(said(Some(64), Mode::Sliding, Some(1)).contains("each token scored once;"));
        assert!(!said(Some(64), Mode::Truncate, None).contains("each token"));
    }
}
