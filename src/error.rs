//! The one error type of the library: what went wrong, where, and what to do about it.

use std::path::{Path, PathBuf};

/// Everything that can stop a command. [`Error::exit_code`] is what the process returns for it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag, a recipe key or a combination of them that cannot be run. Exit code 2.
    #[error("{flag} {value}: {problem}")]
    Usage { flag: String, value: String, problem: String },

    /// A file whose content is not what it should be.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },

    /// The operating system refused a file operation.
    #[error("{}: {doing} failed: {source}", path.display())]
    Io { path: PathBuf, doing: &'static str, source: std::io::Error },

    /// The plan is larger than the memory there is. Exit code 3.
    #[error("{0}")]
    DoesNotFit(String),

    /// Stopped by a signal after a clean checkpoint. Exit code 130.
    #[error("{0}")]
    Interrupted(String),

    /// A loss or gradient stopped being a number.
    #[error("{0}")]
    NonFinite(String),

    /// The device cannot do what was asked.
    #[error("device {device}: {problem}")]
    Device { device: String, problem: String },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// 1 failed, 2 bad usage, 3 does not fit, 130 interrupted after a clean checkpoint.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage { .. } => 2,
            Error::DoesNotFit(_) => 3,
            Error::Interrupted(_) => 130,
            _ => 1,
        }
    }

    pub fn usage(flag: &str, value: impl ToString, problem: impl Into<String>) -> Self {
        Error::Usage { flag: flag.into(), value: value.to_string(), problem: problem.into() }
    }

    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().into(), problem: problem.into() }
    }

    pub fn io(path: impl AsRef<Path>, doing: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().into(), doing, source }
    }
}
