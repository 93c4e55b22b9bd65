//! A projection, with or without an adapter (2106.09685): all seven of a block go through these two functions.

use super::buffers::Low;
use super::params::{AdapterIds, Linear};
use super::{Gradients, Model};
use crate::backend::{Backend, MatmulShape, Write};
use crate::error::Result;

impl<B: Backend> Model<B> {
    /// y = x·Wᵀ (+ bias) (+ residual) (+ s·(x·Aᵀ)·Bᵀ). `y[m,n]`, `x[m,k]`.
    pub(super) fn linear(
        &self, b: &B, y: &mut B::Buf<B::Act>, x: &B::Buf<B::Act>, w: &Linear,
        residual: Option<&B::Buf<B::Act>>, low: &mut Low<B>, s: MatmulShape,
    ) -> Result<()> {
        let p = |id| self.param(id);
        b.matmul_nt(y, x, p(w.weight), w.bias.map(p), residual, s)?;
        let Some(adapter) = &w.adapter else { return Ok(()) };
        // y += u·Bᵀ
        self.reduce(b, &mut low.u, x, adapter, s)?;
        b.matmul_nn(y, &low.u, p(adapter.b), Write::Accumulate, self.config.adapter_shape(s.m, s.n))
    }

    /// Undoes [`Model::linear`]: dx (= or +=) dy·W (+ s·(dy·B)·A), and to the gradients of what is trained is added
    /// dW += dyᵀ·x, d_bias += Σ dy, dA += s·(dy·B)ᵀ·x, dB += s·dyᵀ·(x·Aᵀ).
    pub(super) fn linear_backward(
        &self, b: &B, dx: &mut B::Buf<B::Act>, dy: &B::Buf<B::Act>, x: &B::Buf<B::Act>, w: &Linear,
        write: Write, grads: &mut Gradients<B>, low: &mut Low<B>, s: MatmulShape,
    ) -> Result<()> {
        let p = |id| self.param(id);
        // y = x·Wᵀ (+ bias); a residual's share of the gradient needs no work
        if let Some(dw) = grads.of(w.weight) {
            b.matmul_tn(dw, dy, x, s)?;
        }
        if let Some(db) = w.bias.and_then(|id| grads.of(id)) {
            b.bias_backward(db, dy, s.m, s.n)?;
        }
        b.matmul_nn(dx, dy, p(w.weight), write, s)?;
        let Some(adapter) = &w.adapter else { return Ok(()) };
        let (inner, outer) = (self.config.adapter_shape(s.m, s.k), self.config.adapter_shape(s.m, s.n));
        // y += u·Bᵀ, with Bᵀ as the parameter
        self.reduce(b, &mut low.u, x, adapter, s)?;
        if let Some(d_b) = grads.of(adapter.b) {
            b.matmul_tn(d_b, &low.u, dy, outer)?;
        }
        b.matmul_nt(&mut low.du, dy, p(adapter.b), None, None, outer)?;
        // u = s·x·Aᵀ
        self.scale_low(b, &mut low.du, s.m)?;
        if let Some(d_a) = grads.of(adapter.a) {
            b.matmul_tn(d_a, &low.du, x, inner)?;
        }
        b.matmul_nn(dx, &low.du, p(adapter.a), Write::Accumulate, inner)
    }

    /// u = s·x·Aᵀ, `[m, rank]`.
    fn reduce(
        &self, b: &B, u: &mut B::Buf<B::Act>, x: &B::Buf<B::Act>, adapter: &AdapterIds, s: MatmulShape,
    ) -> Result<()> {
        b.matmul_nt(u, x, self.param(adapter.a), None, None, self.config.adapter_shape(s.m, s.k))?;
        self.scale_low(b, u, s.m)
    }

    /// The narrow side is the cheap place for s.
    fn scale_low(&self, b: &B, u: &mut B::Buf<B::Act>, tokens: usize) -> Result<()> {
        match &self.config.lora {
            Some(lora) if lora.scale() != 1.0 => b.scale(u, lora.scale(), tokens * lora.rank),
            _ => Ok(()),
        }
    }
}
