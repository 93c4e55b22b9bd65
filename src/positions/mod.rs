//! Where the tokens of a training row are rotated and where their text comes from: pure functions of (seed, step, row).
//!
//! PoSE (arXiv 2309.10400) keeps the training window at Lc tokens and still shows the model every relative distance below
//! the target length Lt: the window is split into chunks, and each chunk's positions are shifted by a skipping bias.
//! [`Sampler`] draws it; the other [`Method`]s are what the paper compares with. [`coverage`] says which distances that
//! trains, and how often.

mod chunks;
mod content;
pub mod coverage;

use crate::error::{Error, Result};
use crate::index::{ChunkSpan, RopePosition};
use crate::random::{Purpose, Stream};
use std::ops::Range;

/// How the tokens of a row get their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Method {
    /// Lc tokens in chunks, each with a skipping bias (the paper's section 3.2).
    Pose,
    /// Lt tokens at positions 0 to Lt-1: full-length fine-tuning.
    Full,
    /// Lc tokens at sorted different positions drawn from [0, Lt) (Ruoss et al., 2305.16843); adjacent tokens are rarely
    /// adjacent in position.
    RandPos,
    /// Lc tokens at positions 0 to Lc-1.
    Plain,
}

/// How long PoSE's chunks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum ChunkLengths {
    /// As the paper says: every way to split Lc into N positive lengths is equally likely; l_0 ~ U{1..Lc-1} for N = 2.
    Paper,
    /// As the authors' code does for N = 2: l_0 ~ U{1..(Lc+1)/2}. For N > 2 each chunk but the last is drawn from
    /// {1..about Lc/N}, so the last, which keeps the rest, is the longest on average there too.
    Reference,
}

/// Where in the document the chunks' text is cut (the paper's v_i: chunk i is x[v_i + st_i .. v_i + st_i + l_i]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Content {
    /// Apart by a random distance that has nothing to do with the positions.
    Uniform,
    /// One after the other, as the text stands: v_i the same for all chunks.
    Contiguous,
    /// As far apart as their positions say: v_i - v_0 = u_i.
    Aligned,
}

/// The rope positions of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Chunks, starts ascending from 0.
    Spans(Vec<ChunkSpan>),
    /// One position for each token of the window, ascending.
    List(Vec<RopePosition>),
}

impl Placement {
    /// The position of every token of a row of `len` tokens.
    pub fn positions(&self, len: usize) -> Vec<RopePosition> {
        match self {
            Placement::Spans(spans) => rope_positions(spans, len),
            Placement::List(list) => list.clone(),
        }
    }
}

/// One training row: where its tokens are rotated and which tokens of the document they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub placement: Placement,
    /// One range of the document's tokens for each chunk, ascending and disjoint; the lengths sum to the window, and each
    /// range is followed by at least one more token of the document, the target of its last token.
    pub content: Vec<Range<usize>>,
}

/// Draws the rows of a run. Made by [`Sampler::new`], which refuses what cannot be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    method: Method,
    train_len: usize,
    target_len: usize,
    chunks: usize,
    chunk_lengths: ChunkLengths,
    content: Content,
}

impl Sampler {
    /// `train_len` is Lc and `target_len` Lt, both in tokens; `chunks`, `chunk_lengths` and `content` are for
    /// [`Method::Pose`] and not looked at by the others.
    ///
    /// Errors: a length that is no length, a target below the window, fewer than 2 chunks or more than tokens.
    pub fn new(
        method: Method, train_len: usize, target_len: usize, chunks: usize, chunk_lengths: ChunkLengths,
        content: Content,
    ) -> Result<Self> {
        let usage = |flag, value: usize, problem: String| Err(Error::usage(flag, value, problem));
        if train_len < 2 {
            return usage("--train-len", train_len, "a training window needs at least 2 tokens".into());
        }
        if target_len < train_len {
            let problem = format!(
                "the target is shorter than the training window of {train_len} tokens; raise --target-len to at least \
                 that, or lower --train-len"
            );
            return usage("--target-len", target_len, problem);
        }
        if u32::try_from(target_len).is_err() {
            return usage(
                "--target-len",
                target_len,
                format!("positions go up to {}; ask for less", u32::MAX),
            );
        }
        if method == Method::Pose && chunks < 2 {
            let problem =
                "PoSE skips between chunks, so it needs at least 2; take 2, or --method plain".into();
            return usage("--chunks", chunks, problem);
        }
        if method == Method::Pose && chunks > train_len {
            let problem =
                format!("a window of {train_len} tokens has room for at most that many chunks; take 2");
            return usage("--chunks", chunks, problem);
        }
        Ok(Sampler { method, train_len, target_len, chunks, chunk_lengths, content })
    }

