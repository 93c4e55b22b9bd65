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
    bytes: usize,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Element> Buf<T> {
    pub(super) fn zeroed(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        let bytes = len * size_of::<T>();
        let at = gpu.alloc(bytes)?;
        Ok(Buf { gpu: gpu.clone(), at, bytes, len, kind: PhantomData })
    }

    /// The two, of one device, exchange their memory, and are as long as it.
    pub(super) fn exchange<U: Element>(&mut self, other: &mut Buf<U>) {
        std::mem::swap(&mut self.at, &mut other.at);
        std::mem::swap(&mut self.bytes, &mut other.bytes);
        self.len = self.bytes / size_of::<T>();
        other.len = other.bytes / size_of::<U>();
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
