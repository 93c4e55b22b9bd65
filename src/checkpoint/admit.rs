//! What is asked of a model's directory before anything in it is used: that it holds what was written there, and nothing that lies
//! elsewhere.

use super::manifest::{MANIFEST, Manifest, verify_file};
use super::resume::STATE;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Endings of the files that are read from such a directory, or copied with the model.
const READ: [&str; 6] = ["json", "safetensors", "txt", "model", "jinja", "py"];

/// Refuses a directory with a file that is not what its manifest says, where it has one, and one whose files are links to somewhere
/// else: a link in a directory from a stranger may name any file of the user's, which would be copied with the model.
///
/// # Errors
/// The first such file. A directory without a manifest, as other software writes them, is taken as it is.
pub fn admit(dir: &Path) -> Result<()> {
    inside(dir)?;
    if !dir.join(MANIFEST).exists() {
        return Ok(());
    }
    let resume = Path::new(STATE).parent();
    let manifest = Manifest::load(dir)?;
    for file in manifest.files.iter().filter(|f| Path::new(&f.path).parent() != resume) {
        verify_file(&dir.join(&file.path), file).map_err(changed)?;
    }
    Ok(())
}

fn changed(error: Error) -> Error {
    match error {
        Error::File { path, problem } => {
            let problem =
                format!("{problem}; where you changed it yourself, remove the {MANIFEST} beside it");
            Error::File { path, problem }
        }
        other => other,
    }
}

/// Whether all that is read of `dir` lies in it, or where the cache of the Hugging Face hub keeps the files of
/// `snapshots/REVISION`: in `blobs`, two levels up.
fn inside(dir: &Path) -> Result<()> {
    let Ok(home) = dir.canonicalize() else { return Ok(()) };
    let snapshots = home.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|repository| repository.join("blobs"));
    let entries = std::fs::read_dir(&home).map_err(|e| Error::io(dir, "listing the directory", e))?;
    let mut links: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, "listing the directory", e))?.path();
        let is_read = path.extension().and_then(|e| e.to_str()).is_some_and(|e| READ.contains(&e));
        if is_read && path.is_symlink() {
            links.push(path);
        }
    }
    links.sort();
    for link in links {
        // a link to nothing is found where the file is read
        let Ok(target) = link.canonicalize() else { continue };
        if !target.starts_with(&home) && !blobs.as_ref().is_some_and(|blobs| target.starts_with(blobs)) {
            let problem =
                format!("is a link to {}, outside its directory; put the file itself here", target.display());
            return Err(Error::file(link, problem));
        }
    }
    Ok(())
}
