//! The keys of a recipe: one list for the flags of `train` and `plan`, the TOML file and the saved run.

use crate::backend::device::DType;
use crate::model::Loss;
use crate::model::lora::{Also, Target};
use crate::optim::{Optimizer, ScheduleKind};
use crate::positions::{ChunkLengths, Content, Method};
use crate::rope::ScalingKind;
use crate::size::{parse_bytes, parse_count, parse_size, whole};
use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;

/// A number of tokens, steps or examples: 2048, 2k, 128k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Size(pub usize);

impl std::str::FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        parse_size(text).map(Size)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How many layers, from the first on, are computed again in the backward pass: `true` all, `false` none, or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recompute(pub usize);

impl Recompute {
    pub const ALL: Recompute = Recompute(usize::MAX);
}

impl std::str::FromStr for Recompute {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(Recompute::ALL),
            "false" => Ok(Recompute(0)),
            _ => {
                let layers = text.parse().ok().filter(|&n: &usize| i64::try_from(n).is_ok());
                layers.map(Recompute).ok_or_else(|| "must be a number of layers, true or false".to_string())
            }
        }
    }
}

impl Serialize for Recompute {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match *self {
            Recompute(0) => s.serialize_bool(false),
            Recompute::ALL => s.serialize_bool(true),
            Recompute(layers) => s.serialize_u64(layers as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Recompute {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "not a number of layers, true or false")]
        enum Either {
            All(bool),
            Layers(usize),
        }
        Ok(match Either::deserialize(d)? {
            Either::All(true) => Recompute::ALL,
            Either::All(false) => Recompute(0),
            Either::Layers(n) => Recompute(n),
        })
    }
}

/// A [`Size`] on the command line that may be 0.
fn size_or_zero(text: &str) -> Result<Size, String> {
    parse_count(text).map(Size)
}

/// In a recipe file: 2048 or "2k". Where 0 makes no sense, validation says so.
impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "not a size: write a whole number or a text, as in 2048 or \"2k\"")]
        enum Either {
            Number(usize),
            Text(String),
        }
        match Either::deserialize(d)? {
            Either::Number(n) => Ok(Size(n)),
            Either::Text(text) => size_or_zero(&text).map_err(serde::de::Error::custom),
        }
    }
}

