//! `pose-engine plan`.

use super::common::{Common, Json};
use super::eval_ppl::EvalPpl;
use super::output::size_text;
use super::train::Train;
use crate::backend::Backend;
use crate::backend::cuda;
use crate::backend::device::{Device, Job, dispatch};
use crate::error::Result;
use crate::memory::{self, Kind, Ledger, Room, bytes_text};
use crate::model::{Config, params};
use crate::recipe::Recipe;
use crate::size::parse_bytes;
use crate::train::{self, State, Watch};
use clap::{Args, Subcommand};
use serde_json::json;

/// Show every buffer that a training or an evaluation would allocate, without running it
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  pose-engine plan --preset smollm2-135m --train-len 2k --target-len 32k --batch 4
  pose-engine plan train --model smollm2 --data books/ --train-len 2k --target-len 32k --buffers
  pose-engine plan eval-ppl --model smollm2 --windows 2k,128k --device-memory 16GiB
  pose-engine plan --preset llama-7b --train-len 2k --target-len 128k --lora-rank 16 --device-memory 80GiB")]
pub struct Plan {
    #[command(subcommand)]
    what: Option<For>,
    #[command(flatten)]
    train: ForTrain,
}

/// What the plan is for.
#[derive(Debug, Subcommand)]
enum For {
    /// Plan a training: the flags of train (this is the default)
    Train(Box<ForTrain>),
    /// Plan an evaluation: the flags of eval-ppl; --data may be left out
    EvalPpl(Box<ForEval>),
}

#[derive(Debug, Args)]
struct ForTrain {
    #[command(flatten)]
    train: Train,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Args)]
#[command(mut_arg("model", |arg| arg.required(false).required_unless_present("preset")))]
struct ForEval {
    #[command(flatten)]
    eval: EvalPpl,
    /// Built-in architecture to plan for in place of --model: the presets of train
    #[arg(long, value_name = "NAME", conflicts_with = "model", help_heading = "Plan")]
    preset: Option<String>,
    #[command(flatten)]
    show: Show,
}

/// How the plan is shown, and what it must fit in.
#[derive(Clone, Debug, Args)]
struct Show {
    /// List every buffer, not only the totals by kind
    #[arg(long, help_heading = "Plan")]
    buffers: bool,
    /// Check against this much memory instead of what is free now, as in 80GiB
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", help_heading = "Plan")]
    device_memory: Option<u64>,
}

impl Plan {
    /// `--threads`, `--quiet` and `--json`.
    pub fn shared(&self) -> (&Common, &Json) {
        match &self.what {
            Some(For::EvalPpl(flags)) => (&flags.eval.evaluation.common, &flags.eval.evaluation.json),
            Some(For::Train(flags)) => (&flags.train.common, &flags.train.json),
            None => (&self.train.train.common, &self.train.train.json),
        }
    }

    pub fn run(self) -> Result<()> {
        match self.what {
            Some(For::Train(flags)) => flags.run(),
            Some(For::EvalPpl(flags)) => flags.run(),
            None => self.train.run(),
        }
    }
}

impl ForTrain {
    fn run(&self) -> Result<()> {
        let (recipe, train) = (self.train.recipe(false)?, &self.train);
        let (watch, (device, here)) = (Notes(&train.common), plannable(train.place.device));
        let job = TrainPlan { recipe: &recipe, watch: &watch };
        let planned = dispatch(device, recipe.dtype, train.common.threads, job)?;
        self.show.print(&planned.on_a_device(here), &train.json, true)
    }
}

impl ForEval {
    fn run(&self) -> Result<()> {
        let (device, here) = plannable(self.eval.evaluation.place.device);
        let planned = self.eval.plan(self.preset.as_deref(), device)?;
        self.show.print(&planned.on_a_device(here), &self.eval.evaluation.json, false)
    }
}

