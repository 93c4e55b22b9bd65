//! All that talks to the CUDA driver: what devices there are ([`devices`]), and an opened one with its memory, copies and launches
//! ([`gpu`]). The only unsafe code of this backend.

mod devices;
mod gpu;

pub use devices::{Description, count, describe, passed_over};
pub use gpu::{Arg, Gpu, Grid};

use crate::error::Error;
use cudarc::driver::sys::{self, CUresult};
use std::ffi::CStr;

fn refuse(ordinal: usize, problem: impl Into<String>) -> Error {
    Error::Device { device: format!("cuda:{ordinal}"), problem: problem.into() }
}

/// `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
fn said(code: CUresult) -> String {
    let text = |f: unsafe fn(CUresult, *mut *const std::ffi::c_char) -> CUresult| {
        let mut at = std::ptr::null();
        // SAFETY: the driver stores a pointer to text that lives as long as it does, or null.
        unsafe {
            _ = f(code, &mut at);
            if at.is_null() { format!("{code:?}") } else { CStr::from_ptr(at).to_string_lossy().into_owned() }
        }
    };
    format!("{} ({})", text(sys::cuGetErrorName), text(sys::cuGetErrorString))
}
