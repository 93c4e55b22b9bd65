//! Events: the host's clock at the call.

use super::stream::known;
use super::{Status, call, put};
use crate::driver::codes::{Api, Code};
use crate::driver::state::{Object, driver};
use std::ffi::{c_uint, c_void};
use std::sync::{Arc, Mutex};
use std::time::Instant;

type Event = *mut c_void;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Event, _flags: c_uint) -> Status {
    call(|| {
        driver()?.here()?;
        // SAFETY: the caller's pointer.
        unsafe { put(event, driver()?.add(Object::Event(Arc::new(Mutex::new(None))))) }
    })
}

fn event(handle: Event) -> Api<Arc<Mutex<Option<Instant>>>> {
    match driver()?.get(handle)? {
        Object::Event(event) => Ok(event),
        _ => Err(Code::InvalidHandle),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(handle: Event, stream: *mut c_void) -> Status {
    call(|| {
        known(stream)?;
        driver()?.here()?;
        *event(handle)?.lock().unwrap() = Some(Instant::now());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(handle: Event) -> Status {
    call(|| {
        event(handle)?;
        driver()?.here().map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(handle: Event) -> Status {
    cuEventSynchronize(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(ms: *mut f32, start: Event, end: Event) -> Status {
    call(|| {
        let at = |handle| event(handle)?.lock().unwrap().ok_or(Code::InvalidHandle);
        let elapsed = at(end)?.saturating_duration_since(at(start)?);
        // SAFETY: the caller's pointer.
        unsafe { put(ms, elapsed.as_secs_f32() * 1e3) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(ms: *mut f32, start: Event, end: Event) -> Status {
    // SAFETY: the same contract.
    unsafe { cuEventElapsedTime_v2(ms, start, end) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(handle: Event) -> Status {
    call(|| {
        event(handle)?;
        driver()?.remove(handle).map(|_| ())
    })
}
