//! Working memory of the operations: one buffer, taken by one operation at a time.

use super::buffer::Buf;
use super::driver::{Arg, Gpu};
use crate::backend::Buffer;
use crate::error::Result;
use std::sync::{Arc, Mutex, MutexGuard};

pub struct Arena {
    gpu: Arc<Gpu>,
    memory: Mutex<Option<Buf<u8>>>,
}

/// The working memory while an operation is being launched. The stream keeps later operations behind it.
pub struct Taken<'a>(MutexGuard<'a, Option<Buf<u8>>>);

impl Arena {
    pub fn new(gpu: &Arc<Gpu>) -> Self {
        Arena { gpu: gpu.clone(), memory: Mutex::new(None) }
    }

    /// Makes it at least this long.
    pub fn reserve(&self, bytes: usize) -> Result<()> {
        self.take(bytes).map(|_| ())
    }

    pub fn take(&self, bytes: usize) -> Result<Taken<'_>> {
        let mut memory = self.memory.lock().unwrap_or_else(|e| e.into_inner());
        if memory.as_ref().map_or(0, |m| m.len()) < bytes {
            // the old one first: both may not fit
            *memory = None;
            *memory = Some(Buf::zeroed(&self.gpu, bytes)?);
        }
        Ok(Taken(memory))
    }
}

impl Taken<'_> {
    pub fn arg(&self) -> Arg {
        self.arg_at(0)
    }

    pub fn arg_at(&self, byte: usize) -> Arg {
        self.0.as_ref().map_or(Arg::NULL, |m| m.arg_at(byte))
    }
}
