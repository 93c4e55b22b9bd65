//! The device's memory: one reserved range of addresses, never-written bytes known, freed ranges not used again.
//!
//! An address is an offset into the range plus [`BASE`]. The owner of each 256-byte granule stands in a table, so an access
//! is checked by one look-up. The range is four times the capacity: allocations are taken from it one after the other, and
//! what was freed stays known as freed.

use crate::fault::{Fault, FaultKind, Result};
use std::sync::{Mutex, RwLock};

/// Where device addresses start: far from null and from host pointers of small programs.
pub const BASE: u64 = 0x7000_0000_0000;
const GRANULE: u64 = 256;

#[derive(Clone, Copy, Debug)]
struct Allocation {
    start: u64,
    bytes: u64,
    freed: bool,
}

/// Zeroed pages of the host that cost nothing until they are touched.
struct Pages {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: a plain range of bytes; who touches which byte when is the kernels' affair, as on a GPU.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn reserve(bytes: u64) -> Pages {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping; the result is checked before use.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes as usize, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert!(at != libc::MAP_FAILED, "the host has no {bytes} bytes of address space");
        Pages { at: at.cast(), bytes: bytes as usize }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping that `reserve` made, unmapped once.
        unsafe { libc::munmap(self.at.cast(), self.bytes) };
    }
}

#[derive(Default)]
struct Book {
    allocations: Vec<Allocation>,
    next: u64,
    used: u64,
}

/// Memory of one device.
pub struct Memory {
    capacity: u64,
    range: u64,
    data: Pages,
    /// 1 for each byte that was written.
    written: Pages,
    /// u32 for each granule: number of its allocation + 1.
    owner: Pages,
    book: Mutex<Book>,
    allocations: RwLock<Vec<Allocation>>,
}

impl Memory {
    pub fn new(capacity: u64) -> Memory {
        let range = (capacity * 4).next_multiple_of(GRANULE);
        Memory {
            capacity,
            range,
            data: Pages::reserve(range),
            written: Pages::reserve(range),
            owner: Pages::reserve(range / GRANULE * 4),
            book: Mutex::default(),
            allocations: RwLock::default(),
        }
    }

    /// A device address on a 256-byte boundary; None where `bytes` do not fit.
    pub fn alloc(&self, bytes: u64) -> Option<u64> {
        let mut book = self.book.lock().unwrap();
        let taken = bytes.checked_next_multiple_of(GRANULE)?;
        if bytes == 0 || book.used + taken > self.capacity || book.next + taken + GRANULE > self.range {
            return None;
        }
        let start = book.next;
        // a granule that nobody owns lies between any two
        book.next += taken + GRANULE;
        book.used += taken;
        book.allocations.push(Allocation { start, bytes, freed: false });
        let id = book.allocations.len() as u32;
        for granule in start / GRANULE..(start + taken) / GRANULE {
            // SAFETY: below range/GRANULE entries of four bytes.
            unsafe { self.owner.at.cast::<u32>().add(granule as usize).write(id) };
        }
        self.allocations.write().unwrap().clone_from(&book.allocations);
        Some(BASE + start)
    }

    pub fn free(&self, addr: u64) -> Result<()> {
        let mut book = self.book.lock().unwrap();
        let found = book.allocations.iter_mut().find(|a| a.start + BASE == addr);
        let problem = match found {
            None => "is not the start of an allocation",
            Some(a) if a.freed => "was freed before",
            Some(a) => {
                a.freed = true;
                let (start, bytes) = (a.start as usize, a.bytes.next_multiple_of(GRANULE));
                book.used -= bytes;
                for pages in [&self.data, &self.written] {
                    // SAFETY: inside the mapping; whole pages of this allocation only, the granules before and after are others'.
                    unsafe {
                        let from = (start + 4095) & !4095;
                        let to = (start + bytes as usize) & !4095;
                        if to > from {
                            libc::madvise(pages.at.add(from).cast(), to - from, libc::MADV_DONTNEED);
                        }
                    }
                }
                self.allocations.write().unwrap().clone_from(&book.allocations);
                return Ok(());
            }
        };
        Err(Fault::new(FaultKind::BadFree, format!("free of {addr:#x}, which {problem}")))
    }

