//! Threads: a queue of tasks that all of them draw from, and memory that tasks write disjoint parts of.

use crate::error::{Error, Result};
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// Below this much work the calling thread does it alone: waking the others takes about as long.
const ALONE_NS: f64 = 20_000.0;

/// The threads of a backend: the caller's and those of a rayon pool.
#[derive(Debug)]
pub(super) struct Workers {
    /// `threads - 1` of them; none when there is only the caller.
    pool: Option<rayon::ThreadPool>,
    threads: usize,
}

impl Workers {
    pub(super) fn new(threads: usize) -> Result<Self> {
        let refuse = |problem| Error::Device { device: "cpu".into(), problem };
        let pool = match threads {
            0 => return Err(refuse("0 threads: at least 1 is needed".into())),
            1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads - 1)
                    .thread_name(|i| format!("pose-cpu-{}", i + 1))
                    .build()
                    .map_err(|e| refuse(format!("cannot start {threads} threads: {e}")))?,
            ),
        };
        Ok(Workers { pool, threads })
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task` on every item. Each worker has one of `states` (as many as threads, at least one) and draws the next
    /// item when it is done with the last, so that all are busy to the end. `ns`: about how long it takes one thread.
    pub(super) fn each_with<S: Send, I: Send>(
        &self, ns: f64, states: impl IntoIterator<Item = S>, items: impl Iterator<Item = I> + Send,
        task: impl Fn(&mut S, I) + Sync,
    ) {
        let mut states = states.into_iter();
        let Some(mut mine) = states.next() else { return };
        let Some(pool) = self.pool.as_ref().filter(|_| ns >= ALONE_NS) else {
            return items.for_each(|item| task(&mut mine, item));
        };
        let queue = Mutex::new(items);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let drain = |mut state: S| {
            while let Some(item) = next() {
                task(&mut state, item);
            }
        };
        pool.in_place_scope(|scope| {
            for state in states.take(self.threads - 1) {
                let drain = &drain;
                scope.spawn(move |_| drain(state));
            }
            drain(mine);
        });
    }

    /// [`Self::each_with`] for tasks that need no state.
    pub(super) fn each<I: Send>(
        &self, ns: f64, items: impl Iterator<Item = I> + Send, task: impl Fn(I) + Sync,
    ) {
        self.each_with(ns, std::iter::repeat_n((), self.threads), items, |(), item| task(item));
    }

    /// How long a run of consecutive units (rows, tokens) a task should take: about eight tasks a thread, and of
    /// `cost_ns` per unit at least a few microseconds.
    pub(super) fn run_length(&self, units: usize, cost_ns: f64) -> usize {
        let fair = units.div_ceil(8 * self.threads);
        let worth = (4000.0 / cost_ns.max(0.01)).ceil() as usize;
        fair.max(worth).max(1)
    }
}

/// A slice that several tasks write at once, each its own part of it.
pub(super) struct Disjoint<'a, T> {
    ptr: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut [T]` only through `range`, whose caller promises that no two of them overlap; then sharing it
// is sending each part to one thread, which T: Send allows.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Disjoint { ptr: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Where it begins: to prefetch, not to read.
    pub(super) fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No other slice of an overlapping range is in use, on this or another thread.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(super) unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "range {start}+{len} of {}", self.len);
        // SAFETY: inside the slice that `new` borrowed for 'a (asserted); not aliased (the caller's promise).
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
