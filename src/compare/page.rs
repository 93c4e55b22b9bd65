//! The page: a section for each thing that there is something to show of.

use super::read::{Content, Evaluation, Input, Needle, Point, Training};
use crate::error::Result;
use crate::positions::coverage::Coverage;
use crate::positions::{Method, SYNTHETIC_PIECE, Sampler};
use crate::report::{Axis, Bars, HeatMap, Page, Plot, Series};
use crate::size::size_text;
use crate::train::StepMetrics;
use std::collections::HashMap;

/// Rows that the coverage of a run is counted over.
const ROWS: usize = 4096;
/// Bytes that drawing them may take: a run from elsewhere may have any target.
const MOST_DRAWN: usize = 1 << 30;
/// Points of a curve of losses; a mean over a group of steps each.
const LOSS_POINTS: usize = 80;
/// Points of a curve of coverage.
const COVERAGE_POINTS: usize = 500;

/// The page, and its figures by name.
pub struct Comparison {
    pub html: String,
    pub figures: Vec<(String, String)>,
}

struct Layout {
    page: Page,
    figures: Vec<(String, String)>,
}

/// A training and its colour, the same in all figures.
type Run<'a> = (usize, &'a str, &'a Training);

impl Comparison {
    pub fn of(inputs: &[Input]) -> Result<Comparison> {
        let mut layout = Layout { page: Page::new("Runs side by side"), figures: Vec::new() };
        let mut runs: Vec<Run<'_>> = Vec::new();
        for input in inputs {
            if let Content::Training(training) = &input.content {
                runs.push((colour(inputs, input), &input.name, training));
            }
        }
        layout.trainings(&runs)?;
        layout.by_length(inputs, "Perplexity by window", Figure::perplexity("perplexity"), |e| match e {
            Evaluation::Perplexity(points) => Some(points),
            _ => None,
        })?;
        let key_tokens = Figure::perplexity("perplexity of the key tokens");
        layout.by_length(inputs, "LongPPL by window", key_tokens, |e| match e {
            Evaluation::LongPpl(points) => Some(points),
            _ => None,
        })?;
        layout.shifts(inputs)?;
        layout.by_length(
            inputs,
            "Passkeys found by length of the prompt",
            Figure::share("share found"),
            |e| match e {
                Evaluation::Passkey(found) => Some(&found.by_length),
                _ => None,
            },
        )?;
        layout.maps(inputs, "Passkeys", |e| match e {
            Evaluation::Passkey(found) => Some(&found.cells),
            _ => None,
        })?;
        layout.maps(inputs, "Needles", |e| match e {
            Evaluation::Needle(cells) => Some(cells),
            _ => None,
        })?;
        layout.tasks(inputs);
        layout.coverage(&runs)?;
        layout.recipes(&runs);
        Ok(Comparison { html: layout.page.finish(), figures: layout.figures })
    }
}

impl Layout {
    fn figure(&mut self, name: &str, svg: String) {
        self.page.svg(&svg);
        self.figures.push((name.into(), svg));
    }

    fn trainings(&mut self, runs: &[Run<'_>]) -> Result<()> {
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
            Axis::linear("perplexity"),
            evals.collect(),
        )?;
        self.bars("time", "Time of a step", "milliseconds", runs, |t| {
            StepMetrics::median_seconds(&t.steps).map(|s| 1e3 * s)
        })?;
        self.bars("memory", "Peak memory of the training", "MiB", runs, |t| t.peak_bytes.map(mebibytes))
    }

