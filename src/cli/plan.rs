//! `pose-engine plan`.

use super::common::{Common, Json};
use super::output::size_text;
use super::size::parse_bytes;
use crate::backend::Backend;
use crate::backend::device::{Device, Job, dispatch};
use crate::error::{Error, Result};
use crate::infer::{DEFAULT_CHUNK, Session};
use crate::memory::{self, Kind, Ledger, bytes_text};
use crate::model::{Config, Model, params};
use crate::recipe::{Recipe, Settings, Size, Source};
use crate::rope::Rope;
use crate::train::{self, State};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;

/// What the plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum For {
    Train,
    EvalPpl,
}

/// Show every buffer that a training or an evaluation would allocate, without running it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pose-engine plan --preset smollm2-135m --train-len 2k --target-len 32k --batch 4
  pose-engine plan eval-ppl --model smollm2 --windows 2k,128k")]
pub struct Plan {
    /// Whose flags follow
    #[arg(value_enum, default_value = "train", value_name = "COMMAND")]
    what: For,
    #[command(flatten)]
    settings: Settings,
    /// Recipe file, as for train
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    config: Option<PathBuf>,
    /// Windows of eval-ppl in tokens
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    windows: Vec<Size>,
    /// List every buffer, not only the totals by kind
    #[arg(long)]
    buffers: bool,
    /// Check against this much memory instead of what is free now, as in 80GiB
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    device_memory: Option<usize>,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    common: Common,
}

impl Plan {
    pub fn run(self) -> Result<()> {
        let settings = match &self.config {
            Some(path) => self.settings.over(&Settings::from_file(path)?),
            None => self.settings.clone(),
        };
        let recipe = Recipe::validate(&settings, false)?;
        let job = PlanJob { plan: &self, recipe: &recipe };
        let (config, ledger) = dispatch(Device::Cpu, recipe.dtype, self.common.threads, job)?;
        let parameters = params::parameter_count(&config);
        println!("{parameters} parameters, {} of context", size_text(config.max_position_embeddings));
        print!("{}", ledger.table(self.buffers));
        let rows: Vec<_> = ledger
            .rows()
            .iter()
            .map(|r| json!({ "kind": r.kind.to_string(), "name": r.name, "shape": r.shape, "dtype": r.dtype, "bytes": r.bytes }))
            .collect();
        let by_kind: serde_json::Map<String, serde_json::Value> =
            Kind::ALL.iter().map(|k| (k.to_string(), json!(ledger.of(*k)))).collect();
        self.json.write(
            &json!({ "parameters": parameters, "total": ledger.total(), "by_kind": by_kind, "buffers": rows }),
        )?;
        match (self.device_memory, memory::available_bytes()) {
            (Some(limit), _) => memory::check_fits(ledger.rows(), limit, "--device-memory")?,
            (None, Some(free)) => memory::check_fits(ledger.rows(), free, "memory available")?,
            (None, None) => return Ok(()),
        }
        let limit = self.device_memory.or_else(memory::available_bytes).unwrap_or(0);
        println!("fits in {}", bytes_text(limit));
        Ok(())
    }
}

struct PlanJob<'a> {
    plan: &'a Plan,
    recipe: &'a Recipe,
}

impl Job for PlanJob<'_> {
    type Out = (Config, Ledger);
    fn run<B: Backend>(self, b: &B) -> Result<(Config, Ledger)> {
        match self.plan.what {
            For::Train => plan_train(b, self.recipe),
            For::EvalPpl => plan_eval(b, self.recipe, &self.plan.windows),
        }
    }
}

fn plan_train<B: Backend>(b: &B, recipe: &Recipe) -> Result<(Config, Ledger)> {
    let opened = train::OpenedModel::open(recipe)?;
    if recipe.data.is_empty() {
        let mut ledger = Ledger::dry();
        State::allocate_for(b, recipe, &opened, !recipe.eval_data.is_empty(), &mut ledger)?;
        train::note_program(&mut ledger, &opened.tokenizer);
        return Ok((opened.config, ledger));
    }
    let opened = train::Opened::with_data(recipe, opened, &Silent)?;
    let ledger = train::plan(b, recipe, &opened)?;
    Ok((opened.model.config, ledger))
}

struct Silent;
impl train::Watch for Silent {}

fn plan_eval<B: Backend>(b: &B, recipe: &Recipe, windows: &[Size]) -> Result<(Config, Ledger)> {
    let Some(longest) = windows.iter().map(|w| w.0).max() else {
        return Err(Error::usage(
            "--windows",
            "(missing)",
            "name the windows to plan for, as in --windows 2k,128k",
        ));
    };
    let config = match &recipe.source {
        Source::Preset(name) => Config::preset(name)?,
        Source::Checkpoint(dir) | Source::Architecture(dir) => Config::load(dir)?,
    };
    let mut ledger = Ledger::dry();
    let rope: Rope = config.rope.clone();
    let model: Model<B> = Model::allocate(b, &mut ledger, &config, &rope)?;
    Session::allocate(b, &mut ledger, &model, DEFAULT_CHUNK, longest, 1)?;
    let scratch = Session::scratch_bytes(b, &model, DEFAULT_CHUNK, longest);
    ledger.note(Kind::Scratch, "kernels", &[scratch], "u8", scratch);
    Ok((config, ledger))
}
