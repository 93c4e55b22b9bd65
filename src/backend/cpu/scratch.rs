//! Working memory: one arena, taken whole by the operation that runs and carved into pieces by it.

use super::buffer::Buf;
use super::guard::Guard;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pieces start on a cache line: 16 words of 4 bytes.
const GRAIN: usize = 16;

/// Words that a piece of `words` takes from the arena.
pub(super) const fn grain(words: usize) -> usize {
    words.next_multiple_of(GRAIN)
}

/// The memory, in words of 4 bytes, with the largest amount that an operation ever took.
#[derive(Debug)]
pub(super) struct Arena {
    memory: Mutex<Memory>,
    high_water: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Memory {
    buf: Option<Buf<f32>>,
    guard: Option<Guard>,
}

impl Arena {
    pub(super) fn new() -> Self {
        Arena::with(None)
    }

    /// As [`Buf::guarded`].
    pub(super) fn guarded(guard: Guard) -> Self {
        Arena::with(Some(guard))
    }

    fn with(guard: Option<Guard>) -> Self {
        Arena { memory: Mutex::new(Memory { buf: None, guard }), high_water: AtomicUsize::new(0) }
    }

    /// Makes room for operations that take up to `words`.
    pub(super) fn reserve(&self, words: usize) {
        self.lock().grow(words);
    }

    /// The arena, held until the guard is dropped, with at least `words` in it.
    pub(super) fn take(&self, words: usize) -> MutexGuard<'_, Memory> {
        self.high_water.fetch_max(words, Ordering::Relaxed);
        let mut memory = self.lock();
        memory.grow(words);
        memory
    }

    pub(super) fn high_water_bytes(&self) -> usize {
        4 * self.high_water.load(Ordering::Relaxed)
    }

    /// An operation that panicked leaves nothing in the arena that a later one would read.
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn grow(&mut self, words: usize) {
        // a guarded one is as long as each operation asks for
        let fits = |buf: &Buf<f32>| buf.as_slice().len() >= words && (self.guard.is_none() || words == 0);
        if !self.buf.as_ref().is_some_and(fits) {
            self.buf = None; // the old memory is given back before the new is taken
            self.buf = Some(match self.guard {
                None => Buf::zeroed(words),
                Some(guard) => {
                    let mut buf = Buf::guarded(words, guard);
                    // what no one has written yet is no number, which a result would show
                    buf.as_mut_slice().fill(f32::from_bits(u32::MAX));
                    buf
                }
            });
        }
    }

    /// The first `words` of it; content is whatever the last operation left.
    pub(super) fn words(&mut self, words: usize) -> &mut [u32] {
        match &mut self.buf {
            Some(buf) => &mut bytemuck::cast_slice_mut(buf.as_mut_slice())[..words],
            None => &mut [],
        }
    }
}

/// Cuts a run of words into pieces that start on cache lines.
pub(super) struct Carver<'a>(pub(super) &'a mut [u32]);

impl<'a> Carver<'a> {
    pub(super) fn words(&mut self, n: usize) -> &'a mut [u32] {
        let (piece, rest) = std::mem::take(&mut self.0).split_at_mut(grain(n));
        self.0 = rest;
        &mut piece[..n]
    }

    pub(super) fn floats(&mut self, n: usize) -> &'a mut [f32] {
        bytemuck::cast_slice_mut(self.words(n))
    }
}
