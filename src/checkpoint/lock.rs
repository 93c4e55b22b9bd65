//! One process at a time in a run's directory.
//!
//! A process holds OUT/.lock under an advisory lock of the operating system, which gives it back however the process
//! ends: a file that no one has locked is stale, whatever stands in it. It says who holds it, for who comes second.

use crate::error::{Error, Result};
use crate::regular;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Below the run's directory.
const LOCK: &str = ".lock";

/// Who has the run.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    /// When it started, UTC.
    since: String,
}

/// A run's directory, for this process alone until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    /// Keeps the lock.
    _file: File,
    /// What a process left that did not give the run back, as a sentence.
    stale: Option<String>,
}

impl RunLock {
    /// Takes the directory `out`, which exists.
    ///
    /// # Errors
    /// Another process has it: its number, and when it started.
    pub fn take(out: &Path) -> Result<RunLock> {
        let path = out.join(LOCK);
        loop {
            let mut file = open(&path)?;
            lock(&file, &path)?;
            // Whoever had it before may have removed the file between our opening and our locking it.
            if !is_at(&file, &path) {
                continue;
            }
            let stale = holder(&path).filter(|h| h.pid != std::process::id()).map(|Holder { pid, since }| {
                format!("process {pid}, which had this run since {since}, ended without giving it back")
            });
            let since = humantime::format_rfc3339_seconds(now()).to_string();
            let text = serde_json::to_string(&Holder { pid: std::process::id(), since })
                .expect("a holder is plain numbers and text");
            file.set_len(0)
                .and_then(|()| file.write_all(text.as_bytes()))
                .map_err(|e| Error::io(&path, "writing", e))?;
            return Ok(RunLock { path, _file: file, stale });
        }
    }

    /// An error where another process has the directory; nothing is made.
    pub fn refuse_held(out: &Path) -> Result<()> {
        let path = out.join(LOCK);
        if path.exists() { lock(&open(&path)?, &path) } else { Ok(()) }
    }

    /// Whether a file in a run's directory is the lock.
    pub fn is_lock(name: &std::ffi::OsStr) -> bool {
        name == LOCK
    }

    /// That the process before ended in the middle.
    pub fn stale(&self) -> Option<&str> {
        self.stale.as_deref()
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // still locked: no one else can have taken it; and a file that stays is only stale
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The wall clock, within the years that can be written with four digits: a clock that is far off must not end a run.
fn now() -> SystemTime {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    SystemTime::now().clamp(UNIX_EPOCH, last)
}

fn open(path: &Path) -> Result<File> {
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    options.map_err(|e| Error::io(path, "opening", e))
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let who = holder(path).map_or("another process".into(), |Holder { pid, since }| {
                format!("process {pid}, which started at {since}")
            });
            let out = path.parent().unwrap_or(path);
            Err(Error::file(
                out,
                format!("is in use by {who}; wait for it, or stop it, or name another directory"),
            ))
        }
        // file systems of clusters may have no locks; the run is worth more than the guard
        Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(e)) => Err(Error::io(path, "locking", e)),
    }
}

/// Whether `path` still names the opened file: it may have been moved away, or removed, since.
pub fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), path.metadata()) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn holder(path: &Path) -> Option<Holder> {
    serde_json::from_str(&regular::read_to_string(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_of_the_first_and_a_stale_lock_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::take(dir.path()).unwrap();
        let refused = RunLock::take(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(RunLock::refuse_held(dir.path()).is_err());
        drop(first);
        assert!(!dir.path().join(LOCK).exists());

        // what a killed process leaves
        std::fs::write(dir.path().join(LOCK), "{\"pid\":1,\"since\":\"2026-01-01T00:00:00Z\"}").unwrap();
        RunLock::refuse_held(dir.path()).unwrap();
        let second = RunLock::take(dir.path()).unwrap();
        assert!(second.stale().unwrap().contains("process 1, which had this run since 2026-01-01"));
    }
}
