//! A batch in the memory of a backend.

use crate::backend::{Backend, Places};
use crate::data::BatchPlaces;
use crate::error::{Error, Result};
use crate::index::{ChunkSpan, DocumentId, RopePosition, SeqIndex, TokenId};
use crate::memory::{Kind, Ledger};

/// One chunk a row that starts at `position`: ordinary reading.
pub fn places_from(rows: usize, position: usize) -> BatchPlaces {
    BatchPlaces::Spans {
        spans: vec![ChunkSpan { start: SeqIndex(0), bias: position as u32 }; rows],
        per_row: 1,
    }
}

/// One row at any positions: a span wherever they jump.
pub fn places_at(positions: &[u32]) -> BatchPlaces {
    let mut spans: Vec<ChunkSpan> = Vec::new();
    for (t, &position) in positions.iter().enumerate() {
        // biases wrap: a position below the index is legal here, and t + bias gives it back
        let bias = position.wrapping_sub(t as u32);
        if spans.last().is_none_or(|span| span.bias != bias) {
            spans.push(ChunkSpan { start: SeqIndex(t as u32), bias });
        }
    }
    let per_row = spans.len();
    BatchPlaces::Spans { spans, per_row }
}

enum PlaceBuf<B: Backend> {
    Spans { spans: B::Buf<ChunkSpan>, per_row: usize },
    List(B::Buf<RopePosition>),
}

/// Token ids, targets and places, uploaded. One is allocated for the largest batch and filled again and again.
pub struct PlacedBatch<B: Backend> {
    pub rows: usize,
    /// Tokens per row.
    pub tokens: usize,
    pub ids: B::Buf<TokenId>,     // [rows, tokens]
    pub targets: B::Buf<TokenId>, // [rows, tokens]
    /// [rows, tokens]; None: every row is one document.
    pub documents: Option<B::Buf<DocumentId>>,
    places: PlaceBuf<B>,
}

impl<B: Backend> PlacedBatch<B> {
    /// Room for rows·tokens tokens, placed by `spans_per_row` spans a row, or by a list where that is 0.
    pub fn new(b: &B, ledger: &mut Ledger, rows: usize, tokens: usize, spans_per_row: usize) -> Result<Self> {
        let shape = [rows, tokens];
        let ids = ledger.buf(b, Kind::Batch, "batch.ids", &shape)?;
        let targets = ledger.buf(b, Kind::Batch, "batch.targets", &shape)?;
        let places = match spans_per_row {
            0 => PlaceBuf::List(ledger.buf(b, Kind::Batch, "batch.positions", &shape)?),
            n => {
                PlaceBuf::Spans { spans: ledger.buf(b, Kind::Batch, "batch.spans", &[rows, n])?, per_row: n }
            }
        };
        Ok(PlacedBatch { rows, tokens, ids, targets, documents: None, places })
    }

    /// With room for the document of every token, for rows of several.
    pub fn packing(self, b: &B, ledger: &mut Ledger) -> Result<Self> {
        let documents = ledger.buf(b, Kind::Batch, "batch.documents", &[self.rows, self.tokens])?;
        Ok(PlacedBatch { documents: Some(documents), ..self })
    }

    /// Says of which document each token is; for a batch that is [`PlacedBatch::packing`].
    pub fn fill_documents(&mut self, b: &B, ids: &[DocumentId]) -> Result<()> {
        self.documents.as_mut().map_or(Ok(()), |documents| b.upload(documents, 0, ids))
    }

    /// All tokens.
    pub fn len(&self) -> usize {
        self.rows * self.tokens
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills in `rows` rows of equal length. `targets` may be empty where no loss is asked for.
    pub fn fill(
        &mut self, b: &B, rows: usize, ids: &[TokenId], targets: &[TokenId], places: &BatchPlaces,
    ) -> Result<()> {
        self.rows = rows;
        self.tokens = ids.len() / rows.max(1);
        b.upload(&mut self.ids, 0, ids)?;
        b.upload(&mut self.targets, 0, targets)?;
        match (&mut self.places, places) {
            (PlaceBuf::Spans { spans: dst, per_row }, BatchPlaces::Spans { spans, per_row: n }) => {
                *per_row = *n;
                b.upload(dst, 0, spans)
            }
            (PlaceBuf::List(dst), BatchPlaces::List(list)) => b.upload(dst, 0, list),
            _ => Err(Error::Device {
                device: "batch".into(),
                problem: "allocated for spans and filled with positions, or the other way round".into(),
            }),
        }
    }

    pub fn places(&self) -> Places<'_, B> {
        match &self.places {
            PlaceBuf::Spans { spans, per_row } => Places::Spans { spans, per_row: *per_row },
            PlaceBuf::List(list) => Places::List(list),
        }
    }
}
