//! An opened device: its kernels, its memory, copies, launches.
//!
//! One stream in order. Launches and uploads return before they are done; a download waits. What a kernel did wrong is told
//! by a later call; [`Gpu::explain`] names the kernel that ran last before it. `POSE_CUDA_SYNC=1` waits for every kernel.

use super::super::images::IMAGES;
use super::devices::{Description, describe};
use super::{refuse, said};
use crate::error::{Error, Result};
use crate::memory::bytes_text;
use cudarc::driver::sys::{self, CUresult};
use std::collections::HashMap;
use std::ffi::{CString, c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes of one of the two halves of the pinned staging memory.
const STAGE: usize = 4 << 20;
/// Shared memory that a block may have without asking, static and dynamic.
const FREE_SHARED: usize = 48 << 10;

/// A kernel's function.
pub struct Kernel {
    pub name: String,
    function: sys::CUfunction,
    /// Bytes of shared memory that it has whatever a launch asks for, and the most dynamic ones that it may have by now.
    static_shared: usize,
    dynamic_shared: AtomicUsize,
}

/// One argument of a kernel: at most 32 bytes, by value.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Arg([u8; 32]);

impl Arg {
    pub fn bytes(value: &[u8]) -> Arg {
        let mut word = [0; 32];
        word[..value.len()].copy_from_slice(value);
        Arg(word)
    }
    pub fn float(x: f64) -> Arg {
        Arg::bytes(&(x as f32).to_le_bytes())
    }
    pub fn int(x: i32) -> Arg {
        Arg::bytes(&x.to_le_bytes())
    }
    pub fn long(x: i64) -> Arg {
        Arg::bytes(&x.to_le_bytes())
    }
    pub fn ptr(at: u64) -> Arg {
        Arg::bytes(&at.to_le_bytes())
    }
    pub const NULL: Arg = Arg([0; 32]);
}

/// Blocks, threads of a block, bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub blocks: [usize; 3],
    pub threads: usize,
    pub shared: usize,
}

struct Stage {
    halves: [*mut c_void; 2],
    events: [sys::CUevent; 2],
    next: usize,
}

/// An opened device with all kernels loaded.
pub struct Gpu {
    pub about: Description,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    kernels: HashMap<String, Kernel>,
    stage: Mutex<Stage>,
    last: Mutex<String>,
    wait_for_each: bool,
}

// SAFETY: the driver's handles may be used from any thread; each call binds the context to its thread first.
unsafe impl Send for Gpu {}
// SAFETY: as above; what changes is behind mutexes and atomics.
unsafe impl Sync for Gpu {}

/// Whether a call failed because an earlier kernel did.
fn from_a_kernel(code: CUresult) -> bool {
    use sys::cudaError_enum::*;
    matches!(
        code,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
    )
}
impl Gpu {
    /// Opens the device and loads every kernel of `names`.
    pub fn open(ordinal: usize, names: &[String]) -> Result<Arc<Gpu>> {
        let about = describe(ordinal)?.with_image()?;
        let mut context = std::ptr::null_mut();
        // SAFETY: a pointer to a handle.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, ordinal as i32) };
        if code != CUresult::CUDA_SUCCESS {
            return Err(refuse(ordinal, format!("cannot be opened: {}", said(code))));
        }
        // from here on Drop gives everything back
        let stage = Stage { halves: [std::ptr::null_mut(); 2], events: [std::ptr::null_mut(); 2], next: 0 };
        let mut gpu = Gpu {
            about,
            context,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            kernels: HashMap::new(),
            stage: Mutex::new(stage),
            last: Mutex::new(String::new()),
            wait_for_each: std::env::var_os("POSE_CUDA_SYNC").is_some_and(|v| v == "1"),
        };
        gpu.prepare()?;
        gpu.load(names)?;
        Ok(Arc::new(gpu))
    }

