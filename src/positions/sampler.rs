//! The rows of a run: which [`Method`] draws them, what it can draw, and the one place where it is asked.

use super::balanced::{Balance, MOST_CHUNKS, MOST_WINDOWS};
use super::{ChunkLengths, Content, DistanceWeights, Method, Placement, SYNTHETIC_PIECE};
use super::{adaptive, chunks, content, cream, pieces};
use crate::error::{Error, Result};
use crate::index::{ChunkSpan, RopePosition};
use crate::random::{Purpose, Stream};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// One training row: where its tokens are rotated and which tokens of the document they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub placement: Placement,
    /// One range of the document's tokens for each chunk, ascending and disjoint; the lengths sum to the window, and each
    /// range is followed by at least one more token of the document, the target of its last token.
    pub content: Vec<Range<usize>>,
}

/// Draws the rows of a run. Made by [`Sampler::new`], which refuses what cannot be drawn.
#[derive(Clone, Debug)]
pub struct Sampler {
    method: Method,
    train_len: usize,
    target_len: usize,
    pub(super) chunks: usize,
    pub(super) chunk_lengths: ChunkLengths,
    content: Content,
    /// Whether axolotl's chunks begin at given tokens.
    splits: bool,
    /// Whether rows are made of several documents.
    pub(super) packs: bool,
    weights: DistanceWeights,
    /// What [`Method::Balanced`] draws from: made at the first row, a function of the fields above.
    balance: Arc<OnceLock<Balance>>,
}

impl PartialEq for Sampler {
    fn eq(&self, other: &Self) -> bool {
        let fields = |s: &Self| {
            let method = (s.method, s.chunks, s.chunk_lengths, s.content, s.splits, s.packs);
            (method, s.train_len, s.target_len, s.weights)
        };
        fields(self) == fields(other)
    }
}

fn usage<T>(flag: &str, value: usize, problem: String) -> Result<T> {
    Err(Error::usage(flag, value, problem))
}