    pub fn method(&self) -> Method {
        self.method
    }

    /// Lt: every position is below it.
    pub fn target_len(&self) -> usize {
        self.target_len
    }

    /// Tokens of a row: Lc, or Lt for [`Method::Full`].
    pub fn window(&self) -> usize {
        if self.method == Method::Full { self.target_len } else { self.train_len }
    }

    /// The flag that sets the window.
    pub fn window_flag(&self) -> &'static str {
        if self.method == Method::Full { "--target-len" } else { "--train-len" }
    }

    /// Tokens that a document must have: the window and the last token's target.
    pub fn document_len(&self) -> usize {
        self.window() + 1
    }

    /// Spans of each row, or None where rows have a position list.
    pub fn spans_per_row(&self) -> Option<usize> {
        match self.method {
            Method::Pose => Some(self.chunks),
            Method::Full | Method::Plain => Some(1),
            Method::RandPos => None,
        }
    }

    /// The positions of one row. `step` is the optimizer step, `row` counts all rows of that step.
    pub fn placement(&self, seed: u64, step: u64, row: u32) -> Placement {
        let stream = &mut Stream::new(seed, Purpose::Positions, step, row);
        match self.method {
            Method::Pose => {
                let lengths = chunks::lengths(stream, self.train_len, self.chunks, self.chunk_lengths);
                let biases = chunks::skipping_biases(stream, self.target_len - self.train_len, self.chunks);
                Placement::Spans(chunks::spans(&lengths, &biases))
            }
            Method::Full | Method::Plain => Placement::Spans(vec![ChunkSpan::default()]),
            Method::RandPos => {
                let places = stream.distinct_sorted(self.train_len, self.target_len);
                Placement::List(places.into_iter().map(|p| RopePosition(p as u32)).collect())
            }
        }
    }

    /// The positions of one row and the parts of a document of `document_len` tokens that it is made of.
    ///
    /// Errors: a document of fewer than [`Sampler::document_len`] tokens.
    pub fn sample(&self, seed: u64, step: u64, row: u32, document_len: usize) -> Result<Sample> {
        let Some(room) = document_len.checked_sub(self.document_len()) else {
            let problem = format!(
                "a row takes {} tokens of one document (a window and the last target) and this one has {document_len}; \
                 shorten the window or leave the document out",
                self.document_len()
            );
            return Err(Error::usage(self.window_flag(), self.window(), problem));
        };
        let placement = self.placement(seed, step, row);
        let stream = &mut Stream::new(seed, Purpose::Content, step, row);
        let whole = [ChunkSpan::default()];
        let (rule, spans) = match &placement {
            Placement::Spans(spans) => (self.content, spans.as_slice()),
            Placement::List(_) => (Content::Contiguous, whole.as_slice()),
        };
        let content = content::ranges(stream, rule, spans, self.window(), room);
        Ok(Sample { placement, content })
    }
}

/// The position of every token of a row of `len` tokens: t + u_i for the chunk i that t is in.
pub fn rope_positions(spans: &[ChunkSpan], len: usize) -> Vec<RopePosition> {
    let mut positions = Vec::with_capacity(len);
    for (range, span) in span_ranges(spans, len) {
        positions.extend(range.map(|t| RopePosition((t as u32).wrapping_add(span.bias))));
    }
    positions
}

/// Each chunk's tokens in a row of `len` tokens, with its span.
pub(crate) fn span_ranges(
    spans: &[ChunkSpan], len: usize,
) -> impl Iterator<Item = (Range<usize>, &ChunkSpan)> {
    spans.iter().enumerate().map(move |(i, span)| {
        let end = spans.get(i + 1).map_or(len, |next| next.start.0 as usize);
        (span.start.0 as usize..end, span)
    })
}
