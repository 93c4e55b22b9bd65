//! `pose-engine train`.

use super::common::{Common, Json, Where};
use super::output::{seconds_text, size_text};
use super::printed;
use super::progress::{Progress, Reading};
use crate::backend::Backend;
use crate::backend::device::{Job, dispatch};
use crate::data;
use crate::error::{Error, Result};
use crate::memory::{self, Ledger};
use crate::names;
use crate::printable;
use crate::recipe::{Recipe, Settings};
use crate::train::{self, StepMetrics, Summary, Watch};
use clap::Args;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Train a model: by PoSE, or with positions placed in one of eight other ways
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  Extend a model from 2k windows to 32k:
    pose-engine train --model smollm2 --data books/ --out smollm2-32k --train-len 2k --target-len 32k --rope yarn --steps 200 --batch 4
  Go on after Ctrl-C or a crash:
    pose-engine train --resume --out smollm2-32k")]
pub struct Train {
    #[command(flatten)]
    settings: Settings,
    /// Recipe file with the same keys as the flags (without dashes in front); flags win
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    config: Option<PathBuf>,
    /// Continue the run in --out from its last checkpoint, bit for bit
    #[arg(long, help_heading = "Run")]
    resume: bool,
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Train {
    pub fn run(self) -> Result<()> {
        let recipe = self.recipe(true)?;
        self.json.check(Some(&recipe.out))?;
        if !self.common.quiet {
            printed::note("recipe:");
            recipe.to_toml().lines().for_each(|line| printed::note(&format!("  {line}")));
        }
        let watch = Bar::new(&recipe, self.common.quiet);
        watch.catch_signals()?;
        let job = TrainJob { recipe: &recipe, resume: self.resume, watch: &watch };
        let summary = dispatch(self.place.device(&self.common), recipe.dtype, self.common.threads, job);
        watch.progress.finish();
        let summary = summary?;
        print_summary(&summary);
        self.json.write(&summary)
    }

    /// The recipe that the flags make. `need_out` is false for `plan`.
    pub fn recipe(&self, need_out: bool) -> Result<Recipe> {
        let settings = merged(&self.settings, self.config.as_deref(), self.resume)?;
        if !self.resume {
            settings.refuse_idle(need_out)?;
        }
        Recipe::validate(&settings, need_out)
    }
}

/// Flags over the recipe file over, when resuming, the recipe that the run was started with.
fn merged(flags: &Settings, config: Option<&std::path::Path>, resume: bool) -> Result<Settings> {
    let mut settings = flags.clone();
    if let Some(path) = config {
        settings = settings.over(&Settings::from_file(path)?);
    }
    if resume {
        let Some(out) = &settings.out else {
            return Err(Error::usage("--resume", "", "needs --out, the directory of the run to continue"));
        };
        let saved = train::saved_settings(out)?;
        Recipe::validate(&saved, true).map_err(|e| train::not_as_saved(out, &e))?;
        settings = settings.over(&saved);
    }
    Ok(settings)
}

struct TrainJob<'a> {
    recipe: &'a Recipe,
    resume: bool,
    watch: &'a Bar,
}

impl Job for TrainJob<'_> {
    type Out = Summary;
    fn run<B: Backend>(self, backend: &B) -> Result<Summary> {
        train::train(backend, self.recipe, self.resume, self.watch)
    }
}

/// The progress bar of a training.
struct Bar {
    reading: Reading,
    progress: Progress,
    quiet: bool,
    interrupted: &'static AtomicBool,
    started: AtomicBool,
}

impl Bar {
    fn new(recipe: &Recipe, quiet: bool) -> Bar {
        static INTERRUPTED: AtomicBool = AtomicBool::new(false);
        let progress = Progress::new("train", recipe.schedule.steps as usize, "steps", quiet);
        Bar {
            reading: Reading::new(quiet),
            progress,
            quiet,
            interrupted: &INTERRUPTED,
            started: AtomicBool::new(false),
        }
    }

    /// The first Ctrl-C (or SIGTERM) asks for a checkpoint, the second stops at once.
    fn catch_signals(&self) -> Result<()> {
        let flag = self.interrupted;
        let handler = move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("\nfinishing the step and saving a checkpoint; Ctrl-C once more stops at once");
        };
        ctrlc::set_handler(handler)
            .map_err(|e| Error::usage("signals", "", format!("the interrupt handler cannot be set: {e}")))
    }
}

impl Watch for Bar {
    fn planned(&self, ledger: &Ledger) {
        if !self.quiet {
            printed::note(&format!("memory plan:\n{}", ledger.table(false)));
        }
    }

    fn note(&self, sentence: &str) {
        if !self.quiet {
            self.progress.note(sentence);
        }
    }

    fn warn(&self, sentence: &str) {
        if self.quiet {
            printed::note(&printable::sentence(sentence));
        } else {
            self.progress.note(sentence);
        }
    }

    fn read(&self, progress: data::Progress) {
        self.reading.tell(progress);
    }

    fn stepped(&self, m: &StepMetrics) {
        if !self.started.swap(true, Ordering::Relaxed) {
            self.progress.start_at(m.step as usize - 1);
        }
        let (loss, norm, lr, speed) = (m.loss, m.grad_norm, m.lr, m.tokens_per_second);
        let told = format!("loss {loss:.4} norm {norm:.3} lr {lr:.2e} {speed:.0} tok/s");
        self.progress.reach(m.step as usize, &told);
    }

    fn interrupted(&self) -> Option<&AtomicBool> {
        Some(self.interrupted)
    }
}

fn print_summary(s: &Summary) {
    let loss = |l: Option<f64>| l.map_or("-".into(), |l| format!("{l:.4}"));
    outln!(
        "trained {} in {}: {}",
        names::counted(s.steps as usize, "step"),
        seconds_text(s.seconds),
        s.out.display()
    );
    outln!("  window {}, target {}", size_text(s.train_len), size_text(s.target_len));
    outln!("  loss {} -> {}", loss(s.first_loss), loss(s.last_loss));
    if let Some(speed) = s.tokens_per_second {
        outln!("  {speed:.0} tokens/s");
    }
    outln!("  {}", memory::peak_text(s.peak_bytes, s.planned_bytes));
    if let Some(ppl) = s.ppl {
        outln!("  perplexity at {} tokens: {ppl:.4}", size_text(s.target_len));
    }
    if let Some(best) = s.best {
        let place = s.best_model.as_ref().map_or("not kept".into(), |path| path.display().to_string());
        outln!("  best perplexity: {:.4}, after step {}: {place}", best.ppl, best.step);
    }
}
