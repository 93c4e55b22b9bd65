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
use crate::recipe::{Recipe, Settings, Source};
use std::path::{Path, PathBuf};

const RECIPE: &str = "recipe.toml";

/// The directory of a run.
pub struct RunDirectory {
    out: PathBuf,
    /// What a checkpoint must have been made with to be gone on from.
    fingerprint: String,
}

/// The recipe that the run in `out` was started with.
pub fn saved_settings(out: &Path) -> Result<Settings> {
    let path = out.join(RECIPE);
    if !path.exists() {
        return Err(Error::usage("--resume", out.display(), "holds no run (there is no recipe.toml in it)"));
    }
    Settings::from_file(&path)
}

impl RunDirectory {
    /// A new directory, or with `resume` the one of the run to go on with.
    pub fn open(recipe: &Recipe, opened: &Opened, resume: bool) -> Result<RunDirectory> {
        let out = recipe.out.clone();
        let occupied =
            std::fs::read_dir(&out).is_ok_and(|mut entries| entries.next().is_some()) || out.is_file();
        if occupied && !resume {
            return Err(super::setup::refuse_existing(&out));
        }
        std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, "making the run's directory", e))?;
        if resume {
            finish_publishing(&out)?;
        }
        let path = out.join(RECIPE);
        std::fs::write(&path, recipe.to_toml()).map_err(|e| Error::io(&path, "saving the recipe", e))?;
        Ok(RunDirectory { out, fingerprint: fingerprint(recipe, opened) })
    }

    pub fn path(&self) -> &Path {
        &self.out
    }

    /// The newest complete checkpoint.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        Ok(latest(&self.out)?.map(|found| found.path))
    }

    /// Saves model and optimizer as OUT/checkpoint-N, whole or not at all.
    pub fn save_checkpoint<B: Backend>(
        &self,
        b: &B,
        state: &State<B>,
        recipe: &Recipe,
        opened: &Opened,
    ) -> Result<PathBuf> {
        let target = checkpoint_dir(&self.out, state.steps_done);
        let staging = Staging::create(&target, Existing::Replace)?;
        write_hf(b, &staging, state, recipe, opened)?;
        let resume =
            ResumeState::new(state.steps_done, state.tokens_seen, recipe.seed, self.fingerprint.clone());
        write_resume(&staging, &resume, &OptimizerTensors::new(b, state))?;
        staging.commit()?;
        Ok(target)
    }

    /// Makes OUT itself the trained model. Returns what the user should know about it.
    pub fn save_final<B: Backend>(
        &self,
        b: &B,
        state: &State<B>,
        recipe: &Recipe,
        opened: &Opened,
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        publish(&self.out, Existing::Replace, |staging| {
            warnings = write_hf(b, staging, state, recipe, opened)?;
            Ok(())
        })?;
        Ok(warnings)
    }
}

/// Stands for everything that changes the numbers: not where they go, how often they are saved or on how many steps.
fn fingerprint(recipe: &Recipe, opened: &Opened) -> String {
    let mut hash = blake3::Hasher::new();
    let numbers = Settings {
        out: None,
        eval_data: None,
        eval_tokens: None,
        eval_every: None,
        save_every: None,
        data: None,
        model: None,
        ..recipe.settings.clone()
    };
    hash.update(toml::to_string(&numbers).unwrap_or_default().as_bytes());
    hash.update(&opened.loader.corpus().fingerprint());
    hash.update(&opened.model.tokenizer.fingerprint());
    hash.finalize().to_hex()[..32].to_string()
}

/// config.json, weights and tokenizer.
fn write_hf<B: Backend>(
    b: &B,
    staging: &Staging,
    state: &State<B>,
    recipe: &Recipe,
    opened: &Opened,
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
        &mut self,
        b: &B,
        directory: &RunDirectory,
        checkpoint: &Path,
        watch: &dyn Watch,
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
