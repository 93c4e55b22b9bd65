//! metrics.jsonl, a line for each step, and the summary of a run.

use super::Watch;
use super::events::Events;
use super::growing::{self, Growing};
use super::probe::Probe;
use super::spikes::Spike;
use crate::checkpoint::{BEST, Best, Standing, replace_file};
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
pub(super) const SUMMARY: &str = "summary.json";

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

/// A run that has come to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub steps: u64,
    pub train_len: usize,
    pub target_len: usize,
    pub first_loss: Option<f64>,
    pub last_loss: Option<f64>,
    /// Of the training loop since the last start, evaluations and saves included.
    pub seconds: f64,
    /// Median over the latest 1024 steps.
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
        let path = directory.join(SUMMARY);
        let text = serde_json::to_string_pretty(self).expect("a summary is plain numbers") + "\n";
        let doing = "writing the summary of a model that is saved";
        replace_file(&path, text.as_bytes()).map_err(|e| Error::io(&path, doing, e))
    }
}

/// Appends to metrics.jsonl, and to the event file where there is one, as the run goes.
pub struct Log {
    /// None where a finished run is only read.
    file: Option<Growing>,
    events: Option<Events>,
    told: Told,
    best: Option<Best>,
}

/// What a summary says of the lines.
#[derive(Default)]
struct Told {
    first: Option<StepMetrics>,
    recent: VecDeque<StepMetrics>,
    done: u64,
    last_ppl: Option<f64>,
}

impl Told {
    fn of(lines: &[Line]) -> Told {
        let mut told = Told::default();
        for Line { json, .. } in lines {
            told.last_ppl = json["ppl"].as_f64().or(told.last_ppl);
            told.done = json["step"].as_u64().unwrap_or(told.done);
            // of a step, and not of an evaluation
            StepMetrics::deserialize(json).into_iter().for_each(|step| told.step(&step));
        }
        told
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.first.get_or_insert(*metrics);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(*metrics);
        self.done = metrics.step;
    }
}

impl Log {
    /// Continues after `steps_done` and `passed` batches: lines of later steps and of later rollbacks, which a killed run may
    /// have left, are dropped.
    pub fn open(
        directory: &Path, steps_done: u64, standing: Standing, passed: u64, recipe: &Recipe,
        watch: &dyn Watch,
    ) -> Result<Log> {
        let path = directory.join("metrics.jsonl");
        let bytes = growing::read(&path)?;
        if let Some(line) = first_broken(&bytes) {
            let problem = "is no longer one that a run writes, and is left out";
            watch.warn(&format!("{}: line {line} {problem}", path.display()));
        }
        let lines = kept(&bytes, steps_done, passed);
        let file = Growing::begin(&path, Vec::new, text(&lines).as_bytes(), recipe.on_save_error)?;
        let events = || Events::open(directory, steps_done, recipe.on_save_error);
        let events = recipe.tensorboard.then(events).transpose()?;
        let told = Told { done: steps_done, ..Told::of(&lines) };
        Ok(Log { file: Some(file), events, told, best: standing.best })
    }

    /// What a finished run wrote.
    pub fn read(directory: &Path) -> Result<Log> {
        let lines = lines(&growing::read(&directory.join("metrics.jsonl"))?);
        let best_of = |Line { json, .. }: &Line| {
            let ppl = json["ppl"].as_f64().or(json["probe_ppl"].as_f64()).filter(|_| json["best"] == true)?;
            Some(Best { step: json["step"].as_u64()?, ppl })
        };
        let best = lines.iter().filter_map(best_of).next_back();
        Ok(Log { file: None, events: None, told: Told::of(&lines), best })
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(value).expect("metrics are plain numbers");
        line.push('\n');
        self.file.as_mut().map_or(Ok(()), |file| file.put(line.as_bytes()))
    }

