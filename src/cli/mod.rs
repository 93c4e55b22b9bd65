//! The command line: one file a subcommand, with its flags, the job that it hands to a backend, and its printing; and what several of
//! them share.

/// `print!` for a reader that may have gone: `pose-engine plan | head` ends quietly.
macro_rules! out {
    ($($arg:tt)*) => {{
        $crate::cli::printed::out(format_args!($($arg)*));
    }};
}

/// [`out!`] and a line's end.
macro_rules! outln {
    () => { out!("\n") };
    ($($arg:tt)*) => {{
        $crate::cli::printed::out(format_args!("{}\n", format_args!($($arg)*)));
    }};
}

mod common;
mod completions;
mod coverage;
mod devices;
mod eval_longppl;
mod eval_needle;
mod eval_passkey;
mod eval_ppl;
mod eval_shift;
mod eval_tasks;
mod evaluation;
mod generate;
mod import;
mod logits;
mod man;
mod merge;
mod output;
mod place;
mod plan;
mod printed;
mod progress;
mod quickstart;
mod reader;
mod report;
mod text;
mod train;
pub mod usage;
mod verify;

use crate::error::{Error, Result};
use clap::{Parser, Subcommand};
use common::{Common, Json};
use std::path::Path;

/// Lengthens the context window of RoPE language models by PoSE, on kernels written by hand.
#[derive(Debug, Parser)]
#[command(name = "pose-engine", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Sizes may be written 2048, 2k or 128k. Exit codes: 0 done, 1 failed, 2 bad usage, \
                        3 does not fit in memory, 130 interrupted after a clean checkpoint.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show PoSE at work in a few minutes: train a small model, extend it 32x, measure, write a report
    Quickstart(quickstart::Quickstart),
    /// Train a model: by PoSE, or with positions placed in one of eight other ways
    Train(train::Train),
    /// Measure perplexity by window
    EvalPpl(eval_ppl::EvalPpl),
    /// Measure retrieval of a passkey by length and depth
    EvalPasskey(eval_passkey::EvalPasskey),
    /// Measure retrieval of a sentence from a text of your own, by length and depth
    EvalNeedle(eval_needle::EvalNeedle),
    /// Measure perplexity on the tokens that need the long context (LongPPL)
    #[command(name = "eval-longppl")]
    EvalLongPpl(eval_longppl::EvalLongPpl),
    /// Score one passage at rising absolute positions: shows a broken rope configuration at once
    EvalShift(eval_shift::EvalShift),
    /// Measure multiple choice on questions from a file
    EvalTasks(eval_tasks::EvalTasks),
    /// Continue a text
    Generate(generate::Generate),
    /// Show which relative distances a way of drawing positions trains
    Coverage(coverage::Coverage),
    /// Show every buffer that a training or an evaluation would allocate, without running it
    Plan(plan::Plan),
    /// Make a Hugging Face directory of a GGUF file (LLaMA or Qwen2), weights and tokenizer
    Import(import::Import),
    /// Lay runs and results of evaluations side by side on one page
    Report(report::Report),
    /// Add an adapter (LoRA) into the weights of its base model
    Merge(merge::Merge),
    /// Hold the files of a checkpoint, or of all checkpoints of a run, to what was written
    Verify(verify::Verify),
    /// Write the logits of given token ids at given positions, to compare with other software
    Logits(logits::Logits),
    /// Show what this build can run on, and why not on the rest
    Devices(devices::Devices),
    /// Print the completions of a shell
    Completions(completions::Completions),
    /// Print a manual page, or write those of all commands
    Man(man::Man),
}

