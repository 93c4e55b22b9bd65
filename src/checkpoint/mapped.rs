//! Files seen as memory: the one place where a file is mapped.
//!
//! What another process cuts off a mapped file is no longer there, and touching it raises SIGBUS, which ends a process without a
//! word; so does a page that the disk fails to give. The handler here says which file it was, and ends the process with exit code 1.

use crate::error::{Error, Result};
use crate::regular;
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Deref;
use std::path::Path;

/// Bytes of a file, mapped for reading. Pages that are touched stay resident until this is dropped.
#[derive(Debug)]
pub struct Mapped {
    /// Forgets the mapping before it ends; fields are dropped in this order.
    _known: shortened::Known,
    map: Mmap,
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Maps `len` bytes of `file` from byte `at`, for reading.
pub(super) fn map(file: &File, path: &Path, at: u64, len: usize) -> Result<Mapped> {
    // SAFETY: the mapping must not change while it is borrowed. We map read-only and write no file in place: all that this
    // program writes appears by rename, which leaves mapped files as they were. Another program may rewrite the file meanwhile:
    // then we read the new bytes, which are checked like any other bytes; where it makes the file shorter, the process ends.
    let mapped = unsafe { MmapOptions::new().offset(at).len(len).map(file) };
    let map = mapped.map_err(|e| Error::io(path, "mapping the file into memory", e))?;
    Ok(Mapped { _known: shortened::know(&map, path), map })
}

/// Maps a whole file for reading.
///
/// # Errors
/// The operating system's refusal, a file that is empty.
pub fn map_file(path: &Path) -> Result<Mapped> {
    let file = regular::open(path).map_err(|e| match e.kind() {
        ErrorKind::IsADirectory => Error::file(path, "is a directory; name a file"),
        _ => Error::io(path, "opening", e),
    })?;
    let metadata = file.metadata().map_err(|e| Error::io(path, "reading the length", e))?;
    match usize::try_from(metadata.len()) {
        Ok(0) => Err(Error::file(path, "is empty")),
        Ok(len) => map(&file, path, 0, len),
        Err(_) => Err(Error::file(path, "is larger than can be addressed")),
    }
}

/// The handler, and the mappings that it knows.
mod shortened {
    use std::path::Path;
    use std::ptr::null_mut;
    use std::sync::Once;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};

    /// A mapping: bytes from `start` to `end`, where `end` is not 0.
    struct Slot {
        taken: AtomicUsize,
        /// Odd while the rest is changed, and another number after every change.
        version: AtomicUsize,
        start: AtomicUsize,
        end: AtomicUsize,
        message: AtomicPtr<Vec<u8>>,
    }

    /// More mappings at a time than there are threads that read files; of those beyond them the file is not named.
    static SLOTS: [Slot; 64] = [const {
        Slot {
            taken: AtomicUsize::new(0),
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            message: AtomicPtr::new(null_mut()),
        }
    }; 64];

    /// Mappings that there was no slot for.
    static NAMELESS: AtomicUsize = AtomicUsize::new(0);

    /// A slot, until it is dropped; None for one of the nameless.
    #[derive(Debug)]
    pub(super) struct Known(Option<usize>);

    /// Enters a mapping, and sets the handler at the first.
    pub(super) fn know(map: &[u8], path: &Path) -> Known {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(set_handler);
        let free = |slot: &Slot| slot.taken.compare_exchange(0, 1, SeqCst, SeqCst).is_ok();
        let Some(at) = SLOTS.iter().position(free) else {
            NAMELESS.fetch_add(1, SeqCst);
            return Known(None);
        };
        let sentence = crate::printable::sentence(&format!(
            "pose-engine: {}: can no longer be read: another program made it shorter, or its disk failed; restore it and run again",
            path.display()
        ));
        let (slot, start) = (&SLOTS[at], map.as_ptr() as usize);
        slot.version.fetch_add(1, SeqCst);
        slot.message.store(Box::into_raw(Box::new((sentence + "\n").into_bytes())), SeqCst);
        slot.start.store(start, SeqCst);
        slot.end.store(start + map.len(), SeqCst);
        slot.version.fetch_add(1, SeqCst);
        Known(Some(at))
    }

    impl Drop for Known {
        fn drop(&mut self) {
            let Some(at) = self.0 else {
                NAMELESS.fetch_sub(1, SeqCst);
                return;
            };
            let slot = &SLOTS[at];
            slot.version.fetch_add(1, SeqCst);
            slot.end.store(0, SeqCst);
            let message = slot.message.swap(null_mut(), SeqCst);
            slot.version.fetch_add(1, SeqCst);
            // SAFETY: it came from Box::into_raw in `know`, and nobody else takes it: the slot is ours. The handler reads it
            // only for a touch of this mapping, and whoever touches it borrows it, so that it is not being dropped.
            drop(unsafe { Box::from_raw(message) });
            slot.taken.store(0, SeqCst);
        }
    }

    fn set_handler() {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
        // SAFETY: zeros are an empty set of signals and no flags; sigaction reads the action, which lives through the call. The
        // handler does what a signal handler may: it reads atomics, and calls write, _exit, signal and raise.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, null_mut());
        }
    }

    extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: with SA_SIGINFO the system passes a valid description.
        let address = unsafe { (*info).si_addr() } as usize;
        for slot in &SLOTS {
            let version = slot.version.load(SeqCst);
            let range = slot.start.load(SeqCst)..slot.end.load(SeqCst);
            // bounds of one mapping, and not of two of which one took the other's slot
            let whole = version.is_multiple_of(2) && slot.version.load(SeqCst) == version;
            if whole && range.contains(&address) {
                // SAFETY: these are the bounds of a mapping that is there, and mappings share no address, so it is the one that
                // the thread which we interrupt borrows: the slot and its message are there to stay. The process ends here
                // without running anything else.
                unsafe {
                    if let Some(message) = slot.message.load(SeqCst).as_ref() {
                        libc::write(2, message.as_ptr().cast(), message.len());
                    }
                    libc::_exit(1);
                }
            }
        }
        if NAMELESS.load(SeqCst) > 0 {
            const SENTENCE: &str = "pose-engine: a mapped file can no longer be read: another program made it shorter, or its disk \
                                    failed; restore it and run again\n";
            // SAFETY: both may be called here, and the sentence is as long as it says.
            unsafe {
                libc::write(2, SENTENCE.as_ptr().cast(), SENTENCE.len());
                libc::_exit(1);
            }
        }
        // SAFETY: both may be called here. The signal waits until we return, and then ends the process the usual way.
        unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            libc::raise(libc::SIGBUS);
        }
    }
}
