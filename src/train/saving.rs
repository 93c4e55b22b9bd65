//! When a run is saved, and what happens where that fails.

use super::save::RunDirectory;
use super::{Opened, State, Watch};
use crate::backend::Backend;
use crate::checkpoint::prune;
use crate::error::{Error, Result};
use crate::recipe::{OnSaveError, Recipe};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between tries to save what a run ends with.
const PAUSE: Duration = Duration::from_secs(5);

/// The saves of a run.
pub struct Saves<'a> {
    recipe: &'a Recipe,
    watch: &'a dyn Watch,
    /// A checkpoint was due and could not be written.
    owed: bool,
}

impl<'a> Saves<'a> {
    pub fn new(recipe: &'a Recipe, watch: &'a dyn Watch) -> Self {
        Saves { recipe, watch, owed: false }
    }

    /// Whether the user, or the system, has asked for the end.
    pub fn interrupted(&self) -> bool {
        self.watch.interrupted().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Whether a checkpoint is to be written after this step, the `last` or not, in a run that is `interrupted` or not.
    pub fn are_due(&self, step: u64, last: bool, interrupted: bool) -> bool {
        let due = |n: u64| last || step.is_multiple_of(n);
        self.owed || self.recipe.save_every.is_some_and(due) || (interrupted && !last)
    }

    /// Writes a checkpoint, and removes those that need not stay.
    pub fn checkpoint<B: Backend>(
        &mut self, b: &B, directory: &mut RunDirectory, state: &State<B>, opened: &Opened,
    ) -> Result<()> {
        let step = state.steps_done;
        match directory.save_checkpoint(b, state, self.recipe, opened) {
            Err(error) => {
                self.owed = true;
                return self.bear(error, &format!("step {step}: not saved, the next step tries again"));
            }
            Ok(saved) => {
                self.owed = false;
                self.watch.note(&format!("step {step}: saved {}", saved.display()));
            }
        }
        let Some(keep) = self.recipe.keep else { return Ok(()) };
        prune(directory.path(), step, keep.last, keep.every)
            .or_else(|error| self.bear(error, "an older checkpoint stays"))
    }

    /// Keeps the model as the best so far.
    pub fn best<B: Backend>(
        &self, b: &B, directory: &RunDirectory, state: &State<B>, opened: &Opened,
    ) -> Result<()> {
        let step = state.steps_done;
        directory
            .save_best(b, state, self.recipe, opened)
            .or_else(|error| self.bear(error, &format!("step {step}: the best model is not kept")))
    }

    /// Makes the run's directory the trained model.
    pub fn publish<B: Backend>(
        &self, b: &B, directory: &RunDirectory, state: &State<B>, opened: &Opened,
    ) -> Result<()> {
        let save = || directory.save_final(b, state, self.recipe, opened);
        let warnings = self.until_done("the model is not saved; trying again", save)?;
        warnings.iter().for_each(|w| self.watch.warn(w));
        Ok(())
    }

    /// Tries again after an error of saving, where that was asked for, until it is done or no one waits for it.
    pub fn until_done<T>(&self, then: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(error) => self.bear(error, then)?,
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Goes on after an error of saving where that was asked for, and no one wants to end.
    fn bear(&self, error: Error, then: &str) -> Result<()> {
        if self.recipe.on_save_error == OnSaveError::Stop || self.interrupted() {
            return Err(error);
        }
        self.watch.warn(&format!("{then}: {error}"));
        Ok(())
    }
}
