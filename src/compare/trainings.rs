//! The page's trainings: what they cost and reached, which distances they train, their recipes.

use super::page::{Layout, Run};
use super::read::Training;
use crate::error::Result;
use crate::figures::{Axis, Bars, Series};
use crate::positions::coverage::Coverage;
use crate::positions::{Method, SYNTHETIC_PIECE, Sampler};
use crate::size::size_text;
use crate::train::StepMetrics;

/// Rows that the coverage of a run is counted over.
const ROWS: usize = 4096;
/// Bytes that drawing them may take: a run from elsewhere may have any target.
const MOST_DRAWN: usize = 1 << 30;
/// Points of a curve of losses; a mean over a group of steps each.
const LOSS_POINTS: usize = 80;
/// Points of a curve of coverage.
const COVERAGE_POINTS: usize = 500;

impl Layout {
    pub fn trainings(&mut self, runs: &[Run<'_>]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        self.page.heading("Trainings");
        let headings = [
            "run",
            "method",
            "window",
            "target",
            "rope",
            "steps",
            "tokens",
            "loss",
            "s a step",
            "peak MiB",
            "ppl at target",
        ];
        self.page.table(&headings, &runs.iter().map(|(_, name, t)| summary_row(name, t)).collect::<Vec<_>>());
        let losses = runs.iter().filter(|(_, _, t)| !t.steps.is_empty());
        let losses = losses.map(|&(i, name, t)| Series::line(name, smoothed(t)).coloured(i)).collect();
        self.plot("loss", "Training loss", Axis::linear("step"), Axis::linear("nats per token"), losses)?;
        let evals = runs.iter().filter(|(_, _, t)| !t.evals.is_empty()).map(|&(i, name, t)| {
            let points = t.evals.iter().map(|&(step, _, ppl)| (step as f64, ppl)).collect();
            Series::measured(name, points).coloured(i)
        });
        let title = "Perplexity at the target length while training";
        self.plot(
            "perplexity-by-step",
            title,
            Axis::linear("step"),
            Axis::by_spread("perplexity"),
            evals.collect(),
        )?;
        self.bars("time", "Time of a step", "milliseconds", runs, |t| {
            StepMetrics::median_seconds(&t.steps).map(|s| 1e3 * s)
        })?;
        self.bars("memory", "Peak memory of the training", "MiB", runs, |t| t.peak_bytes.map(mebibytes))
    }

    fn bars(
        &mut self, name: &str, title: &str, unit: &str, runs: &[Run<'_>],
        of: impl Fn(&Training) -> Option<f64>,
    ) -> Result<()> {
        let bars: Vec<_> =
            runs.iter().filter_map(|&(i, name, t)| of(t).map(|value| (name.to_string(), value, i))).collect();
        if bars.is_empty() {
            return Ok(());
        }
        let bars = Bars { title: title.into(), unit: unit.into(), bars };
        self.figure(name, bars.to_svg()?);
        Ok(())
    }

    pub fn coverage(&mut self, runs: &[Run<'_>]) -> Result<()> {
        let curve = |&(i, name, training): &Run<'_>| {
            let recipe = training.recipe.as_ref()?;
            if Coverage::drawing_bytes(&recipe.sampler, ROWS) > MOST_DRAWN {
                return None;
            }
            let drawn = Coverage::drawn(&recipe.sampler, recipe.seed, ROWS);
            let step = drawn.probability.len().div_ceil(COVERAGE_POINTS);
            let points = drawn.probability.iter().enumerate().skip(1).step_by(step);
            Some(Series::line(name, points.map(|(d, &p)| (d as f64, p)).collect()).coloured(i))
        };
        let curves: Vec<Series> = runs.iter().filter_map(curve).collect();
        if curves.is_empty() {
            return Ok(());
        }
        self.page.heading("Which relative distances a row trains");
        self.plot(
            "coverage",
            "Coverage",
            Axis::linear("relative distance (tokens)"),
            Axis::linear("probability").from_zero(),
            curves,
        )?;
        let supposed = |(_, name, training): &Run<'_>| {
            let supposed = supposed(&training.recipe.as_ref()?.sampler)?;
            Some(format!("{name} is drawn {supposed}."))
        };
        runs.iter().filter_map(supposed).for_each(|sentence| self.page.paragraph(&sentence));
        Ok(())
    }

    pub fn recipes(&mut self, runs: &[Run<'_>]) {
        if !runs.is_empty() {
            self.page.heading("Recipes");
        }
        for (_, name, training) in runs {
            self.page.folded(name, &training.text);
        }
    }
}

/// What a curve of coverage takes for granted, which is drawn without text and without a probe.
fn supposed(sampler: &Sampler) -> Option<String> {
    match sampler.method() {
        _ if sampler.packs() => Some("as if each row were one document".into()),
        _ if sampler.reads_text() => {
            Some(format!("as if a piece of the text began every {SYNTHETIC_PIECE} tokens"))
        }
        Method::Adaptive => Some("as it is before its first probe".into()),
        _ => None,
    }
}

fn summary_row(name: &str, t: &Training) -> Vec<String> {
    let dash = || "-".to_string();
    let setting = |of: &dyn Fn(&crate::recipe::Recipe) -> String| t.recipe.as_ref().map_or_else(dash, of);
    let last = t.steps.last();
    vec![
        name.into(),
        setting(&|r| r.sampler.method().to_string()),
        setting(&|r| size_text(r.sampler.window())),
        setting(&|r| size_text(r.sampler.target_len())),
        setting(&|r| r.rope.to_string()),
        last.map_or_else(dash, |m| m.step.to_string()),
        last.map_or_else(dash, |m| m.tokens.to_string()),
        smoothed(t).last().map_or_else(dash, |(_, loss)| format!("{loss:.3}")),
        StepMetrics::median_seconds(&t.steps).map_or_else(dash, |s| format!("{s:.3}")),
        t.peak_bytes.map_or_else(dash, |b| format!("{:.0}", mebibytes(b))),
        t.evals.last().map_or_else(dash, |(_, _, ppl)| format!("{ppl:.3}")),
    ]
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / (1 << 20) as f64
}

/// Means over groups of steps, each at the step in the middle of its group.
fn smoothed(t: &Training) -> Vec<(f64, f64)> {
    let group = t.steps.len().div_ceil(LOSS_POINTS).max(1);
    let mean = |steps: &[StepMetrics]| {
        let middle = (steps[0].step + steps[steps.len() - 1].step) as f64 / 2.0;
        (middle, steps.iter().map(|m| m.loss).sum::<f64>() / steps.len() as f64)
    };
    t.steps.chunks(group).map(mean).collect()
}
