//! The model that a command reads with: its flags, its files, the rotation that they come to, its weights.

use crate::backend::Backend;
use crate::backend::device::DType;
use crate::checkpoint::{Adapter, Weights, admit};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::infer::Reads;
use crate::memory::{self, Kind, Ledger};
use crate::model::buffers::Reading;
use crate::model::{Config, Merge, Model};
use crate::regular;
use crate::rope::{self, Rope, ScalingKind};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

/// As many as there are positions.
const MOST_TOKENS: usize = 1 << 32;

/// A model to read with, and a scaling to try on it without training.
#[derive(Clone, Debug, Args)]
pub struct Reader {
    /// Model: a Hugging Face directory (config.json, safetensors, tokenizer.json), or an adapter (LoRA) of one
    #[arg(long, value_name = "DIR", required = true)]
    pub model: Option<PathBuf>,
    /// What weights and activations are stored as
    #[arg(long, value_enum, default_value_t = DType::Bf16)]
    pub dtype: DType,
    /// Interpolate positions without training: linear, ntk, yarn, yarn-revised, llama3 or dynamic; or none, which keeps what the model
    /// has [default: none]
    #[arg(long)]
    pub rope: Option<ScalingKind>,
    /// Interpolation factor [default: the longest length asked for / the model's original length]
    #[arg(long, value_name = "X")]
    pub rope_factor: Option<f64>,
    /// Another base of the wavelengths than the model's, before any scaling [default: the model's rope_theta]
    #[arg(long, value_name = "X")]
    pub rope_theta: Option<f64>,
}

/// A model's files but for its weights, read and checked.
pub struct ModelFiles {
    config: Config,
    pub tokenizer: Tokenizer,
    /// Where --model is an adapter: it is added into its base model when that is loaded.
    adapter: Option<Adapter>,
}

/// A model's files and the rotation to read with; its weights come later.
pub struct OpenedReader {
    pub config: Config,
    pub tokenizer: Tokenizer,
    pub rope: Rope,
    adapter: Option<Adapter>,
    flags: Reader,
}

impl Reader {
    /// Reads config and tokenizer; `longest` is the longest text that will be read, by the flag that sets it.
    pub fn open(&self, longest: usize, flag: &str) -> Result<OpenedReader> {
        self.scaled(self.files()?, longest, flag)
    }

    /// The part of [`Reader::open`] for those who learn from the tokenizer how long the longest text is.
    pub fn files(&self) -> Result<ModelFiles> {
        let (model, adapter) = self.admitted()?;
        let dir = config_dir(model, adapter.as_ref())?;
        let config = Config::load(dir)?;
        let tokenizer =
            Tokenizer::load(dir)?.or_special_ids(config.bos_token_id, config.eos_token_ids.first().copied());
        tokenizer.check_vocab(config.vocab_size)?;
        Ok(ModelFiles { config, tokenizer, adapter })
    }

    /// For texts that come as token ids: a model without tokenizer files will do.
    pub fn open_for_ids(&self, longest: usize) -> Result<OpenedReader> {
        let (model, adapter) = self.admitted()?;
        let config = Config::load(config_dir(model, adapter.as_ref())?)?;
        self.scaled(ModelFiles { config, tokenizer: Tokenizer::bytes(), adapter }, longest, "--ids")
    }

    /// For plans alone: a built-in architecture, which has no weights.
    pub fn open_preset(&self, name: &str, longest: usize, flag: &str) -> Result<OpenedReader> {
        let files =
            ModelFiles { config: Config::preset(name)?, tokenizer: Tokenizer::bytes(), adapter: None };
        self.scaled(files, longest, flag)
    }

    fn directory(&self) -> Result<&Path> {
        let missing = || Error::usage("--model", "(missing)", "name the directory of the model to read with");
        self.model.as_deref().ok_or_else(missing)
    }

    /// The model's directory and the adapter that it may be, held to what was written.
    fn admitted(&self) -> Result<(&Path, Option<Adapter>)> {
        let model = self.directory()?;
        admit(model)?;
        let adapter = Adapter::find(model)?;
        if let Some(adapter) = &adapter {
            admit(adapter.base()?)?;
        }
        Ok((model, adapter))
    }

    /// The second part of [`Reader::open`]: the rotation for texts of `longest` tokens.
    pub fn scaled(&self, files: ModelFiles, longest: usize, flag: &str) -> Result<OpenedReader> {
        let ModelFiles { config, tokenizer, adapter } = files;
        if longest > MOST_TOKENS {
            return Err(Error::usage(flag, longest, format!("positions go up to {}", u32::MAX)));
        }
        let kind = self.rope.unwrap_or(ScalingKind::None);
        let base = rope::rebased(&config.rope, self.rope_theta)?;
        let rope =
            rope::for_training(&base, kind, (longest, flag), config.original_length(), self.rope_factor)?;
        Ok(OpenedReader { config, tokenizer, rope, adapter, flags: self.clone() })
    }
}

