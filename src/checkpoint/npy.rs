//! NumPy's array file, for logits: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, version 1.0.

use super::atomic::refuse_existing;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a float32 array in C order, a run of rows at a time. The file appears under its name when it is finished.
#[derive(Debug)]
pub struct NpyWriter {
    path: PathBuf,
    temp: PathBuf,
    file: BufWriter<File>,
    /// Numbers still to come.
    left: usize,
}

impl NpyWriter {
    /// Begins an array of this shape. An existing file is refused.
    pub fn create(path: &Path, shape: &[usize]) -> Result<NpyWriter> {
        refuse_existing(path)?;
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            return Err(Error::file(path, "is not a name that a file can be made under"));
        };
        let Some(left) = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)) else {
            return Err(Error::file(path, format!("an array of shape {shape:?} is too large")));
        };
        let temp = path.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
        let file = File::create(&temp).map_err(|e| Error::io(&temp, "making the file", e))?;
        let mut writer = NpyWriter { path: path.into(), temp, file: BufWriter::new(file), left };
        writer.write(&header(shape))?;
        Ok(writer)
    }

    /// Appends numbers, in C order.
    ///
    /// # Errors
    /// More than the shape holds, or a refusal of the operating system.
    pub fn append(&mut self, numbers: &[f32]) -> Result<()> {
        self.left = self.left.checked_sub(numbers.len()).ok_or_else(|| {
            Error::file(
                &self.path,
                format!("{} numbers more than its shape holds", numbers.len() - self.left),
            )
        })?;
        numbers.chunks(4096).try_for_each(|run| {
            let bytes: Vec<u8> = run.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.write(&bytes)
        })
    }

    /// Ends the file and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::file(&self.path, format!("{} numbers fewer than its shape holds", self.left)));
        }
        self.file.flush().map_err(|e| Error::io(&self.path, "writing", e))?;
        self.file.get_ref().sync_all().map_err(|e| Error::io(&self.path, "forcing to disk", e))?;
        std::fs::rename(&self.temp, &self.path)
            .map_err(|e| Error::io(&self.path, "renaming the finished file", e))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.path, "writing", e))
    }
}

impl Drop for NpyWriter {
    fn drop(&mut self) {
        // gone already when finished
        let _ = std::fs::remove_file(&self.temp);
    }
}

/// Magic, version, length, and a Python dictionary padded so that the data begin at a multiple of 64.
fn header(shape: &[usize]) -> Vec<u8> {
    // a tuple of one needs its comma
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sizes.trim_end());
    let unpadded = 10 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}
