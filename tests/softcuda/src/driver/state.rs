//! The process's devices, and what the handles that programs hold stand for.

use super::codes::{Api, Code};
use super::report::Report;
use super::settings::{Planted, Settings};
use crate::{Fault, FaultKind, Kernel, Memory};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

pub struct Device {
    pub memory: Memory,
    /// The code that every call returns since a kernel failed; 0 for none.
    broken: AtomicU32,
}

impl Device {
    pub fn working(&self) -> Api<&Device> {
        match self.broken.load(Ordering::Relaxed) {
            0 => Ok(self),
            code if code == Code::MisalignedAddress as u32 => Err(Code::MisalignedAddress),
            code if code == Code::IllegalInstruction as u32 => Err(Code::IllegalInstruction),
            code if code == Code::LaunchFailed as u32 => Err(Code::LaunchFailed),
            code if code == Code::LaunchTimeout as u32 => Err(Code::LaunchTimeout),
            _ => Err(Code::IllegalAddress),
        }
    }
}

/// A function of a loaded module.
pub struct Function {
    pub kernel: Arc<Kernel>,
    /// Bytes of dynamic shared memory that `cuFuncSetAttribute` allowed.
    pub dynamic_shared: AtomicU32,
}

pub struct Module {
    pub functions: BTreeMap<String, (u64, Arc<Function>)>,
    pub globals: BTreeMap<String, (u64, u64)>,
}

/// What a handle stands for.
#[derive(Clone)]
pub enum Object {
    /// Of the device with this number.
    Context(usize),
    Stream,
    Event(Arc<Mutex<Option<Instant>>>),
    Module(Arc<Module>),
    Function(Arc<Function>),
    /// Pinned host memory: its layout.
    Host(std::alloc::Layout),
}

pub struct Driver {
    pub settings: Settings,
    pub devices: Vec<Device>,
    pub report: Report,
    objects: Mutex<BTreeMap<u64, Object>>,
    next: AtomicU64,
    /// For each device: handle and uses of its primary context.
    primary: Mutex<BTreeMap<usize, (u64, usize)>>,
    launches: Mutex<BTreeMap<String, u64>>,
}

static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();

thread_local! {
    /// Contexts of this thread, the current one last.
    static CURRENT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Starts the driver; says what is wrong with the settings on standard error.
pub fn init() -> Api<&'static Driver> {
    let driver = DRIVER.get_or_init(|| {
        let settings = Settings::from_env();
        let settings = settings.inspect_err(|problem| eprintln!("softcuda: {problem}")).ok()?;
        let report = Report::open(&settings);
        let report = report.inspect_err(|problem| eprintln!("softcuda: {problem}")).ok()?;
        let device = |_| Device { memory: Memory::new(settings.memory), broken: AtomicU32::new(0) };
        // SAFETY: a plain function without arguments, which reads what lives as long as the process.
        unsafe { libc::atexit(at_exit) };
        Some(Driver {
            devices: (0..settings.devices).map(device).collect(),
            settings,
            report,
            objects: Mutex::default(),
            next: AtomicU64::new(0x5C00_0000_0010),
            primary: Mutex::default(),
            launches: Mutex::default(),
        })
    });
    let driver = driver.as_ref().ok_or(Code::InvalidValue)?;
    if driver.devices.is_empty() { Err(Code::NoDevice) } else { Ok(driver) }
}

/// The driver after `cuInit`.
pub fn driver() -> Api<&'static Driver> {
    DRIVER.get().and_then(Option::as_ref).ok_or(Code::NotInitialised)
}

extern "C" fn at_exit() {
    if let Ok(driver) = driver() {
        let leaks = driver.devices.iter().flat_map(|d| d.memory.live()).collect::<Vec<_>>();
        driver.report.close(&leaks);
    }
}

