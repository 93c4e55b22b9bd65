//! Launches.

use super::stream::known;
use super::{Status, call};
use crate::driver::codes::{Api, Code};
use crate::driver::state::{Object, driver};
use crate::{Fault, FaultKind, Kernel, Launch, Options};
use std::ffi::{c_uint, c_void};
use std::sync::atomic::Ordering;

/// Bytes of a block's shared memory, static and dynamic, without `cuFuncSetAttribute`.
pub const FREE_SHARED: u32 = 48 << 10;

/// And with it, on a device of this compute capability (CUDA C++ programming guide, "Technical specifications per compute capability").
pub fn most_shared(capability: (u32, u32)) -> u32 {
    match capability {
        (8, 6 | 9) | (12, _) => 99 << 10,
        (8, _) => 163 << 10,
        (7, 5) => 64 << 10,
        (7, _) => 96 << 10,
        _ => 227 << 10,
    }
}

/// The parameter block, from one pointer for each parameter or from a ready buffer (`extra`).
unsafe fn parameters(kernel: &Kernel, params: *mut *mut c_void, extra: *mut *mut c_void) -> Api<Vec<u8>> {
    let mut block = vec![0u8; kernel.param_bytes as usize];
    if !params.is_null() {
        for (i, p) in kernel.params.iter().enumerate() {
            // SAFETY: the caller gives a pointer to each of the kernel's parameters.
            let from = unsafe { params.add(i).read() };
            if from.is_null() {
                return Err(Code::InvalidValue);
            }
            let to = &mut block[p.offset as usize..][..p.size as usize];
            // SAFETY: a parameter has the size that its kernel declares.
            unsafe { std::ptr::copy_nonoverlapping(from.cast(), to.as_mut_ptr(), to.len()) };
        }
    } else if !extra.is_null() {
        let (mut buffer, mut bytes) = (std::ptr::null::<u8>(), 0usize);
        let mut at = extra;
        // SAFETY: pairs of key and value, ended by a null key.
        unsafe {
            while !at.read().is_null() {
                match at.read() as usize {
                    1 => buffer = at.add(1).read().cast(),
                    2 => bytes = at.add(1).read().cast::<usize>().read(),
                    _ => return Err(Code::InvalidValue),
                }
                at = at.add(2);
            }
        }
        if bytes > block.len() || (buffer.is_null() && bytes > 0) {
            return Err(Code::InvalidValue);
        }
        // SAFETY: the caller's buffer of `bytes` bytes.
        unsafe { std::ptr::copy_nonoverlapping(buffer, block.as_mut_ptr(), bytes) };
    } else if !kernel.params.is_empty() {
        return Err(Code::InvalidValue);
    }
    Ok(block)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
    block_z: c_uint, dynamic_shared: c_uint, stream: *mut c_void, params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Status {
    call(|| {
        let driver = driver()?;
        known(stream)?;
        let device = driver.here()?;
        let Object::Function(function) = driver.get(function)? else { return Err(Code::InvalidHandle) };
        let kernel = &function.kernel;
        let free = FREE_SHARED.saturating_sub(kernel.static_shared);
        let allowed = function.dynamic_shared.load(Ordering::Relaxed).max(free);
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let threads: u64 = block.iter().map(|n| u64::from(*n)).product();
        let too_wide = grid_y > 65535 || grid_z > 65535 || block_z > 64;
        if dynamic_shared > allowed || threads == 0 || threads > 1024 || grid.contains(&0) || too_wide {
            return Err(Code::InvalidValue);
        }
        // SAFETY: the caller's parameters for this function.
        let params = unsafe { parameters(kernel, params, extra) }?;
        let launch = Launch { kernel, grid, block, dynamic_shared, params: &params };
        let options = Options {
            checks: driver.settings.checks,
            threads: driver.settings.threads,
            count: driver.report.wanted(),
            max_instructions: None,
        };
        let run = if driver.planted(&kernel.name) {
            Err(Fault::new(FaultKind::OutOfBounds, format!("kernel {}: a planted fault", kernel.name)))
        } else {
            crate::launch(&device.memory, &launch, &options)
        };
        match run {
            Ok(counters) => driver.report.launch(&launch, &counters),
            Err(fault) => driver.found(device, &fault),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    _function: *mut c_void, _gx: c_uint, _gy: c_uint, _gz: c_uint, _bx: c_uint, _by: c_uint, _bz: c_uint,
    _shared: c_uint, _stream: *mut c_void, _params: *mut *mut c_void,
) -> Status {
    Code::NotSupported as u32
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: *mut c_void,
    attributes: *mut c_void,
    attribute_count: c_uint,
}

/// Without attributes (clusters and the like).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig, function: *mut c_void, params: *mut *mut c_void, extra: *mut *mut c_void,
) -> Status {
    if config.is_null() {
        return Code::InvalidValue as u32;
    }
    // SAFETY: the caller's configuration.
    let c = unsafe { &*config };
    if c.attribute_count > 0 && !c.attributes.is_null() {
        return Code::NotSupported as u32;
    }
    let ([gx, gy, gz], [bx, by, bz]) = (c.grid, c.block);
    // SAFETY: the same contract.
    unsafe { cuLaunchKernel(function, gx, gy, gz, bx, by, bz, c.dynamic_shared, c.stream, params, extra) }
}
