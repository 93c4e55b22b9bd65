//! The whole model: forward with loss, backward, and reading on through a KV cache.

use super::block::Keys;
use super::buffers::{ReadBuffers, TrainBuffers};
use super::{Gradients, Model, PlacedBatch};
use crate::backend::{Backend, Direction, HeadGrad, RopeShape};
use crate::error::Result;

impl<B: Backend> Model<B> {
    /// Loss of every token into `buffers.work.nll` [rows, tokens], and the gradients of Σ nll·`scale` added to `grads`.
    /// Those are complete after [`Model::finish_gradients`], once for all passes that are summed.
    pub fn forward_backward(
        &self, b: &B, buffers: &mut TrainBuffers<B>, grads: &mut Gradients<B>, batch: &PlacedBatch<B>,
        scale: f64,
    ) -> Result<()> {
        buffers.reclaim(b, grads, &self.ids.layers);
        self.forward(b, buffers, batch)?;
        self.backward(b, buffers, grads, batch, scale, None)
    }

    /// Loss and backward pass, after [`Model::forward`]: gradients of Σ nll·`scale`·weight, of `weights` [rows, tokens] or 1.
    pub(super) fn backward(
        &self, b: &B, buffers: &mut TrainBuffers<B>, grads: &mut Gradients<B>, batch: &PlacedBatch<B>,
        scale: f64, weights: Option<&B::Buf<B::Stat>>,
    ) -> Result<()> {
        let TrainBuffers { x, work, .. } = buffers;
        let (last, norm) = (&x[self.config.num_hidden_layers], self.config.norm_shape(batch.len()));
        // loss = cross-entropy(norm(x)·headᵀ (+ bias)), and at once its gradient
        let back = &mut work.backward;
        let (dw, db) = grads.pair(self.ids.head_weight(), self.ids.head_bias);
        let grad = HeadGrad { dx: &mut back.d_normed, dw, db, scale, weights };
        let (head, bias, shape) = (self.head(), self.head_bias(), self.config.head_shape(batch.len()));
        b.head_loss(&mut work.nll, &work.normed, head, bias, &batch.targets, Some(grad), shape)?;
        // normed = norm(x): nothing else reads the last x, so its gradient starts from zero
        b.zero(&mut back.dx, batch.len() * self.config.hidden_size)?;
        let (dx, dy, w) = (&mut back.dx, &back.d_normed, self.ids.final_norm);
        self.norm_backward(b, dx, dy, last, &work.rstd, w, grads, norm)?;
        for layer in (0..self.config.num_hidden_layers).rev() {
            self.undo_layer(b, layer, buffers, grads, batch)?;
        }
        // x = embed(ids)
        let dx = &buffers.work.backward.dx;
        grads.of(self.ids.embed).map_or(Ok(()), |d_table| b.embed_backward(d_table, dx, &batch.ids, shape))
    }

    /// Loss of every token into `buffers.work.nll`, without gradients. For buffers in which no gradients lodge
    /// ([`TrainBuffers::new`]).
    pub fn forward_loss(&self, b: &B, buffers: &mut TrainBuffers<B>, batch: &PlacedBatch<B>) -> Result<()> {
        self.forward(b, buffers, batch)?;
        let work = &mut buffers.work;
        let (head, bias, shape) = (self.head(), self.head_bias(), self.config.head_shape(batch.len()));
        b.head_loss(&mut work.nll, &work.normed, head, bias, &batch.targets, None, shape)
    }

    /// The residual stream through all blocks, kept in `buffers.x`, and its end normed, in `buffers.work.normed`.
    fn forward(&self, b: &B, buffers: &mut TrainBuffers<B>, batch: &PlacedBatch<B>) -> Result<()> {
        b.embed(
            &mut buffers.x[0],
            self.param(self.ids.embed),
            &batch.ids,
            self.config.head_shape(batch.len()),
        )?;
        for layer in 0..self.config.num_hidden_layers {
            let (kept, TrainBuffers { x, inner, work, .. }) = (buffers.kept(layer), &mut *buffers);
            let inner = &mut inner[kept];
            let (before, after) = x.split_at_mut(layer + 1);
            self.block_inner(b, layer, &before[layer], inner, work, batch, Keys::Own)?;
            self.block_out(b, layer, &mut after[0], inner, work, batch.len())?;
        }
        let TrainBuffers { x, work, .. } = buffers;
        let (last, norm) = (&x[self.config.num_hidden_layers], self.config.norm_shape(batch.len()));
        self.norm(b, &mut work.normed, &mut work.rstd, last, self.ids.final_norm, norm)
    }

