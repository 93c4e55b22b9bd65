//! One transformer block: its forward pass, and a backward pass whose every group of lines names the forward line it undoes.
//!
//! T tokens over all rows, d = hidden size, f = intermediate size, h and g query and key/value heads of dim c.

use super::buffers::{Inner, Work};
use super::cache::Cache;
use super::heads::placed;
use super::params::LayerIds;
use super::{Gradients, Model, PlacedBatch};
use crate::backend::{Backend, Write};
use crate::error::Result;

/// Where the keys and values that the queries look at come from.
pub enum Keys<'a, B: Backend> {
    /// This batch's own: training.
    Own,
    /// A cache that holds `past` earlier tokens and to which this batch's are appended: reading on.
    Cached { layer: &'a mut Cache<B>, past: usize },
}

impl<B: Backend> Model<B> {
    /// x → everything up to the gate and up projections, left in `inner`. The rest of the block is [`Model::block_out`].
    pub(super) fn block_inner(
        &self, backend: &B, layer: usize, x: &B::Buf<B::Act>, inner: &mut Inner<B>, work: &mut Work<B>,
        batch: &PlacedBatch<B>, keys: Keys<'_, B>,
    ) -> Result<()> {
        let (b, w, s) = (backend, &self.ids.layers[layer], self.config.block_shapes(batch.len()));
        self.norm(b, &mut work.normed, &mut inner.rstd_in, x, w.input_norm, s.norm)?;
        self.linear(b, &mut inner.q, &work.normed, &w.q, None, &mut work.low, s.q)?;
        self.linear(b, &mut inner.k, &work.normed, &w.k, None, &mut work.low, s.kv)?;
        self.linear(b, &mut inner.v, &work.normed, &w.v, None, &mut work.low, s.kv)?;
        self.place_heads(b, w, inner, &mut work.heads, batch)?;
        let (q, k) = placed(w, (&inner.q, &inner.k), (&work.heads.q, &work.heads.k));
        let documents = batch.documents.as_ref();
        match keys {
            Keys::Own => {
                let shape = self.config.attention_shape(batch.rows, batch.tokens, batch.tokens);
                b.attention(&mut inner.o, &mut inner.lse, q, k, &inner.v, documents, shape)?;
            }
            Keys::Cached { layer: cache, past } => {
                cache.append(b, past, k, &inner.v, self.config.kv_shape(batch.len()))?;
                let shape = self.config.attention_shape(1, batch.tokens, past + batch.tokens);
                cache.attend(b, &mut inner.o, &mut inner.lse, q, documents, shape)?;
            }
        }
        self.linear(b, &mut inner.mid, &inner.o, &w.o, Some(x), &mut work.low, s.o)?;
        if let Some(norm) = w.post_norm {
            self.norm(b, &mut work.normed, &mut inner.rstd_mid, &inner.mid, norm, s.norm)?;
        }
        if let Some(gate) = &w.gate {
            self.linear(b, &mut inner.gate, &work.normed, gate, None, &mut work.low, s.up)?;
        }
        self.linear(b, &mut inner.up, &work.normed, &w.up, None, &mut work.low, s.up)
    }

    /// act = silu(gate)·up, or gelu(up) where the family has no gate.
    fn activate(
        &self, b: &B, w: &LayerIds, act: &mut B::Buf<B::Act>, inner: &Inner<B>, len: usize,
    ) -> Result<()> {
        match w.gate {
            Some(_) => b.swiglu(act, &inner.gate, &inner.up, len),
            None => b.gelu(act, &inner.up, len),
        }
    }

    /// y = mid + act·downᵀ (+ bias).
    pub(super) fn block_out(
        &self, backend: &B, layer: usize, y: &mut B::Buf<B::Act>, inner: &Inner<B>, work: &mut Work<B>,
        tokens: usize,
    ) -> Result<()> {
        let (w, s) = (&self.ids.layers[layer], self.config.block_shapes(tokens));
        self.activate(backend, w, &mut work.act, inner, tokens * s.up.n)?;
        self.linear(backend, y, &work.act, &w.down, Some(&inner.mid), &mut work.low, s.down)
    }

    /// Undoes a block: `work.dx`, the gradient of its output, becomes the gradient of its input `x`; the gradients of
    /// its parameters are added to `grads`. What is cheap to compute (norms, activation) is computed again, not kept. What
    /// projections gave, the block's output `y` among it, may become the memory of their weights' gradients.
    pub(super) fn block_backward(
        &self, backend: &B, layer: usize, x: &B::Buf<B::Act>, y: &mut B::Buf<B::Act>, inner: &mut Inner<B>,
        work: &mut Work<B>, grads: &mut Gradients<B>, batch: &PlacedBatch<B>,
    ) -> Result<()> {
        self.mlp_backward(backend, layer, x, y, inner, work, grads, batch.len())?;
        self.attention_half_backward(backend, layer, x, inner, work, grads, batch)
    }