impl Cli {
    pub fn run(self) -> Result<()> {
        limit_threads(self.command.common())?;
        self.command.json().map_or(Ok(()), |(json, makes)| json.check(makes))?;
        match self.command {
            Command::Quickstart(c) => c.run(),
            Command::Train(c) => c.run(),
            Command::EvalPpl(c) => c.run(),
            Command::EvalPasskey(c) => c.run(),
            Command::EvalNeedle(c) => c.run(),
            Command::EvalLongPpl(c) => c.run(),
            Command::EvalShift(c) => c.run(),
            Command::EvalTasks(c) => c.run(),
            Command::Generate(c) => c.run(),
            Command::Coverage(c) => c.run(),
            Command::Plan(c) => c.run(),
            Command::Import(c) => c.run(),
            Command::Report(c) => c.run(),
            Command::Merge(c) => c.run(),
            Command::Verify(c) => c.run(),
            Command::Logits(c) => c.run(),
            Command::Devices(c) => c.run(),
            Command::Completions(c) => c.run(),
            Command::Man(c) => c.run(),
        }
    }
}

impl Command {
    fn common(&self) -> &Common {
        match self {
            Command::Quickstart(c) => &c.common,
            Command::Train(c) => &c.common,
            Command::EvalPpl(c) => &c.evaluation.common,
            Command::EvalPasskey(c) => &c.evaluation.common,
            Command::EvalNeedle(c) => &c.evaluation.common,
            Command::EvalLongPpl(c) => &c.evaluation.common,
            Command::EvalShift(c) => &c.evaluation.common,
            Command::EvalTasks(c) => &c.evaluation.common,
            Command::Generate(c) => &c.common,
            Command::Coverage(c) => &c.common,
            Command::Plan(c) => c.shared().0,
            Command::Import(c) => &c.common,
            Command::Report(c) => &c.common,
            Command::Merge(c) => &c.common,
            Command::Verify(c) => &c.common,
            Command::Logits(c) => &c.common,
            Command::Devices(c) => &c.common,
            Command::Completions(c) => &c.common,
            Command::Man(c) => &c.common,
        }
    }

    /// `--json` where there is one, and the directory that the command makes.
    fn json(&self) -> Option<(&Json, Option<&Path>)> {
        let (json, makes) = match self {
            Command::Quickstart(c) => (&c.json, Some(c.out.as_path())),
            // which it makes stands in its recipe, so it looks itself
            Command::Train(_) => return None,
            Command::EvalPpl(c) => (&c.evaluation.json, None),
            Command::EvalPasskey(c) => (&c.evaluation.json, None),
            Command::EvalNeedle(c) => (&c.evaluation.json, None),
            Command::EvalLongPpl(c) => (&c.evaluation.json, None),
            Command::EvalShift(c) => (&c.evaluation.json, None),
            Command::EvalTasks(c) => (&c.evaluation.json, None),
            Command::Generate(c) => (&c.json, None),
            Command::Coverage(c) => (&c.json, None),
            Command::Plan(c) => (c.shared().1, None),
            Command::Import(c) => (&c.json, Some(c.out.as_path())),
            Command::Verify(c) => (&c.json, None),
            Command::Devices(c) => (&c.json, None),
            Command::Report(_) | Command::Merge(_) | Command::Logits(_) => return None,
            Command::Completions(_) | Command::Man(_) => return None,
        };
        Some((json, makes))
    }
}

/// `--threads` for what runs outside the kernels too: tokenizing, drawing coverage.
fn limit_threads(common: &Common) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(common.threads).build_global();
    pool.map_err(|e| Error::usage("--threads", common.threads, format!("the threads cannot be started: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_have_threads_and_json_wherever_they_stand() {
        let flags = "--threads 3 --json p.json";
        for plan in ["", "train ", "eval-ppl --windows 2k "] {
            let args = format!("pose-engine plan {plan}--preset tiny {flags}");
            let cli = Cli::try_parse_from(args.split_whitespace()).unwrap();
            assert_eq!(cli.command.common().threads, 3, "{args}");
            assert!(cli.command.json().is_some_and(|(json, _)| json.is_given()), "{args}");
        }
    }
}
