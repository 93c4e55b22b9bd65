//! The page: what stands on it, in which order, and what its parts share.

use super::read::{Content, Evaluation, Input, Training};
use super::results::Figure;
use crate::error::Result;
use crate::figures::{Axis, Page, Plot, Series};

/// The page, and its figures by name.
pub struct Comparison {
    pub html: String,
    pub figures: Vec<(String, String)>,
}

pub(super) struct Layout {
    pub page: Page,
    figures: Vec<(String, String)>,
}

/// A training and its colour, the same in all figures.
pub(super) type Run<'a> = (usize, &'a str, &'a Training);

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
    pub fn figure(&mut self, name: &str, svg: String) {
        self.page.svg(&svg);
        self.figures.push((name.into(), svg));
    }

    pub fn plot(&mut self, name: &str, title: &str, x: Axis, y: Axis, series: Vec<Series>) -> Result<()> {
        if series.is_empty() {
            return Ok(());
        }
        let plot = Plot { title: title.into(), x, y, series };
        self.figure(name, plot.to_svg()?);
        Ok(())
    }
}

/// The same for everything that is about one model.
pub(super) fn colour(inputs: &[Input], input: &Input) -> usize {
    inputs.iter().position(|other| other.about == input.about).unwrap_or(0)
}
