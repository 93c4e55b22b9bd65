//! The rows of a training step: which tokens, which targets, rotated where. A function of (seed, step, row).

use super::corpus::Corpus;
use super::cuts::Cuts;
use super::pack::Piece;
use super::shares::{Rows, Share, Shares};
use crate::error::Result;
use crate::index::{ChunkSpan, DocumentId, RopePosition, TokenId};
use crate::positions::{DistanceWeights, Placement, Sample, Sampler, span_ranges};
use std::fmt::Write as _;
use std::ops::Range;

/// One row of T = [`Sampler::window`] tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// `[T]`
    pub tokens: Vec<TokenId>,
    /// `[T]`: what follows each token in the document, at the end of a chunk too; ignored where there is no token.
    pub targets: Vec<TokenId>,
    pub placement: Placement,
    /// Index into the corpus' documents; of several documents the first.
    pub document: usize,
    /// The document's tokens that the row is made of, a range for each chunk; of several documents a range for each.
    pub content: Vec<Range<usize>>,
    /// Where rows are made of several documents: which are in this one, and of which each token is.
    pub packed: Option<Packed>,
}

/// The documents of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// One after the other; they take the first places of the row.
    pub pieces: Vec<Piece>,
    /// `[T]`: 0 for the first piece and so on; places that are left over are a document of their own.
    pub documents: Vec<DocumentId>,
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
    /// `[rows, T]`: [`Packed::documents`], where rows are made of several.
    pub document_ids: Option<Vec<DocumentId>>,
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
    shares: Shares,
    sampler: Sampler,
    seed: u64,
    cuts: Cuts,
}

impl Loader {
    /// Drops the documents that are too short for the sampler; the second value is a sentence about them, if any.
    ///
    /// Errors: all documents are too short.
    pub fn new(corpus: Corpus, sampler: Sampler, seed: u64) -> Result<(Self, Option<String>)> {
        let (loader, notes) = Self::mixing(vec![Share { corpus, weight: 1.0 }], sampler, seed)?;
        Ok((loader, notes.into_iter().next()))
    }

    /// The same from several corpora: which one a row is of is drawn by weight, then all goes on as if there were no
    /// other.
    ///
    /// Errors: a corpus whose documents are all too short, weights that no row can be drawn by.
    pub fn mixing(shares: Vec<Share>, sampler: Sampler, seed: u64) -> Result<(Self, Vec<String>)> {
        let (shares, notes) = Shares::new(shares, &sampler)?;
        Ok((Loader { shares, sampler, seed, cuts: Cuts::default() }, notes))
    }

    /// With text that falls into pieces here, for a sampler that [`Sampler::reads_text`].
    pub fn cutting(self, cuts: Cuts) -> Loader {
        Loader { cuts, ..self }
    }

    /// How many pieces begin within a window, on average over all text.
    pub fn cuts_a_window(&self) -> f64 {
        let documents = || self.corpus().documents.iter().map(|document| &document.tokens);
        let inner = |text: &[TokenId]| (1..text.len()).filter(|&i| self.cuts.starts(text, i)).count();
        let (cuts, tokens) =
            documents().fold((0, 0), |(cuts, tokens), text| (cuts + inner(text), tokens + text.len()));
        cuts as f64 * self.sampler.window() as f64 / tokens.max(1) as f64
    }

    /// From now on distances are drawn by these weights, where the sampler looks at weights.
    pub fn set_weights(&mut self, weights: DistanceWeights) {
        self.sampler = self.sampler.clone().weighted(weights);
    }

    /// The documents that rows are cut from, of all corpora.
    pub fn corpus(&self) -> &Corpus {
        &self.shares.corpus
    }

