//! Training, on one page: open what the recipe names, plan the memory, then step by step.

pub mod events;
mod held_out;
mod metrics;
mod optimizer;
mod probe;
mod save;
mod setup;
mod step;

pub use metrics::{StepMetrics, Summary};
pub use save::saved_settings;
pub use setup::{Opened, OpenedModel, State, plan};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::memory;
use crate::recipe::Recipe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Who looks on: the progress bar.
pub trait Watch: Sync {
    /// The plan, before anything is allocated.
    fn planned(&self, _ledger: &memory::Ledger) {}
    /// One sentence that is worth knowing.
    fn note(&self, _sentence: &str) {}
    /// A step is done.
    fn stepped(&self, _metrics: &StepMetrics) {}
    /// Set from a signal handler: finish the step, save, stop.
    fn interrupted(&self) -> Option<&AtomicBool> {
        None
    }
}

/// Runs a recipe to its end, or on from its last checkpoint with `resume`.
pub fn train<B: Backend>(b: &B, recipe: &Recipe, resume: bool, watch: &dyn Watch) -> Result<Summary> {
    if !resume {
        save::refuse_occupied(&recipe.out)?;
    }
    let mut opened = Opened::open(recipe, watch)?;
    let dry = plan(b, recipe, &opened)?;
    watch.planned(&dry);
    memory::check_room(b, &dry)?;
    let mut directory = save::RunDirectory::find(recipe, &opened, resume, watch)?;
    if directory.is_finished() {
        watch.note(
            "this run is done already; --steps with a larger number goes on, unless --early-stop ended it",
        );
        return metrics::Log::read(directory.path())?.summary(recipe, &dry, Duration::ZERO);
    }

    memory::reset_peak();
    let mut state = State::allocate(b, recipe, &opened, &mut memory::Ledger::live())?;
    match directory.latest() {
        Some(checkpoint) => {
            let weights = state.restore(b, recipe, &directory, checkpoint, watch)?;
            weights.into_iter().for_each(|weights| opened.loader.set_weights(weights));
        }
        None => state.fill(b, recipe)?,
    }
    directory.begin(recipe)?;
    let mut log = metrics::Log::open(directory.path(), state.steps_done, state.standing, recipe.tensorboard)?;
    if state.steps_done == 0 {
        state.look_at_held_out(b, recipe, &mut opened, &mut log, watch)?;
    }
    let start = Instant::now();
    while !state.is_over(recipe) {
        let metrics = state.step(b, recipe, &opened.loader, &directory)?;
        watch.stepped(&metrics);
        log.step(&metrics)?;
        let best = state.look_at_held_out(b, recipe, &mut opened, &mut log, watch)?;
        if best && recipe.save_best {
            directory.save_best(b, &state, recipe, &opened)?;
        }
        let (done, last) = (state.steps_done, state.is_over(recipe));
        let interrupted = watch.interrupted().is_some_and(|flag| flag.load(Ordering::Relaxed));
        let due = recipe.save_every.is_some_and(|n| last || done.is_multiple_of(n));
        if due || (interrupted && !last) {
            let saved = directory.save_checkpoint(b, &state, recipe, &opened)?;
            watch.note(&format!("step {done}: saved {}", saved.display()));
        }
        if interrupted && !last {
            return Err(Error::Interrupted(format!(
                "interrupted after step {done} of {}; continue with --resume --out {}",
                recipe.schedule.steps,
                recipe.out.display()
            )));
        }
    }
    let warnings = directory.save_final(b, &mut state, recipe, &opened)?;
    warnings.iter().for_each(|w| watch.note(w));
    let summary = log.summary(recipe, &dry, start.elapsed())?;
    summary.write(&recipe.out)?;
    Ok(summary)
}
