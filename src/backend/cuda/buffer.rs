//! Buffers in the device's memory.

use super::driver::{Arg, Gpu};
use crate::backend::{Buffer, Element};
use crate::error::Result;
use std::marker::PhantomData;
use std::sync::Arc;

/// `len` elements on a 256-byte boundary; freed on drop.
pub struct Buf<T> {
    gpu: Arc<Gpu>,
    at: u64,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Element> Buf<T> {
    pub(super) fn zeroed(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        let at = gpu.alloc(len * size_of::<T>())?;
        Ok(Buf { gpu: gpu.clone(), at, len, kind: PhantomData })
    }

    /// Where it lies on the device, for other libraries.
    pub fn device_address(&self) -> u64 {
        self.at
    }

    /// The address of element `i`.
    pub(super) fn at(&self, i: usize) -> u64 {
        self.at + (i * size_of::<T>()) as u64
    }

    pub(super) fn arg(&self) -> Arg {
        Arg::ptr(self.at)
    }

    pub(super) fn arg_at(&self, i: usize) -> Arg {
        Arg::ptr(self.at(i))
    }
}

/// A buffer's address, or null for none.
pub(super) fn optional<T: Element>(buf: Option<&Buf<T>>) -> Arg {
    buf.map_or(Arg::NULL, Buf::arg)
}

impl<T: Element> Buffer<T> for Buf<T> {
    fn len(&self) -> usize {
        self.len
    }
}

impl<T> Drop for Buf<T> {
    fn drop(&mut self) {
        self.gpu.free(self.at);
    }
}
