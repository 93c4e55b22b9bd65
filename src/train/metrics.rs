//! metrics.jsonl, a line for each step, and the summary of a run.

use super::probe::Probe;
use crate::error::{Error, Result};
use crate::eval::WindowReport;
use crate::memory::{self, Ledger};
use crate::positions::DistanceWeights;
use crate::recipe::Recipe;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub step: u64,
    /// Mean over the step's tokens, nats.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    pub lr: f64,
    /// Seen since step 0.
    pub tokens: u64,
    pub seconds: f64,
    pub tokens_per_second: f64,
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
    /// Median over the steps of this start.
    pub seconds_per_step: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub planned_bytes: usize,
    /// Resident at the peak; None where the system does not say.
    pub peak_bytes: Option<usize>,
    /// On the held-out text at the target length, after the last step.
    pub ppl: Option<f64>,
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

/// Appends to metrics.jsonl as the run goes.
pub struct Log {
    /// None where a finished run is only read.
    file: Option<File>,
    path: PathBuf,
    steps: Vec<StepMetrics>,
    last_ppl: Option<f64>,
}

impl Log {
    /// Continues after `steps_done`: lines of later steps, which a killed run may have left, are dropped.
    pub fn open(directory: &Path, steps_done: u64) -> Result<Log> {
        let path = directory.join("metrics.jsonl");
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let step_of =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
        let kept: String = old
            .lines()
            // a run that begins anew writes of step 0 too
            .filter(|l| step_of(l).is_some_and(|s| s <= steps_done && steps_done > 0))
            .map(|l| format!("{l}\n"))
            .collect();
        let mut file = File::create(&path).map_err(|e| Error::io(&path, "creating the metrics file", e))?;
        file.write_all(kept.as_bytes()).map_err(|e| Error::io(&path, "writing metrics", e))?;
        Ok(Log { file: Some(file), path, steps: Vec::new(), last_ppl: None })
    }

    /// What a finished run wrote.
    pub fn read(directory: &Path) -> Result<Log> {
        let path = directory.join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "reading the metrics", e))?;
        let steps = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let ppl_of = |line| serde_json::from_str::<serde_json::Value>(line).ok()?["ppl"].as_f64();
        Ok(Log { file: None, path, steps, last_ppl: text.lines().filter_map(ppl_of).next_back() })
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(value).expect("metrics are plain numbers");
        line.push('\n');
        match &mut self.file {
            Some(file) => {
                file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, "writing metrics", e))
            }
            None => Ok(()),
        }
    }

    pub fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.steps.push(*metrics);
        self.line(metrics)
    }

    pub fn eval(&mut self, step: u64, report: WindowReport) -> Result<()> {
        let line = serde_json::json!({ "step": step, "window": report.window, "ppl": report.ppl, "nll": report.nll });
        self.last_ppl = Some(report.ppl);
        self.line(&line)
    }

    /// What was probed after `step`, and how distances are drawn from now on.
    pub fn weights(&mut self, step: u64, probe: &Probe, weights: &DistanceWeights) -> Result<()> {
        self.line(&serde_json::json!({
            "step": step, "probe_nll": probe.long, "probe_excess": probe.excess(), "distance_weights": weights,
        }))
    }

    pub fn summary(self, recipe: &Recipe, plan: &Ledger, elapsed: Duration) -> Result<Summary> {
        let mut seconds: Vec<f64> = self.steps.iter().map(|m| m.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2).copied();
        let tokens_per_step = (recipe.rows_per_step() * recipe.sampler.window()) as f64;
        Ok(Summary {
            steps: recipe.schedule.steps,
            train_len: recipe.sampler.window(),
            target_len: recipe.sampler.target_len(),
            first_loss: self.steps.first().map(|m| m.loss),
            last_loss: self.steps.last().map(|m| m.loss),
            seconds: elapsed.as_secs_f64(),
            seconds_per_step: median,
            tokens_per_second: median.map(|s| tokens_per_step / s),
            planned_bytes: plan.total(),
            peak_bytes: memory::resident_bytes().map(|(_, peak)| peak),
            ppl: self.last_ppl,
            out: recipe.out.clone(),
        })
    }
}
