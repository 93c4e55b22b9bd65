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
use crate::data;
use crate::error::{Error, Result};
use crate::memory;
use crate::recipe::Recipe;
use save::RunDirectory;
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
    /// Text has become tokens.
    fn read(&self, _progress: data::Progress) {}
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
    let opened = Opened::open(recipe, watch)?;
    let dry = plan(b, recipe, &opened)?;
    watch.planned(&dry);
    // what reading the text has freed is there for the run
    memory::reset_peak();
    memory::check_room(b, &dry)?;
    let directory = RunDirectory::find(recipe, &opened, resume, watch)?;
    if directory.is_finished() {
        return already_done(recipe, &directory, &dry, watch);
    }
    let mut run = Underway::begin(b, recipe, watch, opened, directory)?;
    let start = Instant::now();
    while !run.state.is_over(recipe) {
        if run.advance()? {
            run.save_where_due()?;
        }
    }
    run.finish(start, &dry)
}

/// The summary of a run that had come to its end before.
fn already_done(
    recipe: &Recipe, directory: &RunDirectory, dry: &memory::Ledger, watch: &dyn Watch,
) -> Result<Summary> {
    watch
        .note("this run is done already; --steps with a larger number goes on, unless --early-stop ended it");
    let summary = metrics::Log::read(directory.path())?.summary(recipe, dry, Duration::ZERO);
    if !directory.path().join(metrics::SUMMARY).exists() {
        // the run ended before it could be written
        summary.write(directory.path())?;
    }
    Ok(summary)
}

/// A run that has begun.
struct Underway<'a, B: Backend> {
    b: &'a B,
    recipe: &'a Recipe,
    watch: &'a dyn Watch,
    opened: Opened,
    state: State<B>,
    log: metrics::Log,
    saves: Saves<'a>,
    rollbacks: Rollbacks,
    /// Dropped last: it holds the lock, and whoever waits for that will want the memory of all else.
    directory: RunDirectory,
}

impl<'a, B: Backend> Underway<'a, B> {
    /// Where its last checkpoint stands, or at the beginning.
    fn begin(
        b: &'a B, recipe: &'a Recipe, watch: &'a dyn Watch, mut opened: Opened, mut directory: RunDirectory,
    ) -> Result<Self> {
        let mut state = State::allocate(b, recipe, &opened, &mut memory::Ledger::live())?;
        match directory.latest() {
            Some(checkpoint) => {
                let weights = state.restore(b, recipe, &directory, checkpoint, watch)?;
                weights.into_iter().for_each(|weights| opened.loader.set_weights(weights));
            }
            None => state.fill(b, recipe)?,
        }
        directory.begin(recipe)?;
        let (done, passed) = (state.steps_done, state.spikes.passed);
        let mut log = metrics::Log::open(directory.path(), done, state.standing, passed, recipe, watch)?;
        if done == 0 {
            state.look_at_held_out(b, recipe, &mut opened, &mut log, watch)?;
        }
        let (saves, rollbacks) = (Saves::new(recipe, watch), Rollbacks::default());
        Ok(Underway { b, recipe, watch, opened, directory, state, log, saves, rollbacks })
    }

    /// One step, and what the held-out text says of it. Whether the run is a step further: a spike may have sent it back.
    fn advance(&mut self) -> Result<bool> {
        let Underway { b, recipe, watch, opened, directory, state, log, saves, rollbacks } = self;
        match state.step(*b, recipe, &opened.loader, directory)? {
            Stepped::Done(metrics) => {
                watch.stepped(&metrics);
                log.step(&metrics)?;
            }
            Stepped::Spiked(spike) => {
                let before = state.steps_done;
                let run = Run { recipe, directory, watch: *watch };
                state.answer(*b, &spike, &run, opened, log, rollbacks)?;
                if state.steps_done <= before {
                    return Ok(false);
                }
            }
        }
        let best = state.look_at_held_out(*b, recipe, opened, log, *watch)?;
        if best && recipe.save_best {
            saves.best(*b, directory, state, opened)?;
        }
        Ok(true)
    }

    /// A checkpoint, where one is due after the last step.
    ///
    /// # Errors
    /// [`Error::Interrupted`], after the checkpoint, where the user has asked for the end.
    fn save_where_due(&mut self) -> Result<()> {
        let Underway { b, recipe, watch, opened, directory, state, log, saves, .. } = self;
        let (done, last) = (state.steps_done, state.is_over(recipe));
        // asked once: a signal that comes while we save waits for the next step
        let interrupted = saves.interrupted();
        if saves.are_due(done, last, interrupted) {
            saves.checkpoint(*b, directory, state, opened)?;
        }
        if !interrupted || last {
            return Ok(());
        }
        // the last chance of lines that could not be written; the checkpoint is there without them
        log.settle().unwrap_or_else(|error| watch.warn(&error.to_string()));
        Err(Error::Interrupted(format!(
            "interrupted after step {done} of {}; continue with --resume --out {}",
            recipe.schedule.steps,
            recipe.out.display()
        )))
    }

    /// The finished model, its metrics and its summary.
    fn finish(self, start: Instant, dry: &memory::Ledger) -> Result<Summary> {
        let Underway { b, recipe, opened, directory, mut state, mut log, saves, .. } = self;
        state.merge_adapters(b)?;
        saves.publish(b, &directory, &state, &opened)?;
        let elapsed = start.elapsed();
        // metrics that were owed are the last thing to be without
        saves.until_done("metrics are owed; trying again", || log.settle())?;
        let summary = log.summary(recipe, dry, elapsed);
        saves.until_done("no summary.json; trying again", || summary.write(&recipe.out))?;
        Ok(summary)
    }
}