    fn mlp_backward(
        &self, b: &B, layer: usize, x: &B::Buf<B::Act>, y: &mut B::Buf<B::Act>, inner: &mut Inner<B>,
        work: &mut Work<B>, grads: &mut Gradients<B>, tokens: usize,
    ) -> Result<()> {
        let (w, s) = (&self.ids.layers[layer], self.config.block_shapes(tokens));
        let Work { backward: back, low, act, normed, .. } = work;
        // y = mid + act·downᵀ (+ bias); the residual's share of the gradient is already in dx
        self.activate(b, w, act, inner, tokens * s.up.n)?;
        grads.move_in(b, &w.down, y, s.down)?;
        let (d_act, dx) = (&mut back.d_act, &back.dx);
        self.linear_backward(b, d_act, dx, act, &w.down, Write::Overwrite, grads, low, s.down)?;
        // act = silu(gate)·up, or gelu(up)
        let len = tokens * s.up.n;
        match w.gate {
            Some(_) => {
                b.swiglu_backward(
                    &mut back.d_gate,
                    &mut back.d_up,
                    &back.d_act,
                    &inner.gate,
                    &inner.up,
                    len,
                )?;
            }
            None => b.gelu_backward(&mut back.d_up, &back.d_act, &inner.up, len)?,
        }
        // gate = normed·gateᵀ, up = normed·upᵀ (+ bias)
        match w.post_norm {
            Some(norm) => self.norm(b, normed, &mut inner.rstd_mid, &inner.mid, norm, s.norm)?,
            None => self.norm(b, normed, &mut inner.rstd_in, x, w.input_norm, s.norm)?,
        }
        let Inner { gate, up, .. } = &mut *inner;
        let gate = w.gate.as_ref().map(|w| (&back.d_gate, gate, w));
        let mut write = Write::Overwrite;
        for (d, y, w) in gate.into_iter().chain([(&back.d_up, up, &w.up)]) {
            grads.move_in(b, w, y, s.up)?;
            self.linear_backward(b, &mut back.d_normed, d, normed, w, write, grads, low, s.up)?;
            write = Write::Accumulate;
        }
        // normed = norm(mid); where attention reads it too, its share is still to come
        let Some(norm) = w.post_norm else { return Ok(()) };
        self.norm_backward(b, &mut back.dx, &back.d_normed, &inner.mid, &inner.rstd_mid, norm, grads, s.norm)
    }

    fn attention_half_backward(
        &self, b: &B, layer: usize, x: &B::Buf<B::Act>, inner: &mut Inner<B>, work: &mut Work<B>,
        grads: &mut Gradients<B>, batch: &PlacedBatch<B>,
    ) -> Result<()> {
        let (w, s) = (&self.ids.layers[layer], self.config.block_shapes(batch.len()));
        let Work { backward: back, low, heads, normed, .. } = work;
        // mid = x + o·woᵀ (+ bias)
        grads.move_in(b, &w.o, &mut inner.mid, s.o)?;
        let (d_o, dx) = (&mut back.d_o, &back.dx);
        self.linear_backward(b, d_o, dx, &inner.o, &w.o, Write::Overwrite, grads, low, s.o)?;
        // o = attention(q, k, v)
        if w.head_norms.is_some() {
            self.place_heads(b, w, inner, heads, batch)?;
        }
        let (q, k) = placed(w, (&inner.q, &inner.k), (&heads.q, &heads.k));
        b.attention_backward(
            &mut back.dq,
            &mut back.dk,
            &mut back.dv,
            &back.d_o,
            &inner.o,
            &inner.lse,
            q,
            k,
            &inner.v,
            batch.documents.as_ref(),
            self.config.attention_shape(batch.rows, batch.tokens, batch.tokens),
        )?;
        // q, k = rope(q, k)
        self.place_heads_backward(b, w, [&mut back.dq, &mut back.dk], inner, heads, grads, batch)?;
        let (dq, dk) = placed(w, (&back.dq, &back.dk), (&heads.q, &heads.k));
        // q, k, v = normed·wqᵀ, normed·wkᵀ, normed·wvᵀ (+ biases)
        self.norm(b, normed, &mut inner.rstd_in, x, w.input_norm, s.norm)?;
        // where the feed-forward block reads normed too, its share is there already
        let mut write = if w.post_norm.is_some() { Write::Overwrite } else { Write::Accumulate };
        let Inner { q, k, v, .. } = &mut *inner;
        for (d, y, w, shape) in [(dq, q, &w.q, s.q), (dk, k, &w.k, s.kv), (&back.dv, v, &w.v, s.kv)] {
            grads.move_in(b, w, y, shape)?;
            self.linear_backward(b, &mut back.d_normed, d, normed, w, write, grads, low, shape)?;
            write = Write::Accumulate;
        }
        // normed = norm(x)
        self.norm_backward(b, &mut back.dx, &back.d_normed, x, &inner.rstd_in, w.input_norm, grads, s.norm)
    }
}
