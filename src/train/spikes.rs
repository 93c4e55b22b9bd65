//! A loss that leaps: found by its z-score over the steps before, and what is done then.

use super::save::RunDirectory;
use super::{Opened, State, Watch, metrics::Log};
use crate::backend::Backend;
use crate::checkpoint::{SpikeState, Standing};
use crate::error::{Error, Result};
use crate::recipe::{OnSpike, Recipe, SpikeRule};

/// Updates that may be left out in a row, and rollbacks to one checkpoint, before it is not the data's fault.
const MOST_IN_A_ROW: u64 = 10;
const MOST_ROLLBACKS: u64 = 3;

/// A step whose loss leapt; nothing was updated.
#[derive(Clone, Debug)]
pub struct Spike {
    pub step: u64,
    pub loss: f64,
    /// Of the gradients.
    pub norm: f64,
    /// Infinite for a loss or a gradient that is no number.
    pub z: f64,
    /// The sample with the highest loss.
    pub sample: String,
}

impl Spike {
    fn sentence(&self) -> String {
        let Spike { step, loss, norm, z, sample } = self;
        let what = if z.is_finite() {
            format!("the loss leapt to {loss:.4}, {z:.1} standard deviations above the steps before")
        } else {
            format!("the loss is {loss} and the gradient norm {norm}")
        };
        format!("step {step}: {what} (the sample is {sample})")
    }
}

/// How many standard deviations a loss lies above the mean of those before; None while they are fewer than the window. A
/// loss that is no number is infinitely high.
fn z(state: &SpikeState, rule: &SpikeRule, loss: f64) -> Option<f64> {
    if !loss.is_finite() {
        return Some(f64::INFINITY);
    }
    if state.losses.len() < rule.window {
        return None;
    }
    let n = state.losses.len() as f64;
    let mean = state.losses.iter().sum::<f64>() / n;
    let variance = state.losses.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // equal losses have no deviation, and rounding is no spike
    let deviation = variance.sqrt().max(1e-6 * mean.abs()).max(f64::MIN_POSITIVE);
    Some((loss - mean) / deviation)
}

/// Whether the loss has leapt, and by how much; one that has not is what later ones are compared with.
pub(super) fn judge(state: &mut SpikeState, rule: &SpikeRule, loss: f64) -> Option<f64> {
    if let Some(z) = z(state, rule, loss).filter(|z| *z >= rule.z) {
        return Some(z);
    }
    state.losses.push(loss);
    let old = state.losses.len().saturating_sub(rule.window);
    state.losses.drain(..old);
    state.in_a_row = 0;
    None
}

/// The run that a spike comes in.
pub(super) struct Run<'a> {
    pub recipe: &'a Recipe,
    pub directory: &'a RunDirectory,
    pub watch: &'a dyn Watch,
}

/// Rollbacks to the latest checkpoint.
#[derive(Default)]
pub struct Rollbacks {
    to: u64,
    times: u64,
}

impl<B: Backend> State<B> {
    /// Does what the rule says of a spike: goes on without the update, or back to the last checkpoint.
    ///
    /// # Errors
    /// The rule says stop, or the spikes do not end.
    pub(super) fn answer(
        &mut self, b: &B, spike: &Spike, run: &Run<'_>, opened: &mut Opened, log: &mut Log,
        rollbacks: &mut Rollbacks,
    ) -> Result<()> {
        let Run { recipe, directory, watch } = *run;
        let action = recipe.on_spike.map_or(OnSpike::Stop, |rule| rule.action);
        let said = spike.sentence();
        let end = |sentence: String, log: &mut Log| {
            // the spike is what the user must hear of, whatever becomes of its line
            if let Err(error) = log.stop(spike) {
                watch.warn(&error.to_string());
            }
            Err(Error::NonFinite(sentence))
        };
        match (action, directory.latest()) {
            (OnSpike::Stop, _) => {
                end(format!("{said}; nothing was updated; {}", directory.latest_text()), log)
            }
            (OnSpike::Rollback, Some(checkpoint)) => {
                let (passed, best) = (self.spikes.passed, self.standing.best);
                let weights = self.restore(b, recipe, directory, checkpoint, watch)?;
                // the best model so far stays in OUT/best, whatever became of the run after it
                if best != self.standing.best {
                    self.standing = Standing { best, since_best: 0 };
                }
                weights.into_iter().for_each(|weights| opened.loader.set_weights(weights));
                if !rollbacks.count(self.steps_done) {
                    let problem = "other batches do not help";
                    let times = format!(
                        "the run went back to step {} {MOST_ROLLBACKS} times already",
                        self.steps_done
                    );
                    return end(format!("{said}; {times}: {problem}"), log);
                }
                self.spikes.passed = passed + spike.step - self.steps_done;
                watch.warn(&format!("{said}; back to step {}, past its batches", self.steps_done));
                log.roll_back(self.steps_done, self.spikes.passed, spike)
            }
            _ => {
                self.spikes.in_a_row += 1;
                if self.spikes.in_a_row > MOST_IN_A_ROW {
                    let problem = "these are not single batches: the weights or the rate are at fault";
                    return end(format!("{said}; so did the {MOST_IN_A_ROW} before it; {problem}"), log);
                }
                self.steps_done = spike.step;
                watch.warn(&format!("{said}; the update is left out"));
                log.skip(spike)
            }
        }
    }
}

impl Rollbacks {
    /// Whether one more is worth a try.
    fn count(&mut self, to: u64) -> bool {
        self.times = if self.to == to { self.times + 1 } else { 1 };
        self.to = to;
        self.times <= MOST_ROLLBACKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: SpikeRule = SpikeRule { action: OnSpike::Skip, z: 6.0, window: 4 };

    #[test]
    fn a_leap_is_far_from_what_was_before_and_noise_is_not() {
        let mut state = SpikeState::default();
        assert_eq!(z(&state, &RULE, 1e9), None, "nothing to compare with");
        for loss in [2.0, 2.1, 1.9, 2.05, 1.95] {
            assert_eq!(judge(&mut state, &RULE, loss), None);
        }
        assert_eq!(state.losses, [2.1, 1.9, 2.05, 1.95]);
        // mean 2, deviation 0.0913
        assert!((z(&state, &RULE, 2.0913).unwrap() - 1.0).abs() < 1e-3);
        assert!(z(&state, &RULE, 1.0).unwrap() < 0.0, "a loss that falls is none");
        assert_eq!(z(&state, &RULE, f64::NAN), Some(f64::INFINITY));
        let before = state.clone();
        assert!(judge(&mut state, &RULE, 3.0).unwrap() > 10.0);
        assert_eq!(state, before, "a spike is nothing to compare with");
    }

    #[test]
    fn equal_losses_do_not_make_a_spike_of_rounding() {
        let state = SpikeState { losses: vec![3.0; 4], ..SpikeState::default() };
        assert!(z(&state, &RULE, 3.0 + 1e-9).unwrap() < 1.0);
        assert!(z(&state, &RULE, 3.1).unwrap() > 1e3);
    }
}
