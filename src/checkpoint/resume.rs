//! What a run needs, beside the model, to go on bit for bit.

use super::atomic::Staging;
use super::tensors::{TensorSource, write_safetensors};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::regular;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Inside a checkpoint.
pub(super) const STATE: &str = "resume/state.json";
const TENSORS: &str = "resume/optimizer.safetensors";
const FORMAT: u32 = 1;

/// Where a run stands. Randomness is a function of (seed, step, row), so there is no generator's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResumeState {
    /// Of this file; set by [`ResumeState::new`].
    pub format: u32,
    /// Version of the program that wrote it.
    pub written_by: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens trained on so far.
    pub tokens: u64,
    pub seed: u64,
    /// Stands for everything in the recipe that changes the numbers.
    pub recipe: String,
    /// How likely each bin of distances is drawn, in a run that adapts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance_weights: Option<Vec<f64>>,
    /// Of a run that goes by its held-out text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// Of a run that watches for spikes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spikes: Option<SpikeState>,
}

/// What a run knows of its losses, and what it has left out for their sake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpikeState {
    /// Losses of the latest steps that were no spikes, oldest first.
    pub losses: Vec<f64>,
    /// Batches that rollbacks have passed over: step s reads the batch of s + passed.
    pub passed: u64,
    /// Updates left out in a row.
    pub in_a_row: u64,
}

/// How a run stands with its held-out text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub best: Option<Best>,
    /// Evaluations in a row that were not better than it.
    pub since_best: u64,
}

/// The best perplexity so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After which step.
    pub step: u64,
    pub ppl: f64,
}

impl ResumeState {
    pub fn new(step: u64, tokens: u64, seed: u64, recipe: String) -> ResumeState {
        let written_by = concat!("pose-engine ", env!("CARGO_PKG_VERSION")).into();
        let (distance_weights, standing, spikes) = (None, None, None);
        ResumeState {
            format: FORMAT,
            written_by,
            step,
            tokens,
            seed,
            recipe,
            distance_weights,
            standing,
            spikes,
        }
    }
}

/// The tensors kept for each parameter: f32, but for codes. Of the moments there are either M and V, or the other four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The parameter in full precision.
    Master,
    /// First moment.
    M,
    /// Second moment.
    V,
    /// Moments in 8 bits.
    MCodes,
    MScales,
    VCodes,
    VScales,
}

/// The name of a parameter's tensor in the file, e.g. `m.model.norm.weight`.
pub fn slot_name(slot: Slot, parameter: &str) -> String {
    let slot = match slot {
        Slot::Master => "master",
        Slot::M => "m",
        Slot::V => "v",
        Slot::MCodes => "m-codes",
        Slot::MScales => "m-scales",
        Slot::VCodes => "v-codes",
        Slot::VScales => "v-scales",
    };
    format!("{slot}.{parameter}")
}

/// Adds the resume state to a checkpoint in the making; `tensors` are named by [`slot_name`].
pub fn write_resume(staging: &Staging, state: &ResumeState, tensors: &dyn TensorSource) -> Result<()> {
    let text = serde_json::to_string_pretty(state).map_err(|e| Error::file(STATE, e.to_string()))?;
    staging.write(STATE, format!("{text}\n").as_bytes())?;
    let all: Vec<usize> = (0..tensors.specs().len()).collect();
    write_safetensors(&staging.dir().join(TENSORS), tensors, &all)
}

/// An opened resume state; its tensors are read by [`slot_name`].
#[derive(Debug)]
pub struct Resume {
    pub state: ResumeState,
    pub tensors: Weights,
}

impl Resume {
    /// Opens the resume state of a checkpoint for a run with this recipe.
    ///
    /// # Errors
    /// A directory without it (a model that was only published), an unknown format, or another recipe: going on with other
    /// settings is another run, and has to start from the model alone.
    pub fn open(checkpoint: &Path, recipe: &str) -> Result<Resume> {
        let state = Resume::read_state(checkpoint)?;
        if state.recipe != recipe {
            return Err(Error::file(
                checkpoint.join(STATE),
                format!(
                    "was written by a run with another recipe ({}, this one is {recipe}); run the same recipe, or start a \
                     new run from this checkpoint as its model",
                    state.recipe
                ),
            ));
        }
        Ok(Resume { state, tensors: Weights::open_file(&checkpoint.join(TENSORS))? })
    }

    /// Where the run of a checkpoint stands.
    pub(super) fn read_state(checkpoint: &Path) -> Result<ResumeState> {
        let path = checkpoint.join(STATE);
        let text = match regular::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::file(
                    checkpoint,
                    "has no resume/state.json, so a run cannot go on from it",
                ));
            }
            Err(e) => return Err(Error::io(&path, "reading", e)),
        };
        let state: ResumeState = serde_json::from_str(&text)
            .map_err(|e| Error::file(&path, format!("is not a resume state: {e}")))?;
        if state.format != FORMAT {
            return Err(Error::file(
                &path,
                format!("has format {}, this program reads {FORMAT}", state.format),
            ));
        }
        Ok(state)
    }
}
