//! Readers of files from strangers, each as a function of the file's bytes that must come back: with a value or an error, within
//! a second, and with memory of at most a small multiple of the file.
//!
//! `targets/` has one function a kind of file, `budget` measures memory and time, `mutate` damages bytes. `../fuzz` runs the same
//! functions under libFuzzer, and `tests/mutations.rs` for a short while in every test run.

pub mod budget;
pub mod mutate;
pub mod targets;

use budget::Budget;
use std::path::{Path, PathBuf};

/// A kind of file.
pub struct Target {
    pub name: &'static str,
    /// Reads the bytes with what the program has for such files. Whatever it says is fine, as long as it says something.
    pub read: fn(&Desk, &[u8]),
    /// Whole files of the kind, to be damaged.
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub budget: Budget,
}

/// A directory to lay a file in, where the program's functions take a path.
pub struct Desk(tempfile::TempDir);

impl Desk {
    /// In memory where the system has such a place.
    pub fn new() -> Desk {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Desk(dir.expect("a directory for the files"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, over what was there; directories are made.
    pub fn lay(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        if std::fs::write(&path, bytes).is_err() {
            std::fs::create_dir_all(path.parent().expect("a path in the directory")).expect("a directory");
            std::fs::write(&path, bytes).expect("a file");
        }
        path
    }
}

impl Default for Desk {
    fn default() -> Desk {
        Desk::new()
    }
}

/// The target of a name, which is that of a binary of `../fuzz`.
///
/// # Panics
/// Where there is none.
pub fn target(name: &str) -> &'static Target {
    targets::ALL.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
}
