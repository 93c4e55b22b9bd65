//! A disk that fails on demand, for programs that are started with this library in LD_PRELOAD. On Linux.
//!
//! `FAULTY="CALL HOW AFTER PATH"`: the calls `write`, `read`, `fsync` or `rename` on files whose path (of a rename either one)
//! contains PATH go wrong after AFTER of them went right. HOW is `eio` (the device failed), `enospc` (it is full), `short`: only
//! part of what was asked for is done, or `slow`: it takes a minute. With `AFTER..UNTIL` they go right again from the call UNTIL on.
//!
//! `FAULTY="clock back 0 -"`: the wall clock is a minute earlier each time it is asked for.
//!
//! `FAULTY="socket exit 0 -"`: a process that makes or connects a socket ends, with exit code 99 and a sentence.
//!
//! `FAULTY_COUNT` names a file into which goes how many calls went wrong, when the process exits: a test that expects nothing of a
//! fault but that nothing comes of it can see by it that there was one.

#![cfg(target_os = "linux")]

use libc::{c_char, c_int, c_void, size_t, ssize_t};
use std::ffi::CStr;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Short,
    Error(c_int),
    Slow,
    Back,
    Exit,
}

struct Plan {
    call: String,
    how: How,
    faulty: Range<u64>,
    path: String,
    met: AtomicU64,
    wrong: AtomicU64,
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
            "slow" => How::Slow,
            "back" => How::Back,
            "exit" => How::Exit,
            _ => return None,
        };
        let after = words.next()?;
        let (from, until) = after.split_once("..").unwrap_or((&after, "18446744073709551615"));
        let faulty = from.parse().ok()?..until.parse().ok()?;
        // SAFETY: a function of this library, which stays until the process ends.
        unsafe { libc::atexit(count) };
        let (met, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
        Some(Plan { call, how, faulty, path: words.next()?, met, wrong })
    };
    PLAN.get_or_init(read).as_ref()
}

/// Leaves how many calls went wrong.
extern "C" fn count() {
    if let (Some(plan), Some(path)) = (plan(), std::env::var_os("FAULTY_COUNT")) {
        let _ = std::fs::write(path, plan.wrong.load(Ordering::Relaxed).to_string());
    }
}

impl Plan {
    /// What is to go wrong with a call that the plan is about.
    fn next(&self) -> Option<How> {
        let wrong = self.faulty.contains(&self.met.fetch_add(1, Ordering::Relaxed));
        self.wrong.fetch_add(wrong.into(), Ordering::Relaxed);
        wrong.then_some(self.how)
    }
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
    if path.contains(&plan.path) { plan.next() } else { None }
}

/// The minute that a slow call takes.
fn wait() {
    std::thread::sleep(std::time::Duration::from_secs(60));
}

fn fail(error: c_int) {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = error };
}

/// Does a call that moves bytes, all of it or a part, or fails.
fn moved(call: &str, file: c_int, count: size_t, real: impl FnOnce(size_t) -> ssize_t) -> ssize_t {
    match fault(call, file) {
        None | Some(How::Back | How::Exit) => real(count),
        Some(How::Slow) => {
            wait();
            real(count)
        }
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
        how => {
            if how == Some(How::Slow) {
                wait();
            }
            // SAFETY: the caller's argument.
            unsafe { libc::syscall(libc::SYS_fsync, file) as c_int }
        }
    }
}

/// # Safety
/// As rename(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let met = |plan: &&Plan| {
        // SAFETY: the caller's names, which end in NUL.
        let names = unsafe { [CStr::from_ptr(from), CStr::from_ptr(to)] };
        plan.call == "rename" && names.iter().any(|name| name.to_string_lossy().contains(&plan.path))
    };
    match plan().filter(met).and_then(Plan::next) {
        Some(How::Error(error)) => {
            fail(error);
            -1
        }
        how => {
            if how == Some(How::Slow) {
                wait();
            }
            // SAFETY: the caller's arguments.
            unsafe {
                libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) as c_int
            }
        }
    }
}

/// Ends a process that is to make no connection.
fn no_sockets(call: &str) {
    if plan().filter(|plan| plan.call == "socket").and_then(Plan::next) == Some(How::Exit) {
        let said = format!("faulty: {call} was called\n");
        // SAFETY: as many bytes as there are; the second call takes a number.
        unsafe {
            libc::syscall(libc::SYS_write, 2, said.as_ptr(), said.len());
            libc::_exit(99);
        }
    }
}

/// # Safety
/// As socket(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    no_sockets("socket");
    // SAFETY: it takes numbers.
    unsafe { libc::syscall(libc::SYS_socket, domain, kind, protocol) as c_int }
}

/// # Safety
/// As connect(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(socket: c_int, to: *const libc::sockaddr, length: libc::socklen_t) -> c_int {
    no_sockets("connect");
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_connect, socket, to, length) as c_int }
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
        let minutes = plan.wrong.fetch_add(1, Ordering::Relaxed) as libc::time_t;
        // SAFETY: the call above has just written there.
        unsafe { (*now).tv_sec -= 60 * minutes };
    }
    done
}