    fn plot(&mut self, name: &str, title: &str, x: Axis, y: Axis, series: Vec<Series>) -> Result<()> {
        if series.is_empty() {
            return Ok(());
        }
        let plot = Plot { title: title.into(), x, y, series };
        self.figure(name, plot.to_svg()?);
        Ok(())
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

    fn by_length<'a>(
        &mut self, inputs: &'a [Input], title: &str, figure: Figure,
        of: impl Fn(&'a Evaluation) -> Option<&'a Vec<Point>>,
    ) -> Result<()> {
        let found = measured_as(inputs, &of);
        let curves: Vec<(usize, &str, &Vec<Point>)> = found
            .iter()
            .map(|&(input, points)| (colour(inputs, input), input.name.as_str(), points))
            .collect();
        if curves.is_empty() {
            return Ok(());
        }
        self.page.heading(title);
        let mut taken: Vec<usize> = Vec::new();
        let series = curves.iter().map(|(wanted, name, points)| {
            // two results of one model, as with and without a scaling, are still two curves
            let colour = (*wanted..).find(|colour| !taken.contains(colour)).unwrap_or(*wanted);
            taken.push(colour);
            Series::measured(name, points.iter().map(|p| (p.length as f64, p.value)).collect())
                .coloured(colour)
        });
        let file = title.split(" by ").next().unwrap_or(title).to_lowercase().replace(' ', "-");
        self.plot(&file, title, Axis::doublings("tokens"), figure.axis, series.collect())?;
        let mut lengths: Vec<usize> =
            curves.iter().flat_map(|(_, _, points)| points.iter().map(|p| p.length)).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let texts: Vec<String> = lengths.iter().map(|&l| size_text(l)).collect();
        let headings: Vec<&str> = std::iter::once("result").chain(texts.iter().map(String::as_str)).collect();
        let row = |(_, name, points): &(usize, &str, &Vec<Point>)| {
            let at = |&l: &usize| points.iter().find(|p| p.length == l).map_or("-".into(), figure.text);
            std::iter::once(name.to_string()).chain(lengths.iter().map(at)).collect()
        };
        self.page.table(&headings, &curves.iter().map(row).collect::<Vec<Vec<String>>>());
        let with_mean = |p: &Point| p.mean.and(p.standard_error).is_some();
        if curves.iter().any(|(_, _, points)| points.iter().any(with_mean)) {
            let said = "Over all tokens; in brackets the mean over documents with its standard error.";
            self.page.paragraph(said);
        }
        self.unlike(&found);
        Ok(())
    }

    /// Says so where figures that stand side by side were not measured alike.
    fn unlike<T>(&mut self, found: &[(&Input, T)]) {
        let Some((first, others)) = found.split_first() else { return };
        if others.iter().any(|(input, _)| input.measured != first.0.measured) {
            self.page.paragraph("These were not measured alike, so they say little about each other:");
            for (input, _) in found {
                self.page.paragraph(&format!("{}: {}.", input.name, input.measured));
            }
        }
    }

    fn shifts(&mut self, inputs: &[Input]) -> Result<()> {
        let mut series = Vec::new();
        for input in inputs {
            let Content::Evaluation(Evaluation::Shift(shifts)) = &input.content else { continue };
            let alone = shifts.iter().map(|s| (s.offset as f64, s.alone)).collect();
            let after = shifts.iter().filter_map(|s| Some((s.offset as f64, s.after?))).collect();
            series.push(
                Series::measured(&format!("{}, alone", input.name), alone)
                    .coloured(2 * colour(inputs, input)),
            );
            series.push(
                Series::measured(&format!("{}, after text", input.name), after)
                    .coloured(2 * colour(inputs, input) + 1),
            );
        }
        if series.is_empty() {
            return Ok(());
        }
        self.page.heading("The same passages at rising positions");
        let (x, y) = (Axis::linear("offset (tokens)"), Axis::linear("NLL less that at offset 0 (nats)"));
        self.plot("shift", "Passages shifted", x, y, series)
    }

    fn tasks(&mut self, inputs: &[Input]) {
        let mut rows = Vec::new();
        for input in inputs {
            let Content::Evaluation(Evaluation::Tasks(tasks)) = &input.content else { continue };
            let text = |name: &str| {
                let found = tasks.measures.iter().find(|(measure, ..)| measure == name);
                found.map_or("-".into(), |(_, share, error)| share_text(*share, *error))
            };
            let measures = ["acc", "acc_norm", "acc_bytes", "mc2"].map(text);
            rows.push([vec![input.name.clone(), tasks.questions.to_string()], measures.to_vec()].concat());
        }
        if !rows.is_empty() {
            self.page.heading("Multiple choice");
            self.page.table(&["result", "questions", "acc", "acc_norm", "acc_bytes", "mc2"], &rows);
        }
    }

    /// Of things told in a text, "Needles" or "Passkeys": a map for each result.
    fn maps<'a>(
        &mut self, inputs: &'a [Input], told: &str, of: impl Fn(&'a Evaluation) -> Option<&'a Vec<Needle>>,
    ) -> Result<()> {
        let found = measured_as(inputs, &of);
        if found.is_empty() {
            return Ok(());
        }
        self.page.heading(&format!("{told} found by length and depth"));
        for (input, cells) in &found {
            let map = map_of_depths(&format!("{told} found: {}", input.name), cells);
            self.figure(&format!("{}-{}", told.to_lowercase(), input.name.replace('/', "-")), map.to_svg()?);
        }
        Ok(())
    }

    fn coverage(&mut self, runs: &[Run<'_>]) -> Result<()> {
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

    fn recipes(&mut self, runs: &[Run<'_>]) {
        if !runs.is_empty() {
            self.page.heading("Recipes");
        }
        for (_, name, training) in runs {
            self.page.folded(name, &training.text);
        }
    }
}

/// How a kind of figure is drawn and told.
struct Figure {
    axis: Axis,
    text: fn(&Point) -> String,
}

impl Figure {
    fn share(label: &str) -> Figure {
        Figure { axis: Axis::shares(label), text: |p| share_text(p.value, p.standard_error) }
    }

    fn perplexity(label: &str) -> Figure {
        Figure { axis: Axis::linear(label), text: point_text }
    }
}

/// The evaluations of a kind that have something to show.
fn measured_as<'a, T>(
    inputs: &'a [Input], of: &impl Fn(&'a Evaluation) -> Option<&'a Vec<T>>,
) -> Vec<(&'a Input, &'a Vec<T>)> {
    let some = |input: &'a Input| match &input.content {
        Content::Evaluation(e) => Some((input, of(e).filter(|found| !found.is_empty())?)),
        Content::Training(_) => None,
    };
    inputs.iter().filter_map(some).collect()
}

