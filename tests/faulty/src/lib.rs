//! A disk that fails on demand, for programs that are started with this library in LD_PRELOAD. On Linux.
//!
//! `FAULTY="CALL HOW AFTER PATH"`: the calls `write`, `read` or `fsync` on files whose path contains PATH go wrong after AFTER of
//! them went right. HOW is `eio` (the device failed), `enospc` (it is full), or `short`: only part of what was asked for is done.
//!
//! `FAULTY="clock back 0 -"`: the wall clock is a minute earlier each time it is asked for.

#![cfg(target_os = "linux")]

use libc::{c_char, c_int, c_void, size_t, ssize_t};
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Short,
    Error(c_int),
    Back,
}

struct Plan {
    call: String,
    how: How,
    after: u64,
    path: String,
    met: AtomicU64,
}

/// The plan of this process; None where there is none, or none that can be read.
fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let read = || {
        let text = std::env::var("FAULTY").ok()?;
        let mut words = text.splitn(4, ' ').map(String::from);
        let (call, how) = (words.next()?, words.next()?);
        let how = match how.as_str() {
            "short" => How::Short,
            "eio" => How::Error(libc::EIO),
            "enospc" => How::Error(libc::ENOSPC),
            "back" => How::Back,
            _ => return None,
        };
        Some(Plan {
            call,
            how,
            after: words.next()?.parse().ok()?,
            path: words.next()?,
            met: AtomicU64::new(0),
        })
    };
    PLAN.get_or_init(read).as_ref()
}

/// What is to go wrong with this call, if anything.
fn fault(call: &str, file: c_int) -> Option<How> {
    let plan = plan().filter(|plan| plan.call == call)?;
    let link = format!("/proc/self/fd/{file}\0");
    let mut path = [0u8; 4096];
    // SAFETY: the name ends in NUL, and the buffer is as long as it says.
    let length =
        unsafe { libc::readlink(link.as_ptr().cast::<c_char>(), path.as_mut_ptr().cast(), path.len() - 1) };
    let path = CStr::from_bytes_until_nul(&path[..=usize::try_from(length).ok()?]).ok()?.to_str().ok()?;
    let matches = path.contains(&plan.path);
    (matches && plan.met.fetch_add(1, Ordering::Relaxed) >= plan.after).then_some(plan.how)
}

fn fail(error: c_int) {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = error };
}

/// Does a call that moves bytes, all of it or a part, or fails.
fn moved(call: &str, file: c_int, count: size_t, real: impl FnOnce(size_t) -> ssize_t) -> ssize_t {
    match fault(call, file) {
        None | Some(How::Back) => real(count),
        Some(How::Short) => real(count.div_ceil(3)),
        Some(How::Error(error)) => {
            fail(error);
            -1
        }
    }
}

/// # Safety
/// As write(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(file: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: the caller's arguments, at most as many bytes.
    moved("write", file, count, |count| unsafe {
        libc::syscall(libc::SYS_write, file, bytes, count) as ssize_t
    })
}

/// # Safety
/// As read(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(file: c_int, bytes: *mut c_void, count: size_t) -> ssize_t {
    // SAFETY: the caller's arguments, at most as many bytes.
    moved("read", file, count, |count| unsafe {
        libc::syscall(libc::SYS_read, file, bytes, count) as ssize_t
    })
}

/// # Safety
/// As fsync(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(file: c_int) -> c_int {
    match fault("fsync", file) {
        Some(How::Error(error)) => {
            fail(error);
            -1
        }
        // SAFETY: the caller's argument.
        _ => unsafe { libc::syscall(libc::SYS_fsync, file) as c_int },
    }
}

/// # Safety
/// As clock_gettime(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, now: *mut libc::timespec) -> c_int {
    // SAFETY: the caller's arguments.
    let done = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, now) as c_int };
    if let Some(plan) =
        plan().filter(|plan| plan.how == How::Back && clock == libc::CLOCK_REALTIME && done == 0)
    {
        let minutes = plan.met.fetch_add(1, Ordering::Relaxed) as libc::time_t;
        // SAFETY: the call above has just written there.
        unsafe { (*now).tv_sec -= 60 * minutes };
    }
    done
}
