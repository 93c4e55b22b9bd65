//! Streams: names alone, since every call is done when it returns.

use super::{Status, call, put};
use crate::driver::codes::{Api, Code};
use crate::driver::state::{Object, driver};
use std::ffi::{c_int, c_uint, c_void};

type Stream = *mut c_void;

/// 0, 1 and 2 are the default streams.
pub fn known(stream: Stream) -> Api<()> {
    match stream as u64 {
        0..=2 => Ok(()),
        _ => match driver()?.get(stream)? {
            Object::Stream => Ok(()),
            _ => Err(Code::InvalidHandle),
        },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Stream, _flags: c_uint) -> Status {
    call(|| {
        driver()?.here()?;
        // SAFETY: the caller's pointer.
        unsafe { put(stream, driver()?.add(Object::Stream)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut Stream, flags: c_uint, _priority: c_int,
) -> Status {
    // SAFETY: the same contract.
    unsafe { cuStreamCreate(stream, flags) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Stream) -> Status {
    call(|| {
        known(stream)?;
        driver()?.remove(stream).map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Stream) -> Status {
    call(|| {
        known(stream)?;
        driver()?.here().map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Stream) -> Status {
    cuStreamSynchronize(stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Stream, event: *mut c_void, _flags: c_uint) -> Status {
    call(|| {
        known(stream)?;
        match driver()?.get(event)? {
            Object::Event(_) => Ok(()),
            _ => Err(Code::InvalidHandle),
        }
    })
}
