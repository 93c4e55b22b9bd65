//! AdamW with master weights in full precision and moments in f32 or 8 bits, clipping by global norm, and learning rate
//! schedules.

mod moments;
mod schedule;

pub use moments::{Codes, Moments};
pub use schedule::{Schedule, ScheduleKind};

use crate::backend::{Adam8Tensor, AdamStep, AdamTensor, Backend};
use crate::error::Result;
use crate::memory::{Kind, Ledger};
use crate::model::{Gradients, Model};
use serde::{Deserialize, Serialize};

/// What AdamW keeps its moments in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// AdamW, both moments in f32: 8 bytes a parameter.
    #[default]
    Adamw,
    /// AdamW, both moments as 8-bit codes with a scale for each 256: 2.03 bytes a parameter.
    #[value(name = "adamw8bit")]
    Adamw8bit,
}

/// What AdamW keeps for each trained parameter, in the order of the table.
pub struct AdamState<B: Backend> {
    /// Empty where the parameters themselves are in full precision.
    pub master: Vec<B::Buf<B::Stat>>,
    pub moments: Moments<B>,
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
    /// Of the random rounding of moments in 8 bits.
    pub seed: u64,
}

impl<B: Backend> AdamState<B> {
    /// Whether parameters are stored coarser than statistics, so that a master copy is needed.
    pub fn needs_master() -> bool {
        size_of::<B::Act>() < size_of::<B::Stat>()
    }

    pub fn allocate(b: &B, ledger: &mut Ledger, model: &Model<B>, optimizer: Optimizer) -> Result<Self> {
        let mut master = Vec::new();
        if Self::needs_master() {
            for (_, spec) in model.trained() {
                let name = format!("master {}", spec.name);
                master.push(ledger.buf(b, Kind::MasterWeights, &name, &spec.shape)?);
            }
        }
        let lengths: Vec<usize> = model.trained().map(|(_, spec)| spec.elements()).collect();
        let bytes = b.optimizer_bytes(&lengths);
        if bytes > 0 {
            ledger.note(Kind::Scratch, "optimizer tables", &[bytes], "u8", bytes);
        }
        Ok(AdamState { master, moments: Moments::allocate(b, ledger, model, optimizer)? })
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
        let numbers = AdamStep { lr, beta1: h.beta1, beta2: h.beta2, eps: h.eps, step, grad_scale };
        let mut masters = self.master.iter_mut();
        let params = model.params.iter_mut().zip(&model.specs).filter(|(_, spec)| spec.trained);
        let trained = params.zip(grads.trained()).map(|((param, spec), grad)| {
            let decay = if spec.decay { h.weight_decay } else { 0.0 };
            (param, masters.next(), grad, decay)
        });
        let stepped = match &mut self.moments {
            Moments::Full { m, v } => {
                let mut tensors: Vec<AdamTensor<'_, B>> = trained
                    .zip(m.iter_mut().zip(v))
                    .map(|((param, master, grad, decay), (m, v))| AdamTensor {
                        param,
                        master,
                        m,
                        v,
                        grad,
                        decay,
                    })
                    .collect();
                b.adamw(&mut tensors, numbers)
            }
            Moments::Codes { m, v } => {
                let mut tensors: Vec<Adam8Tensor<'_, B>> = trained
                    .zip(m.iter_mut().zip(v))
                    .map(|((param, master, grad, decay), (m, v))| Adam8Tensor {
                        param,
                        master,
                        m: m.as_mut(),
                        v: v.as_mut(),
                        grad,
                        decay,
                    })
                    .collect();
                b.adamw8(&mut tensors, numbers, h.seed)
            }
        };
        stepped?;
        model.refresh(b)
    }
}
