//! The CUDA driver API on top of the interpreter: what `libcuda.so.1` of this crate exports.
//!
//! `settings` reads the environment, `state` holds devices and what handles stand for, `fatbin` finds the PTX in an image,
//! `api` has the exported functions by subject, `report` writes what was counted and found. Everything runs at the call:
//! a stream is always idle when a call returns. As on a GPU, a kernel's fault is told by the calls after its launch, and
//! all calls on that device fail from then on.

mod api;
mod codes;
mod fatbin;
mod report;
mod settings;
mod state;

/// The PTX texts in a fat binary; None where it is damaged or compressed.
pub fn ptx_of_fatbin(binary: &[u8]) -> Option<Vec<String>> {
    let found = fatbin::entries(binary).ok()?;
    Some(found.into_iter().map(|ptx| ptx.text).collect())
}
