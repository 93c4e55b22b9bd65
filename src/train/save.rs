//! A run's directory: checkpoints while it goes, the final model when it is done, and going on from one.

use super::optimizer::{self, OptimizerTensors};
use super::{Opened, State, Watch, probe};
use crate::backend::Backend;
use crate::checkpoint::{
    Adapter, BEST, Existing, MANIFEST, ModelTensors, Resume, ResumeState, RunLock, SHARD_BYTES, Staging,
    Weights, abandon_publishing, checkpoint_dir, checkpoints, finish_publishing, is_unfinished, latest,
    publish, replace_file, retire, tidy, verify, write_adapter, write_model, write_resume,
};
use crate::data::bytes_as_json;
use crate::error::{Error, Result};
use crate::model::Config;
use crate::optim::{Optimizer, ScheduleKind};
use crate::positions::DistanceWeights;
use crate::recipe::{Recipe, Settings, Size, Source};
use crate::regular;
use std::path::{Path, PathBuf};

const RECIPE: &str = "recipe.toml";

/// The directory of a run.
pub struct RunDirectory {
    out: PathBuf,
    /// What a checkpoint must have been made with to be gone on from.
    fingerprint: String,
    latest: Option<PathBuf>,
    finished: bool,
    /// Held from here to the end of the run; of a new run from when its directory is made.
    lock: Option<RunLock>,
}

/// The recipe that the run in `out` was started with.
pub fn saved_settings(out: &Path) -> Result<Settings> {
    let path = out.join(RECIPE);
    if !path.exists() {
        return Err(Error::usage("--resume", out.display(), "holds no run (there is no recipe.toml in it)"));
    }
    regular::open(&path).map_err(|e| Error::io(&path, "opening the recipe", e))?;
    Settings::from_file(&path)
}

/// For a run whose recipe cannot be one that was saved.
pub fn not_as_saved(out: &Path, error: &Error) -> Error {
    Error::file(out.join(RECIPE), format!("is not as it was saved, for no run could have it: {error}"))
}

/// Finishes the saving of the model that a dead process began. Where what it left has rotted since, the last checkpoint makes the
/// model anew.
fn finish_saving(out: &Path, watch: &dyn Watch) -> Result<()> {
    match finish_publishing(out) {
        Err(error @ Error::File { .. }) if !checkpoints(out)?.is_empty() => {
            watch.warn(&format!("the model that was being saved is broken, and made again: {error}"));
            abandon_publishing(out)
        }
        done => done.map(|_| ()),
    }
}

/// An error where the model of a finished run is not what the run left: it may have rotted, or be someone's work by now.
fn as_it_was_left(out: &Path) -> Result<()> {
    let Err(error) = verify(out) else { return Ok(()) };
    let manifest = out.join(MANIFEST);
    let again = match checkpoints(out)?.last() {
        None => "without a checkpoint it cannot be made again".into(),
        Some((step, _)) => {
            format!("to have it made again from step {step} on, remove {} first", manifest.display())
        }
    };
    Err(Error::file(out, format!("is a finished run, and its model is not what it left: {error}; {again}")))
}

/// Refuses a directory that is in use, before any work is done for it. What a start that failed or was killed may leave, a lock or
/// a file that was not finished, is no use.
pub fn refuse_occupied(out: &Path) -> Result<()> {
    let occupied = match std::fs::read_dir(out) {
        Ok(entries) => entries.flatten().any(|entry| {
            let name = entry.file_name();
            !RunLock::is_lock(&name) && !is_unfinished(&name)
        }),
        Err(_) => out.symlink_metadata().is_ok(),
    };
    if !occupied {
        return Ok(());
    }
    let problem = "exists already and is never overwritten; name a new directory, or add --resume to continue the run in it";
    Err(Error::usage("--out", out.display(), problem))
}

