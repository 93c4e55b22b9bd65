//! The checkpoints of a run, found by looking.

use super::atomic::{discard, sweep};
use super::final_model::READY;
use super::manifest::verify;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";
/// The model with the best perplexity, below the run's directory.
pub const BEST: &str = "best";

/// Where the checkpoint after `step` optimizer steps goes.
pub fn checkpoint_dir(out: &Path, step: u64) -> PathBuf {
    out.join(format!("{PREFIX}{step:06}"))
}

/// The newest complete checkpoint.
#[derive(Debug)]
pub struct Latest {
    pub step: u64,
    pub path: PathBuf,
    /// Newer ones that are not complete, and why; for the user to hear of.
    pub skipped: Vec<Error>,
}

/// The checkpoint of the most steps whose files are all as its manifest says. None where OUT has none.
///
/// # Errors
/// There are checkpoints, but none is complete: then going on from the start would hide a loss.
pub fn latest(out: &Path) -> Result<Option<Latest>> {
    let found = checkpoints(out)?;
    let mut skipped = Vec::new();
    for (step, path) in found.into_iter().rev() {
        match verify(&path) {
            Ok(_) => return Ok(Some(Latest { step, path, skipped })),
            Err(error) => skipped.push(error),
        }
    }
    match skipped.first() {
        None => Ok(None),
        Some(newest) => {
            Err(Error::file(out, format!("has checkpoints, but none is complete; the newest: {newest}")))
        }
    }
}

/// The checkpoints in `out`, complete or not, by their steps, oldest first.
pub fn checkpoints(out: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(out, "listing", e)),
    };
    let step_of = |name: &str| name.strip_prefix(PREFIX).and_then(|step| step.parse::<u64>().ok());
    let mut found: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|e| Some((step_of(e.file_name().to_str()?)?, e.path()))).collect();
    found.sort_unstable();
    Ok(found)
}

/// Removes checkpoints of a run, which this process holds, and what earlier ones left. Of those up to the one `saved` just now the
/// newest `last` stay, and those of steps that `every` divides. One of a later step is broken, or the run would have gone on
/// from it: it counts as none, and is replaced when the run comes there.
pub fn prune(out: &Path, saved: u64, last: usize, every: Option<u64>) -> Result<()> {
    let mut found = checkpoints(out)?;
    found.retain(|(step, _)| *step <= saved);
    let old = found.len().saturating_sub(last);
    for (step, path) in &found[..old] {
        if !every.is_some_and(|every| step.is_multiple_of(every)) {
            discard(path)?;
        }
    }
    tidy(out);
    Ok(())
}

/// Removes what earlier processes left half-made or half-removed in a run's directory, which this one holds.
pub fn tidy(out: &Path) {
    sweep(out, |name| name.starts_with(PREFIX) || name == BEST || name == READY);
}