    /// Stands for all tokens: what a resumed run must find again.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.shares.fingerprint()
    }

    /// Tokens with a target in some rows of a step.
    pub fn scored(&self, step: u64, rows: Range<u32>) -> usize {
        let in_row = |row| match &self.shares.part(self.seed, step, row).rows {
            Rows::Windows(_) => self.sampler.window(),
            Rows::Packed(pack) => pack.row(self.seed, step, row).iter().map(|piece| piece.tokens.len()).sum(),
        };
        rows.map(in_row).sum()
    }

    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// One row; `row` counts all rows of the optimizer step `step`, whatever micro-batch or rank they are in.
    ///
    /// Errors: none that [`Loader::new`] has not ruled out.
    pub fn example(&self, step: u64, row: u32) -> Result<Example> {
        let part = self.shares.part(self.seed, step, row);
        let chooser = match &part.rows {
            Rows::Windows(chooser) => chooser,
            Rows::Packed(pack) => {
                let pieces = pack.row(self.seed, step, row);
                return Ok(self.packed(step, row, pieces, part.documents.start));
            }
        };
        let document = part.documents.start + chooser.document(self.seed, step, row);
        let text = &self.corpus().documents[document].tokens;
        let starts = |i: usize| self.cuts.starts(text, i);
        let sample = self.sampler.sample_text(self.seed, step, row, text.len(), &starts)?;
        let gather = |shift: usize| {
            let chunk = |range: &Range<usize>| &text[range.start + shift..range.end + shift];
            sample.content.iter().flat_map(chunk).copied().collect()
        };
        let (tokens, targets) = (gather(0), gather(1));
        let Sample { placement, content } = sample;
        Ok(Example { tokens, targets, placement, document, content, packed: None })
    }

    /// A row of several documents of the corpus whose first document is `first` among all.
    fn packed(&self, step: u64, row: u32, pieces: &[Piece], first: usize) -> Example {
        let window = self.sampler.window();
        let pieces: Vec<Piece> =
            pieces.iter().map(|piece| Piece { document: first + piece.document, ..piece.clone() }).collect();
        let lengths: Vec<usize> = pieces.iter().map(|piece| piece.tokens.len()).collect();
        let gather = |shift: usize, filler: TokenId| {
            let piece = |piece: &Piece| {
                let text = &self.corpus().documents[piece.document].tokens;
                &text[piece.tokens.start + shift..piece.tokens.end + shift]
            };
            let mut tokens: Vec<TokenId> = pieces.iter().flat_map(piece).copied().collect();
            tokens.resize(window, filler);
            tokens
        };
        let (tokens, targets) = (gather(0, TokenId(0)), gather(1, TokenId::IGNORED));
        let mut positions = self.sampler.pack(self.seed, step, row, &lengths);
        positions.extend((0..(window - positions.len()) as u32).map(RopePosition));
        let ids = lengths.iter().enumerate().flat_map(|(i, &len)| vec![DocumentId(i as u32); len]);
        let mut documents: Vec<DocumentId> = ids.collect();
        documents.resize(window, DocumentId(lengths.len() as u32));
        let (document, content) =
            (pieces[0].document, pieces.iter().map(|piece| piece.tokens.clone()).collect());
        let packed = Some(Packed { pieces, documents });
        Example { tokens, targets, placement: Placement::List(positions), document, content, packed }
    }

    /// The given rows of a step.
    ///
    /// Errors: those of [`Loader::example`].
    pub fn batch(&self, step: u64, rows: Range<u32>) -> Result<Batch> {
        let (mut tokens, mut targets, mut documents) = (Vec::new(), Vec::new(), Vec::new());
        let (mut spans, mut list, mut ids) = (Vec::new(), Vec::new(), Vec::new());
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
            ids.extend(example.packed.into_iter().flat_map(|packed| packed.documents));
        }
        let places = match self.sampler.spans_per_row() {
            Some(per_row) => BatchPlaces::Spans { spans, per_row },
            None => BatchPlaces::List(list),
        };
        let document_ids = self.sampler.packs().then_some(ids);
        let window = self.sampler.window();
        Ok(Batch { rows: count, window, tokens, targets, places, documents, document_ids })
    }

    /// A row in words, for messages about a loss that is no number. Drawn again, so nothing has to be kept for it.
    pub fn describe(&self, batch: u64, row: u32) -> String {
        let example = match self.example(batch, row) {
            Ok(example) => example,
            Err(error) => return format!("batch {batch}, row {row}: {error}"),
        };
        if let Some(packed) = &example.packed {
            return self.describe_packed(batch, row, &packed.pieces);
        }
        let mut line =
            format!("batch {batch}, row {row}: {}", self.corpus().documents[example.document].name);
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

    fn describe_packed(&self, batch: u64, row: u32, pieces: &[Piece]) -> String {
        let name = |piece: &Piece| {
            let Range { start, end } = piece.tokens;
            format!("{}, tokens {start}..{end}", self.corpus().documents[piece.document].name)
        };
        let names: Vec<String> = pieces.iter().map(name).collect();
        format!("batch {batch}, row {row}: packed of {}", names.join("; "))
    }
}