impl RunDirectory {
    /// Finds out where the run in a directory stands; changes nothing in it but to take it for this process and to
    /// finish what one that was killed left.
    ///
    /// # Errors
    /// With `resume`, a run that another process has, or a recipe that would give other numbers than the one that the run was started with.
    pub fn find(recipe: &Recipe, opened: &Opened, resume: bool, watch: &dyn Watch) -> Result<RunDirectory> {
        let (out, fingerprint) = (recipe.out.clone(), fingerprint(recipe, opened));
        if !resume {
            return Ok(RunDirectory { out, fingerprint, latest: None, finished: false, lock: None });
        }
        let saved = saved_settings(&out)?;
        let lock = RunLock::take(&out)?;
        lock.stale().into_iter().for_each(|sentence| watch.warn(sentence));
        same_numbers(recipe, &saved)?;
        // a run that was killed after its last save makes no other that would
        tidy(&out);
        finish_saving(&out, watch)?;
        let latest = latest(&out)?;
        for error in latest.iter().flat_map(|found| &found.skipped) {
            watch.warn(&format!("a newer checkpoint is broken and passed over: {error}"));
        }
        let steps = recipe.schedule.steps;
        if let Some(found) = latest.as_ref().filter(|found| found.step > steps) {
            let problem = format!("the run has done {} steps already; ask for at least that", found.step);
            return Err(Error::usage("--steps", steps, problem));
        }
        let published = out.join(MANIFEST).exists();
        let finished = published && saved.steps.is_some_and(|s| s.0 as u64 == steps);
        if published && !finished && latest.is_none() {
            let problem = "is finished and has no checkpoint to go on from; start a new run with it as --model (and keep \
                           checkpoints with --save-every)";
            return Err(Error::usage("--resume", out.display(), problem));
        }
        if finished {
            as_it_was_left(&out)?;
        }
        let latest = latest.map(|found| found.path);
        Ok(RunDirectory { out, fingerprint, latest, finished, lock: Some(lock) })
    }

    /// Makes the directory and takes it, or keeps the run's own, and saves the recipe in it. A model that is there is that of a
    /// shorter run, and one no more.
    pub fn begin(&mut self, recipe: &Recipe) -> Result<()> {
        std::fs::create_dir_all(&self.out)
            .map_err(|e| Error::io(&self.out, "making the run's directory", e))?;
        if self.lock.is_none() {
            self.lock = Some(RunLock::take(&self.out)?);
            // another run may have come and gone since this one looked
            refuse_occupied(&self.out)?;
        }
        retire(&self.out)?;
        let path = self.out.join(RECIPE);
        replace_file(&path, recipe.to_toml().as_bytes()).map_err(|e| Error::io(&path, "saving the recipe", e))
    }

    pub fn path(&self) -> &Path {
        &self.out
    }

    /// Whether all steps were done and the model published before.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The checkpoint to go on from: the newest complete one.
    pub fn latest(&self) -> Option<&Path> {
        self.latest.as_deref()
    }

    /// The same as the end of a sentence about a run that stops.
    pub fn latest_text(&self) -> String {
        match &self.latest {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".into(),
        }
    }

    /// Saves model and optimizer as OUT/checkpoint-N, whole or not at all.
    pub fn save_checkpoint<B: Backend>(
        &mut self, b: &B, state: &State<B>, recipe: &Recipe, opened: &Opened,
    ) -> Result<PathBuf> {
        let target = checkpoint_dir(&self.out, state.steps_done);
        let staging = Staging::create(&target, Existing::Replace)?;
        write_hf(b, &staging, state, recipe, opened, false)?;
        let resume =
            ResumeState::new(state.steps_done, state.tokens_seen, recipe.seed, self.fingerprint.clone());
        let weights = recipe.adapt.map(|_| opened.loader.sampler().weights().0.to_vec());
        let standing = recipe.is_judged().then_some(state.standing);
        let spikes = recipe.on_spike.map(|_| state.spikes.clone());
        let resume = ResumeState { distance_weights: weights, standing, spikes, ..resume };
        write_resume(&staging, &resume, &OptimizerTensors::new(b, &state.adam, &state.model))?;
        staging.commit()?;
        self.latest = Some(target.clone());
        Ok(target)
    }

