//! Settings → a recipe that can be run, or a sentence that says why not.

use super::checks::{at_least_one, counted};
use super::course::{self, Adapt, Keep, SpikeRule};
use super::defaults::filled;
use super::{OnSaveError, Settings, Size, learning};
use crate::backend::device::DType;
use crate::data::check_weights;
use crate::error::{Error, Result};
use crate::model::{LongCe, Lora};
use crate::optim::{AdamHyper, Optimizer, Schedule};
use crate::positions::{Method, Sampler};
use crate::rope::{self, ScalingKind};
use std::path::PathBuf;

/// Where the model comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A Hugging Face directory, with its weights.
    Checkpoint(PathBuf),
    /// A Hugging Face directory without regard to its weights.
    Architecture(PathBuf),
    /// A built-in architecture with the byte tokenizer.
    Preset(String),
}

/// A training run, checked as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    pub source: Source,
    pub dtype: DType,
    pub data: Vec<PathBuf>,
    /// Weights of the paths in `data`; None: they are one corpus.
    pub mix: Option<Vec<f64>>,
    pub text_field: String,
    pub eval_data: Vec<PathBuf>,
    pub eval_tokens: usize,
    pub sampler: Sampler,
    /// Where the sampler cuts the text, if it does and is not to go by sentences.
    pub split_ids: Option<Vec<u32>>,
    /// For [`Method::Adaptive`].
    pub adapt: Option<Adapt>,
    pub rope: ScalingKind,
    pub rope_factor: Option<f64>,
    pub rope_theta: Option<f64>,
    pub batch: usize,
    pub grad_accum: usize,
    pub schedule: Schedule,
    /// None: all tokens weigh the same.
    pub longce: Option<LongCe>,
    pub optimizer: Optimizer,
    pub adam: AdamHyper,
    pub seed: u64,
    /// Layers whose activations are computed again, from the first on; all where it is more than there are.
    pub recompute: usize,
    /// None: the whole model is trained.
    pub lora: Option<Lora>,
    /// Whether the result is a whole model although adapters were trained.
    pub lora_merge: bool,
    pub out: PathBuf,
    pub eval_every: Option<u64>,
    pub probe_every: Option<u64>,
    /// Evaluations without a better perplexity after which the run ends.
    pub early_stop: Option<u64>,
    pub save_best: bool,
    pub tensorboard: bool,
    pub save_every: Option<u64>,
    /// None: all checkpoints stay.
    pub keep: Option<Keep>,
    pub on_save_error: OnSaveError,
    pub on_spike: Option<SpikeRule>,
    /// The settings that this was made from, defaults filled in: what is printed and saved.
    pub settings: Settings,
}

impl Settings {
    /// Refuses what would do nothing in a new run. (Runs of builds that did not look may have such settings, and go on.)
    pub fn refuse_idle(&self, need_data: bool) -> Result<()> {
        let s = self.with_defaults();
        filled(s.method).refuse_idle(filled(s.chunks), filled(s.chunk_lengths), filled(s.content))?;
        match s.eval_tokens {
            Some(n) if need_data && s.eval_data.as_ref().is_none_or(Vec::is_empty) => {
                let problem = "is of held-out text, and there is none; name some with --eval-data";
                Err(Error::usage("--eval-tokens", n, problem))
            }
            _ => Ok(()),
        }
    }
}

impl Recipe {
    /// Checks everything that can be checked without opening a file. `need_out` is false for `plan`.
    pub fn validate(asked: &Settings, need_out: bool) -> Result<Recipe> {
        let s = asked.with_defaults();
        let source = source(&s)?;
        let sampler = sampler(&s)?;
        let data = s.data.clone().unwrap_or_default();
        if need_out {
            named(&s, &data)?;
        }
        count_of_tokens(&s, sampler.window())?;
        course::held_out(&s, need_out)?;
        let longce = learning::longce(&s, sampler.window())?;
        let s = Settings {
            longce_short: longce.map(|how| Size(how.short)),
            longce_gamma: longce.map(|how| how.gamma),
            ..s
        };
        Ok(Recipe {
            source,
            dtype: filled(s.dtype),
            mix: mix(&s, &data)?,
            data,
            text_field: filled(s.text_field.clone()),
            eval_data: s.eval_data.clone().unwrap_or_default(),
            eval_tokens: course::eval_tokens(&s, sampler.target_len())?,
            sampler,
            split_ids: s.split_ids.clone(),
            adapt: course::adapt(&s, need_out)?,
            rope: filled(s.rope),
            rope_factor: rope_factor(&s)?,
            rope_theta: s.rope_theta,
            batch: at_least_one("--batch", filled(s.batch))?,
            grad_accum: at_least_one("--grad-accum", filled(s.grad_accum))?,
            schedule: learning::schedule(&s)?,
            longce,
            optimizer: filled(s.optimizer),
            adam: learning::adam(&s)?,
            seed: filled(s.seed),
            recompute: filled(s.recompute).0,
            lora: learning::lora(&s)?,
            lora_merge: s.lora_merge.unwrap_or(false),
            out: s.out.clone().unwrap_or_default(),
            eval_every: counted("--eval-every", s.eval_every)?,
            probe_every: counted("--probe-every", s.probe_every)?,
            early_stop: counted("--early-stop", s.early_stop)?,
            save_best: s.save_best.unwrap_or(false),
            tensorboard: s.tensorboard.unwrap_or(false),
            save_every: counted("--save-every", s.save_every)?,
            keep: course::keep(&s)?,
            on_save_error: s.on_save_error.unwrap_or_default(),
            on_spike: course::on_spike(&s)?,
            settings: s,
        })
    }

