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
