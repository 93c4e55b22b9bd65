//! Initialisation, versions, errors, and what a device is.

use super::{Status, call, put};
use crate::driver::codes::{Code, describe};
use crate::driver::state::{driver, init};
use std::ffi::{c_char, c_int, c_uint};

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> Status {
    call(|| if flags == 0 { init().map(|_| ()) } else { Err(Code::InvalidValue) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    call(|| {
        // may be asked before cuInit
        let settings = crate::driver::settings::Settings::from_env().map_err(|_| Code::InvalidValue)?;
        // SAFETY: the caller's pointer.
        unsafe { put(version, settings.version) }
    })
}

/// Error names and texts live as long as the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_uint, text: *mut *const c_char) -> Status {
    let (name, _) = describe(code).unwrap_or(("unrecognized error code\0", ""));
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(text, name.as_ptr().cast()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: c_uint, text: *mut *const c_char) -> Status {
    let (_, said) = describe(code).unwrap_or(("", "unrecognized error code\0"));
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(text, said.as_ptr().cast()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Status {
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(count, driver()?.devices.len() as c_int) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Status {
    call(|| {
        driver()?.device(ordinal)?;
        // SAFETY: the caller's pointer.
        unsafe { put(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> Status {
    call(|| {
        driver()?.device(device)?;
        let text = b"softcuda (PTX executed on the CPU)";
        let len =
            usize::try_from(len).ok().filter(|n| *n > 0 && !name.is_null()).ok_or(Code::InvalidValue)?;
        let n = text.len().min(len - 1);
        // SAFETY: `name` has room for `len` bytes, n + 1 of which are written.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, n);
            name.add(n).write(0);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> Status {
    call(|| {
        driver()?.device(device)?;
        let mut id = *b"softcuda\0\0\0\0\0\0\0\0";
        id[15] = device as u8;
        // SAFETY: the caller's pointer.
        unsafe { put(uuid, id) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> Status {
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(bytes, driver()?.device(device)?.memory.capacity() as usize) })
}

/// Attributes as an A100 has them; those not listed are 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) -> Status {
    call(|| {
        let driver = driver()?;
        driver.device(device)?;
        let (major, minor) = driver.settings.capability;
        let found = match attribute {
            1..=3 => 1024,                          // threads of a block, its x, its y
            4 => 64,                                // its z
            5 => i32::MAX,                          // grid x
            6 | 7 => 65535,                         // grid y, z
            8 => 48 << 10,                          // shared memory of a block
            9 => 64 << 10,                          // constant memory
            10 => 32,                               // warp size
            12 => 65536,                            // registers of a block
            13 => 1_410_000,                        // clock, kHz
            16 => driver.settings.threads as c_int, // multiprocessors
            31 | 41 => 1,                           // concurrent kernels, unified addressing
            36 => 1_215_000,                        // memory clock, kHz
            37 => 5120,                             // memory bus, bits
            38 => 40 << 20,                         // L2 cache
            39 => 2048,                             // threads of a multiprocessor
            75 => major as c_int,
            76 => minor as c_int,
            81 => 164 << 10, // shared memory of a multiprocessor
            82 => 65536,     // registers of a multiprocessor
            97 => super::launch::most_shared((major, minor)) as c_int, // shared memory of a block that opts in
            _ => 0,
        };
        // SAFETY: the caller's pointer.
        unsafe { put(value, found) }
    })
}