    /// Saves the model as OUT/best, in the place of the one before.
    pub fn save_best<B: Backend>(
        &self, b: &B, state: &State<B>, recipe: &Recipe, opened: &Opened,
    ) -> Result<()> {
        let staging = Staging::create(&self.out.join(BEST), Existing::Replace)?;
        write_hf(b, &staging, state, recipe, opened, false)?;
        staging.commit().map(|_| ())
    }

    /// Makes OUT itself the trained model, into which adapters have been merged where that was asked for. Returns what the
    /// user should know about it.
    pub fn save_final<B: Backend>(
        &self, b: &B, state: &State<B>, recipe: &Recipe, opened: &Opened,
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        publish(&self.out, Existing::Replace, |staging| {
            warnings = write_hf(b, staging, state, recipe, opened, state.merge.is_some())?;
            Ok(())
        })?;
        Ok(warnings)
    }
}

/// The settings that change the numbers: not where they go, how often they are saved, how they are computed, or where
/// the data and the model lie (their content counts). How many steps there are only matters to a schedule that ends.
fn numbers(recipe: &Recipe) -> Settings {
    let ends = recipe.schedule.kind != ScheduleKind::Constant;
    Settings {
        out: None,
        eval_data: None,
        // what the run goes by reads the held-out text
        eval_tokens: recipe.settings.eval_tokens.filter(|_| goes_by_held_out(recipe)),
        eval_every: recipe.settings.eval_every.filter(|_| recipe.is_judged()),
        probe_every: recipe.settings.probe_every.filter(|_| recipe.is_judged()),
        save_every: None,
        keep_last: None,
        keep_every: None,
        on_save_error: None,
        tensorboard: None,
        data: None,
        text_field: None,
        max_decompressed: None,
        model: None,
        recompute: None,
        lora_merge: None,
        steps: Some(Size(recipe.schedule.steps as usize)).filter(|_| ends),
        warmup: Some(Size(recipe.schedule.warmup as usize)),
        ..recipe.settings.clone()
    }
}

fn goes_by_held_out(recipe: &Recipe) -> bool {
    recipe.adapt.is_some() || recipe.is_judged()
}

/// Refuses to go on with other numbers than those of the `saved` run, naming the flag.
fn same_numbers(recipe: &Recipe, saved: &Settings) -> Result<()> {
    let old = numbers(&Recipe::validate(saved, true)?);
    let (old, new) = (old.as_table(), numbers(recipe).as_table());
    let keys = new.keys().chain(old.keys());
    let Some(key) = keys.into_iter().find(|key| old.get(*key) != new.get(*key)) else { return Ok(()) };
    let started = match old.get(key) {
        Some(value) => format!("with {value} and cannot go on with another value"),
        None => "without it and cannot go on with it".into(),
    };
    let problem = format!(
        "the run in {} was started {started}; leave the flag out, or start a new run \
         from its last checkpoint as --model",
        recipe.out.display(),
    );
    let value = new.get(key).map_or("(missing)".into(), toml::Value::to_string);
    Err(Error::usage(&format!("--{key}"), value, problem))
}

/// Stands for everything that changes the numbers. The default optimizer is left out: there was no other once, and
/// checkpoints of that time can be gone on from.
fn fingerprint(recipe: &Recipe, opened: &Opened) -> String {
    let mut hash = blake3::Hasher::new();
    let optimizer = Some(recipe.optimizer).filter(|optimizer| *optimizer != Optimizer::default());
    let numbers = Settings { optimizer, ..numbers(recipe) };
    hash.update(numbers.as_table().to_string().as_bytes());
    hash.update(format!("{:?}", opened.model.rope).as_bytes());
    hash.update(&opened.loader.fingerprint());
    hash.update(&opened.model.tokenizer.fingerprint());
    if goes_by_held_out(recipe) {
        hash.update(&opened.eval.fingerprint());
    }
    hash.finalize().to_hex()[..32].to_string()
}

