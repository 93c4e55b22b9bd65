//! One text being read: chunked prefill, then token by token.

use crate::backend::{Backend, Float};
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::infer::{Reads, Sampling};
use crate::memory::{Kind, Ledger};
use crate::model::buffers::{Order, ReadBuffers, Reading};
use crate::model::{Model, PlacedBatch, download_f32, places_from, scratch};

/// A KV cache, what has been read into it, and the buffers to read on with.
pub struct Session<B: Backend> {
    buffers: ReadBuffers<B>,
    batch: PlacedBatch<B>,
    logits: B::Buf<B::Stat>, // [vocab]
    last: B::Buf<B::Act>,    // [d]
    unit: B::Buf<B::Stat>,   // [1]
    chosen: B::Buf<TokenId>, // [1]
    past: usize,
}

impl<B: Backend> Reads<B> for Session<B> {
    fn allocate(b: &B, ledger: &mut Ledger, model: &Model<B>, reading: Reading) -> Result<Self> {
        let c = &model.config;
        let buffers = ReadBuffers::new(b, ledger, c, reading, Order::ByChunk)?;
        let batch = PlacedBatch::new(b, ledger, 1, buffers.chunk, reading.spans)?;
        let logits = ledger.buf(b, Kind::Work, "logits", &[c.vocab_size])?;
        let last = ledger.buf(b, Kind::Work, "last", &[c.hidden_size])?;
        let unit = ledger.buf(b, Kind::Work, "unit", &[1])?;
        let chosen = ledger.buf(b, Kind::Work, "chosen", &[1])?;
        Ok(Session { buffers, batch, logits, last, unit, chosen, past: 0 })
    }

    fn scratch_bytes(b: &B, model: &Model<B>, reading: Reading) -> usize {
        scratch::reading(b, &model.config, reading).max(scratch::logits(b, &model.config, 1))
    }
}

impl<B: Backend> Session<B> {
    /// Tokens in the cache.
    pub fn past(&self) -> usize {
        self.past
    }

    /// Tokens that go through the model together.
    pub fn chunk(&self) -> usize {
        self.buffers.chunk
    }

    /// Forgets what was read after the first `tokens` tokens.
    pub fn rewind(&mut self, tokens: usize) {
        self.past = self.past.min(tokens);
    }

    /// Reads on, chunk by chunk; after each chunk `visit` is told of its tokens.
    pub fn read(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], visit: &mut dyn FnMut(usize),
    ) -> Result<()> {
        self.check_room(ids.len())?;
        for chunk in ids.chunks(self.buffers.chunk) {
            self.read_chunk(b, model, chunk)?;
            visit(chunk.len());
        }
        Ok(())
    }

    fn check_room(&self, tokens: usize) -> Result<()> {
        if self.past + tokens <= self.buffers.capacity {
            return Ok(());
        }
        let (capacity, past) = (self.buffers.capacity, self.past);
        let problem = format!("holds {capacity} tokens and was asked to read {tokens} after {past}");
        Err(Error::Device { device: "cache".into(), problem })
    }

    /// Leaves the chunk's normed states in `work.normed`.
    fn read_chunk(&mut self, b: &B, model: &Model<B>, chunk: &[TokenId]) -> Result<()> {
        self.batch.fill(b, 1, chunk, &[], &places_from(1, self.past))?;
        model.read(b, &mut self.buffers, &self.batch, self.past)?;
        self.past += chunk.len();
        Ok(())
    }

    /// Reads `ids` on and returns the losses of all of them but the first, in nats: each given what stands before it.
    pub fn losses(&mut self, b: &B, model: &Model<B>, ids: &[TokenId]) -> Result<Vec<f32>> {
        self.check_room(ids.len())?;
        let (mut losses, mut at) = (Vec::with_capacity(ids.len()), 0);
        for chunk in ids.chunks(self.buffers.chunk) {
            self.read_chunk(b, model, chunk)?;
            let targets = &ids[at + 1..ids.len().min(at + 1 + chunk.len())];
            at += chunk.len();
            if targets.is_empty() {
                continue;
            }
            b.upload(&mut self.batch.targets, 0, targets)?;
            let (work, rows) = (&mut self.buffers.work, targets.len());
            let (head, bias, shape) = (model.head(), model.head_bias(), model.config.head_shape(rows));
            b.head_loss(&mut work.nll, &work.normed, head, bias, &self.batch.targets, None, shape)?;
            losses.extend(download_f32::<B, B::Stat>(b, &work.nll, 0, rows)?);
        }
        Ok(losses)
    }

    /// Reads `ids` on and returns the logits after the last of them, `[vocab]`.
    pub fn feed(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>> {
        self.read_to_logits(b, model, ids, progress)?;
        download_f32::<B, B::Stat>(b, &self.logits, 0, model.config.vocab_size)
    }

    /// Reads `ids` on and leaves the logits after the last of them in `logits`.
    fn read_to_logits(
        &mut self, b: &B, model: &Model<B>, ids: &[TokenId], progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let (d, mut rows) = (model.config.hidden_size, 0);
        self.read(b, model, ids, &mut |tokens| {
            rows = tokens;
            progress(tokens);
        })?;
        b.copy(&mut self.last, 0, &self.buffers.work.normed, (rows.max(1) - 1) * d, d)?;
        let (head, bias) = (model.head(), model.head_bias());
        b.head_logits(&mut self.logits, &self.last, head, bias, model.config.head_shape(1))
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
