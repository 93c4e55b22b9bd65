//! LongPPL (arXiv 2410.23771): perplexity on the tokens that need the long context.
//!
//! A judge model reads each text twice. A token t is a key token where
//!
//! ```text
//! LSD = log p(t | long) - log p(t | short) > min_gain             (2)
//! LCL = log p(t | long)                    > min_log_likelihood  (-2)
//! ```
//!
//! *Long* is the longest window that is asked for. *Short* is between `short` and `short + short_stride` tokens:
//! windows of `short + short_stride` begin every `short_stride`, and each scores its last `short_stride` tokens, so the
//! first `short` tokens of a text are no candidates. LongPPL is exp(mean NLL over the key tokens), at each window over
//! the same tokens. The authors' code averages over texts; here stand the mean over all key tokens and, beside it, the
//! mean over texts with its error.

use super::perplexity::bos_text;
use super::windows::{Mode, Windows, losses};
use super::{BlockSums, Partial, TextMean, mean_and_error, pooled};
use crate::backend::Backend;
use crate::data::{Corpus, Document};
use crate::error::Result;
use crate::infer::Scorer;
use crate::model::Model;
use crate::rope::Rope;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LongPplProtocol {
    /// In tokens; the longest is the long context of the judge.
    pub windows: Vec<usize>,
    /// Tokens from one of those windows' begin to the next's; None: half the window.
    pub stride: Option<usize>,
    /// The short context.
    pub short: usize,
    pub short_stride: usize,
    /// Of LSD and of LCL, in nats; both are exceeded by a key token.
    pub min_gain: f64,
    pub min_log_likelihood: f64,
    pub bos: Option<u32>,
    /// Whether another model than the one that is measured chooses the key tokens.
    pub other_judge: bool,
}

/// One document at one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyScore {
    pub name: String,
    pub tokens: usize,
    pub scored: usize,
    /// Mean over the scored tokens, nats.
    pub nll: f64,
    pub keys: usize,
    /// Mean over the key tokens, nats; None where there are none.
    pub key_nll: Option<f64>,
    /// Standard error of that mean, see [`BlockSums`].
    pub key_nll_error: Option<f64>,
}

/// What the judge made of one document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Indices of the key tokens, rising.
    pub keys: Vec<usize>,
    /// The judge's own figures, in the long context.
    pub score: KeyScore,
}

/// All documents at one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LongPplReport {
    pub window: usize,
    pub scored: usize,
    pub ppl: f64,
    pub keys: usize,
    /// Over all key tokens; None where there are none.
    pub longppl: Option<f64>,
    /// Its standard error, LongPPL times that of the mean.
    pub longppl_error: Option<f64>,
    /// Mean over the documents that have key tokens.
    pub mean_longppl: Option<f64>,
    pub mean_longppl_error: Option<f64>,
    pub documents: Vec<KeyScore>,
}

impl LongPplProtocol {
    pub fn longest(&self) -> usize {
        self.windows.iter().copied().max().unwrap_or(0)
    }

    /// How a text is gone over at one window.
    pub fn at(&self, window: usize) -> Windows {
        Windows::new(window, self.stride, Mode::Sliding, self.bos)
    }

    fn short(&self) -> Windows {
        Windows::new(self.short + self.short_stride, Some(self.short_stride), Mode::Sliding, self.bos)
    }

    /// Tokens of a text of `n` that go through the judge, and through the model.
    pub fn reads(&self, n: usize) -> usize {
        let measured = self.windows.iter().filter(|&&w| self.other_judge || w != self.longest());
        let judged = self.short().reads(n) + self.at(self.longest()).reads(n);
        judged + measured.map(|&w| self.at(w).reads(n)).sum::<usize>()
    }

    /// One sentence for people.
    pub fn describe(&self) -> String {
        let LongPplProtocol { short, short_stride, min_gain, min_log_likelihood, .. } = self;
        let judge = if self.other_judge { "another model" } else { "the model itself" };
        let bos = bos_text(self.bos, "opens each window");
        format!(
            "key tokens chosen by {judge}: log p(windows of {}, one every {}) - log p(window of {short} to {}) > {min_gain} and \
             log p(long) > {min_log_likelihood}; {bos}; LongPPL = exp(mean NLL over key tokens)",
            self.longest(),
            self.at(self.longest()).stride,
            short + short_stride,
        )
    }
}

/// The key tokens of every document, by `judge`, but for those that `partial` has.
pub fn judge<B: Backend>(
    b: &B, judge: &mut Model<B>, scorer: &mut Scorer<B>, rope: &Rope, corpus: &Corpus,
    protocol: &LongPplProtocol, partial: &mut Partial, progress: &mut dyn FnMut(usize),
) -> Result<Vec<Judged>> {
    let (long, short) = (protocol.at(protocol.longest()), protocol.short());
    let mut all = Vec::new();
    for (i, document) in corpus.documents.iter().enumerate() {
        let unit = partial.unit(&("keys", i), || {
            judge.set_rope(b, &rope.for_length(short.window))?;
            let short = by_token(b, judge, scorer, document, &short, progress)?;
            judge.set_rope(b, &rope.for_length(long.window))?;
            let long = by_token(b, judge, scorer, document, &long, progress)?;
            let keys = key_tokens(&long, &short, protocol);
            Ok(Judged { score: score(document, &long, &keys), keys })
        })?;
        if unit.resumed {
            progress(short.reads(document.tokens.len()) + long.reads(document.tokens.len()));
        }
        all.push(unit.result);
    }
    Ok(all)
}