/// Where the config and the tokenizer of `model` are.
fn config_dir<'a>(model: &'a Path, adapter: Option<&'a Adapter>) -> Result<&'a Path> {
    adapter.filter(|adapter| !adapter.has_config()).map_or(Ok(model), Adapter::base)
}

impl OpenedReader {
    /// Lengths of prompts, together where they are rotated alike with `more` tokens after them: all of them, but for a scaling
    /// that depends on the length of what is read.
    pub fn by_rotation(&self, lengths: &[usize], more: usize) -> Vec<(Rope, Vec<usize>)> {
        let mut groups: Vec<(Rope, Vec<usize>)> = Vec::new();
        for &length in lengths {
            let rope = self.rope.for_length(length + more);
            let turns = rope.turns();
            match groups.iter_mut().find(|(other, _)| other.turns() == turns) {
                Some((_, group)) => group.push(length),
                None => groups.push((rope, vec![length])),
            }
        }
        groups
    }

    /// Allocates the model and what reads with it through `ledger`.
    fn allocate<B: Backend, R: Reads<B>>(
        &self, b: &B, ledger: &mut Ledger, reading: Reading,
    ) -> Result<(Model<B>, R)> {
        let model = Model::allocate(b, ledger, &self.config, &self.rope)?;
        let mut scratch = R::scratch_bytes(b, &model, reading);
        if let Some(adapter) = &self.adapter {
            scratch = scratch.max(Merge::scratch_bytes(b, &self.config, &adapter.lora));
        }
        let reader = R::allocate(b, ledger, &model, reading)?;
        ledger.note(Kind::Scratch, "kernels", &[scratch], "u8", scratch);
        if !ledger.is_dry() {
            b.reserve_scratch(scratch)?;
        }
        Ok((model, reader))
    }

    /// What reading takes, with `text` tokens in memory.
    pub fn plan<B: Backend, R: Reads<B>>(&self, b: &B, reading: Reading, text: usize) -> Result<Ledger> {
        let mut plan = Ledger::dry();
        self.allocate::<B, R>(b, &mut plan, reading)?;
        self.room_to_merge(b, &mut plan)?;
        memory::note_program(&mut plan, self.tokenizer.resident_bytes(), text);
        Ok(plan)
    }

    /// Checks that it fits, allocates and loads the weights: ready to read.
    pub fn load<B: Backend, R: Reads<B>>(&self, b: &B, reading: Reading) -> Result<(Model<B>, R)> {
        let plan = self.plan::<B, R>(b, reading, 0)?;
        memory::check_room(b, &plan)?;
        let ledger = &mut Ledger::live();
        let (mut model, reader) = self.allocate(b, ledger, reading)?;
        self.fill(b, ledger, &mut model)?;
        Ok((model, reader))
    }

    /// Loads the weights, and adds the adapter into them where there is one.
    pub fn fill<B: Backend>(&self, b: &B, ledger: &mut Ledger, model: &mut Model<B>) -> Result<()> {
        let Some(adapter) = &self.adapter else {
            return model.load(b, &Weights::open(self.flags.directory()?)?);
        };
        let base = Weights::open(adapter.base()?)?;
        adapter.check_base(&base)?;
        model.load(b, &base)?;
        match &mut self.room_to_merge(b, ledger)? {
            Some(merge) => model.merge_adapter(b, merge, adapter),
            None => Ok(()),
        }
    }

    /// Tells what is read with from other models: weights, adapter, tokenizer and rotation, whose text leaves out numbers that
    /// come from the config alone.
    pub fn fingerprint(&self) -> Result<serde_json::Value> {
        let dir = self.flags.directory()?;
        let base = self.adapter.as_ref().map_or(Ok(dir), Adapter::base)?;
        let adapter =
            |adapter: &Adapter| Ok::<_, Error>((adapter.weights.fingerprint()?, adapter.lora.scale()));
        let adapter = self.adapter.as_ref().map(adapter).transpose()?;
        let config = config_dir(dir, self.adapter.as_ref())?.join("config.json");
        let config = regular::read(&config).map_err(|e| Error::io(&config, "reading", e))?;
        Ok(json!({
            "weights": Weights::open(base)?.fingerprint()?, "adapter": adapter,
            "config": hex(blake3::hash(&config).as_bytes()), "tokenizer": hex(&self.tokenizer.fingerprint()),
            "rope": self.rope.to_string(),
        }))
    }

    fn room_to_merge<B: Backend>(&self, b: &B, ledger: &mut Ledger) -> Result<Option<Merge<B>>> {
        let room = |adapter: &Adapter| Merge::allocate(b, ledger, &self.config, &adapter.lora);
        self.adapter.as_ref().map(room).transpose()
    }
}

/// The first 32 digits of a hash.
pub fn hex(hash: &[u8; 32]) -> String {
    hash[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
