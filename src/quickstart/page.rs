//! report.html: one self-contained page.

use super::documents::Story;
use super::recipe::{FACTOR, MEASURED, METHODS, TARGET, WINDOW};
use super::results::Results;
use crate::error::{Error, Result};
use crate::figures::{Axis, Page, Plot, Series};
use std::path::Path;

/// The models in the order of the tables.
fn names() -> impl Iterator<Item = &'static str> {
    ["before"].into_iter().chain(METHODS)
}

/// What a reader calls them.
pub fn title(name: &str) -> &str {
    match name {
        "before" => "before (window 64)",
        "pose" => "PoSE",
        "randpos" => "RandPos",
        "plain" => "plain control",
        "full" => "full length",
        other => other,
    }
}

/// A model's colour in every plot.
fn colour(name: &str) -> usize {
    METHODS.iter().position(|method| *method == name).unwrap_or(METHODS.len())
}

/// Headings and rows of the table that ends the run, for the terminal and the page.
pub fn table(results: &Results) -> (Vec<String>, Vec<Vec<String>>) {
    let mut headings = vec!["model".to_string()];
    headings.extend(MEASURED.map(|window| format!("ppl {}x", window / WINDOW)));
    let (near, middle, far) = (WINDOW, 4 * WINDOW, TARGET);
    headings.extend([format!("recall <{near}"), format!("{near}-{middle}"), format!("{middle}-{far}")]);
    headings.extend(["seconds", "peak MiB"].map(String::from));
    let row = |name: &str| {
        let trained = if name == "before" { Some(&results.base) } else { results.trained(name) };
        let mut row = vec![title(name).to_string()];
        row.extend(MEASURED.map(|window| format!("{:.3}", results.ppl(name, window))));
        let share = |from, to| format!("{:.1}%", 100.0 * results.recall(name, from, to));
        row.extend([share(0, WINDOW), share(WINDOW, 4 * WINDOW), share(4 * WINDOW, TARGET)]);
        row.push(trained.map_or("-".into(), |t| format!("{:.1}", t.seconds)));
        let peak = trained.and_then(|t| t.peak_bytes);
        row.push(peak.map_or("-".into(), |b| format!("{:.0}", b as f64 / 1048576.0)));
        row
    };
    (headings, names().map(row).collect())
}

pub fn write(results: &Results, story: &Story, path: &Path) -> Result<()> {
    let mut page = Page::new(&format!(
        "PoSE in miniature: {WINDOW} words of training window, {TARGET} words of context"
    ));
    page.paragraph(&format!(
        "A two-layer LLaMA-like model learned, in windows of {WINDOW} words, to recall facts from documents that come back \
         to them. Then its context was extended {FACTOR} times in four ways, each with the same steps and batch. Seed {}; {:.0} \
         seconds in all.",
        results.seed, results.seconds
    ));
    page.list(results.claims().iter().map(|c| (c.text.as_str(), c.holds)));
    let (headings, rows) = table(results);
    page.table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    page.paragraph(&format!(
        "Recall: how often the model's likeliest word is the right one where only an earlier mention tells it, by how many \
         words back the nearest mention is, in windows of {TARGET} words. Perplexity: sliding windows of 1x, 4x and {FACTOR}x, stride \
         half a window, on held-out documents. Seconds and peak memory: of each training, in a process of its own; the first \
         row's are those of the base model's training from scratch."
    ));
    page.heading("Recall by distance");
    page.plot(&recall_plot(results))?;
    page.heading("Perplexity by window");
    page.plot(&perplexity_plot(results))?;
    page.heading("What the target length costs in training");
    page.plot(&cost_plot(results, "Seconds per step by target length", "seconds per step", |c| {
        Some(c.seconds_per_step)
    }))?;
    page.plot(&cost_plot(results, "Peak memory by target length", "MiB", |c| {
        c.peak_bytes.map(|b| b as f64 / 1048576.0)
    }))?;
    page.heading("Loss");
    page.plot(&loss_plot(results))?;
    page.heading("A document and what the models say");
    excerpt(&mut page, results, story);
    page.heading("The commands");
    page.code(&commands(results));
    std::fs::write(path, page.finish()).map_err(|e| Error::io(path, "writing the report", e))
}

