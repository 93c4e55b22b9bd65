//! A run's directory: checkpoints while it goes, the final model when it is done, and going on from one.

use super::{Opened, State, Watch};
use crate::backend::{Backend, Float};
use crate::checkpoint::{
    Existing, Resume, ResumeState, SHARD_BYTES, Slot, Staging, TensorSource, TensorSpec, Weights,
    checkpoint_dir, finish_publishing, latest, publish, slot_name, write_model, write_resume,
};
use crate::data::bytes_as_json;
use crate::error::{Error, Result};
use crate::model::config::Dtype;
use crate::model::{Config, ParamSpec, upload_f32};
use crate::optim::ScheduleKind;
use crate::recipe::{Recipe, Settings, Size, Source};
use std::path::{Path, PathBuf};

const RECIPE: &str = "recipe.toml";

/// The directory of a run.
pub struct RunDirectory {
    out: PathBuf,
    /// What a checkpoint must have been made with to be gone on from.
    fingerprint: String,
    latest: Option<PathBuf>,
    finished: bool,
}

/// The recipe that the run in `out` was started with.
pub fn saved_settings(out: &Path) -> Result<Settings> {
    let path = out.join(RECIPE);
    if !path.exists() {
        return Err(Error::usage("--resume", out.display(), "holds no run (there is no recipe.toml in it)"));
    }
    Settings::from_file(&path)
}

/// Refuses a directory that is in use, before any work is done for it.
pub fn refuse_occupied(out: &Path) -> Result<()> {
    let occupied = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.symlink_metadata().is_ok(),
    };
    if occupied { Err(super::setup::refuse_existing(out)) } else { Ok(()) }
}

impl RunDirectory {
    /// Finds out where the run in a directory stands; changes nothing in it.
    ///
    /// # Errors
    /// With `resume`, a recipe that would give other numbers than the one that the run was started with.
    pub fn find(recipe: &Recipe, opened: &Opened, resume: bool, watch: &dyn Watch) -> Result<RunDirectory> {
        let (out, fingerprint) = (recipe.out.clone(), fingerprint(recipe, opened));
        if !resume {
            return Ok(RunDirectory { out, fingerprint, latest: None, finished: false });
        }
        let saved = saved_settings(&out)?;
        same_numbers(recipe, &saved)?;
        finish_publishing(&out)?;
        let latest = latest(&out)?;
        for error in latest.iter().flat_map(|found| &found.skipped) {
            watch.note(&format!("a newer checkpoint is broken and passed over: {error}"));
        }
        let steps = recipe.schedule.steps;
        if let Some(found) = latest.as_ref().filter(|found| found.step > steps) {
            let problem = format!("the run has done {} steps already; ask for at least that", found.step);
            return Err(Error::usage("--steps", steps, problem));
        }
        let published = out.join("manifest.json").exists();
        let finished = published && saved.steps.is_some_and(|s| s.0 as u64 == steps);
        if published && !finished && latest.is_none() {
            let problem = "is finished and has no checkpoint to go on from; start a new run with it as --model (and keep \
                           checkpoints with --save-every)";
            return Err(Error::usage("--resume", out.display(), problem));
        }
        Ok(RunDirectory { out, fingerprint, latest: latest.map(|found| found.path), finished })
    }

