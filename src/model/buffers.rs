//! Every buffer that a forward or backward pass works in, allocated through the ledger.

use super::cache::{Cache, CacheFormat};
use crate::backend::Backend;
use crate::error::Result;
use crate::memory::{Kind, Ledger};
use crate::model::Config;

/// What a block keeps from its forward pass for its backward pass, beside its input.
pub struct Inner<B: Backend> {
    pub rstd_in: B::Buf<B::Stat>,  // [T]
    pub q: B::Buf<B::Act>,         // [T, h, c], rotated
    pub k: B::Buf<B::Act>,         // [T, g, c], rotated
    pub v: B::Buf<B::Act>,         // [T, g, c]
    pub o: B::Buf<B::Act>,         // [T, h, c]
    pub lse: B::Buf<B::Stat>,      // [rows, h, T/rows]
    pub mid: B::Buf<B::Act>,       // [T, d]
    pub rstd_mid: B::Buf<B::Stat>, // [T]
    pub gate: B::Buf<B::Act>,      // [T, f]
    pub up: B::Buf<B::Act>,        // [T, f]
}

impl<B: Backend> Inner<B> {
    fn new(b: &B, ledger: &mut Ledger, kind: Kind, prefix: &str, c: &Config, tokens: usize) -> Result<Self> {
        let (q, kv) =
            ([tokens, c.num_attention_heads, c.head_dim], [tokens, c.num_key_value_heads, c.head_dim]);
        let (hidden, wide) = ([tokens, c.hidden_size], [tokens, c.intermediate_size]);
        let mut act = |name: &str, shape: &[usize]| ledger.buf(b, kind, &format!("{prefix}.{name}"), shape);
        let (q, k, v, o) = (act("q", &q)?, act("k", &kv)?, act("v", &kv)?, act("o", &q)?);
        let (mid, gate, up) = (act("mid", &hidden)?, act("gate", &wide)?, act("up", &wide)?);
        let mut stat = |name: &str, shape: &[usize]| ledger.buf(b, kind, &format!("{prefix}.{name}"), shape);
        let rstd_in = stat("rstd_in", &[tokens])?;
        let (lse, rstd_mid) = (stat("lse", &[tokens, c.num_attention_heads])?, stat("rstd_mid", &[tokens])?);
        Ok(Inner { rstd_in, q, k, v, o, lse, mid, rstd_mid, gate, up })
    }
}

/// Shared by all layers.
pub struct Work<B: Backend> {
    pub normed: B::Buf<B::Act>, // [T, d]
    pub act: B::Buf<B::Act>,    // [T, f]
    pub rstd: B::Buf<B::Stat>,  // [T], of the final norm
    pub nll: B::Buf<B::Stat>,   // [T]
    pub low: Low<B>,
    pub backward: Backward<B>,
}

/// Between the two matrices of an adapter; empty where there are none.
pub struct Low<B: Backend> {
    pub u: B::Buf<B::Act>,  // [T, rank]
    pub du: B::Buf<B::Act>, // [T, rank], only where there is a backward pass
}

/// Gradients of activations; empty where there is no backward pass.
pub struct Backward<B: Backend> {
    pub dx: B::Buf<B::Act>,       // [T, d], the residual stream's
    pub d_normed: B::Buf<B::Act>, // [T, d]
    pub d_act: B::Buf<B::Act>,    // [T, f]
    pub d_gate: B::Buf<B::Act>,   // [T, f]
    pub d_up: B::Buf<B::Act>,     // [T, f]
    pub d_o: B::Buf<B::Act>,      // [T, h, c]
    pub dq: B::Buf<B::Act>,       // [T, h, c]
    pub dk: B::Buf<B::Act>,       // [T, g, c]
    pub dv: B::Buf<B::Act>,       // [T, g, c]
}

impl<B: Backend> Work<B> {
    fn new(b: &B, ledger: &mut Ledger, c: &Config, tokens: usize, with_backward: bool) -> Result<Self> {
        let (hidden, wide) = ([tokens, c.hidden_size], [tokens, c.intermediate_size]);
        let normed = ledger.buf(b, Kind::Work, "work.normed", &hidden)?;
        let act = ledger.buf(b, Kind::Work, "work.act", &wide)?;
        let rstd = ledger.buf(b, Kind::Work, "work.rstd", &[tokens])?;
        let nll = ledger.buf(b, Kind::Work, "work.nll", &[tokens])?;
        let low = Low::new(b, ledger, c, tokens, with_backward)?;
        let backward = Backward::new(b, ledger, c, if with_backward { tokens } else { 0 })?;
        Ok(Work { normed, act, rstd, nll, low, backward })
    }
}

impl<B: Backend> Low<B> {
    fn new(b: &B, ledger: &mut Ledger, c: &Config, tokens: usize, with_backward: bool) -> Result<Self> {
        let Some(lora) = &c.lora else { return Ok(Low { u: b.alloc(0)?, du: b.alloc(0)? }) };
        let u = ledger.buf(b, Kind::Work, "work.u", &[tokens, lora.rank])?;
        let du =
            ledger.buf(b, Kind::Work, "work.du", &[if with_backward { tokens } else { 0 }, lora.rank])?;
        Ok(Low { u, du })
    }
}

