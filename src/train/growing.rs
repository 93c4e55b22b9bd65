//! A file that grows by records, whole ones: metrics.jsonl, the event file.

use crate::checkpoint::is_at;
use crate::error::{Error, Result};
use crate::recipe::OnSaveError;
use crate::regular;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Appends records. One that cannot be written leaves no part of itself; with [`OnSaveError::Retry`] it is kept and
/// written with the next.
pub(super) struct Growing {
    file: File,
    path: PathBuf,
    /// Bytes of whole records in the file.
    whole: u64,
    owed: Vec<u8>,
    on_error: OnSaveError,
}

impl Growing {
    /// Begins the file anew with `kept`.
    pub fn begin(path: &Path, kept: &[u8], on_error: OnSaveError) -> Result<Growing> {
        let (file, whole) = begin(path, kept)?;
        Ok(Growing { file, path: path.into(), whole, owed: Vec::new(), on_error })
    }

    /// Begins it anew once more; what was owed is no more.
    pub fn replace(&mut self, kept: &[u8]) -> Result<()> {
        self.owed.clear();
        (self.file, self.whole) = begin(&self.path, kept)?;
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// The record cannot be written, and is not to be tried again.
    pub fn put(&mut self, record: &[u8]) -> Result<()> {
        self.owed.extend_from_slice(record);
        match (self.settle(), self.on_error) {
            (Err(error), OnSaveError::Stop) => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes what is owed.
    pub fn settle(&mut self) -> Result<()> {
        let writing = |e| Error::io(&self.path, "writing", e);
        if !is_at(&self.file, &self.path) {
            // rotated away by whoever keeps logs short
            (self.file, self.whole) = open(&self.path)?;
        }
        if let Err(e) = self.file.write_all(&self.owed) {
            // no half record stays; where even that fails, a reader passes over the torn one
            let _ = self.file.set_len(self.whole);
            return Err(writing(e));
        }
        self.whole += self.owed.len() as u64;
        self.owed.clear();
        Ok(())
    }
}

/// What a file holds that an earlier start may have left; nothing where there is none.
///
/// # Errors
/// It is there and cannot be read: to begin it anew would lose it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    match regular::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(path, "reading", e)),
    }
}

/// By one rename: whoever dies here leaves the file before or this one.
fn begin(path: &Path, kept: &[u8]) -> Result<(File, u64)> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("records");
    let temp = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&temp, kept)
        .and_then(|()| std::fs::rename(&temp, path))
        .map_err(|e| Error::io(path, "writing", e))?;
    open(path)
}

fn open(path: &Path) -> Result<(File, u64)> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    let sized = opened.and_then(|file| file.metadata().map(|m| (file, m.len())));
    sized.map_err(|e| Error::io(path, "opening", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_moved_away_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("metrics.jsonl"), dir.path().join("metrics.jsonl.1"));
        let mut growing = Growing::begin(&path, b"kept\n", OnSaveError::Stop).unwrap();
        growing.put(b"one\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        growing.put(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "kept\none\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn what_cannot_be_written_is_owed_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        for on_error in [OnSaveError::Stop, OnSaveError::Retry] {
            let path = dir.path().join("full");
            let mut growing = Growing::begin(&path, b"", on_error).unwrap();
            // every write to it fails for want of space
            let full = Path::new("/dev/full");
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(full, &path).unwrap();
            assert_eq!(growing.put(b"one\n").is_err(), on_error == OnSaveError::Stop);
            assert!(growing.settle().is_err());
            std::fs::remove_file(&path).unwrap();
            growing.put(b"two\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        }
    }
}