/// LongPPL on the judge's key tokens, at every window in turn.
pub fn run<B: Backend>(
    b: &B, model: &mut Model<B>, scorer: &mut Scorer<B>, rope: &Rope, corpus: &Corpus,
    protocol: &LongPplProtocol, judged: &[Judged], partial: &mut Partial, progress: &mut dyn FnMut(usize),
) -> Result<Vec<LongPplReport>> {
    let mut reports = Vec::new();
    for &window in &protocol.windows {
        let windows = protocol.at(window);
        model.set_rope(b, &rope.for_length(window))?;
        let mut documents = Vec::new();
        for (i, (document, judged)) in corpus.documents.iter().zip(judged).enumerate() {
            if !protocol.other_judge && window == protocol.longest() {
                documents.push(judged.score.clone());
                continue;
            }
            let unit = partial.unit(&("longppl", window, i), || {
                let nll = by_token(b, model, scorer, document, &windows, progress)?;
                Ok(score(document, &nll, &judged.keys))
            })?;
            if unit.resumed {
                progress(windows.reads(document.tokens.len()));
            }
            documents.push(unit.result);
        }
        reports.push(report(window, documents));
    }
    Ok(reports)
}

/// The loss of each token of a document, None where it has none.
fn by_token<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, document: &Document, windows: &Windows,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Option<f64>>> {
    let mut all = vec![None; document.tokens.len()];
    losses(b, model, scorer, document, windows, progress, &mut |first, nll| {
        all[first..].iter_mut().zip(nll).for_each(|(loss, &nll)| *loss = Some(f64::from(nll)));
    })?;
    Ok(all)
}

/// Where the long context tells more than the short one, and tells it well.
fn key_tokens(long: &[Option<f64>], short: &[Option<f64>], protocol: &LongPplProtocol) -> Vec<usize> {
    let is_key = |t: &usize| match (long[*t], short[*t]) {
        (Some(long), Some(short)) => short - long > protocol.min_gain && -long > protocol.min_log_likelihood,
        _ => false,
    };
    (protocol.short..long.len()).filter(is_key).collect()
}

fn score(document: &Document, nll: &[Option<f64>], keys: &[usize]) -> KeyScore {
    let all: Vec<f64> = nll.iter().copied().flatten().collect();
    let of_keys = keys.iter().filter_map(|&t| Some((t, nll[t]?))).collect::<BlockSums>().mean();
    KeyScore {
        name: document.name.clone(),
        tokens: nll.len(),
        scored: all.len(),
        nll: all.iter().sum::<f64>() / all.len().max(1) as f64,
        keys: of_keys.losses,
        key_nll: (of_keys.losses > 0).then_some(of_keys.mean),
        key_nll_error: of_keys.error,
    }
}

fn report(window: usize, documents: Vec<KeyScore>) -> LongPplReport {
    let scored: usize = documents.iter().map(|d| d.scored).sum();
    let keys: usize = documents.iter().map(|d| d.keys).sum();
    let text = |d: &KeyScore| TextMean { losses: d.scored, mean: d.nll, error: None };
    let (nll, _) = pooled(documents.iter().map(text));
    let of_keys = |d: &KeyScore| Some(TextMean { losses: d.keys, mean: d.key_nll?, error: d.key_nll_error });
    let with_keys = documents.iter().filter_map(of_keys);
    let (key_nll, key_error) = pooled(with_keys.clone());
    let (mean, error) = mean_and_error(&with_keys.map(|text| text.mean.exp()).collect::<Vec<_>>());
    LongPplReport {
        window,
        scored,
        ppl: nll.exp(),
        keys,
        longppl: (keys > 0).then(|| key_nll.exp()),
        longppl_error: key_error.map(|error| key_nll.exp() * error),
        mean_longppl: (keys > 0).then_some(mean),
        mean_longppl_error: error.filter(|_| keys > 0),
        documents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol() -> LongPplProtocol {
        LongPplProtocol {
            windows: vec![64],
            stride: None,
            short: 2,
            short_stride: 1,
            min_gain: 2.0,
            min_log_likelihood: -2.0,
            bos: None,
            other_judge: false,
        }
    }

    #[test]
    fn both_thresholds_are_exceeded_and_the_first_tokens_are_no_candidates() {
        let long = [None, Some(0.5), Some(0.5), Some(1.9), Some(2.0), Some(1.0), Some(0.1)];
        let short = [None, Some(9.0), Some(2.5), Some(4.0), Some(9.0), Some(3.1), Some(9.0)];
        assert_eq!(key_tokens(&long, &short, &protocol()), [3, 5, 6]);
    }

    #[test]
    fn key_tokens_are_averaged_alone() {
        let document = Document { name: "d".into(), tokens: vec![crate::index::TokenId(0); 4] };
        let one = score(&document, &[None, Some(1.0), Some(3.0), Some(2.0)], &[1, 3]);
        assert_eq!((one.scored, one.nll, one.keys, one.key_nll), (3, 2.0, 2, Some(1.5)));
        let none = score(&document, &[None, Some(4.0), Some(4.0), Some(4.0)], &[]);
        let both = report(64, vec![one.clone(), none.clone()]);
        assert_eq!((both.scored, both.keys), (6, 2));
        assert_eq!(
            (both.ppl, both.longppl, both.mean_longppl),
            (3f64.exp(), Some(1.5f64.exp()), Some(1.5f64.exp()))
        );
        let nothing = report(64, vec![none]);
        assert_eq!((nothing.longppl, nothing.mean_longppl, nothing.mean_longppl_error), (None, None, None));
    }
}
