//! Device and pinned host memory, copies and fills. Copies "async" are done when the call returns.

use super::{Status, call, put};
use crate::driver::codes::{Api, Code};
use crate::driver::state::{Object, driver};
use crate::memory::BASE;
use std::alloc::Layout;
use std::ffi::{c_int, c_uint, c_void};

type Ptr = u64;
type Stream = *mut c_void;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(at: *mut Ptr, bytes: usize) -> Status {
    call(|| {
        let memory = &driver()?.here()?.memory;
        if bytes == 0 {
            return Err(Code::InvalidValue);
        }
        // SAFETY: the caller's pointer.
        unsafe { put(at, memory.alloc(bytes as u64).ok_or(Code::OutOfMemory)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(at: *mut Ptr, bytes: usize, _stream: Stream) -> Status {
    // SAFETY: the same contract.
    unsafe { cuMemAlloc_v2(at, bytes) }
}

/// A free of what is no allocation is a finding.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(at: Ptr) -> Status {
    call(|| {
        if at == 0 {
            return Ok(());
        }
        // also after a kernel failed: programs free what they hold on their way out
        let driver = driver()?;
        let device = &driver.devices[driver.current()?];
        device.memory.free(at).map_err(|fault| {
            eprintln!("softcuda: {:?}: {fault}", fault.kind);
            driver.report.finding(&fault);
            Code::InvalidValue
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(at: Ptr, _stream: Stream) -> Status {
    cuMemFree_v2(at)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    call(|| {
        let memory = &driver()?.here()?.memory;
        // SAFETY: the caller's pointers.
        unsafe {
            put(free, (memory.capacity() - memory.used()) as usize)?;
            put(total, memory.capacity() as usize)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(at: *mut *mut c_void, bytes: usize, _flags: c_uint) -> Status {
    call(|| {
        driver()?.here()?;
        let layout = Layout::from_size_align(bytes, 4096).map_err(|_| Code::InvalidValue)?;
        if bytes == 0 {
            return Err(Code::InvalidValue);
        }
        // SAFETY: the layout is not empty.
        let made: *mut c_void = unsafe { std::alloc::alloc(layout) }.cast();
        if made.is_null() {
            return Err(Code::OutOfMemory);
        }
        driver()?.add_host(made, layout);
        // SAFETY: the caller's pointer.
        unsafe { put(at, made) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(at: *mut *mut c_void, bytes: usize) -> Status {
    // SAFETY: the same contract.
    unsafe { cuMemHostAlloc(at, bytes, 0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(at: *mut c_void) -> Status {
    call(|| match driver()?.remove(at)? {
        // SAFETY: allocated above with this layout, and taken from the table: freed once.
        Object::Host(layout) => unsafe {
            std::alloc::dealloc(at.cast(), layout);
            Ok(())
        },
        _ => Err(Code::InvalidValue),
    })
}

/// A copy or fill that touches what is no live allocation is a finding, as a kernel's access is.
fn checked(f: impl FnOnce(&crate::Memory) -> crate::fault::Result<()>) -> Api<()> {
    let driver = driver()?;
    f(&driver.here()?.memory).map_err(|mut fault| {
        fault.place = "copy by the host: ".into();
        eprintln!("softcuda: {:?}: {fault}", fault.kind);
        driver.report.finding(&fault);
        Code::InvalidValue
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(dst: Ptr, src: *const c_void, bytes: usize) -> Status {
    call(|| {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's memory of `bytes` bytes.
        checked(|memory| memory.write(dst, unsafe { std::slice::from_raw_parts(src.cast(), bytes) }))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    dst: Ptr, src: *const c_void, bytes: usize, _stream: Stream,
) -> Status {
    // SAFETY: the same contract.
    unsafe { cuMemcpyHtoD_v2(dst, src, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(dst: *mut c_void, src: Ptr, bytes: usize) -> Status {
    call(|| {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's memory of `bytes` bytes.
        checked(|memory| memory.read(src, unsafe { std::slice::from_raw_parts_mut(dst.cast(), bytes) }))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    dst: *mut c_void, src: Ptr, bytes: usize, _stream: Stream,
) -> Status {
    // SAFETY: the same contract.
    unsafe { cuMemcpyDtoH_v2(dst, src, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(dst: Ptr, src: Ptr, bytes: usize) -> Status {
    call(|| if bytes == 0 { Ok(()) } else { checked(|memory| memory.copy(dst, src, bytes as u64)) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(dst: Ptr, src: Ptr, bytes: usize, _stream: Stream) -> Status {
    cuMemcpyDtoD_v2(dst, src, bytes)
}

/// Direction by the addresses: the device's start at [`BASE`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy(dst: Ptr, src: Ptr, bytes: usize) -> Status {
    let Ok(driver) = driver() else { return Code::NotInitialised as u32 };
    let range = driver.settings.memory * 4;
    let on_device = |at: Ptr| at.wrapping_sub(BASE) < range;
    match (on_device(dst), on_device(src)) {
        (true, true) => cuMemcpyDtoD_v2(dst, src, bytes),
        // SAFETY: the caller's memory, in this direction; the same contract.
        (true, false) => unsafe { cuMemcpyHtoD_v2(dst, src as *const c_void, bytes) },
        // SAFETY: as above.
        (false, true) => unsafe { cuMemcpyDtoH_v2(dst as *mut c_void, src, bytes) },
        (false, false) => {
            // SAFETY: as above, both of them the caller's.
            unsafe { std::ptr::copy(src as *const u8, dst as *mut u8, bytes) };
            0
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAsync(dst: Ptr, src: Ptr, bytes: usize, _stream: Stream) -> Status {
    // SAFETY: the same contract.
    unsafe { cuMemcpy(dst, src, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(dst: Ptr, value: u8, count: usize) -> Status {
    call(|| checked(|memory| memory.fill(dst, &[value], count as u64)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(dst: Ptr, value: u8, count: usize, _stream: Stream) -> Status {
    cuMemsetD8_v2(dst, value, count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(dst: Ptr, value: u16, count: usize) -> Status {
    call(|| checked(|memory| memory.fill(dst, &value.to_le_bytes(), count as u64)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(dst: Ptr, value: u16, count: usize, _stream: Stream) -> Status {
    cuMemsetD16_v2(dst, value, count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(dst: Ptr, value: u32, count: usize) -> Status {
    call(|| checked(|memory| memory.fill(dst, &value.to_le_bytes(), count as u64)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(dst: Ptr, value: u32, count: usize, _stream: Stream) -> Status {
    cuMemsetD32_v2(dst, value, count)
}

/// Context, memory type and device of a pointer (attributes 1, 2 and 9); others are not supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(data: *mut c_void, attribute: c_uint, at: Ptr) -> Status {
    call(|| {
        let device = driver()?.here()?;
        device.memory.check(at, 1).map_err(|_| Code::InvalidValue)?;
        match attribute {
            // SAFETY: the caller's pointer to what the attribute's type is.
            2 => unsafe { put(data.cast::<c_uint>(), 2) },
            // SAFETY: as above.
            9 => unsafe { put(data.cast::<c_int>(), driver()?.current()? as c_int) },
            _ => Err(Code::NotSupported),
        }
    })
}
