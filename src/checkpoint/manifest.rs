//! What makes a directory complete: the list of its files with their lengths and hashes.

use crate::error::{Error, Result};
use crate::regular;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Its name in the directory whose files it lists.
pub const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "pose-engine manifest 1";
/// What the formats of all versions begin with.
pub(super) const FORMATS: &str = "pose-engine manifest";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub written_by: String,
    pub files: Vec<ManifestFile>,
    /// Hash of the three above as JSON without spaces, in hexadecimal. None in manifests of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Relative to the manifest, with `/` between parts.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Hash of the content, in hexadecimal.
    pub blake3: String,
}

impl Manifest {
    /// Hashes every file below `dir` and forces it to disk; directories too.
    pub(super) fn of(dir: &Path) -> Result<Manifest> {
        let entry = |path: String| {
            let full = dir.join(&path);
            let (bytes, blake3) = hash(&full)?;
            sync(&full)?;
            Ok(ManifestFile { path, bytes, blake3 })
        };
        let names = files_below(dir)?;
        let directories: BTreeSet<_> = names.iter().filter_map(|name| Path::new(name).parent()).collect();
        directories.into_iter().try_for_each(|d| sync(&dir.join(d)))?;
        let written_by = concat!("pose-engine ", env!("CARGO_PKG_VERSION")).into();
        let files = names.iter().cloned().map(entry).collect::<Result<_>>()?;
        let manifest = Manifest { format: FORMAT.into(), written_by, files, blake3: None };
        let blake3 = Some(manifest.hash_of_itself());
        Ok(Manifest { blake3, ..manifest })
    }

    /// Of what it says, whatever the spaces between, but for this hash: in hexadecimal.
    fn hash_of_itself(&self) -> String {
        let said = (&self.format, &self.written_by, &self.files);
        let said = serde_json::to_vec(&said).expect("a manifest is plain text and numbers");
        blake3::hash(&said).to_hex().to_string()
    }

    /// Reads `dir/manifest.json` without looking at the files that it names.
    pub(super) fn load(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST);
        let text = match regular::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::file(
                    dir,
                    "is incomplete: it has no manifest.json, which is written last",
                ));
            }
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(Error::file(&path, format!("is not a manifest: {e}")));
            }
            Err(e) => return Err(Error::io(&path, "reading", e)),
        };
        Self::parse(&path, &text)
    }

    /// What the manifest at `path` says; the files that it names are in its directory.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Manifest> {
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|e| Error::file(path, format!("is not a manifest: {e}")))?;
        if manifest.format != FORMAT {
            return Err(Error::file(
                path,
                format!("has format \"{}\", this program reads \"{FORMAT}\"", manifest.format),
            ));
        }
        if manifest.blake3.as_ref().is_some_and(|hash| *hash != manifest.hash_of_itself()) {
            return Err(Error::file(path, "is not what was written: its hash of itself differs"));
        }
        let mut paths = BTreeSet::new();
        if let Some(file) = manifest.files.iter().find(|f| !paths.insert(f.path.as_str())) {
            return Err(Error::file(path, format!("names \"{}\" twice", file.path)));
        }
        if let Some(file) = manifest.files.iter().find(|f| !is_below(&f.path)) {
            return Err(Error::file(
                path,
                format!("names \"{}\", which lies outside its directory", file.path),
            ));
        }
        Ok(manifest)
    }
}

/// Whether a path from a file stays inside the directory that it is relative to.
pub(super) fn is_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// The files below a directory, relative to it, sorted.
pub(super) fn files_below(dir: &Path) -> Result<Vec<String>> {
    let (mut files, mut directories) = (Vec::new(), vec![String::new()]);
    while let Some(prefix) = directories.pop() {
        let here = dir.join(&prefix);
        for entry in std::fs::read_dir(&here).map_err(|e| Error::io(&here, "listing", e))? {
            let path = entry.map_err(|e| Error::io(&here, "listing", e))?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
                return Err(Error::file(&path, "has a name that is not UTF-8"));
            };
            match path.is_dir() {
                true => directories.push(format!("{prefix}{name}/")),
                false => files.push(format!("{prefix}{name}")),
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Forces a file's content, or the names in a directory, to disk.
pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::io(path, "forcing to disk", e))
}

/// Length in bytes and hash of a file.
fn hash(path: &Path) -> Result<(u64, String)> {
    let reading = |e| Error::io(path, "reading", e);
    let file = regular::open(path).map_err(reading)?;
    let bytes = file.metadata().map_err(reading)?.len();
    let mut hasher = blake3::Hasher::new();
    // a byte more than there should be is enough to see, and some things never end
    hasher.update_reader(file.take(bytes.saturating_add(1))).map_err(reading)?;
    Ok((bytes, hasher.finalize().to_hex().to_string()))
}

/// Reads every file of a directory and holds it to the manifest. Files that the manifest does not name are not looked at.
///
/// # Errors
/// No manifest, or the first file that is missing, of another length, or of another content.
pub fn verify(dir: &Path) -> Result<Manifest> {
    verify_where(dir, |file| dir.join(file))
}

/// The same of files that lie elsewhere than in the manifest's directory.
pub(super) fn verify_where(dir: &Path, place: impl Fn(&str) -> PathBuf) -> Result<Manifest> {
    let manifest = Manifest::load(dir)?;
    for file in &manifest.files {
        verify_file(&place(&file.path), file)?;
    }
    Ok(manifest)
}

pub(super) fn verify_file(path: &Path, file: &ManifestFile) -> Result<()> {
    let length = match std::fs::metadata(path) {
        Ok(found) if found.is_file() => found.len(),
        Ok(_) => return Err(Error::file(path, "is no file, though the manifest names it as one")),
        Err(_) => return Err(Error::file(path, "is missing, though the manifest names it")),
    };
    if length != file.bytes {
        return Err(Error::file(
            path,
            format!("is {length} bytes long where the manifest says {}", file.bytes),
        ));
    }
    if hash(path)?.1 != file.blake3 {
        return Err(Error::file(path, "is not what was written: its hash differs from the manifest's"));
    }
    Ok(())
}