impl Driver {
    pub fn add(&self, object: Object) -> *mut c_void {
        let handle = self.next.fetch_add(16, Ordering::Relaxed);
        self.objects.lock().unwrap().insert(handle, object);
        handle as *mut c_void
    }

    /// Host memory's handle is its address.
    pub fn add_host(&self, at: *mut c_void, layout: std::alloc::Layout) {
        self.objects.lock().unwrap().insert(at as u64, Object::Host(layout));
    }

    pub fn get(&self, handle: *mut c_void) -> Api<Object> {
        self.objects.lock().unwrap().get(&(handle as u64)).cloned().ok_or(Code::InvalidHandle)
    }

    pub fn remove(&self, handle: *mut c_void) -> Api<Object> {
        self.objects.lock().unwrap().remove(&(handle as u64)).ok_or(Code::InvalidHandle)
    }

    pub fn device(&self, number: i32) -> Api<&Device> {
        usize::try_from(number).ok().and_then(|n| self.devices.get(n)).ok_or(Code::InvalidDevice)
    }

    pub fn retain(&self, number: i32) -> Api<*mut c_void> {
        self.device(number)?;
        let mut primary = self.primary.lock().unwrap();
        let slot = primary
            .entry(number as usize)
            .or_insert_with(|| (self.add(Object::Context(number as usize)) as u64, 0));
        slot.1 += 1;
        Ok(slot.0 as *mut c_void)
    }

    /// The last release ends the primary context; allocations that live on are leaks.
    pub fn release(&self, number: i32) -> Api<()> {
        let mut primary = self.primary.lock().unwrap();
        let slot = primary.get_mut(&(number as usize)).ok_or(Code::InvalidContext)?;
        slot.1 -= 1;
        if slot.1 == 0 {
            let handle = slot.0;
            primary.remove(&(number as usize));
            self.remove(handle as *mut c_void)?;
        }
        Ok(())
    }

    pub fn primary_is_active(&self, number: i32) -> bool {
        self.primary.lock().unwrap().contains_key(&(number as usize))
    }

    /// The number of the current context's device.
    pub fn current(&self) -> Api<usize> {
        let handle = current().ok_or(Code::InvalidContext)?;
        match self.get(handle) {
            Ok(Object::Context(device)) => Ok(device),
            _ => Err(Code::InvalidContext),
        }
    }

    /// The current context's device, unless one of its kernels failed.
    pub fn here(&self) -> Api<&Device> {
        self.devices[self.current()?].working()
    }

    /// Whether the settings want this launch to fail.
    pub fn planted(&self, kernel: &str) -> bool {
        let Some(Planted::Kernel(name, n)) = &self.settings.planted else { return false };
        if name != kernel {
            return false;
        }
        let mut launches = self.launches.lock().unwrap();
        let count = launches.entry(kernel.into()).or_default();
        *count += 1;
        *count == *n
    }

    /// Keeps a finding: it is printed, reported, and the device fails from now on.
    pub fn found(&self, device: &Device, fault: &Fault) {
        eprintln!("softcuda: {:?}: {fault}", fault.kind);
        self.report.finding(fault);
        let code = match fault.kind {
            FaultKind::Misaligned => Code::MisalignedAddress,
            FaultKind::UnknownInstruction => Code::IllegalInstruction,
            FaultKind::TooLong => Code::LaunchTimeout,
            FaultKind::OutOfBounds | FaultKind::UseAfterFree => Code::IllegalAddress,
            _ => Code::LaunchFailed,
        };
        device.broken.store(code as u32, Ordering::Relaxed);
    }
}

pub fn current() -> Option<*mut c_void> {
    CURRENT.with_borrow(|stack| stack.last().map(|handle| *handle as *mut c_void))
}

pub fn push(context: *mut c_void) {
    CURRENT.with_borrow_mut(|stack| stack.push(context as u64));
}

pub fn pop() -> Option<*mut c_void> {
    CURRENT.with_borrow_mut(|stack| stack.pop().map(|handle| handle as *mut c_void))
}
