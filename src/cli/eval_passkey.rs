//! `pose-engine eval-passkey`.

use super::evaluation::{Evaluation, Resumable, count_trials};
use super::output::{mean_text, print_spent, size_text, table};
use super::progress::Progress;
use super::reader::{OpenedReader, Reader};
use crate::backend::Backend;
use crate::backend::device::Job;
use crate::data::Bos;
use crate::error::Result;
use crate::eval::{self, Asker, PasskeyProtocol, ROOM_FOR_ANSWER, Report, proportion_error};
use crate::model::buffers::Reading;
use crate::recipe::Size;
use clap::Args;
use serde_json::json;

/// Measure retrieval of a passkey by length and depth
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine eval-passkey --model smollm2-32k --lengths 2k,8k,32k --trials 20 --seed 1")]
pub struct EvalPasskey {
    #[command(flatten)]
    reader: Reader,
    /// Prompt lengths in tokens
    #[arg(long, value_delimiter = ',', value_name = "N,...", required = true)]
    lengths: Vec<Size>,
    /// Trials for each length
    #[arg(long, default_value = "10", value_name = "N")]
    trials: Size,
    /// Seed of keys and depths
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Open each prompt with the beginning-of-sequence token
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
    #[command(flatten)]
    pub evaluation: Evaluation,
}

impl EvalPasskey {
    pub fn run(self) -> Result<()> {
        let lengths: Vec<usize> = self.lengths.iter().map(|l| l.0).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let opened = self.reader.open(longest, "--lengths")?;
        let bos = self.bos.token(&opened.tokenizer)?;
        let protocol = PasskeyProtocol { lengths, trials: self.trials.0, seed: self.seed, bos };
        self.evaluation.announce(&protocol.describe());
        let all = count_trials(protocol.lengths.len(), self.trials)?;
        let bar = Progress::new("passkey", all, "trials", self.evaluation.common.quiet);
        let cache = self.evaluation.cache(&self.reader)?;
        let reading = Reading { cache, ..Reading::of(longest + ROOM_FOR_ANSWER) };
        let job = PasskeyJob {
            opened: &opened,
            protocol: &protocol,
            reading,
            bar: &bar,
            resumable: &self.evaluation.resumable,
        };
        let report = self.evaluation.dispatch(&self.reader, job)?;
        bar.finish();
        print_report(&report);
        print_spent(report.spent);
        let by_length: Vec<_> = protocol.lengths.iter().map(|&l| accuracy(&report, l)).collect();
        self.evaluation.write(
            "eval-passkey",
            &self.reader,
            &protocol,
            json!({
                "protocol_text": protocol.describe(), "by_length": by_length,
                "by_depth": (0..DEPTHS).map(|d| depth_accuracy(&report, d)).collect::<Vec<_>>(),
                "cells": cells(&report), "trials": report.trials, "spent": report.spent,
            }),
        )
    }
}

type PasskeyReport = Report<PasskeyProtocol>;

const DEPTHS: usize = 5;

fn accuracy(report: &PasskeyReport, length: usize) -> serde_json::Value {
    let (accuracy, trials) = report.accuracy(|t| t.length == length);
    let (log_probability, log_error) = report.log_probability(&|t| t.length == length);
    json!({
        "length": length, "accuracy": accuracy, "standard_error": proportion_error(accuracy, trials), "trials": trials,
        "log_probability": log_probability, "log_probability_error": log_error,
        "above_guess": above_guess(report, Some(length)),
    })
}

/// Trials of a length in which the key is likelier to the model than to one who guesses: what it was told reaches it, whether or not it
/// then says it.
fn above_guess(report: &PasskeyReport, length: Option<usize>) -> usize {
    let of = report.trials.iter().filter(|t| length.is_none_or(|l| t.length == l));
    of.filter(|t| t.log_probability > PasskeyProtocol::guess()).count()
}

/// Which fifth of the prompt a depth is in.
fn fifth(depth: f64) -> usize {
    ((depth * DEPTHS as f64) as usize).min(DEPTHS - 1)
}

