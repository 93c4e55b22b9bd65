//! q and k as attention takes them: rotated and, where the family has norms over heads (2505.09388), normed before
//! that.
//!
//! Where heads are normed, a layer keeps what the projections gave and [`Heads`] has what came of it, for one layer at
//! a time.

use super::buffers::{Heads, Inner};
use super::params::LayerIds;
use super::{Config, Gradients, Model, PlacedBatch};
use crate::backend::{Backend, Direction, NormShape};
use crate::error::Result;

/// The two buffers that hold q and k (or their gradients) ready for attention, out of the layer's own and those of the
/// norms.
pub(super) fn placed<'a, T>(w: &LayerIds, own: (&'a T, &'a T), normed: (&'a T, &'a T)) -> (&'a T, &'a T) {
    if w.head_norms.is_some() { normed } else { own }
}

/// Of q and of k.
fn shapes(c: &Config, tokens: usize) -> [NormShape; 2] {
    [c.num_attention_heads, c.num_key_value_heads].map(|heads| c.head_norm_shape(tokens, heads))
}

impl<B: Backend> Model<B> {
    /// q, k = rope(rmsnorm(q), rmsnorm(k)), or rope(q), rope(k) in place.
    pub(super) fn place_heads(
        &self, b: &B, w: &LayerIds, inner: &mut Inner<B>, heads: &mut Heads<B>, batch: &PlacedBatch<B>,
    ) -> Result<()> {
        let Some(norms) = w.head_norms else {
            return self.rotate(b, &mut inner.q, &mut inner.k, batch, Direction::Forward);
        };
        let [of_q, of_k] = shapes(&self.config, batch.len());
        b.rmsnorm(&mut heads.q, &mut heads.rstd_q, &inner.q, self.param(norms.q), of_q)?;
        b.rmsnorm(&mut heads.k, &mut heads.rstd_k, &inner.k, self.param(norms.k), of_k)?;
        self.rotate(b, &mut heads.q, &mut heads.k, batch, Direction::Forward)
    }

    /// Undoes [`Model::place_heads`]: dq and dk, of what attention took, become gradients of what the projections gave:
    /// in place, or in `heads` where there are norms, whose own content is over by then.
    pub(super) fn place_heads_backward(
        &self, b: &B, w: &LayerIds, [dq, dk]: [&mut B::Buf<B::Act>; 2], inner: &Inner<B>,
        heads: &mut Heads<B>, grads: &mut Gradients<B>, batch: &PlacedBatch<B>,
    ) -> Result<()> {
        self.rotate(b, dq, dk, batch, Direction::Backward)?;
        let Some(norms) = w.head_norms else { return Ok(()) };
        let [of_q, of_k] = shapes(&self.config, batch.len());
        // rmsnorm_backward adds to what is there
        b.zero(&mut heads.q, of_q.tokens * of_q.width)?;
        b.zero(&mut heads.k, of_k.tokens * of_k.width)?;
        let (p, Heads { q, k, rstd_q, rstd_k }) = (|id| self.param(id), heads);
        b.rmsnorm_backward(q, grads.of(norms.q), dq, &inner.q, rstd_q, p(norms.q), of_q)?;
        b.rmsnorm_backward(k, grads.of(norms.k), dk, &inner.k, rstd_k, p(norms.k), of_k)
    }
}
