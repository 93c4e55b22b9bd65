//! What reading a file may cost: memory by an allocator that counts, time by the thread's own clock.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

/// Memory that reading a file may take: `base + times * length`, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub base: usize,
    pub times: usize,
}

impl Budget {
    /// For readers that keep numbers and names of a text: a JSON value is some 32 bytes for as few as two in the file, and
    /// lists grow by doubling.
    pub const PARSED: Budget = Budget { base: 4 << 20, times: 128 };

    pub fn bytes(self, length: usize) -> usize {
        self.base + self.times * length
    }
}

/// Counts what is taken and given back.
struct Counting;

/// Bytes that are taken now, and the most since [`measured`] began.
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
/// What one request may be at most; a larger one ends the process, since the memory might be there and go unnoticed.
static LARGEST: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn taken(bytes: usize) {
    // a panic's backtrace may take what it likes
    if bytes > LARGEST.load(Relaxed) && !std::thread::panicking() {
        LARGEST.store(usize::MAX, Relaxed);
        let from = std::backtrace::Backtrace::force_capture();
        eprintln!("hostile: {bytes} bytes at once are more than the file's reader may take:\n{from}");
        std::process::abort();
    }
    let live = LIVE.fetch_add(bytes as isize, Relaxed) + bytes as isize;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every call is the system allocator's own, which keeps the contract; beside it numbers are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        taken(size);
        LIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller's memory, layout and size, unchanged.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller's memory and layout, unchanged.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What a call cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The most bytes that were taken at one time, above what was taken before.
    pub bytes: usize,
    /// Processor time of this thread.
    pub seconds: f64,
}

/// Calls `read` and says what it cost; a single request above `largest` bytes ends the process.
pub fn measured(largest: usize, read: impl FnOnce()) -> Cost {
    let (before, began) = (LIVE.load(Relaxed), seconds());
    PEAK.store(before, Relaxed);
    LARGEST.store(largest, Relaxed);
    read();
    LARGEST.store(usize::MAX, Relaxed);
    Cost { bytes: (PEAK.load(Relaxed) - before).max(0) as usize, seconds: seconds() - began }
}

/// Processor time of this thread so far: other work on the machine does not count.
fn seconds() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}
