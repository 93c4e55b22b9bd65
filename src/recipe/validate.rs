//! Settings → a recipe that can be run, or a sentence that says why not.

use super::checks::{at_least_one, counted, number};
use super::course::{self, Adapt, Keep, SpikeRule};
use super::{OnSaveError, Recompute, Settings, Size};
use crate::backend::device::DType;
use crate::data::check_weights;
use crate::error::{Error, Result};
use crate::model::lora::Target;
use crate::model::{LongCe, Lora, Loss};
use crate::optim::{AdamHyper, Optimizer, Schedule};
use crate::positions::{ChunkLengths, Content, Method, Sampler};
use crate::rope::ScalingKind;
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

impl Recipe {
    /// Checks everything that can be checked without opening a file. `need_out` is false for `plan`.
    pub fn validate(asked: &Settings, need_out: bool) -> Result<Recipe> {
        let s = asked.with_defaults();
        let source = source(&s)?;
        let sampler = sampler(&s)?;
        let data = s.data.clone().unwrap_or_default();
        if data.is_empty() && need_out {
            return Err(Error::usage(
                "--data",
                "(missing)",
                "name the text to train on: files or directories",
            ));
        }
        if s.out.is_none() && need_out {
            return Err(Error::usage("--out", "(missing)", "name a directory for the trained model"));
        }
        let rope = s.rope.unwrap_or(ScalingKind::None);
        if rope == ScalingKind::None && s.rope_factor.is_some() {
            let problem =
                "says by how much to interpolate but --rope is none; choose --rope linear, ntk or yarn";
            return Err(Error::usage("--rope-factor", s.rope_factor.unwrap_or(0.0), problem));
        }
        count_of_tokens(&s, sampler.window())?;
        course::held_out(&s, need_out)?;
        let longce = longce(&s, sampler.window())?;
        let s = Settings {
            longce_short: longce.map(|how| Size(how.short)),
            longce_gamma: longce.map(|how| how.gamma),
            ..s
        };
        let rope_factor = s.rope_factor.map(|f| number("--rope-factor", f, 1.0, 1e6)).transpose()?;
        Ok(Recipe {
            source,
            dtype: s.dtype.unwrap_or_default(),
            mix: mix(&s, &data)?,
            data,
            text_field: s.text_field.clone().unwrap_or_default(),
            eval_data: s.eval_data.clone().unwrap_or_default(),
            eval_tokens: course::eval_tokens(&s, sampler.target_len())?,
            sampler,
            split_ids: s.split_ids.clone(),
            adapt: course::adapt(&s, need_out)?,
            rope,
            rope_factor,
            rope_theta: s.rope_theta,
            batch: at_least_one("--batch", s.batch.unwrap_or(Size(1)))?,
            grad_accum: at_least_one("--grad-accum", s.grad_accum.unwrap_or(Size(1)))?,
            schedule: schedule(&s)?,
            longce,
            optimizer: s.optimizer.unwrap_or_default(),
            adam: adam(&s)?,
            seed: s.seed.unwrap_or(0),
            recompute: s.recompute.unwrap_or_default().0,
            lora: lora(&s)?,
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

/// Refuses a step of more tokens than rows and tokens are counted with (32 bits), before any size is multiplied.
fn count_of_tokens(s: &Settings, window: usize) -> Result<()> {
    let (batch, accum) = (s.batch.unwrap_or(Size(1)).0, s.grad_accum.unwrap_or(Size(1)).0);
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
    let scratch = s.from_scratch.unwrap_or(false);
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

/// `--split-ids` is refused where it would do nothing. (Those of chunks are in every recipe, with their defaults.)
fn sampler(s: &Settings) -> Result<Sampler> {
    let method = s.method.unwrap_or(Method::Pose);
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
    let (train_len, target_len) = (s.train_len.unwrap_or(Size(2048)).0, s.target_len.unwrap_or(Size(2048)).0);
    Sampler::new(
        method,
        train_len,
        target_len,
        s.chunks.unwrap_or(2),
        s.chunk_lengths.unwrap_or(ChunkLengths::Paper),
        s.content.unwrap_or(Content::Uniform),
    )
    .map(|sampler| sampler.splitting(method == Method::Axolotl && s.split_ids.is_some()))
    .and_then(|sampler| if s.pack == Some(true) { sampler.packing() } else { Ok(sampler) })
}

fn schedule(s: &Settings) -> Result<Schedule> {
    let steps = at_least_one("--steps", s.steps.unwrap_or(Size(1000)))? as u64;
    Ok(Schedule {
        kind: s.schedule.unwrap_or_default(),
        peak: number("--lr", s.lr.unwrap_or(2e-5), 0.0, 1e3)?,
        warmup: (s.warmup.unwrap_or(Size(10)).0 as u64).min(steps),
        steps,
    })
}

/// How tokens of rows of `window` are weighed. The short context is by default an eighth of it: in the paper's fine-tuning
/// it is 4k of 32k.
fn longce(s: &Settings, window: usize) -> Result<Option<LongCe>> {
    if s.loss != Some(Loss::LongCe) {
        let short = s.longce_short.map(|n| ("--longce-short", n.to_string()));
        let gamma = s.longce_gamma.map(|x| ("--longce-gamma", x.to_string()));
        return match short.or(gamma) {
            None => Ok(None),
            Some((flag, value)) => {
                Err(Error::usage(flag, value, "is for --loss longce, and the loss is ce; add --loss longce"))
            }
        };
    }
    let short = at_least_one("--longce-short", s.longce_short.unwrap_or(Size((window / 8).max(1))))?;
    if short.checked_mul(2).is_none_or(|both| both >= window) {
        let problem = format!(
            "leaves no token of a row of {window} that sees more in the row than in its short context, which goes up to \
             twice that; ask for less than half of the row"
        );
        return Err(Error::usage("--longce-short", short, problem));
    }
    let gamma = number("--longce-gamma", s.longce_gamma.unwrap_or(5.0), 1.0, 1e6)?;
    Ok(Some(LongCe { short, gamma }))
}

fn adam(s: &Settings) -> Result<AdamHyper> {
    Ok(AdamHyper {
        beta1: number("--beta1", s.beta1.unwrap_or(0.9), 0.0, 0.999_999)?,
        beta2: number("--beta2", s.beta2.unwrap_or(0.95), 0.0, 0.999_999_9)?,
        eps: 1e-8,
        weight_decay: number("--weight-decay", s.weight_decay.unwrap_or(0.0), 0.0, 1e3)?,
        clip: number("--clip", s.clip.unwrap_or(1.0), 0.0, f64::MAX)?,
        seed: s.seed.unwrap_or(0),
    })
}

/// The adapters that are asked for; whether the rank fits is known when the model is.
fn lora(s: &Settings) -> Result<Option<Lora>> {
    let Some(rank) = s.lora_rank else {
        let given = s.as_table().keys().find(|key| key.starts_with("lora-")).cloned();
        return match given {
            None => Ok(None),
            Some(key) => Err(Error::usage(
                &format!("--{key}"),
                s.as_table()[&key].to_string(),
                "is for adapters, and none are trained; add --lora-rank, as in --lora-rank 16",
            )),
        };
    };
    if rank == 0 {
        return Err(Error::usage(
            "--lora-rank",
            0,
            "must be at least 1; leave it out to train the whole model",
        ));
    }
    let mut targets = s.lora_targets.clone().unwrap_or_default();
    targets.sort_unstable();
    targets.dedup();
    if targets.is_empty() {
        return Err(Error::usage(
            "--lora-targets",
            "",
            "must name a projection: q, k, v, o, gate, up or down",
        ));
    }
    let alpha = s.lora_alpha.unwrap_or(0.0);
    if !(alpha.is_finite() && alpha > 0.0) {
        return Err(Error::usage("--lora-alpha", alpha, "must be a finite number above 0"));
    }
    Ok(Some(Lora {
        rank,
        alpha,
        targets,
        also: s.lora_train.clone().unwrap_or_default(),
        rank_stabilised: s.lora_rs.unwrap_or(false),
    }))
}

impl Settings {
    /// Every key that has a default, filled in.
    fn with_defaults(&self) -> Settings {
        let train_len = self.train_len.unwrap_or(Size(2048));
        let filled = self.over(&Settings {
            dtype: Some(DType::default()),
            text_field: Some("text".into()),
            method: Some(Method::Pose),
            train_len: Some(train_len),
            target_len: Some(train_len),
            chunks: Some(2),
            chunk_lengths: Some(ChunkLengths::Paper),
            content: Some(Content::Uniform),
            adapt_every: (self.method == Some(Method::Adaptive)).then_some(Size(50)),
            adapt_floor: (self.method == Some(Method::Adaptive)).then_some(0.25),
            rope: Some(ScalingKind::None),
            steps: Some(Size(1000)),
            batch: Some(Size(1)),
            grad_accum: Some(Size(1)),
            optimizer: Some(Optimizer::default()),
            lr: Some(2e-5),
            warmup: Some(Size(10)),
            schedule: Some(Default::default()),
            weight_decay: Some(0.0),
            clip: Some(1.0),
            beta1: Some(0.9),
            beta2: Some(0.95),
            seed: Some(0),
            recompute: Some(Recompute(0)),
            from_scratch: Some(false),
            lora_alpha: self.lora_rank.map(|rank| 2.0 * rank as f64),
            lora_targets: self.lora_rank.map(|_| vec![Target::Q, Target::K, Target::V, Target::O]),
            ..Settings::default()
        });
        // off is the same as unsaid, also to the fingerprint of a run
        let on = |flag: Option<bool>| flag.filter(|on| *on);
        let (pack, save_best, tensorboard) = (on(filled.pack), on(filled.save_best), on(filled.tensorboard));
        let loss = filled.loss.filter(|loss| *loss != Loss::default());
        Settings { pack, save_best, tensorboard, loss, ..filled }
    }
}