fn recall_plot(results: &Results) -> Plot {
    let points = |name: &str| {
        let buckets =
            results.measured(name).and_then(|m| m.at(TARGET)).map(|w| w.recall.clone()).unwrap_or_default();
        buckets.iter().filter(|b| b.asked > 0).map(|b| ((b.from + b.to) as f64 / 2.0, b.share())).collect()
    };
    Plot {
        title: format!("Recall of a fact by its distance, in windows of {TARGET} words"),
        x: Axis::doublings("words back to the nearest mention"),
        y: Axis::linear("share recalled").from_zero(),
        series: names()
            .map(|name| Series::measured(title(name), points(name)).coloured(colour(name)))
            .collect(),
    }
}

/// Of the extended models: the one before would dwarf them.
fn perplexity_plot(results: &Results) -> Plot {
    let points = |name: &str| MEASURED.map(|window| (window as f64, results.ppl(name, window))).to_vec();
    Plot {
        title: format!(
            "Perplexity by window (before extending: {:.0} at {FACTOR}x)",
            results.ppl("before", TARGET)
        ),
        x: Axis::doublings("window (words)"),
        y: Axis::linear("perplexity"),
        series: METHODS
            .map(|name| Series::measured(title(name), points(name)).coloured(colour(name)))
            .to_vec(),
    }
}

fn cost_plot(
    results: &Results, heading: &str, label: &str, value: impl Fn(&super::stages::Trained) -> Option<f64>,
) -> Plot {
    let points = |method: &str| {
        let runs = results.costs.iter().filter(|c| c.method == method);
        runs.filter_map(|c| Some((c.target_len as f64, value(c)?))).collect()
    };
    Plot {
        title: heading.into(),
        x: Axis::doublings("target length (words)"),
        y: Axis::linear(label).from_zero(),
        series: ["pose", "full"]
            .map(|method| Series::measured(title(method), points(method)).coloured(colour(method)))
            .to_vec(),
    }
}

/// Means over groups of steps, so that the curves can be told apart.
fn loss_plot(results: &Results) -> Plot {
    let smooth = |losses: &[f64]| {
        let group = (losses.len() / 60).max(1);
        let mean = |(i, l): (usize, &[f64])| ((i * group) as f64, l.iter().sum::<f64>() / l.len() as f64);
        losses.chunks(group).enumerate().map(mean).collect()
    };
    let series = results
        .extended
        .iter()
        .map(|t| Series::line(title(&t.method), smooth(&t.losses)).coloured(colour(&t.method)));
    Plot {
        title: "Training loss while extending".into(),
        x: Axis::linear("step"),
        y: Axis::linear("loss (nats per word)"),
        series: series.collect(),
    }
}

/// The end of a window of the first held-out document, recalled words marked by what PoSE's model says of them.
fn excerpt(page: &mut Page, results: &Results, story: &Story) {
    let (Some(pose), Some(before)) = (results.measured("pose"), results.measured("before")) else { return };
    let Some(first) = pose.guesses.first() else { return };
    let begin = first.at.saturating_sub(2);
    let words = story.words[begin..TARGET.min(story.words.len())].iter().enumerate().map(|(i, word)| {
        let guess = pose.guesses.iter().find(|g| g.at == begin + i);
        (*word, guess.map(|g| g.guess == *word))
    });
    page.marked_text(words);
    let rows: Vec<Vec<String>> = pose
        .guesses
        .iter()
        .zip(&before.guesses)
        .filter(|(g, _)| g.distance >= WINDOW)
        .map(|(g, b)| {
            let topic = story.words.get(g.at - 1).copied().unwrap_or_default();
            vec![topic.into(), g.distance.to_string(), g.word.clone(), b.guess.clone(), g.guess.clone()]
        })
        .collect();
    page.table(&["topic", "words back", "told", "before says", "PoSE says"], &rows);
}

fn commands(results: &Results) -> String {
    let runs = std::iter::once(&results.base).chain(&results.extended);
    runs.map(|t| t.command.clone() + "\n").collect()
}
