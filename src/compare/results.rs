//! The page's results of evaluations.

use super::page::{Layout, colour};
use super::read::{Content, Evaluation, Input, Needle, Point};
use crate::error::Result;
use crate::figures::{Axis, HeatMap, Series};
use crate::size::size_text;
use std::collections::HashMap;

impl Layout {
    pub fn by_length<'a>(
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
        let with_mean = |p: &Point| p.mean.and(p.mean_error).is_some();
        if curves.iter().any(|(_, _, points)| points.iter().any(with_mean)) {
            let said = "Over all tokens, ± by the text's length; in brackets the mean over documents, ± by how they differ.";
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

    pub fn shifts(&mut self, inputs: &[Input]) -> Result<()> {
        let found = measured_as(inputs, &|e| match e {
            Evaluation::Shift(shifts) => Some(shifts),
            _ => None,
        });
        let mut series = Vec::new();
        for (input, shifts) in &found {
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
        self.plot("shift", "Passages shifted", x, y, series)?;
        self.unlike(&found);
        Ok(())
    }

    pub fn tasks(&mut self, inputs: &[Input]) {
        let (mut found, mut rows) = (Vec::new(), Vec::new());
        for input in inputs {
            let Content::Evaluation(Evaluation::Tasks(tasks)) = &input.content else { continue };
            found.push((input, tasks));
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
            self.unlike(&found);
        }
    }

    /// Of things told in a text, "Needles" or "Passkeys": a map for each result.
    pub fn maps<'a>(
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
        self.unlike(&found);
        Ok(())
    }
}

/// How a kind of figure is drawn and told.
pub(super) struct Figure {
    axis: Axis,
    text: fn(&Point) -> String,
}

impl Figure {
    pub fn share(label: &str) -> Figure {
        Figure { axis: Axis::shares(label), text: |p| share_text(p.value, p.standard_error) }
    }

    pub fn perplexity(label: &str) -> Figure {
        Figure { axis: Axis::by_spread(label), text: point_text }
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

fn point_text(p: &Point) -> String {
    let digits = |v: f64| if v.abs() < 1000.0 { format!("{v:.3}") } else { format!("{v:.0}") };
    let with = |value, error: f64| format!("{} ± {}", digits(value), digits(error));
    let value = p.standard_error.map_or_else(|| digits(p.value), |error| with(p.value, error));
    match (p.mean, p.mean_error) {
        (Some(mean), Some(error)) => format!("{value} ({})", with(mean, error)),
        _ => value,
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
