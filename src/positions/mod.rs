//! Where the tokens of a training row are rotated and where their text comes from: pure functions of (seed, step, row).
//!
//! PoSE (arXiv 2309.10400) keeps the training window at Lc tokens and still shows the model every relative distance below
//! the target length Lt: the window is split into chunks, and each chunk's positions are shifted by a skipping bias.
//! [`Sampler`] draws it; the other [`Method`]s are what the paper compares with, what came after it, and two of this
//! project: [`balanced`] and [`adaptive`]. [`coverage`] says which distances that trains, and how often.

pub mod adaptive;
pub mod balanced;
mod chunks;
mod content;
pub mod coverage;
mod cream;
mod packed;
mod pieces;
mod sampler;

pub use adaptive::DistanceWeights;
pub use pieces::SYNTHETIC_PIECE;
pub use sampler::{Sample, Sampler};

use crate::error::{Error, Result};
use crate::index::{ChunkSpan, RopePosition};
use crate::names;
use clap::ValueEnum;
use std::ops::Range;

/// Chunks of a window, where none are asked for: the paper's two.
pub const CHUNKS: usize = 2;

/// How the tokens of a row get their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase", try_from = "String")]
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
    /// Lc tokens: a head at the start, a tail at the end of the context, and a middle part between, placed by a truncated
    /// Gaussian (CREAM, 2406.07138).
    Cream,
    /// Lc tokens: a stretch from 0, then sentences at sorted random gaps (LongRecipe, 2409.00509).
    LongRecipe,
    /// Lc tokens of contiguous text in equal chunks, or cut at --split-ids, with cumulative skips (as axolotl trains PoSE).
    Axolotl,
    /// Lc tokens in even chunks whose biases are chosen so that all distances are trained alike.
    Balanced,
    /// Lc tokens in chunks, those distances more often at which a probe on held-out text finds the model worst.
    Adaptive,
}

impl Method {
    /// Whether its chunks may be of any number.
    pub fn has_chunks(self) -> bool {
        matches!(self, Method::Pose | Method::Axolotl | Method::Balanced | Method::Adaptive)
    }

    /// Refuses what this method does not look at, but for defaults, which stand in every recipe.
    pub fn refuse_idle(self, chunks: usize, lengths: ChunkLengths, content: Content) -> Result<()> {
        let takes_lengths = matches!(self, Method::Pose | Method::Adaptive);
        let takes_content = takes_lengths || matches!(self, Method::Balanced | Method::Cream);
        let (any_chunks, paper) = (self.has_chunks() || chunks == CHUNKS, lengths == ChunkLengths::Paper);
        // rows of one piece are contiguous whatever is said
        let apart = content == Content::Aligned;
        let of_chunks = "pose, axolotl, balanced and adaptive";
        for (fine, flag, value, takes) in [
            (any_chunks, "--chunks", chunks.to_string(), of_chunks),
            (takes_lengths || paper, "--chunk-lengths", called(lengths), "pose and adaptive"),
            (takes_content || !apart, "--content", called(content), "pose, balanced, adaptive and cream"),
        ] {
            if !fine {
                let problem = format!("is for --method {takes}, and this is {self}; leave it out");
                return Err(Error::usage(flag, value, problem));
            }
        }
        Ok(())
    }
}

/// A value's name on the command line.
fn called(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
}

/// From a recipe file; flags are read by clap.
impl TryFrom<String> for Method {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        let named = |method: &&Method| method.to_string() == name;
        Method::value_variants().iter().find(named).copied().ok_or_else(|| {
            let known: Vec<String> = Method::value_variants().iter().map(Method::to_string).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            format!("method \"{name}\": {}", names::unknown("method", &name, &known))
        })
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&called(*self))
    }
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
