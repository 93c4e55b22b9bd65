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

/// Some bytes in a mapping whose first and last pages are forbidden.
#[derive(Debug)]
pub(super) struct Guarded {
    map: MmapMut,
    bytes: Range<usize>,
}

impl Guarded {
    /// `bytes` zeros, a multiple of what they are to be aligned to.
    pub(super) fn zeroed(bytes: usize, guard: Guard) -> Guarded {
        let page = page_bytes();
        let inner = bytes.next_multiple_of(page);
        let map = MmapMut::map_anon(inner + 2 * page).unwrap_or_else(|e| {
            panic!("no memory between guard pages ({e}); vm.max_map_count may be too low")
        });
        let start = match guard {
            Guard::Before => page,
            Guard::Behind => page + inner - bytes,
        };
        for at in [0, page + inner] {
            forbid(&map[at..at + page]);
        }
        Guarded { map, bytes: start..start + bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map[self.bytes.clone()]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.bytes.clone()]
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
