//! What is asked of a model's directory before anything in it is used: that it holds what was written there, and nothing that lies
//! elsewhere.

use super::manifest::{FORMATS, MANIFEST, Manifest, verify_file};
use super::resume::STATE;
use crate::error::{Error, Result};
use crate::regular;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Refuses a directory with a file that is not what its manifest says, where it has one of ours, and one whose files are links to
/// somewhere else: a link in a directory from a stranger may name any file of the user's, which would be copied with the model.
///
/// # Errors
/// The first such file. A directory without our manifest, as other software writes them, is taken as it is.
pub fn admit(dir: &Path) -> Result<()> {
    inside(dir)?;
    let Some(manifest) = ours(&dir.join(MANIFEST))? else { return Ok(()) };
    let resume = Path::new(STATE).parent();
    for file in manifest.files.iter().filter(|f| Path::new(&f.path).parent() != resume) {
        let path = dir.join(&file.path);
        lies_in(dir, &path)?;
        verify_file(&path, file).map_err(changed)?;
    }
    Ok(())
}

/// The manifest, if there is one of ours: other software has files of this name too. One that is damaged may be any text.
fn ours(path: &Path) -> Result<Option<Manifest>> {
    let text = match regular::read_to_string(path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(Error::io(path, "reading", e)),
    };
    let foreign = serde_json::from_str::<serde_json::Value>(&text)
        .is_ok_and(|json| !json["format"].as_str().is_some_and(|format| format.starts_with(FORMATS)));
    if foreign { Ok(None) } else { Manifest::parse(path, &text).map(Some) }
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

/// Whether the directory's own files are files, and lie in it. What is in directories below it is asked when it is opened.
fn inside(dir: &Path) -> Result<()> {
    let listing = |e| Error::io(dir, "listing the directory", e);
    // no directory at all is found where its first file is read
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry.map_err(listing)?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths.iter().filter(|path| !path.is_dir()) {
        lies_in(dir, path)?;
        if path.exists() && !path.is_file() {
            return Err(Error::file(
                path,
                "is neither a file nor a directory, as a model's directory has them",
            ));
        }
    }
    Ok(())
}

/// Whether a path below a model's directory leads into it through all links, or to where the cache of the Hugging Face hub keeps the
/// files of `snapshots/REVISION`: in `blobs`, two levels up.
///
/// # Errors
/// It leads elsewhere. One that leads nowhere is found where it is read.
pub(super) fn lies_in(dir: &Path, path: &Path) -> Result<()> {
    let (Ok(home), Ok(target)) = (dir.canonicalize(), path.canonicalize()) else { return Ok(()) };
    let snapshots = home.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|repository| repository.join("blobs"));
    if target.starts_with(&home) || blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(());
    }
    let problem =
        format!("is a link to {}, outside its directory; put the file itself here", target.display());
    Err(Error::file(path, problem))
}
