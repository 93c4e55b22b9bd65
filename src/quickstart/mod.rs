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

pub use measure::{Measured, WindowMeasure};
pub use page::table;
pub use recall::Bucket;
pub use results::{Claim, Results};
pub use stages::{Stage, Trained, Workshop};

use crate::backend::device::{DType, Device, dispatch};
use crate::error::{Error, Result};
use measure::MeasureJob;
use recipe::{
    COST, COST_TARGETS, EXTEND, FACTOR, MEASURED, METHODS, TARGET, TEST_DOCUMENTS, TRAIN_DOCUMENTS, WINDOW,
};
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
    let workshop = Workshop { program: None, out, seed, threads };
    prepare(&workshop)?;
    let base = train(&workshop, "train the base model", &Stage::base(), watch)?;
    let mut measured = vec![measure(&workshop, "base", "before", &MEASURED, watch)?];
    let mut extended = Vec::new();
    for method in METHODS {
        let stage = Stage::extend(method, method, TARGET, EXTEND);
        extended.push(train(&workshop, &format!("extend {FACTOR}x: {method}"), &stage, watch)?);
        measured.push(measure(&workshop, method, method, &MEASURED, watch)?);
    }
    let mut costs = Vec::new();
    for method in ["pose", "full"] {
        for target in COST_TARGETS {
            let label = format!("cost of {method} to {target}");
            let stage = Stage::extend(&format!("cost-{method}-{target}"), method, target, COST);
            costs.push(train(&workshop, &label, &stage, watch)?);
        }
    }
    let results = Results { seed, base, extended, costs, measured, seconds: start.elapsed().as_secs_f64() };
    results.write(&out.join("results.json"))?;
    write_page(&results, &out.join("report.html"))?;
    Ok(results)
}

/// A file in the directory of every quickstart, written first: by it `--overwrite` knows what it may remove.
pub const MARK: &str = ".quickstart";

/// What stages need: the documents, and weights to start from.
pub fn prepare(workshop: &Workshop<'_>) -> Result<()> {
    let out = workshop.out;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, "making the directory", e))?;
    let mark = out.join(MARK);
    std::fs::write(&mark, "quickstart --overwrite removes this directory\n")
        .map_err(|e| Error::io(&mark, "writing", e))?;
    write_documents(out, workshop.seed)?;
    start::write(&out.join("start"), WINDOW, workshop.seed)
}

/// The report of a quickstart's results.
pub fn write_page(results: &Results, path: &Path) -> Result<()> {
    page::write(results, &test_stories(results.seed)[0], path)
}

/// Runs a stage, with a label for who looks on.
pub fn train(workshop: &Workshop<'_>, label: &str, stage: &Stage, watch: &dyn Watch) -> Result<Trained> {
    watch.begin(label, stage.steps.steps);
    let trained = workshop.run(stage, &mut |steps, loss| watch.done(steps, &format!("loss {loss:.3}")));
    watch.end();
    trained
}

/// Measures the model in the directory `dir` of a workshop at some windows.
pub fn measure(
    workshop: &Workshop<'_>, dir: &str, name: &str, windows: &[usize], watch: &dyn Watch,
) -> Result<Measured> {
    let stories = test_stories(workshop.seed);
    watch.begin(&format!("measure {name}"), windows.len());
    let mut done = 0;
    let mut progress = || {
        done += 1;
        watch.done(done, "");
    };
    let dir = &workshop.out.join(dir);
    let job = MeasureJob { name, dir, stories: &stories, windows, progress: &mut progress };
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
