//! PoSE in miniature: a small model, documents in which distance matters, four ways to extend it, one report.

pub mod documents;
mod measure;
mod page;
pub mod recall;
pub mod recipe;
mod results;
mod stages;
pub mod start;
pub mod words;

pub use page::table;
pub use results::{Claim, Results};

use crate::backend::device::{DType, Device, dispatch};
use crate::error::{Error, Result};
use measure::{MeasureJob, Measured};
use recipe::{
    BASE, COST, COST_TARGETS, EXTEND, MEASURED, METHODS, Steps, TARGET, TEST_DOCUMENTS, TRAIN_DOCUMENTS,
    WINDOW,
};
use stages::{Stage, Trained, Workshop};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Who looks on: the progress bars.
pub trait Watch {
    /// A stage of `total` parts begins.
    fn begin(&self, label: &str, total: usize);
    /// So many parts of it are done.
    fn done(&self, parts: usize, message: &str);
    fn end(&self);
}

/// All of it, into `out`: documents, models, results.json and report.html.
pub fn run(out: &Path, seed: u64, threads: usize, watch: &dyn Watch) -> Result<Results> {
    let start = std::time::Instant::now();
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, "making the directory", e))?;
    let workshop = Workshop { out, seed, threads };
    write_documents(out, seed)?;
    start::write(&out.join("start"), WINDOW, seed)?;

    let base =
        train(&workshop, "train the base model", stage("base", "start", "plain", WINDOW, BASE), watch)?;
    let mut measured = vec![measure(&workshop, "base", "before", watch)?];
    let mut extended = Vec::new();
    for method in METHODS {
        let label = format!("extend 16x: {method}");
        extended.push(train(&workshop, &label, stage(method, "base", method, TARGET, EXTEND), watch)?);
        measured.push(measure(&workshop, method, method, watch)?);
    }
    let mut costs = Vec::new();
    for method in ["pose", "full"] {
        for target in COST_TARGETS {
            let name = format!("cost-{method}-{target}");
            let label = format!("cost of {method} to {target}");
            costs.push(train(&workshop, &label, stage(&name, "base", method, target, COST), watch)?);
        }
    }
    let results = Results { seed, base, extended, costs, measured, seconds: start.elapsed().as_secs_f64() };
    results.write(&out.join("results.json"))?;
    write_page(&results, &out.join("report.html"))?;
    Ok(results)
}

/// The report of a quickstart's results.
pub fn write_page(results: &Results, path: &Path) -> Result<()> {
    page::write(results, &test_stories(results.seed)[0], path)
}

fn stage(name: &str, from: &str, method: &str, target_len: usize, steps: Steps) -> Stage {
    Stage { name: name.into(), from: from.into(), method: method.into(), target_len, steps }
}

fn train(workshop: &Workshop<'_>, label: &str, stage: Stage, watch: &dyn Watch) -> Result<Trained> {
    watch.begin(label, stage.steps.steps);
    let trained = workshop.run(&stage, &mut |steps, loss| watch.done(steps, &format!("loss {loss:.3}")));
    watch.end();
    trained
}

fn measure(workshop: &Workshop<'_>, dir: &str, name: &str, watch: &dyn Watch) -> Result<Measured> {
    let stories = test_stories(workshop.seed);
    watch.begin(&format!("measure {name}"), MEASURED.len());
    let mut windows = 0;
    let mut progress = || {
        windows += 1;
        watch.done(windows, "");
    };
    let job = MeasureJob { name, dir: &workshop.out.join(dir), stories: &stories, progress: &mut progress };
    let measured = dispatch(Device::Auto, DType::F32, workshop.threads, job);
    watch.end();
    measured
}

/// Held-out stories: numbered beyond those that are trained on.
fn test_stories(seed: u64) -> Vec<documents::Story> {
    let (count, words) = TEST_DOCUMENTS;
    (0..count).map(|i| documents::write(seed, 1_000_000 + i, words)).collect()
}

/// train.jsonl and test.jsonl, a document a line.
fn write_documents(out: &Path, seed: u64) -> Result<()> {
    let (count, words) = TRAIN_DOCUMENTS;
    write_jsonl(&out.join("train.jsonl"), (0..count).map(|i| documents::write(seed, i, words)))?;
    write_jsonl(&out.join("test.jsonl"), test_stories(seed).into_iter())
}

fn write_jsonl(path: &Path, stories: impl Iterator<Item = documents::Story>) -> Result<()> {
    let failed = |e| Error::io(path, "writing the documents", e);
    let mut file = BufWriter::new(std::fs::File::create(path).map_err(failed)?);
    for story in stories {
        writeln!(file, "{}", serde_json::json!({ "text": story.text() })).map_err(failed)?;
    }
    file.flush().map_err(failed)
}
