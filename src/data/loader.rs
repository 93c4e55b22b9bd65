//! The rows of a training step: which tokens, which targets, rotated where. A function of (seed, step, row).

use super::corpus::{Chooser, Corpus};
use super::cuts::Cuts;
use crate::error::Result;
use crate::index::{ChunkSpan, RopePosition, TokenId};
use crate::positions::{DistanceWeights, Placement, Sampler, span_ranges};
use std::fmt::Write as _;
use std::ops::Range;

/// One row of T = [`Sampler::window`] tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// `[T]`
    pub tokens: Vec<TokenId>,
    /// `[T]`: what follows each token in the document, at the end of a chunk too.
    pub targets: Vec<TokenId>,
    pub placement: Placement,
    /// Index into the corpus' documents.
    pub document: usize,
    /// The document's tokens that the row is made of, a range for each chunk.
    pub content: Vec<Range<usize>>,
}

/// Rows one after the other, as a backend takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub rows: usize,
    /// T, tokens of each row.
    pub window: usize,
    /// `[rows, T]`
    pub tokens: Vec<TokenId>,
    /// `[rows, T]`
    pub targets: Vec<TokenId>,
    pub places: BatchPlaces,
    /// `[rows]`: indices into the corpus' documents.
    pub documents: Vec<usize>,
}

/// The rope positions of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchPlaces {
    /// `[rows, per_row]`
    Spans { spans: Vec<ChunkSpan>, per_row: usize },
    /// `[rows, T]`
    List(Vec<RopePosition>),
}

/// Cuts rows out of a corpus.
#[derive(Debug)]
pub struct Loader {
    corpus: Corpus,
    sampler: Sampler,
    seed: u64,
    chooser: Chooser,
    cuts: Cuts,
}

impl Loader {
    /// Drops the documents that are too short for the sampler; the second value is a sentence about them, if any.
    ///
    /// Errors: all documents are too short.
    pub fn new(mut corpus: Corpus, sampler: Sampler, seed: u64) -> Result<(Self, Option<String>)> {
        let (need, all) = (sampler.document_len(), corpus.documents.len());
        let dropped = corpus.retain_at_least(need, sampler.window_flag())?;
        let warning = (dropped > 0).then(|| {
            format!("{dropped} of {all} documents have fewer than {need} tokens and are not trained on")
        });
        let chooser = Chooser::new(&corpus, need);
        Ok((Loader { corpus, sampler, seed, chooser, cuts: Cuts::default() }, warning))
    }

    /// With text that falls into pieces here, for a sampler that [`Sampler::reads_text`].
    pub fn cutting(self, cuts: Cuts) -> Loader {
        Loader { cuts, ..self }
    }

    /// From now on distances are drawn by these weights, where the sampler looks at weights.
    pub fn set_weights(&mut self, weights: DistanceWeights) {
        self.sampler = self.sampler.clone().weighted(weights);
    }

    /// The documents that rows are cut from.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// One row; `row` counts all rows of the optimizer step `step`, whatever micro-batch or rank they are in.
    ///
    /// Errors: none that [`Loader::new`] has not ruled out.
    pub fn example(&self, step: u64, row: u32) -> Result<Example> {
        let document = self.chooser.document(self.seed, step, row);
        let text = &self.corpus.documents[document].tokens;
        let starts = |i: usize| self.cuts.starts(text, i);
        let sample = self.sampler.sample_text(self.seed, step, row, text.len(), &starts)?;
        let gather = |shift: usize| {
            let chunk = |range: &Range<usize>| &text[range.start + shift..range.end + shift];
            sample.content.iter().flat_map(chunk).copied().collect()
        };
        let (tokens, targets) = (gather(0), gather(1));
        Ok(Example { tokens, targets, placement: sample.placement, document, content: sample.content })
    }

    /// The given rows of a step.
    ///
    /// Errors: those of [`Loader::example`].
    pub fn batch(&self, step: u64, rows: Range<u32>) -> Result<Batch> {
        let (mut tokens, mut targets, mut documents) = (Vec::new(), Vec::new(), Vec::new());
        let (mut spans, mut list) = (Vec::new(), Vec::new());
        let count = rows.len();
        for row in rows {
            let example = self.example(step, row)?;
            tokens.extend(example.tokens);
            targets.extend(example.targets);
            documents.push(example.document);
            match example.placement {
                Placement::Spans(row) => spans.extend(row),
                Placement::List(row) => list.extend(row),
            }
        }
        let places = match self.sampler.spans_per_row() {
            Some(per_row) => BatchPlaces::Spans { spans, per_row },
            None => BatchPlaces::List(list),
        };
        Ok(Batch { rows: count, window: self.sampler.window(), tokens, targets, places, documents })
    }

    /// A row in words, for messages about a loss that is no number. Drawn again, so nothing has to be kept for it.
    pub fn describe(&self, step: u64, row: u32) -> String {
        let example = match self.example(step, row) {
            Ok(example) => example,
            Err(error) => return format!("step {step}, row {row}: {error}"),
        };
        let mut line = format!("step {step}, row {row}: {}", self.corpus.documents[example.document].name);
        match &example.placement {
            Placement::Spans(spans) => {
                for ((at, span), text) in span_ranges(spans, example.tokens.len()).zip(&example.content) {
                    let (first, end) = (at.start + span.bias as usize, at.end + span.bias as usize);
                    _ = write!(line, ", tokens {}..{} at positions {first}..{end}", text.start, text.end);
                }
            }
            Placement::List(list) => {
                let (first, last) = (list.first().map_or(0, |p| p.0), list.last().map_or(0, |p| p.0));
                for text in &example.content {
                    _ = write!(
                        line,
                        ", tokens {}..{} at positions from {first} to {last}",
                        text.start, text.end
                    );
                }
            }
        }
        line
    }
}
