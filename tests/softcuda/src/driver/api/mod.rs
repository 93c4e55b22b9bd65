//! The exported functions, by subject; names and arguments are cuda.h's.
//!
//! Every function is `unsafe` for one reason: its pointers must be what the driver's documentation asks for. A null pointer
//! for a result is refused; anything else wrong with it cannot be seen from here.

mod context;
mod device;
mod event;
mod launch;
mod memory;
mod module;
mod proc_address;
mod stream;

use super::codes::{Api, Code};

/// What a function returns: a `CUresult`.
pub type Status = u32;

/// Runs a call; a panic inside becomes `CUDA_ERROR_UNKNOWN` instead of crossing into C.
fn call(f: impl FnOnce() -> Api<()>) -> Status {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code as u32,
        Err(_) => Code::Unknown as u32,
    }
}

/// Stores a result where the caller wants it.
///
/// # Safety
/// `to` is null or points to a `T` that may be written.
unsafe fn put<T>(to: *mut T, value: T) -> Api<()> {
    if to.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: the caller's obligation.
    unsafe { to.write(value) };
    Ok(())
}
