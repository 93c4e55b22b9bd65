//! One text being read: chunked prefill, then token by token.

use crate::backend::{Backend, Float};
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::infer::Sampling;
use crate::memory::{Kind, Ledger};
use crate::model::buffers::ReadBuffers;
use crate::model::{Model, PlacedBatch, download_f32, places_at, places_from, scratch};

/// Tokens that go through the model together while a long text is read: enough to keep the kernels busy, few enough that
/// activations stay small beside the cache.
pub const DEFAULT_CHUNK: usize = 512;

/// Rows of logits that exist at a time when all of them are asked for.
const LOGIT_ROWS: usize = 16;

/// A KV cache, what has been read into it, and the buffers to read on with.
pub struct Session<B: Backend> {
    buffers: ReadBuffers<B>,
    batch: PlacedBatch<B>,
    logits: B::Buf<B::Stat>, // [LOGIT_ROWS, vocab]
    last: B::Buf<B::Act>,    // [LOGIT_ROWS, d]
    unit: B::Buf<B::Stat>,   // [1]
    chosen: B::Buf<TokenId>, // [1]
    past: usize,
}

/// The losses of a run of tokens: `nll[i]` is that of token `first + i` of the text given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    pub first: usize,
    pub nll: Vec<f32>,
}

impl<B: Backend> Session<B> {
    /// Room for texts of up to `capacity` tokens, read `chunk` at a time. Scratch must be reserved by the caller for
    /// [`Session::scratch_bytes`].
    /// `spans`: runs of consecutive positions within a chunk, at most; 1 for plain reading.
    pub fn allocate(
        b: &B, ledger: &mut Ledger, model: &Model<B>, chunk: usize, capacity: usize, spans: usize,
    ) -> Result<Self> {
        let c = &model.config;
        let chunk = chunk.min(capacity).max(1);
        let buffers = ReadBuffers::new(b, ledger, c, chunk, capacity)?;
        let batch = PlacedBatch::new(b, ledger, 1, chunk, spans)?;
        let logits = ledger.buf(b, Kind::Work, "logits", &[LOGIT_ROWS, c.vocab_size])?;
        let last = ledger.buf(b, Kind::Work, "last", &[LOGIT_ROWS, c.hidden_size])?;
        let unit = ledger.buf(b, Kind::Work, "unit", &[1])?;
        let chosen = ledger.buf(b, Kind::Work, "chosen", &[1])?;
        Ok(Session { buffers, batch, logits, last, unit, chosen, past: 0 })
    }

    /// Working memory that the kernels take for such a session.
    pub fn scratch_bytes(b: &B, model: &Model<B>, chunk: usize, capacity: usize) -> usize {
        scratch::reading(b, &model.config, chunk.min(capacity).max(1), capacity)
    }

    /// Tokens in the cache.
    pub fn past(&self) -> usize {
        self.past
    }

    /// Forgets what was read after the first `tokens` tokens.
    pub fn rewind(&mut self, tokens: usize) {
        self.past = self.past.min(tokens);
    }

    /// Reads on, chunk by chunk; after each chunk `visit` is given its range in `ids`.
    fn read_chunks(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], positions: Option<&[u32]>,
        visit: &mut dyn FnMut(&mut Self, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        if self.past + ids.len() > self.buffers.capacity {
            return Err(Error::Device {
                device: "cache".into(),
                problem: format!(
                    "holds {} tokens and was asked to read {} after {}",
                    self.buffers.capacity,
                    ids.len(),
                    self.past
                ),
            });
        }
        let mut at = 0;
        while at < ids.len() {
            let range = at..(at + self.buffers.chunk).min(ids.len());
            let places = match positions {
                Some(positions) => places_at(&positions[range.clone()]),
                None => places_from(1, self.past),
            };
            self.batch.fill(b, 1, &ids[range.clone()], &[], &places)?;
            model.read(b, &mut self.buffers, &self.batch, self.past)?;
            self.past += range.len();
            at = range.end;
            visit(self, range)?;
        }
        Ok(())
    }