impl<B: Backend> Backward<B> {
    fn new(b: &B, ledger: &mut Ledger, c: &Config, tokens: usize) -> Result<Self> {
        let (hidden, wide) = ([tokens, c.hidden_size], [tokens, c.intermediate_size]);
        let (q, kv) =
            ([tokens, c.num_attention_heads, c.head_dim], [tokens, c.num_key_value_heads, c.head_dim]);
        let mut act = |name: &str, shape: &[usize]| match tokens {
            0 => b.alloc(0),
            _ => ledger.buf(b, Kind::Work, &format!("work.{name}"), shape),
        };
        Ok(Backward {
            dx: act("dx", &hidden)?,
            d_normed: act("d_normed", &hidden)?,
            d_act: act("d_act", &wide)?,
            d_gate: act("d_gate", &wide)?,
            d_up: act("d_up", &wide)?,
            d_o: act("d_o", &q)?,
            dq: act("dq", &q)?,
            dk: act("dk", &kv)?,
            dv: act("dv", &kv)?,
        })
    }
}

/// The activations of one training step's micro-batch.
pub struct TrainBuffers<B: Backend> {
    /// The residual stream before each block and after the last, [layers + 1][T, d].
    pub x: Vec<B::Buf<B::Act>>,
    /// One for each layer that keeps its own, after one that the first `recomputed` layers share, where there are such.
    pub(super) inner: Vec<Inner<B>>,
    /// Layers whose activations the backward pass computes again.
    recomputed: usize,
    pub work: Work<B>,
}

impl<B: Backend> TrainBuffers<B> {
    /// The first `recomputed` layers (all, where there are no more) keep only their input.
    pub fn new(b: &B, ledger: &mut Ledger, c: &Config, tokens: usize, recomputed: usize) -> Result<Self> {
        let recomputed = recomputed.min(c.num_hidden_layers);
        let hidden = [tokens, c.hidden_size];
        let x =
            (0..=c.num_hidden_layers).map(|i| ledger.buf(b, Kind::Activations, &format!("x.{i}"), &hidden));
        let x = x.collect::<Result<_>>()?;
        // the last of the layers that share names what they share
        let inner = (recomputed.saturating_sub(1)..c.num_hidden_layers)
            .map(|i| Inner::new(b, ledger, Kind::Activations, &format!("layers.{i}"), c, tokens));
        let inner = inner.collect::<Result<_>>()?;
        Ok(TrainBuffers { x, inner, recomputed, work: Work::new(b, ledger, c, tokens, true)? })
    }

    /// Which of `inner` holds what block `layer` keeps.
    pub(super) fn kept(&self, layer: usize) -> usize {
        layer.saturating_sub(self.recomputed.saturating_sub(1))
    }

    /// Whether what a layer kept has been overwritten by those after it: the last of those that share is still there.
    pub(super) fn is_overwritten(&self, layer: usize) -> bool {
        layer + 1 < self.recomputed
    }
}

/// Tokens that go through a layer together while a long text is read: enough to keep the kernels busy, few enough that
/// activations stay small beside the cache.
pub const DEFAULT_CHUNK: usize = 512;

/// How a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Tokens that there is room for.
    pub capacity: usize,
    /// Tokens that go through a layer together.
    pub chunk: usize,
    /// Runs of consecutive positions within a chunk, at most; 1 for plain reading.
    pub spans: usize,
    pub cache: CacheFormat,
}

impl Reading {
    /// Plainly, for texts of up to `capacity` tokens.
    pub fn of(capacity: usize) -> Reading {
        Reading { capacity, chunk: DEFAULT_CHUNK, spans: 1, cache: CacheFormat::Act }
    }

    /// A chunk is never longer than the text.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk.min(self.capacity).max(1)
    }
}

/// The order in which chunks and layers are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each chunk through all layers, whose keys and values are all kept: so a text can be read on.
    ByChunk,
    /// All chunks through each layer: the keys and values of one layer exist at a time, and the residual stream of the whole
    /// text. The same bits, for a text that is read once.
    ByLayer,
}

/// What reading (prefill and decoding) works in: bounded by the chunk, but for caches and stream.
pub struct ReadBuffers<B: Backend> {
    /// The residual stream, [chunk, d] each: of the chunk that is read, or of every chunk of the text.
    pub x: Vec<B::Buf<B::Act>>,
    pub y: B::Buf<B::Act>,
    pub inner: Inner<B>,
    pub work: Work<B>,
    /// One for each layer, or a single one that the layers take in turn.
    pub caches: Vec<Cache<B>>,
    /// Tokens read at a time.
    pub chunk: usize,
    /// Tokens that there is room for.
    pub capacity: usize,
}

impl<B: Backend> ReadBuffers<B> {
    pub fn new(b: &B, ledger: &mut Ledger, c: &Config, reading: Reading, order: Order) -> Result<Self> {
        let (chunk, capacity) = (reading.chunk(), reading.capacity);
        let (chunks, layers, kind) = match order {
            Order::ByChunk => (1, c.num_hidden_layers, Kind::Work),
            Order::ByLayer => (capacity.div_ceil(chunk), 1, Kind::Stream),
        };
        let hidden = [chunk, c.hidden_size];
        let x =
            (0..chunks).map(|i| ledger.buf(b, kind, &format!("x.{i}"), &hidden)).collect::<Result<_>>()?;
        let y = ledger.buf(b, Kind::Work, "y", &hidden)?;
        let inner = Inner::new(b, ledger, Kind::Work, "layer", c, chunk)?;
        let work = Work::new(b, ledger, c, chunk, false)?;
        let mut cache = |i: usize| Cache::new(b, ledger, &format!("cache.{i}"), c, capacity, reading.cache);
        let caches = (0..layers).map(&mut cache).collect::<Result<_>>()?;
        Ok(ReadBuffers { x, y, inner, work, caches, chunk, capacity })
    }
}