fn depth_accuracy(report: &PasskeyReport, d: usize) -> serde_json::Value {
    let (accuracy, trials) = report.accuracy(|t| fifth(t.depth) == d);
    let some = |x: f64| (trials > 0).then_some(x);
    json!({
        "from": d as f64 / DEPTHS as f64, "to": (d + 1) as f64 / DEPTHS as f64, "accuracy": some(accuracy),
        "standard_error": some(proportion_error(accuracy, trials)), "trials": trials,
    })
}

/// By length and fifth, at its middle, where there was a trial: what a map is drawn from.
fn cells(report: &PasskeyReport) -> Vec<serde_json::Value> {
    let lengths = report.protocol.lengths.iter();
    let places = lengths.flat_map(|&length| (0..DEPTHS).map(move |d| (length, d)));
    let cell = |(length, d): (usize, usize)| {
        let (accuracy, trials) = report.accuracy(|t| t.length == length && fifth(t.depth) == d);
        let depth = (d as f64 + 0.5) / DEPTHS as f64;
        let error = proportion_error(accuracy, trials);
        (trials > 0).then(|| {
            json!({ "length": length, "depth": depth, "accuracy": accuracy, "standard_error": error, "trials": trials })
        })
    };
    places.filter_map(cell).collect()
}

struct PasskeyJob<'a> {
    opened: &'a OpenedReader,
    protocol: &'a PasskeyProtocol,
    reading: Reading,
    bar: &'a Progress,
    resumable: &'a Resumable,
}

impl Job for PasskeyJob<'_> {
    type Out = PasskeyReport;
    fn run<B: Backend>(self, b: &B) -> Result<PasskeyReport> {
        let (cache, protocol) = (self.reading.cache, self.protocol);
        let mut partial = self.resumable.open(b, "eval-passkey", self.opened, cache, None, protocol)?;
        let (mut model, mut session) = self.opened.load(b, self.reading)?;
        let mut progress = self.bar.trials();
        let mut parts = Vec::new();
        for (rope, lengths) in self.opened.by_rotation(&self.protocol.lengths, ROOM_FOR_ANSWER) {
            model.set_rope(b, &rope)?;
            let mut asker = Asker::new(b, &model, &mut session, &self.opened.tokenizer);
            let protocol = PasskeyProtocol { lengths, ..self.protocol.clone() };
            parts.push(eval::passkey(&mut asker, &protocol, &mut partial, &mut progress)?);
        }
        Ok(Report::joined(self.protocol.clone(), parts))
    }
}

fn print_report(report: &PasskeyReport) {
    let cell = |length: Option<usize>, depth: Option<usize>| {
        let (accuracy, trials) = report
            .accuracy(|t| length.is_none_or(|l| t.length == l) && depth.is_none_or(|d| fifth(t.depth) == d));
        match depth {
            _ if trials == 0 => "-".to_string(),
            Some(_) => format!("{:.0}% of {trials}", 100.0 * accuracy),
            None => {
                let error = proportion_error(accuracy, trials);
                format!("{:.0}% +/- {:.0} of {trials}", 100.0 * accuracy, 100.0 * error)
            }
        }
    };
    let row = |name: String, length| {
        let depths = (0..DEPTHS).map(|d| cell(length, Some(d)));
        let log = mean_text(report.log_probability(&|t| length.is_none_or(|l| t.length == l)), 2);
        let above = above_guess(report, length).to_string();
        [name, cell(length, None), log, above].into_iter().chain(depths).collect::<Vec<_>>()
    };
    let mut rows: Vec<Vec<String>> =
        report.protocol.lengths.iter().map(|&l| row(size_text(l), Some(l))).collect();
    rows.push(row("all".into(), None));
    let headings = [
        "length",
        "correct",
        "log p",
        "above a guess",
        "depth 0-20%",
        "20-40%",
        "40-60%",
        "60-80%",
        "80-100%",
    ];
    out!("{}", table(&headings, &rows));
    outln!("log p: of the key, on average; a guess has {:.2}", PasskeyProtocol::guess());
}
