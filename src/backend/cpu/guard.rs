//! Memory between pages that no one may touch, for tests: an access beyond either end of a buffer ends the process, where it would
//! else read a neighbour, or write into it, unnoticed.

use memmap2::MmapMut;
use std::ops::Range;

/// The end of a buffer that lies against a forbidden page. (Both do only where the buffer is whole pages.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    Before,
    Behind,
}

/// What fills the pages beside the used bytes: read as bf16, f32 or f64 it is no number, which a result would show.
const UNUSED: u8 = 0xFF;

/// Some bytes in a mapping whose first and last pages are forbidden. What is left of the pages between them must stay as it is, which
/// is looked at when the memory is given back.
#[derive(Debug)]
pub(super) struct Guarded {
    map: MmapMut,
    /// The pages that may be touched.
    pages: Range<usize>,
    bytes: Range<usize>,
    /// Of `bytes`, from the first on.
    used: usize,
}

impl Guarded {
    /// `bytes`, a multiple of what they are to be aligned to; the first `used` of them are zero and there to be written.
    pub(super) fn zeroed(bytes: usize, used: usize, guard: Guard) -> Guarded {
        let page = page_bytes();
        let inner = bytes.next_multiple_of(page);
        let mut map = MmapMut::map_anon(inner + 2 * page).unwrap_or_else(|e| {
            panic!("no memory between guard pages ({e}); vm.max_map_count may be too low")
        });
        let start = match guard {
            Guard::Before => page,
            Guard::Behind => page + inner - bytes,
        };
        for at in [0, page + inner] {
            forbid(&map[at..at + page]);
        }
        map[page..start].fill(UNUSED);
        map[start + used..page + inner].fill(UNUSED);
        Guarded { map, pages: page..page + inner, bytes: start..start + bytes, used }
    }

    /// From here on all of [`Guarded::bytes`] are there to be written.
    pub(super) fn use_all(&mut self) {
        self.used = self.bytes.len();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map[self.bytes.clone()]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.bytes.clone()]
    }
}

impl Drop for Guarded {
    /// # Panics
    /// A byte beside the used ones was written: a test that heard nothing of it would hold nothing.
    fn drop(&mut self) {
        let (first, end) = (self.bytes.start, self.bytes.start + self.used);
        let written = |bytes: Range<usize>| {
            self.map[bytes.clone()].iter().position(|b| *b != UNUSED).map(|at| bytes.start + at)
        };
        if let Some(at) = written(self.pages.start..first).or_else(|| written(end..self.pages.end))
            && !std::thread::panicking()
        {
            let place = at as isize - first as isize;
            panic!("byte {place} of a buffer that uses {} was written: {:#04x}", self.used, self.map[at]);
        }
    }
}

/// Makes whole pages of a mapping unreadable. They are never read: slices of [`Guarded`] lie between them.
fn forbid(pages: &[u8]) {
    // SAFETY: the range is whole pages of a mapping that we own; it is not accessed until the mapping ends, which unmaps it
    // whatever its protection.
    let done = unsafe { libc::mprotect(pages.as_ptr().cast_mut().cast(), pages.len(), libc::PROT_NONE) };
    assert_eq!(done, 0, "the system does not forbid a page");
}

fn page_bytes() -> usize {
    // SAFETY: sysconf takes a number and returns one.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize
}