/// An amount of memory in a recipe file: a number of bytes, or "20GiB".
fn bytes_or_text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "not an amount of memory: write a number of bytes or a text, as in \"20GiB\""
    )]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Either::deserialize(d)? {
        Either::Number(n) => Ok(Some(n)),
        Either::Text(text) => parse_bytes(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

/// What was asked for. Every key may be missing; flags win over a recipe file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Model to start from: a Hugging Face directory (config.json, safetensors, tokenizer.json)
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Built-in architecture to train from scratch on bytes: tiny, small, 10m, smollm2-135m (llama-7b and llama-3-8b are there to plan for)
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Take config and tokenizer from --model, but draw the weights anew
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_scratch: Option<bool>,
    /// What weights and activations are stored as [default: bf16]
    #[arg(long, help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DType>,

    /// Training text: .txt (one document a file), .jsonl, each also .gz or .zst, or directories of these
    #[arg(long, num_args = 1.., value_name = "PATH", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<PathBuf>>,
    /// Weights of --data's paths, in their order, as in 0.7,0.3: how often a row is of each [default: all paths are one
    /// corpus]
    #[arg(
        long,
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_name = "X,...",
        help_heading = "Data"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix: Option<Vec<f64>>,
    /// Fill rows with several whole documents, which do not see each other: for documents shorter than the window
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack: Option<bool>,
    /// Field of a .jsonl line that holds the text [default: text]
    #[arg(long, value_name = "FIELD", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
    /// Most that a .gz or .zst file may become, as in 20GiB [default: 100 times its size; 64 MiB at least, shared by
    /// files that are read together]
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", help_heading = "Data")]
    #[serde(default, deserialize_with = "bytes_or_text", skip_serializing_if = "Option::is_none")]
    pub max_decompressed: Option<u64>,
    /// Held-out text for perplexity at the target length during training
    #[arg(long, num_args = 1.., value_name = "PATH", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_data: Option<Vec<PathBuf>>,
    /// Tokens of each held-out document that are read [default: the target length]
    #[arg(long, value_name = "N", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_tokens: Option<Size>,

    /// How the tokens of a row get their positions [default: pose]
    #[arg(long, help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Training window Lc in tokens [default: 2k]
    #[arg(long, value_name = "N", help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_len: Option<Size>,
    /// Target context length Lt in tokens [default: the training window]
    #[arg(long, value_name = "N", help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_len: Option<Size>,
    /// Chunks that the window is split into (pose, axolotl, balanced, adaptive) [default: 2]
    #[arg(long, value_parser = whole::<usize>(), value_name = "N", help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<usize>,
    /// Chunk lengths as in the paper or as in its authors' code [default: paper]
    #[arg(long, help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_lengths: Option<ChunkLengths>,
    /// Where the chunks' text is cut [default: uniform]
    #[arg(long, help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Token ids, as in 13,198: with longrecipe those that end a sentence [default: what the tokenizer spells with . ! ? or a line's
    /// end], with axolotl those that begin a chunk [default: equal chunks]
    #[arg(long, value_delimiter = ',', value_name = "ID,...", help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_ids: Option<Vec<u32>>,
    /// Steps between the probes of --eval-data that adaptive goes by [default: 50]
    #[arg(long, value_name = "N", help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapt_every: Option<Size>,
    /// Share of the rows that adaptive spreads over all distances whatever the probe says [default: 0.25]
    #[arg(long, value_name = "X", help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapt_floor: Option<f64>,
    /// How positions are interpolated: linear, ntk, yarn, yarn-revised, llama3 or dynamic; or none, which keeps what the model
    /// has [default: none]
    #[arg(long, help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope: Option<ScalingKind>,
    /// Interpolation factor [default: target length / the model's original length]
    #[arg(long, value_name = "X", help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_factor: Option<f64>,
    /// Another base of the wavelengths than the model's, before any scaling [default: the model's rope_theta]
    #[arg(long, value_name = "X", help_heading = "Positions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,

    /// Optimizer steps [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Size>,
    /// Rows that go through the model together [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Size>,
    /// Batches whose gradients are added up for one optimizer step [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_accum: Option<Size>,
    /// What is minimised: ce, or longce, which weighs a token by what its far context is worth [default: ce]
    #[arg(long, help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// The short context that longce compares with: N to 2N-1 tokens before each [default: an eighth of a row]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longce_short: Option<Size>,
    /// Largest weight of a token in longce [default: 5]
    #[arg(long, value_name = "X", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longce_gamma: Option<f64>,
    /// What AdamW keeps its moments in [default: adamw]
    #[arg(long, help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<Optimizer>,
    /// Peak learning rate [default: 2e-5]
    #[arg(long, value_name = "X", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Steps over which the learning rate rises from zero [default: 10]
    #[arg(long, value_name = "N", value_parser = size_or_zero, help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Size>,
    /// What the learning rate does after the warm-up [default: constant]
    #[arg(long, help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleKind>,
    /// Decoupled weight decay of matrices [default: 0]
    #[arg(long, value_name = "X", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Largest global gradient norm; 0 switches clipping off [default: 1]
    #[arg(long, value_name = "X", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// First moment's decay [default: 0.9]
    #[arg(long, value_name = "X", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// Second moment's decay [default: 0.95]
    #[arg(long, value_name = "X", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_parser = whole::<u64>(), value_name = "N", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Keep only the input of the first N blocks (without N, of all) and compute the rest again in the backward pass
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "N", help_heading = "Optimisation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Recompute>,

    /// Train adapters of this rank (LoRA) on the frozen model [default: train the whole model]
    #[arg(long, value_parser = whole::<usize>(), value_name = "N", help_heading = "Adapters")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<usize>,
    /// The adapters' product is multiplied by X / rank [default: twice the rank]
    #[arg(long, value_name = "X", help_heading = "Adapters")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Multiply by alpha / sqrt(rank) and not by alpha / rank (rank-stabilised LoRA)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Adapters")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_rs: Option<bool>,
    /// Projections that get an adapter [default: q,k,v,o]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", help_heading = "Adapters")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_targets: Option<Vec<Target>>,
    /// What is trained in full beside the adapters, as in embed,norm [default: nothing]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", help_heading = "Adapters")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_train: Option<Vec<Also>>,
    /// Save the trained model with the adapters added into its weights, not the adapters
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Adapters")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_merge: Option<bool>,

    /// Directory for the result; must be new or empty, but for --resume
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// Steps between perplexities on --eval-data [default: only after the last]
    #[arg(long, value_name = "N", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<Size>,
    /// Steps between probes of --eval-data: the same tokens at the target length and in windows of the training length,
    /// and what the far context is worth by position [default: none]
    #[arg(long, value_name = "N", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_every: Option<Size>,
    /// Stop when the perplexity on --eval-data was not better N times in a row [default: do all steps]
    #[arg(long, value_name = "N", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<Size>,
    /// Keep the model with the best perplexity on --eval-data in OUT/best
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_best: Option<bool>,
    /// Write the metrics as an event file for TensorBoard too, OUT/events.out.tfevents.*
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensorboard: Option<bool>,
    /// Steps between checkpoints, and one after the last step [default: none but when interrupted]
    #[arg(long, value_name = "N", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_every: Option<Size>,
    /// Checkpoints that stay, the newest N; older ones are removed [default: all stay]
    #[arg(long, value_name = "N", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<Size>,
    /// Beside the newest, checkpoints whose step is a multiple of N stay too
    #[arg(long, value_name = "N", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<Size>,
    /// What a checkpoint that cannot be written does: stop ends the run, retry goes on and tries again after each step
    /// [default: stop]
    #[arg(long, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_save_error: Option<OnSaveError>,
    /// What a loss that leaps does: stop ends the run before the update, skip goes on without it, rollback goes back to the last
    /// checkpoint (before the first one it is skip) and passes over the batches since [default: only a loss that is no number ends the run]
    #[arg(long, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_spike: Option<OnSpike>,
    /// A leap: so many standard deviations above the mean of --spike-window steps [default: 6]
    #[arg(long, value_name = "X", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike_z: Option<f64>,
    /// Steps that a loss is compared with [default: 64]
    #[arg(long, value_name = "N", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike_window: Option<Size>,
}

/// What a run does when its loss leaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnSpike {
    /// End before the update.
    Stop,
    /// Leave the update out and go on.
    Skip,
    /// Go back to the last checkpoint and pass over the batches from there to the spike.
    Rollback,
}

/// What a run does when a save fails: the disk is full, or gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnSaveError {
    /// End, with the checkpoint before intact.
    #[default]
    Stop,
    /// Train on and try again after every step, and after the last one until it succeeds.
    Retry,
}
