//! Every buffer that a forward or backward pass works in, allocated through the ledger.

use super::cache::{Cache, CacheFormat};
use super::gradients::row_name;
use super::lora::Target;
use super::params::{LayerIds, Linear};
use super::{Gradients, Model, ParamSpec};
use crate::backend::Backend;
use crate::error::Result;
use crate::memory::{Kind, Ledger};
use crate::model::Config;

/// What a block keeps from its forward pass for its backward pass, beside its input: d + (2h + 2g)·c + 2f numbers and
/// h + 2 statistics a token, in LLaMA's. What a family has not is empty; a LayerNorm has two statistics a token. In what
/// projections gave (q, k, v, mid, gate, up) the gradients of their weights may lodge later.
pub struct Inner<B: Backend> {
    pub rstd_in: B::Buf<B::Stat>,  // [T]
    pub q: B::Buf<B::Act>,         // [T, h, c], rotated unless heads are normed
    pub k: B::Buf<B::Act>,         // [T, g, c], rotated unless heads are normed
    pub v: B::Buf<B::Act>,         // [T, g, c]
    pub o: B::Buf<B::Act>,         // [T, h, c]
    pub lse: B::Buf<B::Stat>,      // [rows, h, T/rows]
    pub mid: B::Buf<B::Act>,       // [T, d]
    pub rstd_mid: B::Buf<B::Stat>, // [T]
    pub gate: B::Buf<B::Act>,      // [T, f]
    pub up: B::Buf<B::Act>,        // [T, f]
}

/// The shape of what a norm leaves.
fn norm_stats(c: &Config, tokens: usize) -> Vec<usize> {
    match c.arch.norm_stats() {
        1 => vec![tokens],
        several => vec![tokens, several],
    }
}

/// By projection of a layer, the parameter whose gradient lodges in the output.
type Lodgers<'a> = dyn Fn(Target) -> Option<&'a ParamSpec> + 'a;

/// A projection's output, with room for what lodges in it.
fn output<B: Backend>(
    b: &B, ledger: &mut Ledger, kind: Kind, name: &str, shape: &[usize], lodger: Option<&ParamSpec>,
) -> Result<B::Buf<B::Act>> {
    let Some(spec) = lodger else { return ledger.buf(b, kind, name, shape) };
    let gradient = row_name(spec);
    ledger.buf_in_turn::<B, B::Act, B::Stat>(
        b,
        (kind, name, shape),
        (Kind::Gradients, &gradient, &spec.shape),
    )
}

impl<B: Backend> Inner<B> {
    fn new(
        b: &B, ledger: &mut Ledger, kind: Kind, prefix: &str, c: &Config, tokens: usize,
        lodgers: &Lodgers<'_>,
    ) -> Result<Self> {
        let (q, kv) =
            ([tokens, c.num_attention_heads, c.head_dim], [tokens, c.num_key_value_heads, c.head_dim]);
        let (hidden, wide) = ([tokens, c.hidden_size], [tokens, c.intermediate_size]);
        let mut of = |target, name: &str, shape: &[usize]| {
            output(b, ledger, kind, &format!("{prefix}.{name}"), shape, lodgers(target))
        };
        let (q, k, v) = (of(Target::Q, "q", &q)?, of(Target::K, "k", &kv)?, of(Target::V, "v", &kv)?);
        let mid = of(Target::O, "mid", &hidden)?;
        let gate = if Target::Gate.exists(c) { of(Target::Gate, "gate", &wide)? } else { b.alloc(0)? };
        let up = of(Target::Up, "up", &wide)?;
        let o = ledger.buf(b, kind, &format!("{prefix}.o"), &[tokens, c.num_attention_heads, c.head_dim])?;
        let mut stat = |name: &str, shape: &[usize]| ledger.buf(b, kind, &format!("{prefix}.{name}"), shape);
        let of_norm = norm_stats(c, tokens);
        let rstd_in = stat("rstd_in", &of_norm)?;
        let lse = stat("lse", &[tokens, c.num_attention_heads])?;
        let rstd_mid = if c.arch.parallel { b.alloc(0)? } else { stat("rstd_mid", &of_norm)? };
        Ok(Inner { rstd_in, q, k, v, o, lse, mid, rstd_mid, gate, up })
    }
}

/// Shared by all layers. What a norm or the activation gave is made again in the backward pass.
pub struct Work<B: Backend> {
    pub normed: B::Buf<B::Act>, // [T, d]
    pub act: B::Buf<B::Act>,    // [T, f], silu(gate)·up or gelu(up)
    pub rstd: B::Buf<B::Stat>,  // [T], of the final norm
    pub nll: B::Buf<B::Stat>,   // [T]
    pub low: Low<B>,
    pub heads: Heads<B>,
    pub backward: Backward<B>,
}

