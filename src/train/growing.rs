//! A file that grows by records, whole ones: metrics.jsonl, the event file.

use crate::checkpoint::{is_at, replace_file};
use crate::error::{Error, Result};
use crate::recipe::OnSaveError;
use crate::regular;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Appends records. One that cannot be written leaves no part of itself; with [`OnSaveError::Retry`] it is kept and
/// written with the next, and so is the file's beginning.
pub(super) struct Growing {
    /// None where it is still to be begun anew, with what is owed.
    file: Option<File>,
    path: PathBuf,
    /// What a file begins with that takes the place of one which was moved away or emptied.
    head: fn() -> Vec<u8>,
    /// Bytes of whole records in the file.
    whole: u64,
    /// A part of a record lies behind them, which could not be taken back.
    torn: bool,
    owed: Vec<u8>,
    on_error: OnSaveError,
}

impl Growing {
    /// Begins the file anew with `kept`.
    ///
    /// # Errors
    /// As [`Growing::put`].
    pub fn begin(path: &Path, head: fn() -> Vec<u8>, kept: &[u8], on_error: OnSaveError) -> Result<Growing> {
        let (whole, torn, owed) = (0, false, Vec::new());
        let mut growing = Growing { file: None, path: path.into(), head, whole, torn, owed, on_error };
        growing.replace(kept)?;
        Ok(growing)
    }

    /// Begins it anew once more; what was owed is no more.
    ///
    /// # Errors
    /// As [`Growing::put`].
    pub fn replace(&mut self, kept: &[u8]) -> Result<()> {
        self.file = None;
        self.owed = kept.to_vec();
        self.settle_or_owe()
    }

    /// What the file would hold if all could be written that it was given.
    pub fn content(&self) -> Result<Vec<u8>> {
        let mut bytes = if self.file.is_some() { read(&self.path)? } else { Vec::new() };
        if self.torn {
            bytes.truncate(self.whole as usize);
        }
        bytes.extend_from_slice(&self.owed);
        Ok(bytes)
    }

    /// # Errors
    /// The record cannot be written, and is not to be tried again.
    pub fn put(&mut self, record: &[u8]) -> Result<()> {
        self.owed.extend_from_slice(record);
        self.settle_or_owe()
    }

    fn settle_or_owe(&mut self) -> Result<()> {
        match (self.settle(), self.on_error) {
            (Err(error), OnSaveError::Stop) => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes what is owed.
    pub fn settle(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else {
            // by one rename: whoever dies here leaves the file before or this one
            replace_file(&self.path, &self.owed).map_err(|e| Error::io(&self.path, "writing", e))?;
            let (file, whole) = open(&self.path)?;
            (self.file, self.whole, self.torn) = (Some(file), whole, false);
            self.owed.clear();
            return Ok(());
        };
        if !is_at(file, &self.path) {
            // rotated away by whoever keeps logs short
            (*file, self.whole) = open(&self.path)?;
            self.torn = false;
        }
        let writing = |e| Error::io(&self.path, "writing", e);
        // or emptied in its place, by whoever copied it before
        let there = file.metadata().map_err(writing)?.len();
        if self.torn && there > self.whole {
            file.set_len(self.whole).map_err(writing)?;
        } else {
            self.whole = there;
        }
        self.torn = false;
        let head = if self.whole == 0 { (self.head)() } else { Vec::new() };
        let bytes = [head.as_slice(), &self.owed].concat();
        if let Err(e) = file.write_all(&bytes) {
            // No half record stays. It may have been emptied since: then there is nothing to cut, and to set its length would
            // fill it with zeros.
            self.torn = match file.metadata() {
                Ok(m) if m.len() > self.whole => file.set_len(self.whole).is_err(),
                Ok(_) => false,
                Err(_) => true,
            };
            return Err(writing(e));
        }
        self.whole += bytes.len() as u64;
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
        let mut growing = Growing::begin(&path, Vec::new, b"kept\n", OnSaveError::Stop).unwrap();
        growing.put(b"one\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        growing.put(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "kept\none\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_file_that_is_emptied_in_its_place_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let head = || b"head\n".to_vec();
        let mut growing = Growing::begin(&path, head, b"head\nkept\n", OnSaveError::Stop).unwrap();
        growing.put(b"one\n").unwrap();
        let copytruncate = || std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        copytruncate();
        growing.put(b"two\n").unwrap();
        growing.put(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "head\ntwo\nthree\n");
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        growing.put(b"four\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "head\nfour\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_write_that_fails_after_the_file_was_emptied_leaves_no_zeros() {
        use std::os::fd::{AsRawFd, FromRawFd};
        // SAFETY: the name ends in NUL; the descriptor that comes back is ours alone.
        let mut file = unsafe {
            let memory = libc::memfd_create(c"metrics".as_ptr(), libc::MFD_ALLOW_SEALING);
            assert!(memory >= 0);
            File::from_raw_fd(memory)
        };
        file.write_all(b"kept and long\n").unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let (whole, head, on_error) = (14, Vec::new as fn() -> Vec<u8>, OnSaveError::Retry);
        file.set_len(0).unwrap();
        // from here on it can be made longer and shorter, but every write fails
        // SAFETY: it takes numbers only.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) }, 0);
        let mut growing = Growing {
            file: Some(file),
            path: path.clone(),
            head,
            whole,
            torn: false,
            owed: Vec::new(),
            on_error,
        };
        growing.put(b"one\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        assert_eq!(growing.content().unwrap(), b"one\n");
    }

    #[test]
    fn what_cannot_be_written_is_owed_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        for on_error in [OnSaveError::Stop, OnSaveError::Retry] {
            let path = dir.path().join("full");
            let mut growing = Growing::begin(&path, Vec::new, b"", on_error).unwrap();
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

    #[test]
    fn a_file_that_cannot_be_begun_is_begun_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        // no file takes the place of a directory
        std::fs::create_dir(&path).unwrap();
        assert!(Growing::begin(&path, Vec::new, b"kept\n", OnSaveError::Stop).is_err());
        let mut growing = Growing::begin(&path, Vec::new, b"kept\n", OnSaveError::Retry).unwrap();
        growing.put(b"one\n").unwrap();
        assert_eq!(growing.content().unwrap(), b"kept\none\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        growing.replace(b"again\n").unwrap();
        std::fs::remove_dir(&path).unwrap();
        growing.put(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "again\ntwo\n");
    }
}
