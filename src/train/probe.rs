//! What the adaptive sampler goes by: at which distances the model is worst, on held-out text at the target length.
//!
//! The first Lt tokens of each held-out document are read twice: as one window of Lt tokens, and in windows of Lc tokens
//! that begin every Lc/2. A token late in the long window is predicted with distances that the short ones lack, and a model that
//! copes with them does not do worse there. So what a bin of positions needs is its mean excess, NLL of the long window minus
//! NLL of the short ones, over the same tokens: how hard the text is drops out. Token t is predicted with distances up to t-1, and
//! counts for the bin of that distance.

use super::metrics::Log;
use super::{Opened, State, Watch};
use crate::backend::Backend;
use crate::checkpoint::ResumeState;
use crate::data::{Corpus, Document};
use crate::error::{Error, Result};
use crate::eval::{Mode, Windows, losses};
use crate::infer::Scorer;
use crate::model::Model;
use crate::positions::DistanceWeights;
use crate::positions::adaptive::BINS;
use crate::recipe::Recipe;
use std::path::Path;

/// Mean NLL by bin of the token's position, nats per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe {
    /// In one window of the target length.
    pub long: [f64; BINS],
    /// In windows of the training length.
    pub short: [f64; BINS],
}

impl Probe {
    /// What the long window adds.
    pub fn excess(&self) -> [f64; BINS] {
        std::array::from_fn(|b| self.long[b] - self.short[b])
    }
}

/// Refuses held-out text in which no window of the target length can be read.
pub fn check_text(eval: &Corpus, target: usize) -> Result<()> {
    let longest = eval.documents.iter().map(|d| d.tokens.len()).max().unwrap_or(0);
    if longest >= target {
        return Ok(());
    }
    let problem = format!(
        "--method adaptive probes windows of the target length, {target} tokens, and the longest held-out document has \
         {longest} (after --eval-tokens); give a longer one"
    );
    Err(Error::usage("--eval-data", longest, problem))
}

/// The weights that a checkpoint was saved with.
pub fn saved_weights(state: &ResumeState, checkpoint: &Path) -> Result<DistanceWeights> {
    let saved =
        state.distance_weights.as_deref().and_then(|w| <[f64; BINS]>::try_from(w).ok()).map(DistanceWeights);
    saved.filter(DistanceWeights::are_probabilities).ok_or_else(|| {
        Error::file(
            checkpoint,
            format!("its resume/state.json should have {BINS} distance_weights that sum to 1"),
        )
    })
}

impl<B: Backend> State<B> {
    /// Probes where the recipe wants it after this step, and has distances drawn by what is found.
    pub(super) fn adapt(
        &mut self, b: &B, recipe: &Recipe, opened: &mut Opened, log: &mut Log, watch: &dyn Watch,
    ) -> Result<()> {
        let Some(adapt) = recipe.adapt.filter(|adapt| self.steps_done.is_multiple_of(adapt.every)) else {
            return Ok(());
        };
        let scorer = self.scorer.as_mut().expect("allocated whenever there is held-out text");
        let probe = probe(b, &self.model, scorer, &opened.eval, recipe)?;
        let weights = DistanceWeights::by_need(&probe.excess(), adapt.floor);
        let worst = probe.excess().into_iter().fold(f64::NEG_INFINITY, f64::max);
        watch.note(&format!("step {}: largest excess over short windows {worst:.4} nats", self.steps_done));
        log.weights(self.steps_done, &probe, &weights)?;
        opened.loader.set_weights(weights);
        Ok(())
    }
}

fn probe<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, eval: &Corpus, recipe: &Recipe,
) -> Result<Probe> {
    let (window, target) = (recipe.sampler.train_len(), recipe.sampler.target_len());
    let (mut long, mut short, mut counts) = ([0.0; BINS], [0.0; BINS], [0usize; BINS]);
    let sliding =
        |window: usize| Windows { window, stride: (window / 2).max(1), mode: Mode::Sliding, bos: None };
    for document in eval.documents.iter().filter(|d| d.tokens.len() >= target) {
        let beginning = Document { name: document.name.clone(), tokens: document.tokens[..target].to_vec() };
        for (sums, window) in [(&mut long, target), (&mut short, window)] {
            losses(b, model, scorer, &beginning, &sliding(window), &mut |_| {}, &mut |first, nll| {
                let bins = (first..).map(|t| bin_of(t, target));
                bins.zip(nll).for_each(|(bin, &nll)| sums[bin] += f64::from(nll));
            })?;
        }
        (1..target).for_each(|t| counts[bin_of(t, target)] += 1);
    }
    let mean = |sums: [f64; BINS]| std::array::from_fn(|b| sums[b] / counts[b].max(1) as f64);
    Ok(Probe { long: mean(long), short: mean(short) })
}

/// The bin that token t of a window of `target` counts for, t from 1.
fn bin_of(t: usize, target: usize) -> usize {
    ((t - 1) * BINS / (target - 1)).min(BINS - 1)
}
