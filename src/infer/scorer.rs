//! One text read as a whole, layer by layer: for its losses or logits, with nothing read on after it.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::infer::Reads;
use crate::memory::{Kind, Ledger};
use crate::model::buffers::{Order, ReadBuffers, Reading};
use crate::model::{Model, PlacedBatch, download_f32, places_at, places_from, scratch};
use std::ops::Range;

/// Rows of logits that exist at a time when all of them are asked for.
const LOGIT_ROWS: usize = 16;

/// The residual stream of a whole text, one layer's keys and values, and the buffers that a chunk goes through.
pub struct Scorer<B: Backend> {
    buffers: ReadBuffers<B>,
    batch: PlacedBatch<B>,
    logits: B::Buf<B::Stat>, // [LOGIT_ROWS, vocab]
    picked: B::Buf<B::Act>,  // [LOGIT_ROWS, d]
}

/// The losses of a run of tokens: `nll[i]` is that of token `first + i` of the text given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    pub first: usize,
    pub nll: Vec<f32>,
}

/// Tells of tokens in proportion to the work that is done.
struct Share<'a> {
    tokens: usize,
    parts: usize,
    done: usize,
    tell: &'a mut dyn FnMut(usize),
}

impl Share<'_> {
    fn part_done(&mut self) {
        let told = self.tokens * self.done / self.parts;
        self.done += 1;
        (self.tell)(self.tokens * self.done / self.parts - told);
    }
}

impl<B: Backend> Reads<B> for Scorer<B> {
    fn allocate(b: &B, ledger: &mut Ledger, model: &Model<B>, reading: Reading) -> Result<Self> {
        let c = &model.config;
        let buffers = ReadBuffers::new(b, ledger, c, reading, Order::ByLayer)?;
        let batch = PlacedBatch::new(b, ledger, 1, buffers.chunk, reading.spans)?;
        let logits = ledger.buf(b, Kind::Work, "logits", &[LOGIT_ROWS, c.vocab_size])?;
        let picked = ledger.buf(b, Kind::Work, "picked", &[LOGIT_ROWS, c.hidden_size])?;
        Ok(Scorer { buffers, batch, logits, picked })
    }

    fn scratch_bytes(b: &B, model: &Model<B>, reading: Reading) -> usize {
        scratch::reading(b, &model.config, reading).max(scratch::logits(b, &model.config, LOGIT_ROWS))
    }
}

impl<B: Backend> Scorer<B> {
    /// Losses of tokens `first..` of `ids`, where `first` is at least 1; `ids` are rotated at `positions` (0, 1, 2, ...
    /// where none are given). Only the states that predict those go through the head. `progress` is told of tokens, as
    /// the work goes.
    pub fn score(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], positions: Option<&[u32]>, first: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Scored> {
        let d = model.config.hidden_size;
        let mut nll = Vec::with_capacity(ids.len() - first.min(ids.len()));
        self.read(b, model, ids, positions, progress, &mut |scorer, range| {
            let from = range.start.max(first - 1);
            let to = range.end.min(ids.len() - 1);
            if from >= to {
                return Ok(());
            }
            let ReadBuffers { y, work, .. } = &mut scorer.buffers;
            // y is free between layers: the states to score are moved to its front
            b.copy(y, 0, &work.normed, (from - range.start) * d, (to - from) * d)?;
            b.upload(&mut scorer.batch.targets, 0, &ids[from + 1..to + 1])?;
            let (head, bias) = (model.head(), model.head_bias());
            let shape = model.config.head_shape(to - from);
            b.head_loss(&mut work.nll, y, head, bias, &scorer.batch.targets, None, shape)?;
            nll.extend(download_f32::<B, B::Stat>(b, &work.nll, 0, to - from)?);
            Ok(())
        })?;
        Ok(Scored { first, nll })
    }

    /// Hands the logits `[vocab]` after each token of `wanted` (ascending indices) to `visit`; `ids` are rotated at `positions`
    /// (0, 1, 2, ... where none are given).
    pub fn logits_at(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], positions: Option<&[u32]>, wanted: &[usize],
        visit: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let (d, vocab) = (model.config.hidden_size, model.config.vocab_size);
        let mut wanted = wanted.iter().copied().peekable();
        self.read(b, model, ids, positions, &mut |_| {}, &mut |scorer, range| {
            while wanted.peek().is_some_and(|at| range.contains(at)) {
                let mut rows = 0;
                while let Some(at) = wanted.next_if(|at| range.contains(at) && rows < LOGIT_ROWS) {
                    let normed = &scorer.buffers.work.normed;
                    b.copy(&mut scorer.picked, rows * d, normed, (at - range.start) * d, d)?;
                    rows += 1;
                }
                let (head, bias) = (model.head(), model.head_bias());
                let shape = model.config.head_shape(rows);
                b.head_logits(&mut scorer.logits, &scorer.picked, head, bias, shape)?;
                let logits = download_f32::<B, B::Stat>(b, &scorer.logits, 0, rows * vocab)?;
                logits.chunks_exact(vocab).try_for_each(&mut *visit)?;
            }
            Ok(())
        })
    }

    /// Takes all chunks of `ids` through layer after layer. At the end `visit` is given each chunk's range in turn, with its
    /// normed states in `work.normed`.
    fn read(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], positions: Option<&[u32]>,
        progress: &mut dyn FnMut(usize), visit: &mut dyn FnMut(&mut Self, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let (chunk, capacity) = (self.buffers.chunk, self.buffers.capacity);
        if ids.len() > capacity {
            let problem = format!("has room for {capacity} tokens and was asked to read {}", ids.len());
            return Err(Error::Device { device: "residual stream".into(), problem });
        }
        let ranges: Vec<Range<usize>> =
            (0..ids.len()).step_by(chunk).map(|at| at..(at + chunk).min(ids.len())).collect();
        let layers = model.config.num_hidden_layers;
        let parts = layers * ranges.len();
        let mut share = Share { tokens: ids.len(), parts, done: 0, tell: progress };
        for layer in 0..layers {
            for (i, range) in ranges.iter().enumerate() {
                let places = match positions {
                    Some(positions) => places_at(&positions[range.clone()]),
                    None => places_from(1, range.start),
                };
                self.batch.fill(b, 1, &ids[range.clone()], &[], &places)?;
                if layer == 0 {
                    model.read_embed(b, &mut self.buffers, i, &self.batch)?;
                }
                model.read_layer(b, &mut self.buffers, layer, i, &self.batch, range.start)?;
                share.part_done();
            }
        }
        for (i, range) in ranges.into_iter().enumerate() {
            model.read_norm(b, &mut self.buffers, i, range.len())?;
            visit(self, range)?;
        }
        Ok(())
    }
}
