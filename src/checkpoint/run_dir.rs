//! The checkpoints of a run, found by looking.

use super::manifest::verify;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";

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
    let entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(out, "listing", e)),
    };
    let step_of = |name: &str| name.strip_prefix(PREFIX).and_then(|step| step.parse::<u64>().ok());
    let mut found: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|e| Some((step_of(e.file_name().to_str()?)?, e.path()))).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    let mut skipped = Vec::new();
    for (step, path) in found {
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
