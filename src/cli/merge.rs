//! `pose-engine merge`.

use super::common::{Common, Where};
use crate::backend::Backend;
use crate::backend::device::{DType, Job, dispatch};
use crate::checkpoint::{
    Adapter, Existing, ModelTensors, SHARD_BYTES, Staging, Weights, admit, refuse_existing, write_model,
};
use crate::error::Result;
use crate::memory::{self, Kind, Ledger};
use crate::model::{Config, Merge as Room, Model};
use clap::Args;
use std::path::{Path, PathBuf};

/// Add an adapter (LoRA) into the weights of its base model
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine merge --adapter smollm2-32k-lora --out smollm2-32k")]
pub struct Merge {
    /// Adapter: a directory with adapter_config.json and adapter_model.safetensors
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Base model [default: the one that the adapter names]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Directory for the whole model; must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the weights are stored as
    #[arg(long, value_enum, default_value_t = DType::Bf16)]
    dtype: DType,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub common: Common,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        refuse_existing(&self.out)?;
        admit(&self.adapter)?;
        let adapter = Adapter::open(&self.adapter)?;
        let base = match &self.model {
            Some(dir) => dir.as_path(),
            None => adapter.base()?,
        };
        admit(base)?;
        let weights = Weights::open(base)?;
        adapter.check_base(&weights)?;
        // an adapter that PEFT saved leaves the config and the tokenizer with the base model
        let home = if adapter.has_config() { self.adapter.as_path() } else { base };
        let config = Config::load(home)?;
        let job = MergeJob { adapter: &adapter, weights: &weights, config, home, out: &self.out };
        let warnings = dispatch(self.place.device(&self.common), self.dtype, self.common.threads, job)?;
        warnings.iter().for_each(|w| self.common.warn(w));
        outln!("merged {} into {}: {}", self.adapter.display(), base.display(), self.out.display());
        Ok(())
    }
}

struct MergeJob<'a> {
    adapter: &'a Adapter,
    weights: &'a Weights,
    config: Config,
    home: &'a Path,
    out: &'a Path,
}

impl MergeJob<'_> {
    fn allocate<B: Backend>(&self, b: &B, ledger: &mut Ledger) -> Result<(Model<B>, Room<B>)> {
        let (config, lora) = (&self.config, &self.adapter.lora);
        let model = Model::allocate(b, ledger, config, &config.rope)?;
        let scratch = Room::scratch_bytes(b, config, lora);
        ledger.note(Kind::Scratch, "kernels", &[scratch], "u8", scratch);
        if !ledger.is_dry() {
            b.reserve_scratch(scratch)?;
        }
        Ok((model, Room::allocate(b, ledger, config, lora)?))
    }
}

impl Job for MergeJob<'_> {
    type Out = Vec<String>;
    fn run<B: Backend>(self, b: &B) -> Result<Vec<String>> {
        let mut plan = Ledger::dry();
        self.allocate(b, &mut plan)?;
        memory::check_room(b, &plan)?;
        let (mut model, mut room) = self.allocate(b, &mut Ledger::live())?;
        model.load(b, self.weights)?;
        model.merge_adapter(b, &mut room, self.adapter)?;
        let staging = Staging::create(self.out, Existing::Refuse)?;
        let tensors = ModelTensors::whole(b, &model);
        let warnings = write_model(&staging, &self.config, &tensors, Some(self.home), SHARD_BYTES)?;
        staging.commit()?;
        Ok(warnings)
    }
}