/// What the norms of the heads of q and k gave, rotated: made again in the backward pass. Empty where there are none.
pub struct Heads<B: Backend> {
    pub q: B::Buf<B::Act>,       // [T, h, c]
    pub k: B::Buf<B::Act>,       // [T, g, c]
    pub rstd_q: B::Buf<B::Stat>, // [T, h]
    pub rstd_k: B::Buf<B::Stat>, // [T, g]
}

impl<B: Backend> Heads<B> {
    fn new(b: &B, ledger: &mut Ledger, c: &Config, tokens: usize) -> Result<Self> {
        if !c.arch.qk_norm {
            return Ok(Heads { q: b.alloc(0)?, k: b.alloc(0)?, rstd_q: b.alloc(0)?, rstd_k: b.alloc(0)? });
        }
        let (heads, kv_heads) = (c.num_attention_heads, c.num_key_value_heads);
        Ok(Heads {
            q: ledger.buf(b, Kind::Work, "work.q", &[tokens, heads, c.head_dim])?,
            k: ledger.buf(b, Kind::Work, "work.k", &[tokens, kv_heads, c.head_dim])?,
            rstd_q: ledger.buf(b, Kind::Work, "work.rstd_q", &[tokens, heads])?,
            rstd_k: ledger.buf(b, Kind::Work, "work.rstd_k", &[tokens, kv_heads])?,
        })
    }
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
        let rstd = ledger.buf(b, Kind::Work, "work.rstd", &norm_stats(c, tokens))?;
        let nll = ledger.buf(b, Kind::Work, "work.nll", &[tokens])?;
        let low = Low::new(b, ledger, c, tokens, with_backward)?;
        let heads = Heads::new(b, ledger, c, tokens)?;
        let backward = Backward::new(b, ledger, c, if with_backward { tokens } else { 0 })?;
        Ok(Work { normed, act, rstd, nll, low, heads, backward })
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
            d_gate: if Target::Gate.exists(c) { act("d_gate", &wide)? } else { b.alloc(0)? },
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
        Self::allocate(b, ledger, c, tokens, recomputed, &|_, _| None)
    }

    /// The same, with room in the outputs of projections for the gradients that lodge there.
    pub fn with_lodgers(
        b: &B, ledger: &mut Ledger, model: &Model<B>, grads: &Gradients<B>, tokens: usize, recomputed: usize,
    ) -> Result<Self> {
        let lodger = |layer: usize, target| {
            let id = model.ids.layers[layer].linear(target)?.weight;
            grads.lodges(id).then(|| &model.specs[id.0])
        };
        Self::allocate(b, ledger, &model.config, tokens, recomputed, &lodger)
    }

    fn allocate<'a>(
        b: &B, ledger: &mut Ledger, c: &Config, tokens: usize, recomputed: usize,
        lodger: &dyn Fn(usize, Target) -> Option<&'a ParamSpec>,
    ) -> Result<Self> {
        let (layers, hidden) = (c.num_hidden_layers, [tokens, c.hidden_size]);
        let recomputed = recomputed.min(layers);
        let x = (0..=layers).map(|i| {
            let lodger = i.checked_sub(1).and_then(|layer| lodger(layer, Target::Down));
            output(b, ledger, Kind::Activations, &format!("x.{i}"), &hidden, lodger)
        });
        let x = x.collect::<Result<_>>()?;
        // the last of the layers that share names what they share
        let inner = (recomputed.saturating_sub(1)..layers).map(|i| {
            let (prefix, lodgers) = (format!("layers.{i}"), |target| lodger(i, target));
            Inner::new(b, ledger, Kind::Activations, &prefix, c, tokens, &lodgers)
        });
        let inner = inner.collect::<Result<_>>()?;
        Ok(TrainBuffers { x, inner, recomputed, work: Work::new(b, ledger, c, tokens, true)? })
    }

    /// Takes the memory back that gradients of the pass before lodge in.
    pub(super) fn reclaim(&mut self, b: &B, grads: &mut Gradients<B>, layers: &[LayerIds]) {
        for (layer, ids) in layers.iter().enumerate() {
            let (kept, y) = (self.kept(layer), &mut self.x[layer + 1]);
            let Inner { q, k, v, mid, gate, up, .. } = &mut self.inner[kept];
            let gate = ids.gate.as_ref().map(|w| (w, gate));
            let outputs: [(&Linear, _); 6] =
                [(&ids.q, q), (&ids.k, k), (&ids.v, v), (&ids.o, mid), (&ids.up, up), (&ids.down, y)];
            outputs.into_iter().chain(gate).for_each(|(w, output)| grads.move_out(b, w, output));
        }
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
        let inner = Inner::new(b, ledger, Kind::Work, "layer", c, chunk, &|_| None)?;
        let work = Work::new(b, ledger, c, chunk, false)?;
        let mut cache = |i: usize| Cache::new(b, ledger, &format!("cache.{i}"), c, capacity, reading.cache);
        let caches = (0..layers).map(&mut cache).collect::<Result<_>>()?;
        Ok(ReadBuffers { x, y, inner, work, caches, chunk, capacity })
    }
}
