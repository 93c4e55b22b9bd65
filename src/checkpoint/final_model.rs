//! The final model, in the run's own directory among its checkpoints.
//!
//! OUT holds checkpoints by then, so it cannot appear by one rename. The model is first made as a complete directory
//! OUT/final.ready; then its files are moved up one by one, config.json and manifest.json last: until then no software
//! takes OUT for a model. A run that dies between is finished by the next call, which finds final.ready.

use super::atomic::{Existing, Staging, discard};
use super::manifest::{MANIFEST, Manifest, ManifestFile, files_below, sync, verify_file};
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

pub(super) const READY: &str = "final.ready";
const CONFIG: &str = "config.json";

/// Makes `fill`'s files the model in `out`, with a manifest of their own.
///
/// # Errors
/// With [`Existing::Refuse`], one of the files standing in `out` already (found before anything is moved).
pub fn publish(out: &Path, existing: Existing, fill: impl FnOnce(&Staging) -> Result<()>) -> Result<()> {
    finish_publishing(out)?;
    let staging = Staging::create(&out.join(READY), Existing::Replace)?;
    fill(&staging)?;
    if existing == Existing::Refuse {
        let mut names = files_below(staging.dir())?.into_iter().chain([MANIFEST.into()]);
        if let Some(name) = names.find(|name| out.join(name).exists()) {
            let problem = "exists already and is never overwritten unasked; move it away";
            return Err(Error::file(out.join(name), problem));
        }
    }
    staging.commit()?;
    finish_publishing(out).map(|_| ())
}

/// Finishes what a dead process began: moves OUT/final.ready up into `out`. False where there is nothing to finish.
pub fn finish_publishing(out: &Path) -> Result<bool> {
    let ready = out.join(READY);
    if !ready.join(MANIFEST).exists() {
        // what is left when a process dies after the last move
        let _ = fs::remove_dir(&ready);
        return Ok(false);
    }
    let manifest = Manifest::load(&ready)?;
    retire_predecessor(out, &manifest)?;
    let (configs, others): (Vec<_>, Vec<_>) = manifest.files.iter().partition(|f| f.path == CONFIG);
    for file in others.into_iter().chain(configs) {
        let (from, to) = (half_published(out, &file.path), out.join(&file.path));
        if from != to {
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(|e| Error::io(parent, "making the directory", e))?;
            }
            fs::rename(&from, &to).map_err(|e| Error::io(&to, "moving the finished file", e))?;
        } else {
            verify_file(&to, file)?;
        }
    }
    sync(out)?;
    let (from, to) = (ready.join(MANIFEST), out.join(MANIFEST));
    fs::rename(from, &to).map_err(|e| Error::io(&to, "moving the finished file", e))?;
    sync(out)?;
    fs::remove_dir_all(&ready).map_err(|e| Error::io(&ready, "removing", e))?;
    Ok(true)
}

/// Where a file of the model in OUT/final.ready lies: there, or in `out`, where a process that has died moved it up.
pub(super) fn half_published(out: &Path, file: &str) -> PathBuf {
    let ready = out.join(READY).join(file);
    if ready.exists() { ready } else { out.join(file) }
}

/// Gives up what a dead process began to publish: `out` is no model then.
pub fn abandon_publishing(out: &Path) -> Result<()> {
    discard(&out.join(READY))
}

/// An earlier model of this directory stops being one before its first file changes. Its manifest goes last, and only
/// then do files move: a second call after a death repeats all of this, or finds no manifest and nothing to do.
fn retire_predecessor(out: &Path, successor: &Manifest) -> Result<()> {
    let Ok(old) = Manifest::load(out) else { return Ok(()) };
    remove(&out.join(CONFIG))?;
    let stays = |f: &ManifestFile| successor.files.iter().any(|s| s.path == f.path);
    old.files.iter().filter(|f| !stays(f)).try_for_each(|f| remove(&out.join(&f.path)))?;
    remove(&out.join(MANIFEST))
}

/// Makes what was the model in `out` one no more: a run that is made longer goes on past it, and whoever stops that run must
/// not find it finished. The weights are those of a checkpoint; their file is replaced by the next model's.
pub fn retire(out: &Path) -> Result<()> {
    remove(&out.join(CONFIG))?;
    remove(&out.join(MANIFEST))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "removing", e)),
        _ => Ok(()),
    }
}