    fn prepare(&mut self) -> Result<()> {
        self.bind()?;
        let non_blocking = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as c_uint;
        let no_timing = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as c_uint;
        // SAFETY: a pointer to a handle.
        let opened = unsafe { sys::cuStreamCreate(&mut self.stream, non_blocking) };
        self.done("opening a stream", opened)?;
        for half in 0..2 {
            let mut stage = self.stage.lock().unwrap_or_else(|e| e.into_inner());
            // SAFETY: pointers to handles.
            let (memory, event) = unsafe {
                let memory = sys::cuMemHostAlloc(&mut stage.halves[half], STAGE, 0);
                (memory, sys::cuEventCreate(&mut stage.events[half], no_timing))
            };
            drop(stage);
            self.done("pinning host memory", memory)?;
            self.done("making an event", event)?;
        }
        Ok(())
    }

    fn load(&mut self, names: &[String]) -> Result<()> {
        for image in IMAGES {
            let mut module = std::ptr::null_mut();
            // SAFETY: a whole fat binary as nvcc wrote it.
            let code = unsafe { sys::cuModuleLoadData(&mut module, image.bytes.as_ptr().cast()) };
            if code != CUresult::CUDA_SUCCESS {
                let problem = format!("the kernel image {} cannot be loaded: {}", image.name, said(code));
                return Err(refuse(self.about.ordinal, problem));
            }
            self.modules.push(module);
        }
        for name in names {
            let found = self.modules.iter().find_map(|module| self.function(*module, name));
            let Some(function) = found else {
                let problem = format!("the kernel {name} is missing from this build's images");
                return Err(refuse(self.about.ordinal, problem));
            };
            let static_shared = self.static_shared(function)?;
            let dynamic_shared = AtomicUsize::new(FREE_SHARED.saturating_sub(static_shared));
            let kernel = Kernel { name: name.clone(), function, static_shared, dynamic_shared };
            self.kernels.insert(name.clone(), kernel);
        }
        Ok(())
    }

