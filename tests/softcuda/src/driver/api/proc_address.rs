//! `cuGetProcAddress`: functions by name, as programs look them up that do not link.

use super::{Status, call, context::*, device::*, event::*, launch::*, memory::*, module::*, put, stream::*};
use crate::driver::codes::Code;
use std::ffi::{CStr, c_char, c_int, c_void};

/// Each exported function under the name that cuda.h gives it without a version, and under its full name.
macro_rules! table {
    ($($name:literal => $function:ident),* $(,)?) => {
        fn find(name: &str) -> Option<*mut c_void> {
            match name {
                $($name => Some($function as *mut c_void),)*
                _ => None,
            }
        }
    };
}

table! {
    "cuInit" => cuInit, "cuDriverGetVersion" => cuDriverGetVersion, "cuGetErrorName" => cuGetErrorName,
    "cuGetErrorString" => cuGetErrorString, "cuDeviceGetCount" => cuDeviceGetCount, "cuDeviceGet" => cuDeviceGet,
    "cuDeviceGetName" => cuDeviceGetName, "cuDeviceGetUuid" => cuDeviceGetUuid_v2,
    "cuDeviceTotalMem" => cuDeviceTotalMem_v2, "cuDeviceGetAttribute" => cuDeviceGetAttribute,
    "cuDevicePrimaryCtxRetain" => cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRelease" => cuDevicePrimaryCtxRelease_v2,
    "cuDevicePrimaryCtxSetFlags" => cuDevicePrimaryCtxSetFlags_v2,
    "cuDevicePrimaryCtxGetState" => cuDevicePrimaryCtxGetState, "cuCtxCreate" => cuCtxCreate_v4,
    "cuCtxDestroy" => cuCtxDestroy_v2, "cuCtxSetCurrent" => cuCtxSetCurrent, "cuCtxGetCurrent" => cuCtxGetCurrent,
    "cuCtxPushCurrent" => cuCtxPushCurrent_v2, "cuCtxPopCurrent" => cuCtxPopCurrent_v2,
    "cuCtxGetDevice" => cuCtxGetDevice, "cuCtxGetApiVersion" => cuCtxGetApiVersion,
    "cuCtxSynchronize" => cuCtxSynchronize, "cuMemAlloc" => cuMemAlloc_v2, "cuMemAllocAsync" => cuMemAllocAsync,
    "cuMemFree" => cuMemFree_v2, "cuMemFreeAsync" => cuMemFreeAsync, "cuMemGetInfo" => cuMemGetInfo_v2,
    "cuMemHostAlloc" => cuMemHostAlloc, "cuMemAllocHost" => cuMemAllocHost_v2, "cuMemFreeHost" => cuMemFreeHost,
    "cuMemcpy" => cuMemcpy, "cuMemcpyAsync" => cuMemcpyAsync, "cuMemcpyHtoD" => cuMemcpyHtoD_v2,
    "cuMemcpyHtoDAsync" => cuMemcpyHtoDAsync_v2, "cuMemcpyDtoH" => cuMemcpyDtoH_v2,
    "cuMemcpyDtoHAsync" => cuMemcpyDtoHAsync_v2, "cuMemcpyDtoD" => cuMemcpyDtoD_v2,
    "cuMemcpyDtoDAsync" => cuMemcpyDtoDAsync_v2, "cuMemsetD8" => cuMemsetD8_v2, "cuMemsetD8Async" => cuMemsetD8Async,
    "cuMemsetD16" => cuMemsetD16_v2, "cuMemsetD16Async" => cuMemsetD16Async, "cuMemsetD32" => cuMemsetD32_v2,
    "cuMemsetD32Async" => cuMemsetD32Async, "cuPointerGetAttribute" => cuPointerGetAttribute,
    "cuModuleLoad" => cuModuleLoad, "cuModuleLoadData" => cuModuleLoadData, "cuModuleLoadDataEx" => cuModuleLoadDataEx,
    "cuModuleLoadFatBinary" => cuModuleLoadFatBinary, "cuModuleUnload" => cuModuleUnload,
    "cuModuleGetFunction" => cuModuleGetFunction, "cuModuleGetGlobal" => cuModuleGetGlobal_v2,
    "cuLibraryLoadData" => cuLibraryLoadData, "cuLibraryUnload" => cuLibraryUnload,
    "cuLibraryGetKernel" => cuLibraryGetKernel, "cuKernelGetFunction" => cuKernelGetFunction,
    "cuFuncGetAttribute" => cuFuncGetAttribute, "cuFuncSetAttribute" => cuFuncSetAttribute,
    "cuOccupancyMaxActiveBlocksPerMultiprocessor" => cuOccupancyMaxActiveBlocksPerMultiprocessor,
    "cuStreamCreate" => cuStreamCreate, "cuStreamCreateWithPriority" => cuStreamCreateWithPriority,
    "cuStreamDestroy" => cuStreamDestroy_v2, "cuStreamSynchronize" => cuStreamSynchronize,
    "cuStreamQuery" => cuStreamQuery, "cuStreamWaitEvent" => cuStreamWaitEvent, "cuEventCreate" => cuEventCreate,
    "cuEventRecord" => cuEventRecord, "cuEventSynchronize" => cuEventSynchronize, "cuEventQuery" => cuEventQuery,
    "cuEventElapsedTime" => cuEventElapsedTime_v2, "cuEventDestroy" => cuEventDestroy_v2,
    "cuLaunchKernel" => cuLaunchKernel, "cuLaunchKernelEx" => cuLaunchKernelEx,
    "cuLaunchCooperativeKernel" => cuLaunchCooperativeKernel, "cuGetProcAddress" => cuGetProcAddress_v2,
}

/// `found` says whether there was one; a name that is not known is an error besides.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    name: *const c_char, address: *mut *mut c_void, _version: c_int, _flags: u64, found: *mut c_int,
) -> Status {
    const SYMBOL_NOT_FOUND: c_int = 1;
    call(|| {
        if name.is_null() {
            return Err(Code::InvalidValue);
        }
        // SAFETY: the caller's text that ends in NUL.
        let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap_or("");
        let function = find(name);
        // SAFETY: null, or the caller's pointers.
        unsafe {
            if !found.is_null() {
                put(found, if function.is_some() { 0 } else { SYMBOL_NOT_FOUND })?;
            }
            put(address, function.unwrap_or(std::ptr::null_mut()))?;
        }
        function.map(|_| ()).ok_or(Code::NotFound)
    })
}
