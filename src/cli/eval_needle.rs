//! `pose-engine eval-needle`.

use super::evaluation::{Evaluation, Resumable, count_trials};
use super::output::{mean_text, print_spent, size_text, table};
use super::place;
use super::progress::Progress;
use super::reader::{OpenedReader, Reader};
use super::text::Text;
use crate::backend::Backend;
use crate::backend::device::Job;
use crate::data::{Bos, Corpus};
use crate::error::Result;
use crate::eval::{self, Asker, Haystack, NeedleProtocol, ROOM_FOR_ANSWER, Report, proportion_error};
use crate::figures::HeatMap;
use crate::model::buffers::Reading;
use crate::recipe::Size;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Measure retrieval of a sentence from a text of your own, by length and depth
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine eval-needle --model smollm2-32k --data book.txt --lengths 2k,8k,32k --depths 11 --trials 5 --svg needle.svg")]
pub struct EvalNeedle {
    #[command(flatten)]
    reader: Reader,
    #[command(flatten)]
    text: Text,
    /// Prompt lengths in tokens
    #[arg(long, value_delimiter = ',', value_name = "N,...", required = true)]
    lengths: Vec<Size>,
    /// How many depths, evenly from 0 (the text's begin) to 1 (its end), or the depths themselves, as in 0.1,0.5,0.9
    #[arg(long, default_value = "11", value_name = "N|X,...", value_parser = parse_depths)]
    depths: Depths,
    /// Trials for each length and depth, each with a stretch of the text of its own
    #[arg(long, default_value = "1", value_name = "N")]
    trials: Size,
    /// Seed of what is told and of where the text begins
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Open each prompt with the beginning-of-sequence token
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
    /// Write a map of the shares of right answers to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    pub evaluation: Evaluation,
}

#[derive(Clone, Debug, PartialEq)]
struct Depths(Vec<f64>);

fn parse_depths(text: &str) -> std::result::Result<Depths, String> {
    const EXPECTED: &str = "neither a number of depths, as in 11, nor depths from 0 to 1, as in 0.1,0.5,0.9";
    if let Ok(count) = text.trim().parse::<usize>() {
        return match count {
            0 => Err("must be at least 1".into()),
            1001.. => Err("must be at most 1000".into()),
            1 => Ok(Depths(vec![0.5])),
            n => Ok(Depths((0..n).map(|i| i as f64 / (n - 1) as f64).collect())),
        };
    }
    let depths: Option<Vec<f64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let depths = depths.filter(|depths| depths.iter().all(|d| (0.0..=1.0).contains(d)));
    depths.map(Depths).ok_or_else(|| EXPECTED.into())
}

impl EvalNeedle {
    pub fn run(self) -> Result<()> {
        self.text.require()?;
        place::check("--svg", self.svg.as_deref(), place::Kind::Svg, None)?;
        let lengths: Vec<usize> = self.lengths.iter().map(|l| l.0).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let opened = self.reader.open(longest, "--lengths")?;
        let bos = self.bos.token(&opened.tokenizer)?;
        let (depths, trials) = (self.depths.0.clone(), self.trials.0);
        let protocol = NeedleProtocol { lengths, depths, trials, seed: self.seed, bos };
        let cache = self.evaluation.cache(&self.reader)?;
        let corpus = self.text.load(&opened.tokenizer, &self.evaluation.common)?;
        let haystack = Haystack::new(&corpus, &opened.tokenizer, longest)?;
        let all = count_trials(protocol.lengths.len() * protocol.depths.len(), self.trials)?;
        self.evaluation.announce(&protocol.describe());
        let bar = Progress::new("needle", all, "trials", self.evaluation.common.quiet);
        let reading = Reading { cache, ..Reading::of(longest + ROOM_FOR_ANSWER) };
        let job = NeedleJob {
            opened: &opened,
            protocol: &protocol,
            corpus: &corpus,
            haystack: &haystack,
            reading,
            bar: &bar,
            resumable: &self.evaluation.resumable,
        };
        let report = self.evaluation.dispatch(&self.reader, job)?;
        bar.finish();
        print_report(&report);
        print_spent(report.spent);
        self.evaluation.write(
            "eval-needle",
            &self.reader,
            &protocol,
            json!({
                "protocol_text": protocol.describe(), "cells": cells(&report), "trials": report.trials, "spent": report.spent,
            }),
        )?;
        self.svg.as_ref().map_or(Ok(()), |path| heat_map(&report).write(path))
    }
}

struct NeedleJob<'a> {
    opened: &'a OpenedReader,
    protocol: &'a NeedleProtocol,
    corpus: &'a Corpus,
    haystack: &'a Haystack,
    reading: Reading,
    bar: &'a Progress,
    resumable: &'a Resumable,
}

type NeedleReport = Report<NeedleProtocol>;