impl Sampler {
    /// `train_len` is Lc and `target_len` Lt, both in tokens; `chunks` are for the methods that have chunks to choose,
    /// `chunk_lengths` for [`Method::Pose`] and [`Method::Adaptive`], `content` for all whose chunks may come from different
    /// places. The others do not look at them.
    ///
    /// Errors: a length that is no length, a target below the window or out of the method's reach, fewer than 2 chunks or more
    /// than tokens.
    pub fn new(
        method: Method, train_len: usize, target_len: usize, chunks: usize, chunk_lengths: ChunkLengths,
        content: Content,
    ) -> Result<Self> {
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
            let problem = format!("positions go up to {}; ask for less", u32::MAX);
            return usage("--target-len", target_len, problem);
        }
        if method.has_chunks() {
            check_chunks(method, chunks, train_len)?;
        }
        match method {
            Method::Balanced => check_balanced(train_len, target_len, chunks)?,
            Method::Cream => check_cream(train_len, target_len)?,
            _ => (),
        }
        let (weights, balance) = (DistanceWeights::default(), Arc::default());
        Ok(Sampler {
            method,
            train_len,
            target_len,
            chunks,
            chunk_lengths,
            content,
            splits: false,
            packs: false,
            weights,
            balance,
        })
    }

    /// With [`Method::Axolotl`]'s chunks beginning at given tokens, and not equally long.
    pub fn splitting(self, splits: bool) -> Self {
        Sampler { splits, ..self }
    }

    /// With other weights of the distances, for [`Method::Adaptive`].
    pub fn weighted(self, weights: DistanceWeights) -> Self {
        Sampler { weights, ..self }
    }

    pub fn method(&self) -> Method {
        self.method
    }

    /// How likely [`Method::Adaptive`] draws each bin of distances.
    pub fn weights(&self) -> &DistanceWeights {
        &self.weights
    }

    /// Lt: every position is below it.
    pub fn target_len(&self) -> usize {
        self.target_len
    }

    /// Lc, whatever the rows are.
    pub fn train_len(&self) -> usize {
        self.train_len
    }

    /// Tokens of a row: Lc, or Lt for [`Method::Full`].
    pub fn window(&self) -> usize {
        if self.method == Method::Full { self.target_len } else { self.train_len }
    }

    /// The flag that sets the window.
    pub fn window_flag(&self) -> &'static str {
        if self.method == Method::Full { "--target-len" } else { "--train-len" }
    }

    /// Tokens that a document must have: the window and the last token's target, or one token and its target where rows
    /// are made of several.
    pub fn document_len(&self) -> usize {
        if self.packs { 2 } else { self.window() + 1 }
    }

    /// Spans of each row, or None where rows have a position list.
    pub fn spans_per_row(&self) -> Option<usize> {
        match self.method {
            _ if self.packs => None,
            Method::Axolotl if self.splits => None,
            Method::Pose | Method::Axolotl | Method::Balanced | Method::Adaptive => Some(self.chunks),
            Method::Full | Method::Plain => Some(1),
            Method::Cream => Some(3),
            Method::RandPos | Method::LongRecipe => None,
        }
    }

    /// Whether positions depend on where the text's pieces begin.
    pub fn reads_text(&self) -> bool {
        self.method == Method::LongRecipe || self.splits && self.method == Method::Axolotl
    }

    pub(super) fn balance(&self) -> &Balance {
        self.balance.get_or_init(|| Balance::new(self.train_len, self.target_len, self.chunks))
    }

    /// The positions of one row. `step` is the optimizer step, `row` counts all rows of that step. For a method that
    /// [`Sampler::reads_text`] there is a piece every [`SYNTHETIC_PIECE`] tokens.
    pub fn placement(&self, seed: u64, step: u64, row: u32) -> Placement {
        self.placement_in(seed, step, row, &|t| t.is_multiple_of(SYNTHETIC_PIECE))
    }

    /// `starts(t)`: whether token t of the row begins a piece.
    fn placement_in(&self, seed: u64, step: u64, row: u32, starts: &dyn Fn(usize) -> bool) -> Placement {
        let stream = &mut Stream::new(seed, Purpose::Positions, step, row);
        let (window, target, count) = (self.train_len, self.target_len, self.chunks);
        match self.method {
            Method::Pose => {
                let lengths = chunks::lengths(stream, window, count, self.chunk_lengths);
                let biases = chunks::skipping_biases(stream, target - window, count);
                Placement::Spans(chunks::spans(&lengths, &biases))
            }
            Method::Full | Method::Plain => Placement::Spans(vec![ChunkSpan::default()]),
            Method::RandPos => {
                let places = stream.distinct_sorted(window, target);
                Placement::List(places.into_iter().map(|p| RopePosition(p as u32)).collect())
            }
            Method::Cream => Placement::Spans(cream::spans(stream, window, target)),
            Method::LongRecipe => Placement::List(pieces::sentences(stream, window, target, starts)),
            Method::Axolotl if self.splits => {
                Placement::List(pieces::at_tokens(stream, window, target, starts))
            }
            Method::Axolotl => Placement::Spans(pieces::equal(stream, window, target, count)),
            Method::Balanced => Placement::Spans(self.balance().draw(stream)),
            Method::Adaptive => {
                let lengths = chunks::lengths(stream, window, count, self.chunk_lengths);
                Placement::Spans(adaptive::spans(stream, &lengths, &self.weights, target))
            }
        }
    }

    /// The positions of one row and the parts of a document of `document_len` tokens that it is made of, without regard to its
    /// text: pieces as in [`Sampler::placement`].
    ///
    /// Errors: a document of fewer than [`Sampler::document_len`] tokens.
    pub fn sample(&self, seed: u64, step: u64, row: u32, document_len: usize) -> Result<Sample> {
        self.sample_by(seed, step, row, document_len, |_| self.placement(seed, step, row))
    }

    /// [`Sampler::sample`] from a document of which `starts(i)` says whether its token i begins a piece.
    ///
    /// Errors: those of [`Sampler::sample`].
    pub fn sample_text(
        &self, seed: u64, step: u64, row: u32, document_len: usize, starts: &dyn Fn(usize) -> bool,
    ) -> Result<Sample> {
        self.sample_by(seed, step, row, document_len, |first| {
            self.placement_in(seed, step, row, &|t| starts(first + t))
        })
    }

    /// `placed` is given the row's first token in the document. That is drawn before the positions where they depend on the
    /// text; content and positions are drawn from streams of their own, so the order changes nothing.
    fn sample_by(
        &self, seed: u64, step: u64, row: u32, document_len: usize, placed: impl FnOnce(usize) -> Placement,
    ) -> Result<Sample> {
        let Some(room) = document_len.checked_sub(self.document_len()) else {
            let problem = format!(
                "a row takes {} tokens of one document (a window and the last target) and this one has {document_len}; \
                 shorten the window or leave the document out",
                self.document_len()
            );
            return usage(self.window_flag(), self.window(), problem);
        };
        let stream = &mut Stream::new(seed, Purpose::Content, step, row);
        if self.spans_per_row().is_none() {
            let whole = [ChunkSpan::default()];
            let content = content::ranges(stream, Content::Contiguous, &whole, self.window(), room);
            return Ok(Sample { placement: placed(content[0].start), content });
        }
        let placement = placed(0);
        let rule = if self.method == Method::Axolotl { Content::Contiguous } else { self.content };
        let spans = match &placement {
            Placement::Spans(spans) => spans.as_slice(),
            Placement::List(_) => &[],
        };
        let content = content::ranges(stream, rule, spans, self.window(), room);
        Ok(Sample { placement, content })
    }
}