    /// Rows in each optimizer step.
    pub fn rows_per_step(&self) -> usize {
        self.batch * self.grad_accum
    }

    /// Whether evaluations decide what becomes of the run: when it ends, or which model is kept.
    pub fn is_judged(&self) -> bool {
        self.early_stop.is_some() || self.save_best
    }

    /// The recipe as the TOML that would repeat it.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.settings).expect("settings are plain keys and values")
    }
}

/// A run needs text and a place for its result.
fn named(s: &Settings, data: &[PathBuf]) -> Result<()> {
    if data.is_empty() {
        return Err(Error::usage("--data", "(missing)", "name the text to train on: files or directories"));
    }
    if s.out.is_none() {
        return Err(Error::usage("--out", "(missing)", "name a directory for the trained model"));
    }
    Ok(())
}

fn rope_factor(s: &Settings) -> Result<Option<f64>> {
    rope::check_factor(filled(s.rope), s.rope_factor)?;
    Ok(s.rope_factor)
}

/// Refuses a step of more tokens than rows and tokens are counted with (32 bits), before any size is multiplied.
fn count_of_tokens(s: &Settings, window: usize) -> Result<()> {
    let (batch, accum) = (filled(s.batch).0, filled(s.grad_accum).0);
    let tokens = |rows: usize| rows.checked_mul(window).filter(|&n| u32::try_from(n).is_ok());
    let problem = |of: &str| {
        format!("makes {of} of more than {} tokens with windows of {window}; ask for less", u32::MAX)
    };
    if tokens(batch).is_none() {
        return Err(Error::usage("--batch", batch, problem("a batch")));
    }
    match batch.checked_mul(accum).and_then(tokens) {
        None => Err(Error::usage("--grad-accum", accum, problem("a step"))),
        Some(_) => Ok(()),
    }
}

/// One weight for each path.
fn mix(s: &Settings, data: &[PathBuf]) -> Result<Option<Vec<f64>>> {
    let Some(weights) = &s.mix else { return Ok(None) };
    check_weights(weights)?;
    // plan may be asked before there is any text
    if !data.is_empty() && data.len() != weights.len() {
        let list = weights.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let problem = format!(
            "has {} weights for the {} paths of --data; give one for each",
            weights.len(),
            data.len()
        );
        return Err(Error::usage("--mix", list, problem));
    }
    Ok(Some(weights.clone()))
}

fn source(s: &Settings) -> Result<Source> {
    let scratch = filled(s.from_scratch);
    match (&s.model, &s.preset) {
        (Some(dir), None) if scratch => Ok(Source::Architecture(dir.clone())),
        (Some(dir), None) => Ok(Source::Checkpoint(dir.clone())),
        (None, Some(name)) => Ok(Source::Preset(name.clone())),
        (Some(_), Some(name)) => {
            Err(Error::usage("--preset", name, "and --model exclude each other; give one"))
        }
        (None, None) => Err(Error::usage(
            "--model",
            "(missing)",
            "name a model directory to extend, or a --preset to train",
        )),
    }
}

/// The sampler, and what it is told of the text.
fn sampler(s: &Settings) -> Result<Sampler> {
    let method = filled(s.method);
    if let Some(ids) = &s.split_ids {
        let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        if !matches!(method, Method::Axolotl | Method::LongRecipe) {
            let problem = format!("are for --method longrecipe and axolotl, and this is {method}");
            return Err(Error::usage("--split-ids", list, problem));
        }
        if ids.is_empty() {
            return Err(Error::usage(
                "--split-ids",
                list,
                "must name a token id; leave the flag out for none",
            ));
        }
    }
    let (train_len, target_len) = (filled(s.train_len).0, filled(s.target_len).0);
    Sampler::new(method, train_len, target_len, filled(s.chunks), filled(s.chunk_lengths), filled(s.content))
        .map(|sampler| sampler.splitting(method == Method::Axolotl && s.split_ids.is_some()))
        .and_then(|sampler| if s.pack == Some(true) { sampler.packing() } else { Ok(sampler) })
}