/// What a curve of coverage takes for granted, which is drawn without text and without a probe.
fn supposed(sampler: &Sampler) -> Option<String> {
    match sampler.method() {
        _ if sampler.reads_text() => {
            Some(format!("as if a piece of the text began every {SYNTHETIC_PIECE} tokens"))
        }
        Method::Adaptive => Some("as it is before its first probe".into()),
        _ => None,
    }
}

/// The same for everything that is about one model.
fn colour(inputs: &[Input], input: &Input) -> usize {
    inputs.iter().position(|other| other.about == input.about).unwrap_or(0)
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

fn point_text(p: &Point) -> String {
    let digits = |v: f64| if v.abs() < 1000.0 { format!("{v:.3}") } else { format!("{v:.0}") };
    match (p.mean, p.standard_error) {
        (Some(mean), Some(error)) => format!("{} ({} ± {})", digits(p.value), digits(mean), digits(error)),
        (None, Some(error)) => format!("{} ± {}", digits(p.value), digits(error)),
        (_, None) => digits(p.value),
    }
}

fn share_text(share: f64, error: Option<f64>) -> String {
    match error {
        Some(error) => format!("{:.1}% ± {:.1}", 100.0 * share, 100.0 * error),
        None => format!("{:.1}%", 100.0 * share),
    }
}

fn map_of_depths(title: &str, cells: &[Needle]) -> HeatMap {
    let mut lengths: Vec<usize> = cells.iter().map(|c| c.length).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut depths: Vec<f64> = cells.iter().map(|c| c.depth).collect();
    depths.sort_by(f64::total_cmp);
    depths.dedup();
    // the first of a place, as there is one of each
    let found: HashMap<(usize, u64), f64> =
        cells.iter().rev().map(|c| ((c.length, c.depth.to_bits()), c.accuracy)).collect();
    let at = |length: usize, depth: f64| found.get(&(length, depth.to_bits())).copied();
    HeatMap {
        title: title.into(),
        x: "tokens of the prompt".into(),
        y: "depth".into(),
        columns: lengths.iter().map(|&l| size_text(l)).collect(),
        rows: depths.iter().map(|d| format!("{:.0}%", 100.0 * d)).collect(),
        cells: depths.iter().map(|&d| lengths.iter().map(|&l| at(l, d)).collect()).collect(),
    }
}