    /// Refuses an access to anything but one live allocation.
    pub fn check(&self, addr: u64, bytes: u64) -> Result<()> {
        let at = addr.wrapping_sub(BASE);
        let owner = if at < self.range {
            // SAFETY: below range/GRANULE.
            unsafe { self.owner.at.cast::<u32>().add((at / GRANULE) as usize).read() }
        } else {
            0
        };
        if owner == 0 {
            return Err(Fault::new(
                FaultKind::OutOfBounds,
                format!("{bytes} bytes at {addr:#x}, where nothing is allocated"),
            ));
        }
        let a = self.allocations.read().unwrap()[owner as usize - 1];
        if a.freed {
            let problem =
                format!("{bytes} bytes at {addr:#x}, in an allocation of {} bytes that was freed", a.bytes);
            return Err(Fault::new(FaultKind::UseAfterFree, problem));
        }
        if at + bytes > a.start + a.bytes {
            let problem =
                format!("{bytes} bytes at {addr:#x}, byte {} of an allocation of {}", at - a.start, a.bytes);
            return Err(Fault::new(FaultKind::OutOfBounds, problem));
        }
        Ok(())
    }

    /// The host address of a device address that [`Memory::check`] passed.
    #[inline(always)]
    pub(crate) fn host(&self, addr: u64) -> *mut u8 {
        self.data.at.wrapping_add((addr - BASE) as usize)
    }

    #[inline(always)]
    pub(crate) fn mark_written(&self, addr: u64, bytes: usize) {
        // SAFETY: the range passed `check`.
        unsafe { std::ptr::write_bytes(self.written.at.add((addr - BASE) as usize), 1, bytes) };
    }

    /// Whether all bytes were written once.
    #[inline(always)]
    pub(crate) fn is_written(&self, addr: u64, bytes: usize) -> bool {
        // SAFETY: the range passed `check`.
        let marks = unsafe { std::slice::from_raw_parts(self.written.at.add((addr - BASE) as usize), bytes) };
        marks.iter().fold(1, |all, m| all & m) == 1
    }

    pub fn write(&self, addr: u64, src: &[u8]) -> Result<()> {
        self.check(addr, src.len() as u64)?;
        // SAFETY: inside one allocation; the host's slice is another place.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), self.host(addr), src.len()) };
        self.mark_written(addr, src.len());
        Ok(())
    }

    pub fn read(&self, addr: u64, dst: &mut [u8]) -> Result<()> {
        self.check(addr, dst.len() as u64)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.host(addr), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    /// `pattern` again and again.
    pub fn fill(&self, addr: u64, pattern: &[u8], count: u64) -> Result<()> {
        self.check(addr, pattern.len() as u64 * count)?;
        let all = pattern.repeat(count.min(4096) as usize);
        let (bytes, mut done) = (pattern.len() as u64 * count, 0);
        while done < bytes {
            let part = (bytes - done).min(all.len() as u64);
            self.write(addr + done, &all[..part as usize])?;
            done += part;
        }
        Ok(())
    }

    /// The marks of written bytes travel along.
    pub fn copy(&self, dst: u64, src: u64, bytes: u64) -> Result<()> {
        self.check(dst, bytes)?;
        self.check(src, bytes)?;
        let (to, from) = ((dst - BASE) as usize, (src - BASE) as usize);
        // SAFETY: both inside allocations; they may overlap.
        unsafe {
            std::ptr::copy(self.data.at.add(from), self.data.at.add(to), bytes as usize);
            std::ptr::copy(self.written.at.add(from), self.written.at.add(to), bytes as usize);
        }
        Ok(())
    }

    pub fn used(&self) -> u64 {
        self.book.lock().unwrap().used
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Start and bytes of what was not freed.
    pub fn live(&self) -> Vec<(u64, u64)> {
        let book = self.book.lock().unwrap();
        book.allocations.iter().filter(|a| !a.freed).map(|a| (BASE + a.start, a.bytes)).collect()
    }
}
