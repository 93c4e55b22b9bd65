//! Modules, libraries (the same thing without a context) and functions.

use super::{Status, call, put};
use crate::driver::codes::{Api, Code};
use crate::driver::fatbin::ptx_of_image;
use crate::driver::settings::Planted;
use crate::driver::state::{Function, Module, Object, driver};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

type Handle = *mut c_void;

/// The PTX for the newest architecture that the device can run, put into its memory.
unsafe fn load(image: *const c_void) -> Api<Handle> {
    let driver = driver()?;
    let memory = &driver.here()?.memory;
    if driver.settings.planted == Some(Planted::Image) {
        return Err(Code::InvalidImage);
    }
    // SAFETY: the caller's image.
    let found = unsafe { ptx_of_image(image) }?;
    let (major, minor) = driver.settings.capability;
    let best = found.into_iter().filter(|ptx| ptx.arch <= 10 * major + minor).max_by_key(|ptx| ptx.arch);
    let text = best.ok_or(Code::NoBinary)?.text;
    let module = crate::Module::load(&text, memory).map_err(|e| {
        eprintln!("softcuda: {e}");
        Code::InvalidPtx
    })?;
    let function = |kernel| {
        let function = Arc::new(Function { kernel, dynamic_shared: AtomicU32::new(0) });
        (driver.add(Object::Function(function.clone())) as u64, function)
    };
    let functions = module.kernels.into_iter().map(|(name, kernel)| (name, function(kernel))).collect();
    Ok(driver.add(Object::Module(Arc::new(Module { functions, globals: module.globals }))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> Status {
    // SAFETY: the caller's pointers.
    call(|| unsafe { put(module, load(image)?) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle, image: *const c_void, _count: c_uint, _options: *mut c_int,
    _values: *mut *mut c_void,
) -> Status {
    // SAFETY: the same contract.
    unsafe { cuModuleLoadData(module, image) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadFatBinary(module: *mut Handle, image: *const c_void) -> Status {
    // SAFETY: the same contract.
    unsafe { cuModuleLoadData(module, image) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: *mut Handle, path: *const c_char) -> Status {
    call(|| {
        if path.is_null() {
            return Err(Code::InvalidValue);
        }
        // SAFETY: text that ends in NUL.
        let path = unsafe { CStr::from_ptr(path) }.to_str().map_err(|_| Code::FileNotFound)?;
        let mut image = std::fs::read(path).map_err(|_| Code::FileNotFound)?;
        image.extend([0; 4]);
        // SAFETY: an image that ends in NUL, and the caller's pointer.
        unsafe { put(module, load(image.as_ptr().cast())?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryLoadData(
    library: *mut Handle, image: *const c_void, _jit: *mut c_int, _jit_values: *mut *mut c_void,
    _jit_count: c_uint, _options: *mut c_int, _values: *mut *mut c_void, _count: c_uint,
) -> Status {
    // SAFETY: the same contract.
    unsafe { cuModuleLoadData(library, image) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> Status {
    call(|| {
        let driver = driver()?;
        let Object::Module(module) = driver.remove(module)? else { return Err(Code::InvalidHandle) };
        for (handle, _) in module.functions.values() {
            driver.remove(*handle as Handle)?;
        }
        let memory = &driver.devices[driver.current()?].memory;
        for (at, _) in module.globals.values() {
            memory.free(*at).map_err(|_| Code::InvalidHandle)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryUnload(library: Handle) -> Status {
    cuModuleUnload(library)
}

unsafe fn named<'a>(module: Handle, name: *const c_char) -> Api<(Arc<Module>, &'a str)> {
    let Object::Module(module) = driver()?.get(module)? else { return Err(Code::InvalidHandle) };
    if name.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: the caller's text that ends in NUL.
    Ok((module, unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Code::NotFound)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut Handle, module: Handle, name: *const c_char,
) -> Status {
    call(|| {
        // SAFETY: the caller's text.
        let (module, name) = unsafe { named(module, name) }?;
        if driver()?.settings.planted == Some(Planted::Function(name.into())) {
            return Err(Code::NotFound);
        }
        let (handle, _) = module.functions.get(name).ok_or(Code::NotFound)?;
        // SAFETY: the caller's pointer.
        unsafe { put(function, *handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernel(
    kernel: *mut Handle, library: Handle, name: *const c_char,
) -> Status {
    // SAFETY: the same contract.
    unsafe { cuModuleGetFunction(kernel, library, name) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetFunction(function: *mut Handle, kernel: Handle) -> Status {
    // SAFETY: the caller's pointer.
    call(|| unsafe { put(function, kernel) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    at: *mut u64, bytes: *mut usize, module: Handle, name: *const c_char,
) -> Status {
    call(|| {
        // SAFETY: the caller's text.
        let (module, name) = unsafe { named(module, name) }?;
        let (found, len) = *module.globals.get(name).ok_or(Code::NotFound)?;
        // SAFETY: null, or the caller's pointers.
        unsafe {
            if !at.is_null() {
                put(at, found)?;
            }
            if bytes.is_null() { Ok(()) } else { put(bytes, len as usize) }
        }
    })
}

fn function(handle: Handle) -> Api<Arc<Function>> {
    match driver()?.get(handle)? {
        Object::Function(function) => Ok(function),
        _ => Err(Code::InvalidHandle),
    }
}

/// Registers are PTX's virtual ones: no allocation is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, handle: Handle) -> Status {
    call(|| {
        let function = function(handle)?;
        let kernel = &function.kernel;
        let found = match attribute {
            0 => kernel.max_threads,
            1 => kernel.static_shared,
            3 => kernel.local_bytes,
            4 => kernel.registers,
            5 | 6 => 80,
            8 => {
                let free = super::launch::FREE_SHARED.saturating_sub(kernel.static_shared);
                function.dynamic_shared.load(Ordering::Relaxed).max(free)
            }
            _ => 0,
        };
        // SAFETY: the caller's pointer.
        unsafe { put(value, found as c_int) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(handle: Handle, attribute: c_uint, value: c_int) -> Status {
    const MAX_DYNAMIC_SHARED: c_uint = 8;
    call(|| {
        let function = function(handle)?;
        if attribute == MAX_DYNAMIC_SHARED {
            let value = u32::try_from(value).map_err(|_| Code::InvalidValue)?;
            let most = super::launch::most_shared(driver()?.settings.capability);
            if value.saturating_add(function.kernel.static_shared) > most {
                return Err(Code::InvalidValue);
            }
            function.dynamic_shared.store(value, Ordering::Relaxed);
        }
        Ok(())
    })
}

/// By threads and shared memory alone; registers are not known here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int, handle: Handle, threads: c_int, dynamic_shared: usize,
) -> Status {
    call(|| {
        let function = function(handle)?;
        let threads = u32::try_from(threads).ok().filter(|n| *n > 0).ok_or(Code::InvalidValue)?;
        let shared = function.kernel.static_shared as usize + dynamic_shared + 1024;
        let found = (2048 / threads as usize).min((164 << 10) / shared).min(32);
        // SAFETY: the caller's pointer.
        unsafe { put(blocks, found as c_int) }
    })
}
