//! metrics.jsonl, a line for each step, and the summary of a run.

use super::events::Events;
use super::growing::Growing;
use super::probe::Probe;
use super::spikes::Spike;
use crate::checkpoint::{BEST, Best, Standing};
use crate::error::{Error, Result};
use crate::eval::WindowReport;
use crate::memory::{self, Ledger};
use crate::positions::DistanceWeights;
use crate::recipe::Recipe;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Steps that a summary's medians are over: what a run keeps of its steps does not grow with them.
const RECENT: usize = 1024;

/// One optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub step: u64,
    /// Mean over the step's tokens, nats.
    pub loss: f64,
    /// With LongCE's weights: what is minimised. None where tokens have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighted_loss: Option<f64>,
    /// Before clipping.
    pub grad_norm: f64,
    pub lr: f64,
    /// Seen since step 0.
    pub tokens: u64,
    pub seconds: f64,
    pub tokens_per_second: f64,
}

impl StepMetrics {
    /// Of a step; None where there are none.
    pub fn median_seconds(steps: &[StepMetrics]) -> Option<f64> {
        let mut seconds: Vec<f64> = steps.iter().map(|m| m.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied()
    }
}

/// A run from its (last) start to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub steps: u64,
    pub train_len: usize,
    pub target_len: usize,
    pub first_loss: Option<f64>,
    pub last_loss: Option<f64>,
    /// Of the training loop, evaluations and saves included.
    pub seconds: f64,
    /// Median over the steps of this start, the latest 1024.
    pub seconds_per_step: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub planned_bytes: usize,
    /// Resident at the peak; None where the system does not say.
    pub peak_bytes: Option<usize>,
    /// On the held-out text at the target length, after the last step.
    pub ppl: Option<f64>,
    /// The best one, in a run that goes by it.
    pub best: Option<Best>,
    /// The model of that step, where it was kept.
    pub best_model: Option<PathBuf>,
    pub out: PathBuf,
}

impl Summary {
    /// Leaves it in a run's directory as summary.json.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join("summary.json");
        let text = serde_json::to_string_pretty(self).expect("a summary is plain numbers");
        std::fs::write(&path, text + "\n").map_err(|e| Error::io(&path, "writing the summary", e))
    }
}

/// Appends to metrics.jsonl, and to the event file where there is one, as the run goes.
pub struct Log {
    /// None where a finished run is only read.
    file: Option<Growing>,
    events: Option<Events>,
    /// Of this start: the first step, and the latest ones.
    first: Option<StepMetrics>,
    recent: VecDeque<StepMetrics>,
    done: u64,
    last_ppl: Option<f64>,
    best: Option<Best>,
}

impl Log {
    /// Continues after `steps_done` and `passed` batches: lines of later steps and of later rollbacks, which a killed run may
    /// have left, are dropped.
    pub fn open(
        directory: &Path, steps_done: u64, standing: Standing, passed: u64, recipe: &Recipe,
    ) -> Result<Log> {
        let path = directory.join("metrics.jsonl");
        let file = Growing::begin(&path, kept(&path, steps_done, passed).as_bytes(), recipe.on_save_error)?;
        let events = || Events::open(directory, steps_done, recipe.on_save_error);
        let events = recipe.tensorboard.then(events).transpose()?;
        let (best, file) = (standing.best, Some(file));
        let (first, recent) = (None, VecDeque::new());
        Ok(Log { file, events, first, recent, done: steps_done, last_ppl: None, best })
    }

