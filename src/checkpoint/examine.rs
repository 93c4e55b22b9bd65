//! A checkpoint or a run, held to what was written: `pose-engine verify`.

use super::final_model::{READY, half_published};
use super::manifest::{MANIFEST, verify_where};
use super::resume::{self, Resume};
use super::run_dir::{BEST, checkpoints};
use super::weights::Weights;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// What one directory was found to be.
#[derive(Debug)]
pub struct Examined {
    pub path: PathBuf,
    pub files: usize,
    pub bytes: u64,
    /// The first thing that is wrong.
    pub problem: Option<Error>,
}

/// Reads every file of the checkpoints in `dir` (of `dir` itself, where it is one) and holds them to their manifests; the
/// headers of weights and the resume state are parsed as well.
///
/// # Errors
/// Nothing in `dir` is a checkpoint or a model of this program.
pub fn examine(dir: &Path) -> Result<Vec<Examined>> {
    if !dir.is_dir() {
        return Err(Error::file(dir, "is not a directory"));
    }
    let mut found: Vec<PathBuf> = checkpoints(dir)?.into_iter().map(|(_, path)| path).collect();
    // a final.ready without a manifest is what a process leaves that dies after the last move
    let ready = dir.join(READY);
    let whole = [ready.clone(), dir.into()].into_iter().filter(|path| path.join(MANIFEST).exists());
    found.extend(Some(dir.join(BEST)).filter(|path| path.is_dir()).into_iter().chain(whole));
    if found.is_empty() {
        return Err(Error::file(
            dir,
            "holds no checkpoint: there is no manifest.json in it, nor a checkpoint of a run",
        ));
    }
    let place = |path: &Path, file: &str| match path == ready {
        true => half_published(dir, file),
        false => path.join(file),
    };
    Ok(found.into_iter().map(|path| examine_one(&path, |file| place(&path, file))).collect())
}

fn examine_one(path: &Path, place: impl Fn(&str) -> PathBuf) -> Examined {
    match verify_where(path, &place) {
        Ok(manifest) => {
            let bytes = manifest.files.iter().map(|f| f.bytes).sum();
            let problem = parse(path, &manifest, place).err();
            Examined { path: path.into(), files: manifest.files.len(), bytes, problem }
        }
        Err(problem) => Examined { path: path.into(), files: 0, bytes: 0, problem: Some(problem) },
    }
}

/// What has the right hash was not therefore written rightly.
fn parse(path: &Path, manifest: &super::Manifest, place: impl Fn(&str) -> PathBuf) -> Result<()> {
    for file in manifest.files.iter().filter(|f| f.path.ends_with(".safetensors")) {
        Weights::open_file(&place(&file.path))?;
    }
    if manifest.files.iter().any(|f| f.path == resume::STATE) {
        Resume::read_state(path).map(|_| ())
    } else {
        Ok(())
    }
}
