//! Runs this program's own `train`, as a user would type it, each in a process of its own: so that its peak memory is its
//! own too, and every figure of the report can be had again by the command beside it.

use super::recipe::{BASE, Steps, WINDOW};
use crate::error::{Error, Result};
use crate::train::StepMetrics;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// One training of the quickstart.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Directory of its result, below the quickstart's.
    pub name: String,
    /// Directory of the model it starts from, likewise.
    pub from: String,
    pub method: String,
    pub target_len: usize,
    pub steps: Steps,
    /// More flags of `train`, or other values than the quickstart's: ("--rope", "yarn").
    pub with: Vec<(&'static str, String)>,
}

/// What a training cost and how its loss went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trained {
    pub method: String,
    pub target_len: usize,
    pub command: String,
    pub seconds: f64,
    pub seconds_per_step: f64,
    pub tokens: u64,
    /// Peak resident memory of its process; None where the system does not say.
    pub peak_bytes: Option<usize>,
    /// Of each step.
    pub losses: Vec<f64>,
}

/// What is read of `train --json`.
#[derive(Deserialize)]
struct Summary {
    seconds: f64,
    seconds_per_step: Option<f64>,
    peak_bytes: Option<usize>,
}

/// Where the quickstart works, and with what.
pub struct Workshop<'a> {
    /// pose-engine; None: the program that is running.
    pub program: Option<&'a Path>,
    pub out: &'a Path,
    pub seed: u64,
    /// 0: all cores.
    pub threads: usize,
}

impl Stage {
    /// The base model: the task learnt from nothing, at the short window.
    pub fn base() -> Stage {
        Stage { from: "start".into(), ..Stage::extend("base", "plain", WINDOW, BASE) }
    }

    /// Extends the base model; `name` is its directory.
    pub fn extend(name: &str, method: &str, target_len: usize, steps: Steps) -> Stage {
        Stage {
            name: name.into(),
            from: "base".into(),
            method: method.into(),
            target_len,
            steps,
            with: Vec::new(),
        }
    }

    /// The flags of `pose-engine train`, paths relative to the quickstart's directory.
    fn flags(&self, seed: u64) -> Vec<String> {
        let Steps { steps, batch, lr, warmup } = self.steps;
        let mut flags: Vec<(&str, String)> = vec![
            ("--model", self.from.clone()),
            ("--data", "train.jsonl".into()),
            ("--out", self.name.clone()),
            ("--method", self.method.clone()),
            ("--train-len", WINDOW.to_string()),
            ("--target-len", self.target_len.to_string()),
            ("--steps", steps.to_string()),
            ("--batch", batch.to_string()),
            ("--lr", lr.to_string()),
            ("--warmup", warmup.to_string()),
            ("--schedule", "linear".into()),
            ("--content", "contiguous".into()),
            ("--dtype", "bf16".into()),
            ("--seed", seed.to_string()),
        ];
        if self.target_len > WINDOW {
            flags.push(("--rope", "linear".into()));
            flags.push(("--rope-factor", (self.target_len / WINDOW).to_string()));
        }
        for (name, value) in &self.with {
            match flags.iter_mut().find(|(flag, _)| flag == name) {
                Some((_, old)) => old.clone_from(value),
                None => flags.push((name, value.clone())),
            }
        }
        flags.into_iter().flat_map(|(name, value)| [name.into(), value]).collect()
    }
}

impl Workshop<'_> {
    /// Runs a stage; `stepped` is told how many steps are done and the latest loss.
    pub fn run(&self, stage: &Stage, stepped: &mut dyn FnMut(usize, f64)) -> Result<Trained> {
        let program = self.program.map_or_else(this_program, |program| Ok(program.into()))?;
        let flags = stage.flags(self.seed);
        let (json, log) = (format!("{}.json", stage.name), self.out.join(format!("{}.log", stage.name)));
        let errors = std::fs::File::create(&log).map_err(|e| Error::io(&log, "creating", e))?;
        let mut child = Command::new(program)
            .current_dir(self.out)
            .env("POSE_CACHE", "cache")
            .arg("train")
            .args(&flags)
            .args(["--quiet", "--json", &json, "--threads", &self.threads.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(|e| Error::io(self.out, "starting pose-engine train", e))?;
        let metrics = self.out.join(&stage.name).join("metrics.jsonl");
        let status = loop {
            let done =
                child.try_wait().map_err(|e| Error::io(self.out, "waiting for pose-engine train", e))?;
            let steps = read_metrics(&metrics);
            if let Some(last) = steps.last() {
                stepped(steps.len(), last.loss);
            }
            match done {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        if !status.success() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(Error::file(&log, format!("training {} failed: {}", stage.name, said.trim())));
        }
        self.collect(stage, &flags, &self.out.join(json), &read_metrics(&metrics))
    }

    fn collect(
        &self, stage: &Stage, flags: &[String], json: &PathBuf, steps: &[StepMetrics],
    ) -> Result<Trained> {
        let text = std::fs::read_to_string(json).map_err(|e| Error::io(json, "reading", e))?;
        let summary: Summary = serde_json::from_str(&text).map_err(|e| Error::file(json, e.to_string()))?;
        Ok(Trained {
            method: stage.method.clone(),
            target_len: stage.target_len,
            command: format!("pose-engine train {}", flags.join(" ")),
            seconds: summary.seconds,
            seconds_per_step: summary.seconds_per_step.unwrap_or(f64::NAN),
            tokens: steps.last().map_or(0, |m| m.tokens),
            peak_bytes: summary.peak_bytes,
            losses: steps.iter().map(|m| m.loss).collect(),
        })
    }
}

/// On Linux the running file itself, even where another build has taken its name since.
fn this_program() -> Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return Ok(running.into());
    }
    std::env::current_exe().map_err(|e| Error::io("pose-engine", "finding this program", e))
}

/// The complete lines so far.
fn read_metrics(path: &Path) -> Vec<StepMetrics> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