    fn function(&self, module: sys::CUmodule, name: &str) -> Option<sys::CUfunction> {
        let name = CString::new(name).ok()?;
        let mut function = std::ptr::null_mut();
        // SAFETY: a loaded module and text that ends in NUL.
        let code = unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) };
        (code == CUresult::CUDA_SUCCESS).then_some(function)
    }

    fn static_shared(&self, function: sys::CUfunction) -> Result<usize> {
        let (mut bytes, attribute) = (0, sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
        // SAFETY: a pointer to a number, a loaded function.
        let code = unsafe { sys::cuFuncGetAttribute(&mut bytes, attribute, function) };
        self.done("asking for a kernel's shared memory", code).map(|()| usize::try_from(bytes).unwrap_or(0))
    }

    /// Makes the context that of the calling thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as self.
        match unsafe { sys::cuCtxSetCurrent(self.context) } {
            CUresult::CUDA_SUCCESS => Ok(()),
            code => Err(refuse(self.about.ordinal, said(code))),
        }
    }

    fn done(&self, doing: &str, code: CUresult) -> Result<()> {
        if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(self.explain(doing, code)) }
    }

    /// An error for a call that failed: of the kernel before it, or its own.
    fn explain(&self, doing: &str, code: CUresult) -> Error {
        let last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        let hint = if self.wait_for_each {
            ""
        } else {
            "; POSE_CUDA_SYNC=1 waits for each kernel and so names the one"
        };
        let problem = if from_a_kernel(code) && !last.is_empty() {
            format!("a kernel failed, {} or one before it: {}{hint}", last, said(code))
        } else {
            format!("{doing} failed: {}", said(code))
        };
        refuse(self.about.ordinal, problem)
    }

    pub fn kernel(&self, name: &str) -> Result<&Kernel> {
        self.kernels
            .get(name)
            .ok_or_else(|| refuse(self.about.ordinal, format!("the kernel {name} was not loaded")))
    }

    /// Bytes that are free, and that there are.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: pointers to numbers.
        self.done("asking for free memory", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((free, total))
    }

    /// `bytes` of zeros on a 256-byte boundary; 0 for none.
    pub fn alloc(&self, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Ok(0);
        }
        self.bind()?;
        let mut at = 0;
        // SAFETY: a pointer to an address.
        match unsafe { sys::cuMemAlloc_v2(&mut at, bytes) } {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = self.memory().unwrap_or((0, self.about.total_bytes));
                return Err(Error::DoesNotFit(format!(
                    "device cuda:{} has no room for a buffer of {}: {} of {} are free",
                    self.about.ordinal,
                    bytes_text(bytes),
                    bytes_text(free),
                    bytes_text(total)
                )));
            }
            code => return Err(self.explain("taking memory", code)),
        }
        self.zero(at, bytes).inspect_err(|_| self.free(at))?;
        Ok(at)
    }

    /// Frees what `alloc` gave. Errors cannot be told from a drop, and say nothing new.
    pub fn free(&self, at: u64) {
        if at != 0 && self.bind().is_ok() {
            // SAFETY: an allocation of this context that nobody uses any more; the driver waits for kernels that do.
            unsafe { _ = sys::cuMemFree_v2(at) };
        }
    }

    pub fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the callers' range lies in one allocation.
        self.done("clearing memory", unsafe { sys::cuMemsetD8Async(at, 0, bytes, self.stream) })
    }

    /// To the device, through pinned memory: returns once `src` may be changed.
    pub fn upload(&self, at: u64, src: &[u8]) -> Result<()> {
        self.bind()?;
        let mut stage = self.stage.lock().unwrap_or_else(|e| e.into_inner());
        for (i, part) in src.chunks(STAGE).enumerate() {
            let (half, event) = (stage.halves[stage.next], stage.events[stage.next]);
            stage.next ^= 1;
            // SAFETY: the event says that the half's last copy is done; the half has STAGE bytes; the range on the device
            // is the caller's, inside one allocation.
            unsafe {
                self.done("an upload", sys::cuEventSynchronize(event))?;
                std::ptr::copy_nonoverlapping(part.as_ptr(), half.cast::<u8>(), part.len());
                let to = at + (i * STAGE) as u64;
                self.done("an upload", sys::cuMemcpyHtoDAsync_v2(to, half, part.len(), self.stream))?;
                self.done("an upload", sys::cuEventRecord(event, self.stream))?;
            }
        }
        Ok(())
    }

    /// From the device; waits for all that was started before.
    pub fn download(&self, dst: &mut [u8], at: u64) -> Result<()> {
        self.bind()?;
        let stage = self.stage.lock().unwrap_or_else(|e| e.into_inner());
        for (i, part) in dst.chunks_mut(STAGE).enumerate() {
            let half = stage.halves[0];
            // SAFETY: uploads from this half are before this copy in the stream; the rest as in `upload`.
            unsafe {
                let from = at + (i * STAGE) as u64;
                self.done("a download", sys::cuMemcpyDtoHAsync_v2(half, from, part.len(), self.stream))?;
                self.done("a download", sys::cuStreamSynchronize(self.stream))?;
                std::ptr::copy_nonoverlapping(half.cast::<u8>(), part.as_mut_ptr(), part.len());
            }
        }
        Ok(())
    }

    pub fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the callers' ranges lie in one allocation each.
        self.done("a copy", unsafe { sys::cuMemcpyDtoDAsync_v2(dst, src, bytes, self.stream) })
    }

    /// Starts a kernel. The arguments must be those of its declaration in `cuda/`, and the buffers behind them as long as its
    /// contract says: the operations of this backend check that before.
    pub fn launch(&self, name: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        let [x, y, z] = grid.blocks;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        if x > i32::MAX as usize || y > 65535 || z > 65535 {
            let problem = format!("{name}: a grid of {x} x {y} x {z} blocks is more than a GPU takes");
            return Err(refuse(self.about.ordinal, problem));
        }
        let kernel = self.kernel(name)?;
        self.bind()?;
        self.allow_shared(kernel, grid.shared)?;
        let mut words = args.to_vec();
        let mut params: Vec<*mut c_void> =
            words.iter_mut().map(|arg| std::ptr::from_mut(arg).cast()).collect();
        // SAFETY: a loaded function, a pointer to each of its parameters (the contract of this function), a live stream.
        let code = unsafe {
            sys::cuLaunchKernel(
                kernel.function,
                x as c_uint,
                y as c_uint,
                z as c_uint,
                grid.threads as c_uint,
                1,
                1,
                grid.shared as c_uint,
                self.stream,
                params.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        let described = || format!("{name} with {x} x {y} x {z} blocks of {} threads", grid.threads);
        if code != CUresult::CUDA_SUCCESS {
            return Err(self.explain(&format!("the launch of {}", described()), code));
        }
        *self.last.lock().unwrap_or_else(|e| e.into_inner()) = described();
        if self.wait_for_each {
            self.synchronize()?;
        }
        Ok(())
    }

    fn allow_shared(&self, kernel: &Kernel, bytes: usize) -> Result<()> {
        if bytes <= kernel.dynamic_shared.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (all, most) = (bytes + kernel.static_shared, self.about.shared_bytes);
        if all > most {
            let problem = format!(
                "{} takes {all} bytes of shared memory for these sizes, and this GPU gives a block {most}",
                kernel.name
            );
            return Err(refuse(self.about.ordinal, problem));
        }
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: a loaded function.
        let code = unsafe {
            sys::cuFuncSetAttribute(kernel.function, attribute, i32::try_from(bytes).unwrap_or(i32::MAX))
        };
        self.done(&format!("{}: taking {bytes} bytes of shared memory", kernel.name), code)?;
        kernel.dynamic_shared.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Seconds between two events in the stream, one before and one after what `work` starts.
    pub fn seconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.bind()?;
        let flags = sys::CUevent_flags_enum::CU_EVENT_DEFAULT as c_uint;
        let (mut events, mut milliseconds) = ([std::ptr::null_mut(); 2], 0f32);
        let timed = events
            .iter_mut()
            // SAFETY: a pointer to a handle.
            .try_for_each(|event| self.done("making an event", unsafe { sys::cuEventCreate(event, flags) }))
            // SAFETY: an event that was just made, the live stream.
            .and_then(|()| self.done("an event", unsafe { sys::cuEventRecord(events[0], self.stream) }))
            .and_then(|()| work())
            // SAFETY: both events were made; the second is recorded and waited for before they are asked.
            .and_then(|()| unsafe {
                self.done("an event", sys::cuEventRecord(events[1], self.stream))?;
                self.done("waiting", sys::cuEventSynchronize(events[1]))?;
                self.done("an event", sys::cuEventElapsedTime_v2(&mut milliseconds, events[0], events[1]))
            });
        for event in events.into_iter().filter(|event| !event.is_null()) {
            // SAFETY: made above, given back once.
            unsafe { _ = sys::cuEventDestroy_v2(event) };
        }
        timed.map(|()| f64::from(milliseconds) / 1e3)
    }

    /// The stream that everything runs on.
    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Waits for all that was started.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: a live stream.
        self.done("waiting", unsafe { sys::cuStreamSynchronize(self.stream) })
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        let stage = self.stage.get_mut().unwrap_or_else(|e| e.into_inner());
        // SAFETY: handles of this context, each given back once; buffers hold an Arc of self, so none is left.
        unsafe {
            _ = sys::cuStreamSynchronize(self.stream);
            for half in 0..2 {
                if !stage.halves[half].is_null() {
                    _ = sys::cuMemFreeHost(stage.halves[half]);
                }
                if !stage.events[half].is_null() {
                    _ = sys::cuEventDestroy_v2(stage.events[half]);
                }
            }
            for module in &self.modules {
                _ = sys::cuModuleUnload(*module);
            }
            if !self.stream.is_null() {
                _ = sys::cuStreamDestroy_v2(self.stream);
            }
            _ = sys::cuDevicePrimaryCtxRelease_v2(self.about.ordinal as i32);
        }
    }
}
