//! Files seen as memory: the one place where a file is mapped.

use crate::error::{Error, Result};
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::path::Path;

/// Maps `len` bytes of `file` from byte `at`, for reading. Pages that are touched stay resident until this is dropped.
pub(super) fn map(file: &File, path: &Path, at: u64, len: usize) -> Result<Mmap> {
    // SAFETY: the mapping must not change while it is borrowed. We map read-only and write no file in place: all that this
    // program writes appears by rename, which leaves mapped files as they were. That no other program truncates or
    // rewrites the file meanwhile is the user's to keep; then the process would end by SIGBUS, or read the new bytes,
    // which are checked like any other bytes.
    let mapped = unsafe { MmapOptions::new().offset(at).len(len).map(file) };
    mapped.map_err(|e| Error::io(path, "mapping the file into memory", e))
}

/// Maps a whole file for reading.
///
/// # Errors
/// The operating system's refusal, a file that is empty.
pub fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io(path, "opening", e))?;
    let metadata = file.metadata().map_err(|e| Error::io(path, "reading the length", e))?;
    if metadata.is_dir() {
        return Err(Error::file(path, "is a directory; name a file"));
    }
    match usize::try_from(metadata.len()) {
        Ok(0) => Err(Error::file(path, "is empty")),
        Ok(len) => map(&file, path, 0, len),
        Err(_) => Err(Error::file(path, "is larger than can be addressed")),
    }
}
