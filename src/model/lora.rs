//! Low-rank adapters (LoRA, 2106.09685): which projections have one, and what is trained beside them.
//!
//! A projection y = x·Wᵀ becomes y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with A [rank, inputs] and B [outputs, rank]. W is frozen. A starts
//! random and B at zero, so that the model starts as it was.

use super::Config;
use super::family::{FAMILIES, Family, Mlp, short};
use crate::error::{Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A projection of every layer that can have an adapter.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Target {
    /// As the module is called in a checkpoint of the family, e.g. `q_proj`.
    pub fn module(self, family: &Family) -> &'static str {
        short(family.names.layer.projection(self))
    }

    /// As the module is called in checkpoints of one family or another.
    pub fn modules(self) -> impl Iterator<Item = &'static str> {
        FAMILIES.iter().map(move |family| self.module(family)).filter(|module| !module.is_empty())
    }

    /// The projection whose weight is called `name` in a checkpoint of some family.
    pub fn of(name: &str) -> Option<Target> {
        let is =
            |target: &&Target| target.modules().any(|module| name.ends_with(&format!(".{module}.weight")));
        Target::value_variants().iter().find(is).copied()
    }

    /// Whether the model has such a projection.
    pub fn exists(self, c: &Config) -> bool {
        self != Target::Gate || c.arch.mlp == Mlp::SwiGlu
    }

    /// Whether it is among those that some checkpoints keep in one tensor.
    pub fn is_packed(&self) -> bool {
        matches!(self, Target::Q | Target::K | Target::V)
    }

    /// Outputs and inputs of the projection.
    pub fn sides(self, c: &Config) -> (usize, usize) {
        let shapes = c.block_shapes(1);
        let shape = match self {
            Target::Q => shapes.q,
            Target::K | Target::V => shapes.kv,
            Target::O => shapes.o,
            Target::Gate | Target::Up => shapes.up,
            Target::Down => shapes.down,
        };
        (shape.n, shape.k)
    }
}

/// What is trained in full beside the adapters, as LongLoRA (2309.12307) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Also {
    /// The embedding (and with it a head that is tied to it).
    Embed,
    /// All norms.
    Norm,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    pub rank: usize,
    pub alpha: f64,
    pub targets: Vec<Target>,
    pub also: Vec<Also>,
    /// Scale by alpha/√rank (2312.03732) and not by alpha/rank.
    pub rank_stabilised: bool,
}

impl Lora {
    /// s, by which the adapters' product is multiplied.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Refuses a projection that the model has not, and a rank that is no reduction: above the smaller side of a
    /// projection that it is for.
    pub fn check(&self, c: &Config) -> Result<()> {
        if self.targets.iter().any(|target| !target.exists(c)) {
            let problem =
                format!("{} has no gate in its feed-forward block; leave gate out", c.family.architecture);
            return Err(Error::usage("--lora-targets", "gate", problem));
        }
        let side = |target: Target| {
            let (outputs, inputs) = target.sides(c);
            outputs.min(inputs)
        };
        match self.targets.iter().find(|&&target| self.rank > side(target)) {
            None => Ok(()),
            Some(&target) => {
                let (outputs, inputs) = target.sides(c);
                let problem = format!(
                    "is above the smaller side of {}, which is {outputs} x {inputs} in this model; ask for at most {}",
                    target.module(c.family),
                    side(target)
                );
                Err(Error::usage("--lora-rank", self.rank, problem))
            }
        }
    }
}
