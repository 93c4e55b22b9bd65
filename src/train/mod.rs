//! Training, on one page: open what the recipe names, plan the memory, then step by step.

pub mod events;
mod growing;
mod held_out;
mod metrics;
mod optimizer;
mod probe;
mod save;
mod saving;
mod setup;
mod spikes;
mod step;

pub use metrics::{StepMetrics, Summary};
pub use save::{not_as_saved, saved_settings};
pub use setup::{Opened, OpenedModel, State, plan};

use crate::backend::Backend;
use crate::checkpoint::RunLock;
use crate::error::{Error, Result};
use crate::memory;
use crate::recipe::Recipe;
use saving::Saves;
use spikes::{Rollbacks, Run};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use step::Stepped;

/// Who looks on: the progress bar.
pub trait Watch: Sync {
    /// The plan, before anything is allocated.
    fn planned(&self, _ledger: &memory::Ledger) {}
    /// One sentence that is worth knowing.
    fn note(&self, _sentence: &str) {}
    /// One sentence about something lost or broken, to be heard even where notes are not wanted.
    fn warn(&self, sentence: &str) {
        self.note(sentence);
    }
    /// A step is done.
    fn stepped(&self, _metrics: &StepMetrics) {}
    /// Set from a signal handler: finish the step, save, stop.
    fn interrupted(&self) -> Option<&AtomicBool> {
        None
    }
}

/// Runs a recipe to its end, or on from its last checkpoint with `resume`.
pub fn train<B: Backend>(b: &B, recipe: &Recipe, resume: bool, watch: &dyn Watch) -> Result<Summary> {
    RunLock::refuse_held(&recipe.out)?;
    if !resume {
        save::refuse_occupied(&recipe.out)?;
    }
    let mut opened = Opened::open(recipe, watch)?;
    let dry = plan(b, recipe, &opened)?;
    watch.planned(&dry);
    // what reading the text has freed is there for the run
    memory::reset_peak();
    memory::check_room(b, &dry)?;
    let mut directory = save::RunDirectory::find(recipe, &opened, resume, watch)?;
    if directory.is_finished() {
        watch.note(
            "this run is done already; --steps with a larger number goes on, unless --early-stop ended it",
        );
        let summary = metrics::Log::read(directory.path())?.summary(recipe, &dry, Duration::ZERO);
        if !directory.path().join(metrics::SUMMARY).exists() {
            // the run ended before it could be written
            summary.write(directory.path())?;
        }
        return Ok(summary);
    }

    let mut state = State::allocate(b, recipe, &opened, &mut memory::Ledger::live())?;
    match directory.latest() {
        Some(checkpoint) => {
            let weights = state.restore(b, recipe, &directory, checkpoint, watch)?;
            weights.into_iter().for_each(|weights| opened.loader.set_weights(weights));
        }
        None => state.fill(b, recipe)?,
    }
    directory.begin(recipe)?;
    let mut log = metrics::Log::open(
        directory.path(),
        state.steps_done,
        state.standing,
        state.spikes.passed,
        recipe,
        watch,
    )?;
    if state.steps_done == 0 {
        state.look_at_held_out(b, recipe, &mut opened, &mut log, watch)?;
    }
    let start = Instant::now();
    let (mut saves, mut rollbacks) = (Saves::new(recipe, watch), Rollbacks::default());
    while !state.is_over(recipe) {
        match state.step(b, recipe, &opened.loader, &directory)? {
            Stepped::Done(metrics) => {
                watch.stepped(&metrics);
                log.step(&metrics)?;
            }
            Stepped::Spiked(spike) => {
                let before = state.steps_done;
                let run = Run { recipe, directory: &directory, watch };
                state.answer(b, &spike, &run, &mut opened, &mut log, &mut rollbacks)?;
                if state.steps_done <= before {
                    continue;
                }
            }
        }
        let best = state.look_at_held_out(b, recipe, &mut opened, &mut log, watch)?;
        if best && recipe.save_best {
            saves.best(b, &directory, &state, &opened)?;
        }
        let (done, last) = (state.steps_done, state.is_over(recipe));
        // asked once: a signal that comes while we save waits for the next step
        let interrupted = saves.interrupted();
        if saves.are_due(done, last, interrupted) {
            saves.checkpoint(b, &mut directory, &state, &opened)?;
        }
        if interrupted && !last {
            // the last chance of lines that could not be written; the checkpoint is there without them
            log.settle().unwrap_or_else(|error| watch.warn(&error.to_string()));
            return Err(Error::Interrupted(format!(
                "interrupted after step {done} of {}; continue with --resume --out {}",
                recipe.schedule.steps,
                recipe.out.display()
            )));
        }
    }
    state.merge_adapters(b)?;
    saves.publish(b, &directory, &state, &opened)?;
    let elapsed = start.elapsed();
    // metrics that were owed are the last thing to be without
    saves.until_done("metrics are owed; trying again", || log.settle())?;
    let summary = log.summary(recipe, &dry, elapsed);
    saves.until_done("no summary.json; trying again", || summary.write(&recipe.out))?;
    Ok(summary)
}