    /// Makes the directory, or keeps the run's own, and saves the recipe in it.
    pub fn begin(&self, recipe: &Recipe) -> Result<()> {
        std::fs::create_dir_all(&self.out)
            .map_err(|e| Error::io(&self.out, "making the run's directory", e))?;
        let (path, temp) = (self.out.join(RECIPE), self.out.join(".recipe.toml.tmp"));
        std::fs::write(&temp, recipe.to_toml())
            .and_then(|()| std::fs::rename(&temp, &path))
            .map_err(|e| Error::io(&path, "saving the recipe", e))
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

    /// Saves model and optimizer as OUT/checkpoint-N, whole or not at all.
    pub fn save_checkpoint<B: Backend>(
        &mut self, b: &B, state: &State<B>, recipe: &Recipe, opened: &Opened,
    ) -> Result<PathBuf> {
        let target = checkpoint_dir(&self.out, state.steps_done);
        let staging = Staging::create(&target, Existing::Replace)?;
        write_hf(b, &staging, state, recipe, opened)?;
        let resume =
            ResumeState::new(state.steps_done, state.tokens_seen, recipe.seed, self.fingerprint.clone());
        write_resume(&staging, &resume, &OptimizerTensors::new(b, state))?;
        staging.commit()?;
        self.latest = Some(target.clone());
        Ok(target)
    }

    /// Makes OUT itself the trained model. Returns what the user should know about it.
    pub fn save_final<B: Backend>(
        &self, b: &B, state: &State<B>, recipe: &Recipe, opened: &Opened,
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        publish(&self.out, Existing::Replace, |staging| {
            warnings = write_hf(b, staging, state, recipe, opened)?;
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
        eval_tokens: None,
        eval_every: None,
        save_every: None,
        data: None,
        text_field: None,
        model: None,
        recompute: None,
        steps: Some(Size(recipe.schedule.steps as usize)).filter(|_| ends),
        warmup: Some(Size(recipe.schedule.warmup as usize)),
        ..recipe.settings.clone()
    }
}

/// Refuses to go on with other numbers than those of the `saved` run, naming the flag.
fn same_numbers(recipe: &Recipe, saved: &Settings) -> Result<()> {
    let old = numbers(&Recipe::validate(saved, true)?);
    let (old, new) = (old.as_table(), numbers(recipe).as_table());
    let keys = new.keys().chain(old.keys());
    let Some(key) = keys.into_iter().find(|key| old.get(*key) != new.get(*key)) else { return Ok(()) };
    let show = |value: Option<&toml::Value>| value.map_or("unset".into(), toml::Value::to_string);
    let problem = format!(
        "the run in {} was started with {} and cannot go on with another value; leave the flag out, or start a new run \
         from its last checkpoint as --model",
        recipe.out.display(),
        show(old.get(key))
    );
    Err(Error::usage(&format!("--{key}"), show(new.get(key)), problem))
}

/// Stands for everything that changes the numbers.
fn fingerprint(recipe: &Recipe, opened: &Opened) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(numbers(recipe).as_table().to_string().as_bytes());
    hash.update(format!("{:?}", opened.model.rope).as_bytes());
    hash.update(&opened.loader.corpus().fingerprint());
    hash.update(&opened.model.tokenizer.fingerprint());
    hash.finalize().to_hex()[..32].to_string()
}

/// config.json, weights and tokenizer.
fn write_hf<B: Backend>(
    b: &B, staging: &Staging, state: &State<B>, recipe: &Recipe, opened: &Opened,
) -> Result<Vec<String>> {
    let target = recipe.sampler.target_len().max(opened.model.config.max_position_embeddings);
    let config: Config = opened.model.config.extended(opened.model.rope.clone(), target);
    let from = match &recipe.source {
        Source::Checkpoint(dir) | Source::Architecture(dir) => Some(dir.as_path()),
        Source::Preset(_) => None,
    };
    let warnings = write_model(staging, &config, &ModelTensors::new(b, state), from, SHARD_BYTES)?;
    if from.is_none() {
        staging.write("tokenizer.json", bytes_as_json().as_bytes())?;
    }
    Ok(warnings)
}

fn dtype_of<T: Float>() -> Dtype {
    if size_of::<T>() == 2 { Dtype::Bf16 } else { Dtype::F32 }
}

/// Downloads a buffer's first elements as little-endian bytes.
fn bytes_of<B: Backend, T: Float>(b: &B, buf: &B::Buf<T>, len: usize, sink: &mut Vec<u8>) -> Result<()> {
    sink.reserve_exact(len * size_of::<T>());
    let mut piece = vec![T::default(); len.min(PIECE)];
    for at in (0..len).step_by(PIECE) {
        let piece = &mut piece[..PIECE.min(len - at)];
        b.download(piece, buf, at)?;
        sink.extend_from_slice(bytemuck::cast_slice(piece));
    }
    Ok(())
}

/// Elements downloaded at a time.
const PIECE: usize = 1 << 18;

/// The parameters as the forward pass reads them.
struct ModelTensors<'a, B: Backend> {
    b: &'a B,
    state: &'a State<B>,
    specs: Vec<TensorSpec>,
}

impl<'a, B: Backend> ModelTensors<'a, B> {
    fn new(b: &'a B, state: &'a State<B>) -> Self {
        let spec = |p: &ParamSpec| TensorSpec {
            name: p.name.clone(),
            shape: p.shape.clone(),
            dtype: dtype_of::<B::Act>(),
        };
        ModelTensors { b, state, specs: state.model.specs.iter().map(spec).collect() }
    }
}

impl<B: Backend> TensorSource for ModelTensors<'_, B> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }
    fn bytes(&self, i: usize, sink: &mut Vec<u8>) -> Result<()> {
        let model = &self.state.model;
        bytes_of::<B, B::Act>(self.b, &model.params[i], model.specs[i].elements(), sink)
    }
}

