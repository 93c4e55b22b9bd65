//! Runs and results of evaluations side by side, on one page.
//!
//! What is compared are directories of training runs (recipe.toml, metrics.jsonl, summary.json) and files that `--json`
//! of an evaluation wrote, in any number and mixture: `read.rs` tells them apart by what is in them, `page.rs` has the order of
//! the page, `trainings.rs` and `results.rs` have its parts; one for which nothing was given is left out.

mod page;
mod read;
mod results;
mod trainings;

pub use read::{Evaluation, Input, Needle, Point, Shift, Tasks, Training};

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Writes the page to `out`, and to the directory `svg`, where one is given, every figure of it in a file of its own.
/// Returns the figures' names.
///
/// # Errors
/// An input that is neither a run nor a result, named with what is wrong with it; a file that cannot be written.
pub fn write(inputs: &[PathBuf], out: &Path, svg: Option<&Path>) -> Result<Vec<String>> {
    let inputs = read::all(inputs)?;
    let page = page::Comparison::of(&inputs)?;
    if let Some(dir) = svg {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "making the directory", e))?;
        for (name, figure) in &page.figures {
            let path = dir.join(format!("{name}.svg"));
            std::fs::write(&path, figure).map_err(|e| Error::io(&path, "writing the figure", e))?;
        }
    }
    std::fs::write(out, page.html).map_err(|e| Error::io(out, "writing the report", e))?;
    Ok(page.figures.into_iter().map(|(name, _)| name).collect())
}
