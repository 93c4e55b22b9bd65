//! A norm of the residual stream, RMSNorm or LayerNorm: all of them go through these two functions.

use super::params::NormIds;
use super::{Gradients, Model};
use crate::backend::{Backend, NormShape};
use crate::error::Result;

impl<B: Backend> Model<B> {
    /// y = norm(x); `stats` [tokens, 1 or 2] is what undoing it needs.
    pub(super) fn norm(
        &self, b: &B, y: &mut B::Buf<B::Act>, stats: &mut B::Buf<B::Stat>, x: &B::Buf<B::Act>, w: NormIds,
        s: NormShape,
    ) -> Result<()> {
        let weight = self.param(w.weight);
        match w.bias {
            None => b.rmsnorm(y, stats, x, weight, s),
            Some(bias) => b.layernorm(y, stats, x, weight, self.param(bias), s),
        }
    }

    /// Undoes [`Model::norm`]: dx += its share, and to the gradients of weight and bias is added.
    pub(super) fn norm_backward(
        &self, b: &B, dx: &mut B::Buf<B::Act>, dy: &B::Buf<B::Act>, x: &B::Buf<B::Act>,
        stats: &B::Buf<B::Stat>, w: NormIds, grads: &mut Gradients<B>, s: NormShape,
    ) -> Result<()> {
        let weight = self.param(w.weight);
        let Some(bias) = w.bias else {
            return b.rmsnorm_backward(dx, grads.of(w.weight), dy, x, stats, weight, s);
        };
        if let Some(db) = grads.of(bias) {
            b.bias_backward(db, dy, s.tokens, s.width)?;
        }
        b.layernorm_backward(dx, grads.of(w.weight), dy, x, stats, weight, s)
    }
}