/// Master weights and moments, slot by slot.
struct OptimizerTensors<'a, B: Backend> {
    b: &'a B,
    state: &'a State<B>,
    specs: Vec<TensorSpec>,
}

/// The slots that a state has: no masters where parameters are in full precision.
fn slots<B: Backend>(state: &State<B>) -> impl Iterator<Item = (Slot, &Vec<B::Buf<B::Stat>>)> {
    [(Slot::Master, &state.adam.master), (Slot::M, &state.adam.m), (Slot::V, &state.adam.v)]
        .into_iter()
        .filter(|(_, buffers)| !buffers.is_empty())
}

impl<'a, B: Backend> OptimizerTensors<'a, B> {
    fn new(b: &'a B, state: &'a State<B>) -> Self {
        let of_slot = |(slot, _)| {
            state.model.specs.iter().map(move |p| TensorSpec {
                name: slot_name(slot, &p.name),
                shape: p.shape.clone(),
                dtype: dtype_of::<B::Stat>(),
            })
        };
        OptimizerTensors { b, state, specs: slots(state).flat_map(of_slot).collect() }
    }
}

impl<B: Backend> TensorSource for OptimizerTensors<'_, B> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }
    fn bytes(&self, i: usize, sink: &mut Vec<u8>) -> Result<()> {
        let params = &self.state.model.specs;
        let Some((_, buffers)) = slots(self.state).nth(i / params.len()) else { return Ok(()) };
        let p = i % params.len();
        bytes_of::<B, B::Stat>(self.b, &buffers[p], params[p].elements(), sink)
    }
}

impl<B: Backend> State<B> {
    /// Goes on from a checkpoint of the same recipe.
    pub(super) fn restore(
        &mut self, b: &B, directory: &RunDirectory, checkpoint: &Path, watch: &dyn Watch,
    ) -> Result<()> {
        let resume = Resume::open(checkpoint, &directory.fingerprint)?;
        self.model.load(b, &Weights::open(checkpoint)?)?;
        let adam = &mut self.adam;
        for (slot, buffers) in
            [(Slot::Master, &mut adam.master), (Slot::M, &mut adam.m), (Slot::V, &mut adam.v)]
        {
            for (buffer, spec) in buffers.iter_mut().zip(&self.model.specs) {
                let name = slot_name(slot, &spec.name);
                let mut upload = |at, values: &[f32]| upload_f32::<B, B::Stat>(b, buffer, at, values);
                resume.tensors.read_f32(&name, &spec.shape, &mut upload)?;
            }
        }
        self.steps_done = resume.state.step;
        self.tokens_seen = resume.state.tokens;
        watch.note(&format!("going on after step {} from {}", self.steps_done, checkpoint.display()));
        Ok(())
    }
}