/// The device to ask for its kernels' working memory, the CPU in place of a GPU that is not here; and whether it is the one asked for.
fn plannable(device: Device) -> (Device, bool) {
    let Device::Cuda(ordinal) = device else { return (device, true) };
    match cuda::describe(ordinal) {
        Ok(found) if found.image.is_some() => (device, true),
        _ => {
            outln!(
                "cuda:{ordinal} is not usable here: scratch is that of the CPU's kernels, all else is the GPU's"
            );
            (Device::Cpu, false)
        }
    }
}

impl Planned {
    pub fn of<B: Backend>(b: &B, config: Config, ledger: Ledger) -> Planned {
        Planned { config, ledger, room: Room::in_reach(b), host: B::SHARES_HOST_MEMORY }
    }

    /// Of a device that is not `here` no one knows what there is; and it is none that shares the host's memory.
    fn on_a_device(self, here: bool) -> Planned {
        if here { self } else { Planned { room: None, host: false, ..self } }
    }
}

impl Show {
    fn print(&self, planned: &Planned, json: &Json, training: bool) -> Result<()> {
        let Planned { config, ledger, room, host } = planned;
        let (parameters, trained) = (params::parameter_count(config), params::trained_count(config));
        outln!("{parameters} parameters, {} of context", size_text(config.max_position_embeddings));
        if config.lora.is_some() {
            outln!("{trained} of them are trained");
        }
        out!("{}", ledger.table(self.buffers));
        let rows = ledger.rows().iter().map(|r| {
            json!({ "kind": r.kind.to_string(), "name": r.name, "shape": r.shape, "dtype": r.dtype, "bytes": r.bytes })
        });
        let by_kind = Kind::ALL.iter().map(|k| (k.to_string(), json!(ledger.of(*k))));
        json.write(&json!({
            "parameters": parameters, "trained": trained, "total": ledger.total(),
            "by_kind": by_kind.collect::<serde_json::Map<_, _>>(), "buffers": rows.collect::<Vec<_>>(),
        }))?;
        let given = |bytes| Room::given(usize::try_from(bytes).unwrap_or(usize::MAX), *host);
        let given = self.device_memory.map(given);
        let Some(room) = given.or(*room) else { return Ok(()) };
        if training && !room.holds(ledger) {
            outln!("{}", memory::split_text(ledger, room.bytes));
        }
        room.check(ledger)?;
        outln!("fits in {}", bytes_text(room.bytes));
        Ok(())
    }
}

/// What is planned, and what it must fit in.
pub struct Planned {
    pub config: Config,
    pub ledger: Ledger,
    /// None where the system does not say what there is.
    pub room: Option<Room>,
    /// Whether it is computed in the host's memory.
    pub host: bool,
}

struct TrainPlan<'a> {
    recipe: &'a Recipe,
    watch: &'a Notes<'a>,
}

impl Job for TrainPlan<'_> {
    type Out = Planned;
    fn run<B: Backend>(self, b: &B) -> Result<Planned> {
        let recipe = self.recipe;
        let opened = train::OpenedModel::open(recipe)?;
        if recipe.data.is_empty() {
            opened.warnings(recipe.sampler.target_len()).for_each(|w| self.watch.note(&w));
            let mut ledger = Ledger::dry();
            let with_eval = !recipe.eval_data.is_empty() || recipe.adapt.is_some();
            State::allocate_for(b, recipe, &opened, with_eval, &mut ledger)?;
            memory::note_program(&mut ledger, opened.tokenizer.resident_bytes(), 0);
            return Ok(Planned::of(b, opened.config, ledger));
        }
        let opened = train::Opened::with_data(recipe, opened, self.watch)?;
        let ledger = train::plan(b, recipe, &opened)?;
        Ok(Planned::of(b, opened.model.config, ledger))
    }
}

struct Notes<'a>(&'a Common);

impl Watch for Notes<'_> {
    fn note(&self, sentence: &str) {
        self.0.note(sentence);
    }

    fn warn(&self, sentence: &str) {
        self.0.warn(sentence);
    }
}
