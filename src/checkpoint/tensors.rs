//! Tensors on their way to a safetensors file, one at a time.

use crate::error::{Error, Result};
use crate::model::config::Dtype;
use safetensors::SafeTensorError;
use safetensors::tensor::{View, serialize_to_file};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

/// A tensor to write.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
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
}

/// Whoever holds the tensors: a model on some device, an optimizer's state.
pub trait TensorSource {
    /// What there is; the same at every call.
    fn specs(&self) -> &[TensorSpec];
    /// Appends the content of tensor `i` of [`TensorSource::specs`] to the empty `sink`: row-major, little-endian.
    fn bytes(&self, i: usize, sink: &mut Vec<u8>) -> Result<()>;
}

/// One tensor as the safetensors crate wants it: it asks for the bytes when it comes to write them.
struct Lazy<'a> {
    source: &'a dyn TensorSource,
    i: usize,
    dtype: safetensors::Dtype,
    /// The first error of any tensor: `View::data` has no way to return one.
    failed: &'a RefCell<Option<Error>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.source.specs()[self.i].shape
    }

    fn data_len(&self) -> usize {
        self.source.specs()[self.i].bytes()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.failed.borrow().is_some() {
            // the file is lost already; do not fetch the rest of the model for it
            return Cow::Borrowed(&[]);
        }
        let mut bytes = Vec::with_capacity(self.data_len());
        let result =
            self.source.bytes(self.i, &mut bytes).and_then(|()| match bytes.len() == self.data_len() {
                true => Ok(()),
                false => {
                    let spec = &self.source.specs()[self.i];
                    let problem = format!(
                        "gave {} bytes, {:?} of {} has {}",
                        bytes.len(),
                        spec.shape,
                        spec.dtype,
                        spec.bytes()
                    );
                    Err(Error::file(&spec.name, problem))
                }
            });
        if let Err(error) = result {
            *self.failed.borrow_mut() = Some(error);
        }
        Cow::Owned(bytes)
    }
}

pub(super) fn safetensors_dtype(dtype: Dtype) -> safetensors::Dtype {
    match dtype {
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::F16 => safetensors::Dtype::F16,
        Dtype::Bf16 => safetensors::Dtype::BF16,
    }
}

/// Writes the tensors `which` (places in `source.specs()`) to `path`, holding one of them in memory at a time.
///
/// # Errors
/// What the source returns, or the operating system's refusal (a full disk, say); then there is no file.
pub fn write_safetensors(path: &Path, source: &dyn TensorSource, which: &[usize]) -> Result<()> {
    let failed = RefCell::new(None);
    let specs = source.specs();
    let views = which.iter().map(|&i| {
        let dtype = safetensors_dtype(specs[i].dtype);
        (specs[i].name.as_str(), Lazy { source, i, dtype, failed: &failed })
    });
    // transformers refuses files that do not say which framework's layout they have
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let written = serialize_to_file(views, Some(metadata), path);
    if let Some(error) = failed.into_inner() {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    written.map_err(|e| match e {
        SafeTensorError::IoError(e) => Error::io(path, "writing", e),
        e => Error::file(path, format!("cannot be written: {e}")),
    })?;
    open_to_readers(path)
}

/// The safetensors crate leaves files that only their owner can read; give them the mode that any new file has.
#[cfg(unix)]
fn open_to_readers(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = super::atomic::parent_of(path);
    let of_dir =
        std::fs::metadata(&dir).map_err(|e| Error::io(&dir, "reading permissions", e))?.permissions();
    let mode = std::fs::Permissions::from_mode(of_dir.mode() & 0o666);
    std::fs::set_permissions(path, mode).map_err(|e| Error::io(path, "setting permissions", e))
}

#[cfg(not(unix))]
fn open_to_readers(_: &Path) -> Result<()> {
    Ok(())
}
