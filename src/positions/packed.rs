//! Positions of several documents in one row.
//!
//! Every document has positions of its own, from 0, as if its n tokens were a row of their own: with PoSE they are
//! split into min(N, n) chunks, and the biases go up to Lt - n. What a packed document is trained on is then what it
//! would be trained on alone, and the companions in its row, which attention hides, change nothing. Chunks over the
//! whole row would put most documents into one chunk each, where no distance beyond the document's length is trained.

use super::{Method, Placement, Sampler, chunks};
use crate::error::{Error, Result};
use crate::index::RopePosition;
use crate::random::{Purpose, Stream};

impl Sampler {
    /// For rows of several documents ([`Sampler::pack`]).
    ///
    /// Errors: a method that is defined on whole rows only.
    pub fn packing(mut self) -> Result<Sampler> {
        match self.method() {
            Method::Pose | Method::Full | Method::RandPos | Method::Plain => {
                self.packs = true;
                Ok(self)
            }
            other => Err(Error::usage(
                "--pack",
                "true",
                format!(
                    "is for --method pose, randpos, plain and full, which can place a document of any length; {other} \
                     places whole rows"
                ),
            )),
        }
    }

    /// Whether rows are made of several documents.
    pub fn packs(&self) -> bool {
        self.packs
    }

    /// The positions of a row of documents of these many tokens, one document after the other. The sum of `lengths` is
    /// at most the window.
    pub fn pack(&self, seed: u64, step: u64, row: u32, lengths: &[usize]) -> Vec<RopePosition> {
        let stream = &mut Stream::new(seed, Purpose::Positions, step, row);
        lengths.iter().flat_map(|&len| self.document(stream, len).positions(len)).collect()
    }

    /// One document of `len` tokens, at least 1.
    fn document(&self, stream: &mut Stream, len: usize) -> Placement {
        let count = self.chunks.min(len);
        match self.method() {
            Method::RandPos => {
                let places = stream.distinct_sorted(len, self.target_len());
                Placement::List(places.into_iter().map(|p| RopePosition(p as u32)).collect())
            }
            Method::Pose if count > 1 => {
                let lengths = chunks::lengths(stream, len, count, self.chunk_lengths);
                let biases = chunks::skipping_biases(stream, self.target_len() - len, count);
                Placement::Spans(chunks::spans(&lengths, &biases))
            }
            _ => Placement::Spans(vec![Default::default()]),
        }
    }
}
