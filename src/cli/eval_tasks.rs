//! `pose-engine eval-tasks`.

use super::evaluation::{Evaluation, Resumable};
use super::output::{error_text, print_spent, table};
use super::progress::Progress;
use super::reader::{OpenedReader, Reader};
use super::text::Compressed;
use crate::backend::Backend;
use crate::backend::device::Job;
use crate::data::Bos;
use crate::error::{Error, Result};
use crate::eval::tasks::{self, Encoder, Examples, Format, Prompt, Question, TaskProtocol, TaskReport};
use crate::infer::Session;
use crate::model::buffers::Reading;
use crate::recipe::Size;
use crate::size::parse_count;
use clap::Args;
use rayon::prelude::*;
use serde_json::json;
use std::path::PathBuf;

/// Measure multiple choice on questions from a file
#[derive(Debug, Args)]
#[command(
    after_help = "Example (quiz.jsonl has lines {\"context\": \"2 + 2 =\", \"choices\": [\"3\", \"4\"], \"answer\": 1}):
  pose-engine eval-tasks --model smollm2-32k --data quiz.jsonl --shots 2
  pose-engine eval-tasks --model smollm2-32k --data hellaswag_val.jsonl --format hellaswag --limit 1000"
)]
pub struct EvalTasks {
    #[command(flatten)]
    reader: Reader,
    /// Questions: .jsonl, one a line, also .gz or .zst
    #[arg(long, value_name = "FILE", required = true)]
    data: Option<PathBuf>,
    #[command(flatten)]
    compressed: Compressed,
    /// Whose fields the lines have; prompts are worded as the LM evaluation harness does
    #[arg(long, value_enum, default_value_t = Format::Plain)]
    format: Format,
    /// Questions that are asked, the first ones [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<Size>,
    /// Answered questions that stand before each question
    #[arg(long, default_value = "0", value_name = "N", value_parser = parse_count)]
    shots: usize,
    /// File from which those are drawn [default: the other lines of --data]
    #[arg(long, value_name = "FILE", requires = "shots")]
    shots_data: Option<PathBuf>,
    /// Seed of that draw
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// What stands between context and choice, in the plain format [default: a space]
    #[arg(long, value_name = "TEXT")]
    delimiter: Option<String>,
    /// Open each prompt with the beginning-of-sequence token
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
    #[command(flatten)]
    pub evaluation: Evaluation,
}

impl EvalTasks {
    pub fn run(self) -> Result<()> {
        let delimiter = self.delimiter()?;
        let all = self.questions(self.data.as_ref(), &delimiter)?;
        let others = self.shots_data.is_some().then(|| self.questions(self.shots_data.as_ref(), &delimiter));
        let others = others.transpose()?;
        if others.as_ref() == Some(&all) {
            let problem = "holds the questions of --data, so they would stand answered before themselves; leave it out, and each \
                           question is left out of its own examples";
            return Err(Error::usage(
                "--shots-data",
                self.shots_data.clone().unwrap_or_default().display(),
                problem,
            ));
        }
        let asked = &all[..self.limit.map_or(all.len(), |most| most.0.min(all.len()))];
        let files = self.reader.files()?;
        let bos = self.bos.token(&files.tokenizer)?;
        let pool = others.as_deref().unwrap_or(&all);
        let examples = Examples::draw(pool, self.shots, others.is_none(), self.seed)?;
        let prompts = self.prompts(asked, &Encoder { tokenizer: &files.tokenizer, bos, examples })?;
        let longest = prompts.iter().map(Prompt::longest).max().unwrap_or(0);
        let opened = self.reader.scaled(files, longest, "--data")?;
        let context = opened.config.max_position_embeddings;
        if longest > context {
            self.evaluation.common.note(&format!(
                "the longest prompt has {longest} tokens, and the model's context is {context}; nothing is cut"
            ));
        }
        let protocol =
            TaskProtocol { format: self.format, shots: self.shots, seed: self.seed, delimiter, bos };
        let cache = self.evaluation.cache(&self.reader)?;
        self.evaluation.announce(&protocol.describe());
        let bar = Progress::new("tasks", prompts.len(), "questions", self.evaluation.common.quiet);
        let job = TasksJob {
            opened: &opened,
            protocol: &protocol,
            prompts: &prompts,
            reading: Reading { cache, ..Reading::of(longest) },
            bar: &bar,
            resumable: &self.evaluation.resumable,
        };
        let report = self.evaluation.dispatch(&self.reader, job)?;
        bar.finish();
        print_report(&report);
        self.evaluation.write(
            "eval-tasks",
            &self.reader,
            &protocol,
            json!({
                "protocol_text": protocol.describe(), "rope_scaling": opened.rope.scaling.name(),
                "longest_prompt": longest, "results": report,
            }),
        )
    }