    /// What a finished run wrote.
    pub fn read(directory: &Path) -> Result<Log> {
        let path = directory.join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "reading the metrics", e))?;
        let steps: Vec<StepMetrics> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let lines: Vec<serde_json::Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let best_of = |line: &serde_json::Value| {
            let ppl = line["ppl"].as_f64().or(line["probe_ppl"].as_f64()).filter(|_| line["best"] == true)?;
            Some(Best { step: line["step"].as_u64()?, ppl })
        };
        let (last_ppl, best) = (
            lines.iter().filter_map(|line| line["ppl"].as_f64()).next_back(),
            lines.iter().filter_map(best_of).next_back(),
        );
        let done = steps.last().map_or(0, |m| m.step);
        let first = steps.first().copied();
        let recent = steps.into_iter().rev().take(RECENT).rev().collect();
        Ok(Log { file: None, events: None, first, recent, done, last_ppl, best })
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(value).expect("metrics are plain numbers");
        line.push('\n');
        self.file.as_mut().map_or(Ok(()), |file| file.put(line.as_bytes()))
    }

    pub fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.first.get_or_insert(*metrics);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(*metrics);
        self.done = metrics.step;
        let StepMetrics { step, loss, weighted_loss, grad_norm, lr, tokens_per_second, .. } = *metrics;
        let mut scalars = vec![
            ("train/loss", loss),
            ("train/lr", lr),
            ("train/grad_norm", grad_norm),
            ("train/tokens_per_second", tokens_per_second),
        ];
        scalars.extend(weighted_loss.map(|loss| ("train/weighted_loss", loss)));
        self.scalars(step, &scalars)?;
        self.line(metrics)
    }

    /// `best`: the run goes by this, and it is the best so far.
    pub fn eval(&mut self, step: u64, report: &WindowReport, best: bool) -> Result<()> {
        let (window, ppl, nll) = (report.window, report.ppl, report.nll);
        let mut line = serde_json::json!({ "step": step, "window": window, "ppl": ppl, "nll": nll });
        self.last_ppl = Some(report.ppl);
        self.mark(&mut line, step, report.ppl, best);
        self.scalars(step, &[("eval/perplexity", report.ppl)])?;
        self.line(&line)
    }

    /// What was probed after `step`, and, where that changes, how distances are drawn from now on.
    pub fn probe(
        &mut self, step: u64, probe: &Probe, weights: Option<&DistanceWeights>, best: bool,
    ) -> Result<()> {
        let (long, short) = (probe.long_ppl(), probe.short_ppl());
        let mut line = serde_json::json!({
            "step": step, "probe_ppl": long, "probe_short_ppl": short, "probe_nll": probe.long,
            "probe_excess": probe.excess(),
        });
        if let Some(weights) = weights {
            line["distance_weights"] = serde_json::json!(weights);
        }
        self.mark(&mut line, step, long, best);
        self.scalars(step, &[("probe/perplexity", long), ("probe/short_perplexity", short)])?;
        self.line(&line)
    }

    /// An update was left out.
    pub fn skip(&mut self, spike: &Spike) -> Result<()> {
        self.done = spike.step;
        self.line(&spike_line("skip", spike.step, spike))
    }

    /// The run is at `step` again, and passes over batches: what was logged since is dropped.
    pub fn roll_back(&mut self, step: u64, passed: u64, spike: &Spike) -> Result<()> {
        self.done = step;
        self.recent.retain(|m| m.step <= step);
        self.first = self.first.filter(|m| m.step <= step);
        if let Some(file) = &mut self.file {
            let kept = kept(file.path(), step, passed);
            file.replace(kept.as_bytes())?;
        }
        if let Some(events) = &mut self.events {
            events.drop_after(step)?;
        }
        let mut line = spike_line("rollback", step, spike);
        line["from"] = spike.step.into();
        line["passed"] = passed.into();
        self.line(&line)
    }

    fn mark(&mut self, line: &mut serde_json::Value, step: u64, ppl: f64, best: bool) {
        if best {
            line["best"] = true.into();
            self.best = Some(Best { step, ppl });
        }
    }

    fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        self.events.as_mut().map_or(Ok(()), |events| events.scalars(step, values))
    }

    pub fn summary(mut self, recipe: &Recipe, plan: &Ledger, elapsed: Duration) -> Result<Summary> {
        // metrics that were owed are the last thing to be without
        self.file.as_mut().map_or(Ok(()), Growing::settle)?;
        let best_model = recipe.save_best.then(|| recipe.out.join(BEST)).filter(|path| path.is_dir());
        let recent = self.recent.make_contiguous();
        let mut speeds: Vec<f64> = recent.iter().map(|m| m.tokens_per_second).collect();
        speeds.sort_by(|a, b| b.total_cmp(a));
        Ok(Summary {
            steps: self.done,
            train_len: recipe.sampler.window(),
            target_len: recipe.sampler.target_len(),
            first_loss: self.first.map(|m| m.loss),
            last_loss: recent.last().map(|m| m.loss),
            seconds: elapsed.as_secs_f64(),
            seconds_per_step: StepMetrics::median_seconds(recent),
            tokens_per_second: speeds.get(speeds.len() / 2).copied(),
            planned_bytes: plan.total(),
            peak_bytes: memory::resident_bytes().map(|(_, peak)| peak),
            ppl: self.last_ppl,
            best: self.best,
            best_model,
            out: recipe.out.clone(),
        })
    }
}

fn spike_line(action: &str, step: u64, spike: &Spike) -> serde_json::Value {
    let Spike { loss, z, sample, .. } = spike;
    // what is no number is null in JSON
    serde_json::json!({ "step": step, "spike": action, "loss": loss, "z": z, "sample": sample })
}

/// The lines of a metrics file up to a step. A run that begins anew writes of step 0 too.
fn kept(path: &Path, steps_done: u64, passed: u64) -> String {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let stays = |line: &&str| {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { return false };
        let later = line["passed"].as_u64().is_some_and(|p| p > passed);
        steps_done > 0 && !later && line["step"].as_u64().is_some_and(|s| s <= steps_done)
    };
    old.lines().filter(stays).map(|line| format!("{line}\n")).collect()
}
