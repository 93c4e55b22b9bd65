//! What devices there are, and whether they can be used, without opening one.

use super::super::NO_KERNELS;
use super::super::images::{self, IMAGES};
use super::{refuse, said};
use crate::error::Result;
use cudarc::driver::sys::{self, CUresult};
use std::ffi::CStr;

/// The oldest driver that knows the images: CUDA 13.0.
const DRIVER_VERSION: i32 = 13000;

/// What a device says about itself.
#[derive(Clone, Debug)]
pub struct Description {
    pub ordinal: usize,
    pub name: String,
    pub capability: (u32, u32),
    pub total_bytes: usize,
    /// Shared memory that a block may have when it is asked for.
    pub shared_bytes: usize,
    /// 13000 for CUDA 13.0.
    pub driver_version: i32,
    /// What the driver would load of this build's images; None where there is none for this device.
    pub image: Option<&'static str>,
}

impl Description {
    /// An error for a device that this build has no kernels for.
    pub(super) fn with_image(self) -> Result<Description> {
        if self.image.is_some() {
            return Ok(self);
        }
        let (major, minor) = self.capability;
        if major < 8 {
            let problem =
                format!("a GPU of sm_{major}{minor}, and the kernels need sm_80 or newer; use --device cpu");
            return Err(refuse(self.ordinal, problem));
        }
        let problem = format!(
            "no kernels for this GPU's sm_{major}{minor} in this build (it has {}); \
             POSE_CUDA_ARCHS=sm_{major}{minor} cargo build --release makes them",
            images::architectures()
        );
        Err(refuse(self.ordinal, problem))
    }
}

/// Loads and starts the driver; says why it cannot be used.
fn start(ordinal: usize) -> Result<i32> {
    if IMAGES.is_empty() {
        return Err(refuse(ordinal, NO_KERNELS));
    }
    // SAFETY: tries to load the library, nothing more.
    if !unsafe { sys::is_culib_present() } {
        return Err(refuse(
            ordinal,
            "there is no NVIDIA driver here (libcuda.so.1 cannot be loaded); use --device cpu",
        ));
    }
    let mut version = 0;
    // SAFETY: a pointer to a number.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    if asked == CUresult::CUDA_SUCCESS && version < DRIVER_VERSION {
        let text = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
        let problem = format!(
            "the NVIDIA driver is for CUDA {}, these kernels need one for {} or newer",
            text(version),
            text(DRIVER_VERSION)
        );
        return Err(refuse(ordinal, problem));
    }
    // SAFETY: no pointers.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => Ok(version),
        CUresult::CUDA_ERROR_NO_DEVICE => Err(refuse(ordinal, "the driver finds no GPU")),
        code => Err(refuse(ordinal, format!("the NVIDIA driver does not start: {}", said(code)))),
    }
}

/// Why `cuda:0`, which is there, cannot be used; None where it can, or where there is no GPU at all, or no kernels for any.
pub fn passed_over() -> Option<String> {
    // SAFETY: tries to load the library, nothing more.
    if IMAGES.is_empty() || !unsafe { sys::is_culib_present() } {
        return None;
    }
    // SAFETY: no pointers.
    if unsafe { sys::cuInit(0) } == CUresult::CUDA_ERROR_NO_DEVICE {
        return None;
    }
    describe(0).and_then(|found| found.with_image().map(drop)).err().map(|error| error.to_string())
}

/// How many devices there are; an error that says why none can be used.
pub fn count() -> Result<usize> {
    start(0)?;
    let mut count = 0;
    // SAFETY: a pointer to a number.
    match unsafe { sys::cuDeviceGetCount(&mut count) } {
        CUresult::CUDA_SUCCESS => Ok(count as usize),
        code => Err(refuse(0, said(code))),
    }
}

/// What a device is, without opening it.
pub fn describe(ordinal: usize) -> Result<Description> {
    let driver_version = start(ordinal)?;
    let found = count()?;
    if ordinal >= found {
        let plural = if found == 1 { "" } else { "s" };
        return Err(refuse(
            ordinal,
            format!("there is no such device: the driver finds {found} GPU{plural}"),
        ));
    }
    let done = |code: CUresult| match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(refuse(ordinal, said(code))),
    };
    let (mut device, mut name, mut total_bytes, mut capability) = (0, [0u8; 128], 0, [0; 2]);
    let mut shared_bytes = 0;
    // SAFETY: pointers to numbers, and to text of the given length that the driver ends with NUL.
    unsafe {
        done(sys::cuDeviceGet(&mut device, ordinal as i32))?;
        done(sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device))?;
        done(sys::cuDeviceTotalMem_v2(&mut total_bytes, device))?;
        use sys::CUdevice_attribute_enum::*;
        let (major, minor) =
            (CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        done(sys::cuDeviceGetAttribute(&mut capability[0], major, device))?;
        done(sys::cuDeviceGetAttribute(&mut capability[1], minor, device))?;
        let shared = CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        done(sys::cuDeviceGetAttribute(&mut shared_bytes, shared, device))?;
    }
    let name = CStr::from_bytes_until_nul(&name).map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let capability = (capability[0] as u32, capability[1] as u32);
    let archs = IMAGES.first().map_or(&[][..], |image| image.archs);
    let image = images::image_for(archs, capability.0, capability.1);
    let shared_bytes = usize::try_from(shared_bytes).unwrap_or(0);
    Ok(Description { ordinal, name, capability, total_bytes, shared_bytes, driver_version, image })
}