    fn delimiter(&self) -> Result<String> {
        if self.format.has_examples() && self.shots > 0 {
            return Err(Error::usage(
                "--shots",
                self.shots,
                "this format has examples of its own; leave it out",
            ));
        }
        match &self.delimiter {
            Some(text) if self.format != Format::Plain => {
                Err(Error::usage("--delimiter", text, "is for --format plain; the other formats have theirs"))
            }
            Some(text) => Ok(text.clone()),
            None => Ok(" ".into()),
        }
    }

    fn questions(&self, path: Option<&PathBuf>, delimiter: &str) -> Result<Vec<Question>> {
        let missing = || Error::usage("--data", "(missing)", "name the file with the questions");
        tasks::read(path.ok_or_else(missing)?, self.format, delimiter, self.compressed.max_decompressed)
    }

    fn prompts(&self, questions: &[Question], encoder: &Encoder<'_>) -> Result<Vec<Prompt>> {
        let path = self.data.clone().unwrap_or_default();
        let prompt = |question: &Question| {
            let problem = |problem| Error::file(&path, format!("line {}: {problem}", question.line));
            encoder.prompt(question).map_err(problem)
        };
        let prompts: Vec<Result<Prompt>> = questions.par_iter().map(prompt).collect();
        prompts.into_iter().collect()
    }
}

struct TasksJob<'a> {
    opened: &'a OpenedReader,
    protocol: &'a TaskProtocol,
    prompts: &'a [Prompt],
    reading: Reading,
    bar: &'a Progress,
    resumable: &'a Resumable,
}

impl Job for TasksJob<'_> {
    type Out = TaskReport;
    fn run<B: Backend>(self, b: &B) -> Result<TaskReport> {
        let cache = self.reading.cache;
        let what = json!({ "protocol": self.protocol, "questions": tasks::fingerprint(self.prompts) });
        let mut partial = self.resumable.open(b, "eval-tasks", self.opened, cache, None, &what)?;
        let (model, mut session): (_, Session<B>) = self.opened.load(b, self.reading)?;
        let mut right = 0;
        let mut progress = |answered: &tasks::Answered| {
            right += usize::from(answered.acc);
            self.bar.advance(1, &format!("{right} right"));
        };
        tasks::run(b, &model, &mut session, self.prompts, &mut partial, &mut progress)
    }
}

fn print_report(report: &TaskReport) {
    let row = |(name, mean): (&str, tasks::Mean)| {
        let questions = report.questions.len().to_string();
        vec![name.into(), format!("{:.4}", mean.mean), error_text(mean.standard_error, 4), questions]
    };
    let means = [
        ("acc", report.acc),
        ("acc_norm", report.acc_norm),
        ("acc_bytes", report.acc_bytes),
        ("mc2", report.mc2),
    ];
    let rows: Vec<Vec<String>> = means.into_iter().map(row).collect();
    out!("{}", table(&["measure", "mean", "+/- s.e.", "questions"], &rows));
    print_spent(report.spent);
}