    fn undo_layer(
        &self, b: &B, layer: usize, buffers: &mut TrainBuffers<B>, grads: &mut Gradients<B>,
        batch: &PlacedBatch<B>,
    ) -> Result<()> {
        let overwritten = buffers.is_overwritten(layer);
        let (kept, TrainBuffers { x, inner, work, .. }) = (buffers.kept(layer), &mut *buffers);
        let inner = &mut inner[kept];
        if overwritten {
            self.block_inner(b, layer, &x[layer], inner, work, batch, Keys::Own)?;
        }
        let (before, after) = x.split_at_mut(layer + 1);
        self.block_backward(b, layer, &before[layer], &mut after[0], inner, work, grads, batch)
    }

    /// Reads one chunk of a single row whose first `past` tokens are in the caches. Leaves the normed final state of the
    /// chunk in `buffers.work.normed` [tokens, d].
    pub fn read(
        &self, b: &B, buffers: &mut ReadBuffers<B>, batch: &PlacedBatch<B>, past: usize,
    ) -> Result<()> {
        self.read_embed(b, buffers, 0, batch)?;
        for layer in 0..self.config.num_hidden_layers {
            self.read_layer(b, buffers, layer, 0, batch, past)?;
        }
        self.read_norm(b, buffers, 0, batch.len())
    }

    /// The tokens of the batch become chunk `chunk` of the residual stream.
    pub fn read_embed(
        &self, b: &B, buffers: &mut ReadBuffers<B>, chunk: usize, batch: &PlacedBatch<B>,
    ) -> Result<()> {
        let shape = self.config.head_shape(batch.len());
        b.embed(&mut buffers.x[chunk], self.param(self.ids.embed), &batch.ids, shape)
    }

    /// Takes chunk `chunk` of the residual stream, before which lie `past` tokens, through one layer.
    pub fn read_layer(
        &self, b: &B, buffers: &mut ReadBuffers<B>, layer: usize, chunk: usize, batch: &PlacedBatch<B>,
        past: usize,
    ) -> Result<()> {
        let ReadBuffers { x, y, inner, work, caches, .. } = buffers;
        let (x, kept) = (&mut x[chunk], layer % caches.len());
        let keys = Keys::Cached { layer: &mut caches[kept], past };
        self.block_inner(b, layer, x, inner, work, batch, keys)?;
        self.block_out(b, layer, y, inner, work, batch.len())?;
        std::mem::swap(x, y);
        Ok(())
    }

    /// The normed final state of chunk `chunk`, of `tokens` tokens, into `buffers.work.normed`.
    pub fn read_norm(&self, b: &B, buffers: &mut ReadBuffers<B>, chunk: usize, tokens: usize) -> Result<()> {
        let ReadBuffers { x, work, .. } = buffers;
        let norm = self.config.norm_shape(tokens);
        self.norm(b, &mut work.normed, &mut work.rstd, &x[chunk], self.ids.final_norm, norm)
    }

    /// In place on q and k, by the batch's places.
    pub(super) fn rotate(
        &self, b: &B, q: &mut B::Buf<B::Act>, k: &mut B::Buf<B::Act>, batch: &PlacedBatch<B>,
        direction: Direction,
    ) -> Result<()> {
        let c = &self.config;
        let shape = RopeShape {
            rows: batch.rows,
            tokens: batch.tokens,
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            rotary_dim: c.rope.rotary_dim,
            pairs: c.arch.pairs,
            attention_factor: self.attention_factor,
        };
        b.rope(q, k, batch.places(), &self.turns, direction, shape)
    }
}
