//! Contexts. All contexts of a device share its memory.

use super::{Status, call, put};
use crate::driver::codes::Code;
use crate::driver::state::{Object, current, driver, pop, push};
use std::ffi::{c_int, c_uint, c_void};

type Context = *mut c_void;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Context, device: c_int) -> Status {
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(context, driver()?.retain(device)?) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Status {
    call(|| driver()?.release(device))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) -> Status {
    call(|| driver()?.device(device).map(|_| ()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int, flags: *mut c_uint, active: *mut c_int,
) -> Status {
    call(|| {
        driver()?.device(device)?;
        // SAFETY: the caller's pointers.
        unsafe {
            put(flags, 0)?;
            put(active, driver()?.primary_is_active(device).into())
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut Context, _flags: c_uint, device: c_int) -> Status {
    call(|| {
        driver()?.device(device)?;
        let made = driver()?.add(Object::Context(device as usize));
        push(made);
        // SAFETY: the caller's pointer.
        unsafe { put(context, made) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(
    context: *mut Context, _params: *mut c_void, flags: c_uint, device: c_int,
) -> Status {
    // SAFETY: the same contract.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Context) -> Status {
    call(|| match driver()?.remove(context)? {
        Object::Context(_) => {
            if current() == Some(context) {
                pop();
            }
            Ok(())
        }
        _ => Err(Code::InvalidContext),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Context) -> Status {
    call(|| {
        if !context.is_null() && !matches!(driver()?.get(context), Ok(Object::Context(_))) {
            return Err(Code::InvalidContext);
        }
        pop();
        if !context.is_null() {
            push(context);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut Context) -> Status {
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(context, current().unwrap_or(std::ptr::null_mut())) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Context) -> Status {
    call(|| match driver()?.get(context)? {
        Object::Context(_) => {
            push(context);
            Ok(())
        }
        _ => Err(Code::InvalidContext),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut Context) -> Status {
    call(|| {
        let was = pop().ok_or(Code::InvalidContext)?;
        // SAFETY: null, or the caller's pointer.
        if context.is_null() { Ok(()) } else { unsafe { put(context, was) } }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> Status {
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(device, driver()?.current()? as c_int) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetApiVersion(_context: Context, version: *mut c_uint) -> Status {
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(version, 3020) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Status {
    call(|| driver()?.here().map(|_| ()))
}
