//! AdamW with master weights and moments in full precision, clipping by global norm, and learning rate schedules.

mod schedule;

pub use schedule::{Schedule, ScheduleKind};

use crate::backend::{AdamStep, AdamTensor, Backend};
use crate::error::Result;
use crate::memory::{Kind, Ledger};
use crate::model::{Gradients, Model};

/// What AdamW keeps for each trained parameter, in the order of the table.
pub struct AdamState<B: Backend> {
    /// Empty where the parameters themselves are in full precision.
    pub master: Vec<B::Buf<B::Stat>>,
    pub m: Vec<B::Buf<B::Stat>>,
    pub v: Vec<B::Buf<B::Stat>>,
}

/// The constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamHyper {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Largest global gradient norm; larger gradients are scaled down to it. 0: no clipping.
    pub clip: f64,
}

impl<B: Backend> AdamState<B> {
    /// Whether parameters are stored coarser than statistics, so that a master copy is needed.
    pub fn needs_master() -> bool {
        size_of::<B::Act>() < size_of::<B::Stat>()
    }

    pub fn allocate(b: &B, ledger: &mut Ledger, model: &Model<B>) -> Result<Self> {
        let mut all = |kind, prefix: &str| -> Result<Vec<B::Buf<B::Stat>>> {
            model
                .trained()
                .map(|(_, spec)| ledger.buf(b, kind, &format!("{prefix} {}", spec.name), &spec.shape))
                .collect()
        };
        let master = if Self::needs_master() { all(Kind::MasterWeights, "master")? } else { Vec::new() };
        Ok(AdamState { master, m: all(Kind::Moments, "m")?, v: all(Kind::Moments, "v")? })
    }

    /// Sets the master weights to what the parameters are now.
    pub fn start_masters(&mut self, b: &B, model: &Model<B>) -> Result<()> {
        for (master, (id, spec)) in self.master.iter_mut().zip(model.trained()) {
            b.widen(master, model.param(id), spec.elements())?;
        }
        Ok(())
    }

    /// √Σ g² over all trained parameters.
    pub fn global_norm(b: &B, model: &Model<B>, grads: &Gradients<B>) -> Result<f64> {
        let norms = grads.norms(b, &model.specs)?;
        Ok(norms.iter().map(|n| n * n).sum::<f64>().sqrt())
    }

    /// One update of every trained parameter. `step` counts from 1, `norm` is the global gradient norm.
    pub fn step(
        &mut self, b: &B, model: &mut Model<B>, grads: &Gradients<B>, h: AdamHyper, step: u64, lr: f64,
        norm: f64,
    ) -> Result<()> {
        let grad_scale = if h.clip > 0.0 && norm > h.clip { h.clip / norm } else { 1.0 };
        let mut masters = self.master.iter_mut();
        let moments = self.m.iter_mut().zip(&mut self.v);
        let params = model.params.iter_mut().zip(&model.specs).filter(|(_, spec)| spec.trained);
        let mut tensors: Vec<AdamTensor<'_, B>> = params
            .zip(grads.trained())
            .zip(moments)
            .map(|(((param, spec), grad), (m, v))| {
                let decay = if spec.decay { h.weight_decay } else { 0.0 };
                AdamTensor { param, master: masters.next(), m, v, grad, decay }
            })
            .collect();
        b.adamw(&mut tensors, AdamStep { lr, beta1: h.beta1, beta2: h.beta2, eps: h.eps, step, grad_scale })
    }
}
