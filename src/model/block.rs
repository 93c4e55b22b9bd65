//! One transformer block: its forward pass, and a backward pass whose every group of lines names the forward line it undoes.
//!
//! T tokens over all rows, d = hidden size, f = intermediate size, h and g query and key/value heads of dim c.

use super::buffers::{Inner, Work};
use super::cache::Cache;
use super::{Gradients, Model, PlacedBatch};
use crate::backend::{Backend, Direction, MatmulShape, Write};
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
        b.matmul_nt(&mut inner.q, &work.normed, p(w.q), w.q_bias.map(p), None, s.q)?;
        b.matmul_nt(&mut inner.k, &work.normed, p(w.k), w.k_bias.map(p), None, s.kv)?;
        b.matmul_nt(&mut inner.v, &work.normed, p(w.v), w.v_bias.map(p), None, s.kv)?;
        self.rotate(b, &mut inner.q, &mut inner.k, batch, Direction::Forward)?;
        let documents = batch.documents.as_ref();
        match keys {
            Keys::Own => {
                let shape = self.config.attention_shape(batch.rows, batch.tokens, batch.tokens);
                b.attention(&mut inner.o, &mut inner.lse, &inner.q, &inner.k, &inner.v, documents, shape)?;
            }
            Keys::Cached { layer: cache, past } => {
                cache.append(b, past, &inner.k, &inner.v, self.config.kv_shape(batch.len()))?;
                let shape = self.config.attention_shape(1, batch.tokens, past + batch.tokens);
                cache.attend(b, &mut inner.o, &mut inner.lse, &inner.q, documents, shape)?;
            }
        }
        b.matmul_nt(&mut inner.mid, &inner.o, p(w.o), w.o_bias.map(p), Some(x), s.o)?;
        b.rmsnorm(&mut work.normed, &mut inner.rstd_mid, &inner.mid, p(w.post_norm), s.norm)?;
        b.matmul_nt(&mut inner.gate, &work.normed, p(w.gate), None, None, s.up)?;
        b.matmul_nt(&mut inner.up, &work.normed, p(w.up), None, None, s.up)
    }

    /// y = mid + (silu(gate)·up)·downᵀ.
    pub(super) fn block_out(
        &self, backend: &B, layer: usize, y: &mut B::Buf<B::Act>, inner: &Inner<B>, work: &mut Work<B>,
        tokens: usize,
    ) -> Result<()> {
        let s = self.config.block_shapes(tokens);
        backend.swiglu(&mut work.act, &inner.gate, &inner.up, tokens * s.up.n)?;
        let down = self.param(self.ids.layers[layer].down);
        backend.matmul_nt(y, &work.act, down, None, Some(&inner.mid), s.down)
    }

    /// Undoes a block: `work.dx`, the gradient of its output, becomes the gradient of its input `x`; the gradients of
    /// its parameters are added to `grads`. What is cheap to compute (norms, activation) is computed again, not kept.
    pub(super) fn block_backward(
        &self, backend: &B, layer: usize, x: &B::Buf<B::Act>, inner: &mut Inner<B>, work: &mut Work<B>,
        grads: &mut Gradients<B>, batch: &PlacedBatch<B>,
    ) -> Result<()> {
        self.mlp_backward(backend, layer, inner, work, grads, batch.len())?;
        self.attention_half_backward(backend, layer, x, inner, work, grads, batch)
    }

    fn mlp_backward(
        &self, b: &B, layer: usize, inner: &mut Inner<B>, work: &mut Work<B>, grads: &mut Gradients<B>,
        tokens: usize,
    ) -> Result<()> {
        let (w, s) = (&self.ids.layers[layer], self.config.block_shapes(tokens));
        let p = |id| self.param(id);
        let back = &mut work.backward;
        // y = mid + act·downᵀ; the residual's share of the gradient is already in dx
        b.swiglu(&mut work.act, &inner.gate, &inner.up, tokens * s.up.n)?;
        b.matmul_tn(grads.of(w.down), &back.dx, &work.act, s.down)?;
        b.matmul_nn(&mut back.d_act, &back.dx, p(w.down), Write::Overwrite, s.down)?;
        // act = silu(gate)·up
        let len = tokens * s.up.n;
        b.swiglu_backward(&mut back.d_gate, &mut back.d_up, &back.d_act, &inner.gate, &inner.up, len)?;
        // gate = normed·gateᵀ, up = normed·upᵀ
        b.rmsnorm(&mut work.normed, &mut inner.rstd_mid, &inner.mid, p(w.post_norm), s.norm)?;
        b.matmul_tn(grads.of(w.gate), &back.d_gate, &work.normed, s.up)?;
        b.matmul_tn(grads.of(w.up), &back.d_up, &work.normed, s.up)?;
        b.matmul_nn(&mut back.d_normed, &back.d_gate, p(w.gate), Write::Overwrite, s.up)?;
        b.matmul_nn(&mut back.d_normed, &back.d_up, p(w.up), Write::Accumulate, s.up)?;
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
        let back = &mut work.backward;
        // mid = x + o·woᵀ (+ bias)
        b.matmul_tn(grads.of(w.o), &back.dx, &inner.o, s.o)?;
        self.bias_gradient(b, w.o_bias, &back.dx, grads, s.o)?;
        b.matmul_nn(&mut back.d_o, &back.dx, p(w.o), Write::Overwrite, s.o)?;
        // o = attention(q, k, v)
        b.attention_backward(
            &mut back.dq,
            &mut back.dk,
            &mut back.dv,
            &back.d_o,
            &inner.o,
            &inner.lse,
            &inner.q,
            &inner.k,
            &inner.v,
            batch.documents.as_ref(),
            self.config.attention_shape(batch.rows, batch.tokens, batch.tokens),
        )?;
        // q, k = rope(q, k)
        self.rotate(b, &mut back.dq, &mut back.dk, batch, Direction::Backward)?;
        // q, k, v = normed·wqᵀ, normed·wkᵀ, normed·wvᵀ (+ biases)
        b.rmsnorm(&mut work.normed, &mut inner.rstd_in, x, p(w.input_norm), s.norm)?;
        let mut write = Write::Overwrite;
        for (d, weight, bias, shape) in
            [(&back.dq, w.q, w.q_bias, s.q), (&back.dk, w.k, w.k_bias, s.kv), (&back.dv, w.v, w.v_bias, s.kv)]
        {
            b.matmul_tn(grads.of(weight), d, &work.normed, shape)?;
            self.bias_gradient(b, bias, d, grads, shape)?;
            b.matmul_nn(&mut back.d_normed, d, p(weight), write, shape)?;
            write = Write::Accumulate;
        }
        // normed = rmsnorm(x)
        let d_weight = grads.of(w.input_norm);
        b.rmsnorm_backward(&mut back.dx, d_weight, &back.d_normed, x, &inner.rstd_in, p(w.input_norm), s.norm)
    }

    fn bias_gradient(
        &self, b: &B, bias: Option<super::ParamId>, dy: &B::Buf<B::Act>, grads: &mut Gradients<B>,
        s: MatmulShape,
    ) -> Result<()> {
        bias.map_or(Ok(()), |id| b.bias_backward(grads.of(id), dy, s.m, s.n))
    }
}