    pub fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.told.step(metrics);
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
        self.told.last_ppl = Some(report.ppl);
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
        self.told.done = spike.step;
        self.line(&spike_line("skip", spike.step, spike))
    }

    /// The run ends before the update.
    pub fn stop(&mut self, spike: &Spike) -> Result<()> {
        self.line(&spike_line("stop", spike.step, spike))
    }

    /// The run is at `step` again, and passes over batches: what was logged since is dropped.
    pub fn roll_back(&mut self, step: u64, passed: u64, spike: &Spike) -> Result<()> {
        if let Some(file) = &mut self.file {
            let lines = kept(&file.content()?, step, passed);
            file.replace(text(&lines).as_bytes())?;
            self.told = Told { done: step, ..Told::of(&lines) };
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

    /// Writes what is owed.
    pub fn settle(&mut self) -> Result<()> {
        let events = self.events.as_mut().map_or(Ok(()), Events::settle);
        self.file.as_mut().map_or(Ok(()), Growing::settle).and(events)
    }

    pub fn summary(mut self, recipe: &Recipe, plan: &Ledger, elapsed: Duration) -> Summary {
        let best_model = recipe.save_best.then(|| recipe.out.join(BEST)).filter(|path| path.is_dir());
        let recent = self.told.recent.make_contiguous();
        let mut speeds: Vec<f64> = recent.iter().map(|m| m.tokens_per_second).collect();
        speeds.sort_by(|a, b| b.total_cmp(a));
        Summary {
            steps: self.told.done,
            train_len: recipe.sampler.window(),
            target_len: recipe.sampler.target_len(),
            first_loss: self.told.first.map(|m| m.loss),
            last_loss: recent.last().map(|m| m.loss),
            seconds: elapsed.as_secs_f64(),
            seconds_per_step: StepMetrics::median_seconds(recent),
            tokens_per_second: speeds.get(speeds.len() / 2).copied(),
            planned_bytes: plan.total(),
            // a process that only read what a run wrote has none of its peak
            peak_bytes: self.file.and(memory::resident_bytes()).map(|(_, peak)| peak),
            ppl: self.told.last_ppl,
            best: self.best,
            best_model,
            out: recipe.out.clone(),
        }
    }
}

fn spike_line(action: &str, step: u64, spike: &Spike) -> serde_json::Value {
    let Spike { loss, norm, z, sample, .. } = spike;
    // what is no number is null in JSON
    let mut line = serde_json::json!({
        "step": step, "spike": action, "loss": loss, "grad_norm": norm, "z": z, "sample": sample,
    });
    // and told in words, for which of both it was and how says where to look
    let broken = [("loss", loss), ("grad_norm", norm)].into_iter().filter(|(_, value)| !value.is_finite());
    let broken: serde_json::Map<_, _> =
        broken.map(|(name, value)| (name.into(), value.to_string().into())).collect();
    if !broken.is_empty() {
        line["not_finite"] = broken.into();
    }
    line
}

/// A line of a metrics file.
struct Line {
    text: String,
    json: serde_json::Value,
}

/// The whole lines of a metrics file: one that is torn is none.
fn lines(bytes: &[u8]) -> Vec<Line> {
    let whole = |line: &[u8]| {
        let text = std::str::from_utf8(line).ok()?.to_string();
        Some(Line { json: serde_json::from_str(&text).ok()?, text })
    };
    bytes.split(|&byte| byte == b'\n').filter_map(whole).collect()
}

/// The first line, from 1, that is ended and yet none.
fn first_broken(bytes: &[u8]) -> Option<usize> {
    let mut ended: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    ended.pop();
    ended.iter().position(|line| !line.is_empty() && lines(line).is_empty()).map(|at| at + 1)
}

/// Those up to a step. A run that begins anew writes of step 0 too.
fn kept(bytes: &[u8], steps_done: u64, passed: u64) -> Vec<Line> {
    let stays = |Line { json, .. }: &Line| {
        let later = json["passed"].as_u64().is_some_and(|p| p > passed);
        steps_done > 0 && !later && json["step"].as_u64().is_some_and(|s| s <= steps_done)
    };
    lines(bytes).into_iter().filter(stays).collect()
}

fn text(lines: &[Line]) -> String {
    lines.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect()
}
