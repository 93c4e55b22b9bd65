//! What the far context is worth to the model, on held-out text at the target length: what --probe-every tells, and
//! what the adaptive sampler goes by.
//!
//! The first Lt tokens of each held-out document are read twice: as one window of Lt tokens, and in windows of Lc
//! tokens that begin every Lc/2. A token late in the long window is predicted with distances that the short ones lack,
//! and a model that copes with them does not do worse there. So what a bin of positions needs is its mean excess, NLL
//! of the long window minus NLL of the short ones, over the same tokens: how hard the text is drops out. Token t is
//! predicted with distances up to t-1, and counts for the bin of that distance.

use crate::backend::Backend;
use crate::checkpoint::ResumeState;
use crate::data::{Corpus, Document};
use crate::error::{Error, Result};
use crate::eval::{Mode, Windows, losses};
use crate::infer::Scorer;
use crate::model::Model;
use crate::positions::DistanceWeights;
use crate::positions::adaptive::{BINS, bin_of};
use crate::recipe::Recipe;
use std::path::Path;

/// Mean NLL by bin of the token's position, nats per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe {
    /// In one window of the target length.
    pub long: [f64; BINS],
    /// In windows of the training length.
    pub short: [f64; BINS],
    /// Tokens of each bin.
    counts: [usize; BINS],
}

impl Probe {
    /// What the long window adds.
    pub fn excess(&self) -> [f64; BINS] {
        std::array::from_fn(|b| self.long[b] - self.short[b])
    }

    /// Perplexity in windows of the target length.
    pub fn long_ppl(&self) -> f64 {
        self.ppl(&self.long)
    }

    /// Perplexity of the same tokens in windows of the training length.
    pub fn short_ppl(&self) -> f64 {
        self.ppl(&self.short)
    }

    fn ppl(&self, means: &[f64; BINS]) -> f64 {
        let sum: f64 = means.iter().zip(&self.counts).map(|(mean, &n)| mean * n as f64).sum();
        (sum / self.counts.iter().sum::<usize>() as f64).exp()
    }

    pub fn sentence(&self, recipe: &Recipe) -> String {
        let (target, window) = (recipe.sampler.target_len(), recipe.sampler.train_len());
        let worst = self.excess().into_iter().fold(f64::NEG_INFINITY, f64::max);
        format!(
            "probe: perplexity {:.4} in windows of {target} tokens, {:.4} of the same in windows of {window}; largest \
             excess {worst:.4} nats",
            self.long_ppl(),
            self.short_ppl()
        )
    }
}

/// Refuses held-out text of `--eval-data`, as it is said there, in which no window of the target length can be read.
pub fn check_text(eval: &Corpus, data: &str, target: usize) -> Result<()> {
    let longest = eval.longest();
    if longest >= target {
        return Ok(());
    }
    let problem = format!(
        "a probe reads windows of the target length, {target} tokens, and the longest held-out document has \
         {longest} (after --eval-tokens); give a longer one"
    );
    Err(Error::usage("--eval-data", data, problem))
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

/// Reads the held-out text both ways.
pub fn probe<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, eval: &Corpus, recipe: &Recipe,
) -> Result<Probe> {
    let (window, target) = (recipe.sampler.train_len(), recipe.sampler.target_len());
    let (mut long, mut short, mut counts) = ([0.0; BINS], [0.0; BINS], [0usize; BINS]);
    let sliding = |window: usize| Windows::new(window, None, Mode::Sliding, None);
    for document in eval.documents.iter().filter(|d| d.tokens.len() >= target) {
        let beginning = Document { name: document.name.clone(), tokens: document.tokens[..target].to_vec() };
        for (sums, window) in [(&mut long, target), (&mut short, window)] {
            losses(b, model, scorer, &beginning, &sliding(window), &mut |_| {}, &mut |first, nll| {
                let bins = (first..).map(|t| bin_of_token(t, target));
                bins.zip(nll).for_each(|(bin, &nll)| sums[bin] += f64::from(nll));
            })?;
        }
        (1..target).for_each(|t| counts[bin_of_token(t, target)] += 1);
    }
    let mean = |sums: [f64; BINS]| std::array::from_fn(|b| sums[b] / counts[b].max(1) as f64);
    Ok(Probe { long: mean(long), short: mean(short), counts })
}

/// The bin that token t of a window of `target` counts for, t from 1; token 1 has only itself behind it.
fn bin_of_token(t: usize, target: usize) -> usize {
    bin_of((t - 1).max(1), target)
}