fn check_chunks(method: Method, chunks: usize, train_len: usize) -> Result<()> {
    if chunks < 2 {
        let name = if method == Method::Pose { "PoSE".into() } else { format!("--method {method}") };
        let problem =
            format!("{name} skips between chunks, so it needs at least 2; take 2, or --method plain");
        return usage("--chunks", chunks, problem);
    }
    if chunks > train_len {
        let problem =
            format!("a window of {train_len} tokens has room for at most {train_len} chunks; take 2");
        return usage("--chunks", chunks, problem);
    }
    Ok(())
}

fn check_balanced(train_len: usize, target_len: usize, chunks: usize) -> Result<()> {
    if chunks > MOST_CHUNKS {
        let problem = format!("--method balanced places at most {MOST_CHUNKS} chunks; take 2");
        return usage("--chunks", chunks, problem);
    }
    let longest = train_len.saturating_mul(MOST_WINDOWS);
    if target_len > longest {
        let problem = format!(
            "--method balanced spreads rows of {train_len} tokens over a target of at most {MOST_WINDOWS} windows; lower it to \
             at most {longest}, raise --train-len to at least {}, or take --method pose",
            target_len.div_ceil(MOST_WINDOWS)
        );
        return usage("--target-len", target_len, problem);
    }
    if !Balance::is_quick(train_len, target_len, chunks) {
        let problem = format!(
            "--method balanced would take minutes to place that many chunks over a target of {target_len} tokens; take \
             fewer, as 2 or 3, or lower --target-len"
        );
        return usage("--chunks", chunks, problem);
    }
    Ok(())
}

fn check_cream(train_len: usize, target_len: usize) -> Result<()> {
    let longest = cream::longest_target(train_len);
    if train_len < 3 || target_len > longest {
        let problem = format!(
            "--method cream keeps 4·{target_len}/{train_len} tokens at each end of the window, which leaves none of its \
             {train_len} for the middle; lower it to at most {longest}, or raise --train-len"
        );
        return usage("--target-len", target_len, problem);
    }
    Ok(())
}
