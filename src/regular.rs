//! Opens files, and nothing but files: what lies in the place of one may be a pipe, which would be waited for without end, or a
//! device, which never ends.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Opens a file to read it.
///
/// # Errors
/// Those of the system; what is opened is no regular file (links are followed).
pub fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // Opening a pipe waits for its other end unless told not to; a file does not care.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path).map_err(|e| match e.raw_os_error() {
        // what opening a socket gives
        Some(libc::ENXIO) => no_file(),
        _ => e,
    })?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(Error::new(ErrorKind::IsADirectory, "it is a directory"));
    }
    if kind.is_file() { Ok(file) } else { Err(no_file()) }
}

fn no_file() -> Error {
    Error::new(ErrorKind::InvalidInput, "it is a pipe, a socket or a device, not a file")
}

/// [`std::fs::read`] of a regular file.
///
/// # Errors
/// As [`open`], and what reading it gives.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let (mut file, mut bytes) = (open(path)?, Vec::new());
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// [`std::fs::read_to_string`] of a regular file.
///
/// # Errors
/// As [`open`], what reading it gives, and text that is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String> {
    let (mut file, mut text) = (open(path)?, String::new());
    file.read_to_string(&mut text)?;
    Ok(text)
}