impl Job for NeedleJob<'_> {
    type Out = NeedleReport;
    fn run<B: Backend>(self, b: &B) -> Result<NeedleReport> {
        let (cache, protocol) = (self.reading.cache, self.protocol);
        let mut partial =
            self.resumable.open(b, "eval-needle", self.opened, cache, Some(self.corpus), protocol)?;
        let (mut model, mut session) = self.opened.load(b, self.reading)?;
        let mut progress = self.bar.trials();
        let mut parts = Vec::new();
        for (rope, lengths) in self.opened.by_rotation(&self.protocol.lengths, ROOM_FOR_ANSWER) {
            model.set_rope(b, &rope)?;
            let mut asker = Asker::new(b, &model, &mut session, &self.opened.tokenizer);
            let protocol = NeedleProtocol { lengths, ..self.protocol.clone() };
            parts.push(eval::needle(&mut asker, self.haystack, &protocol, &mut partial, &mut progress)?);
        }
        Ok(Report::joined(self.protocol.clone(), parts))
    }
}

/// A share as it is printed, with its standard error where there are several trials.
fn share_text((share, trials): (f64, usize)) -> String {
    let error = proportion_error(share, trials);
    match trials {
        0 => "-".into(),
        1 => format!("{:.0}%", 100.0 * share),
        _ => format!("{:.0}% +/- {:.0}", 100.0 * share, 100.0 * error),
    }
}

fn depth_text(depth: f64) -> String {
    format!("{:.0}%", 100.0 * depth)
}

fn print_report(report: &NeedleReport) {
    let NeedleProtocol { lengths, depths, .. } = &report.protocol;
    let row = |name: String, depth: Option<f64>| {
        let of =
            |length: usize| report.accuracy(|t| t.length == length && depth.is_none_or(|d| t.depth == d));
        let all = share_text(report.accuracy(|t| depth.is_none_or(|d| t.depth == d)));
        std::iter::once(name).chain(lengths.iter().map(|&l| share_text(of(l)))).chain([all]).collect()
    };
    let mut rows: Vec<Vec<String>> = depths.iter().map(|&d| row(depth_text(d), Some(d))).collect();
    rows.push(row("all".into(), None));
    let weighed = |select: &dyn Fn(&eval::Trial) -> bool| mean_text(report.log_probability(select), 2);
    let by_length = lengths.iter().map(|&l| weighed(&|t| t.length == l));
    let logs = std::iter::once("log p".to_string()).chain(by_length).chain([weighed(&|_| true)]);
    rows.push(logs.collect());
    let lengths: Vec<String> = lengths.iter().map(|&l| size_text(l)).collect();
    let headings: Vec<&str> =
        ["depth"].into_iter().chain(lengths.iter().map(String::as_str)).chain(["all"]).collect();
    out!("{}", table(&headings, &rows));
}

fn cells(report: &NeedleReport) -> Vec<serde_json::Value> {
    let NeedleProtocol { lengths, depths, .. } = &report.protocol;
    let places = lengths.iter().flat_map(|&l| depths.iter().map(move |&d| (l, d)));
    let cell = |(length, depth): (usize, f64)| {
        let here = |t: &eval::Trial| t.length == length && t.depth == depth;
        let (accuracy, trials) = report.accuracy(here);
        let (log_probability, log_error) = report.log_probability(&here);
        json!({
            "length": length, "depth": depth, "accuracy": accuracy, "trials": trials,
            "standard_error": proportion_error(accuracy, trials),
            "log_probability": log_probability, "log_probability_error": log_error,
        })
    };
    places.map(cell).collect()
}

fn heat_map(report: &NeedleReport) -> HeatMap {
    let NeedleProtocol { lengths, depths, trials, .. } = &report.protocol;
    let share = |length: usize, depth: f64| {
        let (share, trials) = report.accuracy(|t| t.length == length && t.depth == depth);
        (trials > 0).then_some(share)
    };
    let of = if *trials == 1 { "1 trial".to_string() } else { format!("{trials} trials") };
    HeatMap {
        title: format!("Needles found, of {of} each"),
        x: "tokens of the prompt".into(),
        y: "depth".into(),
        columns: lengths.iter().map(|&l| size_text(l)).collect(),
        rows: depths.iter().map(|&d| depth_text(d)).collect(),
        cells: depths.iter().map(|&d| lengths.iter().map(|&l| share(l, d)).collect()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_are_a_number_or_a_list() {
        let of = |text: &str| parse_depths(text).map(|d| d.0);
        assert_eq!(of("3"), Ok(vec![0.0, 0.5, 1.0]));
        assert_eq!(of("1"), Ok(vec![0.5]));
        assert_eq!(of("0.25"), Ok(vec![0.25]));
        assert_eq!(of("0,0.5,1"), Ok(vec![0.0, 0.5, 1.0]));
        for bad in ["0", "-1", "1.5", "0.5,nan", "a", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