/// The architecture that is saved: with the rotation and the context length that were trained.
fn saved_config(recipe: &Recipe, opened: &Opened) -> Config {
    let target = recipe.sampler.target_len().max(opened.model.config.max_position_embeddings);
    opened.model.config.extended(opened.model.rope.clone(), target)
}

/// config.json, tokenizer, and the weights: all of them, or of adapters that were not `merged` what was trained.
fn write_hf<B: Backend>(
    b: &B, staging: &Staging, state: &State<B>, recipe: &Recipe, opened: &Opened, merged: bool,
) -> Result<Vec<String>> {
    let config = saved_config(recipe, opened);
    let warnings = match recipe.lora.as_ref().filter(|_| !merged) {
        None => write_whole(b, staging, state, recipe, &config)?,
        Some(lora) => {
            let base = match &recipe.source {
                Source::Checkpoint(dir) => Some(absolute(dir)?),
                Source::Architecture(_) | Source::Preset(_) => None,
            };
            let tensors = ModelTensors::adapter(b, &state.model);
            write_adapter(staging, &config, lora, base.as_deref(), &tensors)?
        }
    };
    if matches!(recipe.source, Source::Preset(_)) {
        staging.write("tokenizer.json", bytes_as_json().as_bytes())?;
    }
    Ok(warnings)
}

/// The model's own parameters, to which adapters have been added by now.
fn write_whole<B: Backend>(
    b: &B, staging: &Staging, state: &State<B>, recipe: &Recipe, config: &Config,
) -> Result<Vec<String>> {
    let from = match &recipe.source {
        Source::Checkpoint(dir) | Source::Architecture(dir) => Some(dir.as_path()),
        Source::Preset(_) => None,
    };
    let config = Config { lora: None, ..config.clone() };
    write_model(staging, &config, &ModelTensors::whole(b, &state.model), from, SHARD_BYTES)
}

/// An adapter's base must be found from anywhere.
fn absolute(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize().map_err(|e| Error::io(dir, "finding the model", e))
}

impl<B: Backend> State<B> {
    /// Goes on from a checkpoint of the same recipe; returns the weights that distances are drawn by, where they are kept.
    pub(super) fn restore(
        &mut self, b: &B, recipe: &Recipe, directory: &RunDirectory, checkpoint: &Path, watch: &dyn Watch,
    ) -> Result<Option<DistanceWeights>> {
        let resume = Resume::open(checkpoint, &directory.fingerprint)?;
        match recipe.lora {
            None => self.model.load(b, &Weights::open(checkpoint)?)?,
            Some(_) => {
                // what is frozen is not in a checkpoint
                let adapter = Adapter::open(checkpoint)?;
                if let Source::Checkpoint(base) = &recipe.source {
                    adapter.check_base(&Weights::open(base)?)?;
                }
                self.fill_model(b, recipe)?;
                self.model.load_trained(b, &adapter.weights)?;
            }
        }
        optimizer::read(b, &mut self.adam, &self.model, &resume.tensors)?;
        self.steps_done = resume.state.step;
        self.tokens_seen = resume.state.tokens;
        self.standing = resume.state.standing.unwrap_or_default();
        self.spikes = resume.state.spikes.clone().unwrap_or_default();
        watch.note(&format!("going on after step {} from {}", self.steps_done, checkpoint.display()));
        if self.is_over(recipe) && self.steps_done < recipe.schedule.steps {
            watch.note("--early-stop ended this run there; its model is saved again");
        }
        match recipe.adapt {
            Some(_) => probe::saved_weights(&resume.state, checkpoint).map(Some),
            None => Ok(None),
        }
    }
}
