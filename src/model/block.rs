//! One transformer block: its forward pass, and a backward pass whose every group of lines names the forward line it undoes.
//!
//! T tokens over all rows, d = hidden size, f = intermediate size, h and g query and key/value heads of dim c.

use super::buffers::{Inner, Work};
use super::cache::Cache;
use super::heads::placed;
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
        let p = |id| self.param(id);
        b.rmsnorm(&mut work.normed, &mut inner.rstd_in, x, p(w.input_norm), s.norm)?;
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
        b.rmsnorm(&mut work.normed, &mut inner.rstd_mid, &inner.mid, p(w.post_norm), s.norm)?;
        self.linear(b, &mut inner.gate, &work.normed, &w.gate, None, &mut work.low, s.up)?;
        self.linear(b, &mut inner.up, &work.normed, &w.up, None, &mut work.low, s.up)
    }

    /// y = mid + (silu(gate)·up)·downᵀ.
    pub(super) fn block_out(
        &self, backend: &B, layer: usize, y: &mut B::Buf<B::Act>, inner: &Inner<B>, work: &mut Work<B>,
        tokens: usize,
    ) -> Result<()> {
        let s = self.config.block_shapes(tokens);
        backend.swiglu(&mut work.act, &inner.gate, &inner.up, tokens * s.up.n)?;
        let down = &self.ids.layers[layer].down;
        self.linear(backend, y, &work.act, down, Some(&inner.mid), &mut work.low, s.down)
    }

    /// Undoes a block: `work.dx`, the gradient of its output, becomes the gradient of its input `x`; the gradients of
    /// its parameters are added to `grads`. What is cheap to compute (norms, activation) is computed again, not kept. What
    /// projections gave, the block's output `y` among it, may become the memory of their weights' gradients.
    pub(super) fn block_backward(
        &self, backend: &B, layer: usize, x: &B::Buf<B::Act>, y: &mut B::Buf<B::Act>, inner: &mut Inner<B>,
        work: &mut Work<B>, grads: &mut Gradients<B>, batch: &PlacedBatch<B>,
    ) -> Result<()> {
        self.mlp_backward(backend, layer, y, inner, work, grads, batch.len())?;
        self.attention_half_backward(backend, layer, x, inner, work, grads, batch)
    }

    fn mlp_backward(
        &self, b: &B, layer: usize, y: &mut B::Buf<B::Act>, inner: &mut Inner<B>, work: &mut Work<B>,
        grads: &mut Gradients<B>, tokens: usize,
    ) -> Result<()> {
        let (w, s) = (&self.ids.layers[layer], self.config.block_shapes(tokens));
        let p = |id| self.param(id);
        let (back, low) = (&mut work.backward, &mut work.low);
        // y = mid + act·downᵀ; the residual's share of the gradient is already in dx
        b.swiglu(&mut work.act, &inner.gate, &inner.up, tokens * s.up.n)?;
        grads.move_in(b, &w.down, y, s.down)?;
        let (d_act, dx) = (&mut back.d_act, &back.dx);
        self.linear_backward(b, d_act, dx, &work.act, &w.down, Write::Overwrite, grads, low, s.down)?;
        // act = silu(gate)·up
        let len = tokens * s.up.n;
        b.swiglu_backward(&mut back.d_gate, &mut back.d_up, &back.d_act, &inner.gate, &inner.up, len)?;
        // gate = normed·gateᵀ, up = normed·upᵀ
        b.rmsnorm(&mut work.normed, &mut inner.rstd_mid, &inner.mid, p(w.post_norm), s.norm)?;
        grads.move_in(b, &w.gate, &mut inner.gate, s.up)?;
        grads.move_in(b, &w.up, &mut inner.up, s.up)?;
        let (d_normed, normed) = (&mut back.d_normed, &work.normed);
        self.linear_backward(b, d_normed, &back.d_gate, normed, &w.gate, Write::Overwrite, grads, low, s.up)?;
        self.linear_backward(b, d_normed, &back.d_up, normed, &w.up, Write::Accumulate, grads, low, s.up)?;
        // normed = rmsnorm(mid)
        let d_weight = grads.of(w.post_norm);
        b.rmsnorm_backward(
            &mut back.dx,
            d_weight,
            &back.d_normed,
            &inner.mid,
            &inner.rstd_mid,
            p(w.post_norm),
            s.norm,
        )
    }

    fn attention_half_backward(
        &self, b: &B, layer: usize, x: &B::Buf<B::Act>, inner: &mut Inner<B>, work: &mut Work<B>,
        grads: &mut Gradients<B>, batch: &PlacedBatch<B>,
    ) -> Result<()> {
        let (w, s) = (&self.ids.layers[layer], self.config.block_shapes(batch.len()));
        let p = |id| self.param(id);
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
        self.place_heads_backward(b, w, (&mut back.dq, &mut back.dk), inner, heads, grads, batch)?;
        let (dq, dk) = placed(w, (&back.dq, &back.dk), (&heads.q, &heads.k));
        // q, k, v = normed·wqᵀ, normed·wkᵀ, normed·wvᵀ (+ biases)
        b.rmsnorm(normed, &mut inner.rstd_in, x, p(w.input_norm), s.norm)?;
        let mut write = Write::Overwrite;
        let Inner { q, k, v, .. } = &mut *inner;
        for (d, y, w, shape) in [(dq, q, &w.q, s.q), (dk, k, &w.k, s.kv), (&back.dv, v, &w.v, s.kv)] {
            grads.move_in(b, w, y, shape)?;
            self.linear_backward(b, &mut back.d_normed, d, normed, w, write, grads, low, shape)?;
            write = Write::Accumulate;
        }
        // normed = rmsnorm(x)
        let d_weight = grads.of(w.input_norm);
        b.rmsnorm_backward(&mut back.dx, d_weight, &back.d_normed, x, &inner.rstd_in, p(w.input_norm), s.norm)
    }
}
