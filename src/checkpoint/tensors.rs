//! Tensors on their way to a safetensors file, a piece at a time.

use crate::error::{Error, Result};
use crate::model::config::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What a tensor is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// What weights may be in.
    Float(Dtype),
    /// Codes of an optimizer's moments.
    I8,
    U8,
}

impl Stored {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Stored::Float(dtype) => dtype.bytes(),
            Stored::I8 | Stored::U8 => 1,
        }
    }

    pub(super) fn safetensors(self) -> safetensors::Dtype {
        match self {
            Stored::Float(Dtype::F32) => safetensors::Dtype::F32,
            Stored::Float(Dtype::F16) => safetensors::Dtype::F16,
            Stored::Float(Dtype::Bf16) => safetensors::Dtype::BF16,
            Stored::I8 => safetensors::Dtype::I8,
            Stored::U8 => safetensors::Dtype::U8,
        }
    }
}

impl From<Dtype> for Stored {
    fn from(dtype: Dtype) -> Stored {
        Stored::Float(dtype)
    }
}

/// A tensor to write.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Stored,
}

impl TensorSpec {
    /// Length in the file.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// Numbers in it.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn check_length(&self, given: usize) -> Result<()> {
        if given == self.bytes() {
            return Ok(());
        }
        let problem = format!(
            "gave {given} bytes, {:?} of {} has {}",
            self.shape,
            self.dtype.safetensors(),
            self.bytes()
        );
        Err(Error::file(&self.name, problem))
    }
}

/// Where the bytes of a tensor go, piece by piece.
pub type Bytes<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Whoever holds the tensors: a model on some device, an optimizer's state.
pub trait TensorSource {
    /// What there is; the same at every call.
    fn specs(&self) -> &[TensorSpec];
    /// Hands the content of tensor `i` of [`TensorSource::specs`] to `sink`, in order: row-major, little-endian.
    fn bytes(&self, i: usize, sink: &mut Bytes<'_>) -> Result<()>;
}

/// Writes the tensors `which` (places in `source.specs()`) to `path`, holding a piece of one in memory at a time.
///
/// # Errors
/// What the source returns, or the operating system's refusal (a full disk, say); then there is no file.
pub fn write_safetensors(path: &Path, source: &dyn TensorSource, which: &[usize]) -> Result<()> {
    let written = write_file(path, source, which);
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

fn write_file(path: &Path, source: &dyn TensorSource, which: &[usize]) -> Result<()> {
    let refused = |e| Error::io(path, "writing", e);
    let specs = source.specs();
    let mut which = which.to_vec();
    // as the format's own library orders them: widest numbers first, then by name
    which.sort_by_key(|&i| (Reverse(specs[i].dtype.safetensors()), &specs[i].name));
    let mut file = BufWriter::new(File::create(path).map_err(refused)?);
    file.write_all(&header(path, &which.iter().map(|&i| &specs[i]).collect::<Vec<_>>())?).map_err(refused)?;
    for &i in &which {
        let mut written = 0;
        source.bytes(i, &mut |piece| {
            written += piece.len();
            file.write_all(piece).map_err(refused)
        })?;
        specs[i].check_length(written)?;
    }
    file.flush().map_err(refused)
}

/// What a file of these tensors, one after the other, starts with: the length of a JSON text, and the text.
fn header(path: &Path, specs: &[&TensorSpec]) -> Result<Vec<u8>> {
    const ALIGNMENT: usize = 8;
    let mut end = 0;
    let info = |spec: &&TensorSpec| {
        let start = end;
        end += spec.bytes();
        let (dtype, shape) = (spec.dtype.safetensors(), spec.shape.clone());
        (spec.name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    };
    let tensors = specs.iter().map(info).collect();
    // transformers refuses files that do not say which framework's layout they have
    let about = HashMap::from([("format".to_string(), "pt".to_string())]);
    let cannot = |e: &dyn std::fmt::Display| Error::file(path, format!("cannot be written: {e}"));
    let metadata = Metadata::new(Some(about), tensors).map_err(|e| cannot(&e))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| cannot(&e))?;
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}