    /// Reads `ids` on and returns the logits after the last of them, `[vocab]`.
    pub fn feed(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>> {
        self.read_to_logits(b, model, ids, progress)?;
        download_f32::<B, B::Stat>(b, &self.logits, 0, model.config.vocab_size)
    }

    /// Reads `ids` on and leaves the logits after the last of them in the first row of `logits`.
    fn read_to_logits(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let (d, mut rows) = (model.config.hidden_size, 0);
        self.read_chunks(b, model, ids, None, &mut |_, range| {
            rows = range.len();
            progress(range.len());
            Ok(())
        })?;
        b.copy(&mut self.last, 0, &self.buffers.work.normed, (rows.max(1) - 1) * d, d)?;
        let head = model.param(model.ids.head_weight());
        b.head_logits(&mut self.logits, &self.last, head, model.config.head_shape(1))
    }

    /// Reads `ids` on and chooses the token after them, the `step`-th that is generated.
    fn next_token(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], sampling: &Sampling, step: u64,
    ) -> Result<TokenId> {
        self.read_to_logits(b, model, ids, &mut |_| {})?;
        b.upload(&mut self.unit, 0, &[B::Stat::from_f64(sampling.unit(step))])?;
        b.sample(&mut self.chosen, &mut self.logits, &self.unit, sampling.shape(model.config.vocab_size))?;
        let mut token = [TokenId::IGNORED];
        b.download(&mut token, &self.chosen, 0)?;
        if token[0] == TokenId::IGNORED {
            return Err(Error::NonFinite(format!(
                "a logit of generated token {step} is no finite number: the model is broken"
            )));
        }
        Ok(token[0])
    }

    /// Reads `ids` from an empty cache and returns the losses of tokens `first..`, where `first` is at least 1. Only the
    /// states that predict those go through the head.
    pub fn score(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], first: usize, progress: &mut dyn FnMut(usize),
    ) -> Result<Scored> {
        self.past = 0;
        let d = model.config.hidden_size;
        let mut nll = Vec::with_capacity(ids.len() - first.min(ids.len()));
        self.read_chunks(b, model, ids, None, &mut |session, range| {
            let from = range.start.max(first - 1);
            let to = range.end.min(ids.len() - 1);
            progress(range.len());
            if from >= to {
                return Ok(());
            }
            let ReadBuffers { y, work, .. } = &mut session.buffers;
            // y is free once a chunk has been read: the states to score are moved to its front
            b.copy(y, 0, &work.normed, (from - range.start) * d, (to - from) * d)?;
            b.upload(&mut session.batch.targets, 0, &ids[from + 1..to + 1])?;
            let head = model.param(model.ids.head_weight());
            b.head_loss(
                &mut work.nll,
                y,
                head,
                &session.batch.targets,
                None,
                model.config.head_shape(to - from),
            )?;
            nll.extend(download_f32::<B, B::Stat>(b, &work.nll, 0, to - from)?);
            Ok(())
        })?;
        Ok(Scored { first, nll })
    }

    /// Reads `ids`, rotated at `positions` (0, 1, 2, ... where none are given), from an empty cache and hands the logits
    /// `[vocab]` after each token of `wanted` (ascending indices) to `visit`.
    pub fn logits_at(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], positions: Option<&[u32]>, wanted: &[usize],
        visit: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.past = 0;
        let (d, vocab) = (model.config.hidden_size, model.config.vocab_size);
        let mut wanted = wanted.iter().copied().peekable();
        self.read_chunks(b, model, ids, positions, &mut |session, range| {
            while wanted.peek().is_some_and(|at| range.contains(at)) {
                let mut rows = 0;
                while let Some(at) = wanted.next_if(|at| range.contains(at) && rows < LOGIT_ROWS) {
                    b.copy(
                        &mut session.last,
                        rows * d,
                        &session.buffers.work.normed,
                        (at - range.start) * d,
                        d,
                    )?;
                    rows += 1;
                }
                let head = model.param(model.ids.head_weight());
                b.head_logits(&mut session.logits, &session.last, head, model.config.head_shape(rows))?;
                let logits = download_f32::<B, B::Stat>(b, &session.logits, 0, rows * vocab)?;
                logits.chunks_exact(vocab).try_for_each(&mut *visit)?;
            }
            Ok(())
        })
    }
}

/// Writes on after `prompt`, at most `most` tokens or until one of `stop`; each new token is handed to `emit`, which may
/// end it by returning false. Returns the new tokens.
pub fn generate<B: Backend>(
    b: &B, model: &Model<B>, session: &mut Session<B>, prompt: &[TokenId], most: usize, stop: &[TokenId],
    sampling: &Sampling, emit: &mut dyn FnMut(TokenId) -> Result<bool>,
) -> Result<Vec<TokenId>> {
    let mut out: Vec<TokenId> = Vec::new();
    while out.len() < most {
        let last = out.last().copied();
        let unread = last.as_ref().map_or(prompt, std::slice::from_ref);
        let token = session.next_token(b, model, unread, sampling, out.len() as u64)?;
        out.push(token);
        if !emit(token)? || stop.contains(&token) {
            break;
        }
    }
    Ok(out)
}
