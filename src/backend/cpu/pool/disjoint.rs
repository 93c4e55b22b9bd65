//! Memory that tasks write disjoint parts of.

use std::marker::PhantomData;

/// A slice that several tasks write at once, each its own part of it.
pub(in crate::backend::cpu) struct Disjoint<'a, T> {
    ptr: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut [T]` only through `range`, whose caller promises that no two of them overlap; then sharing it
// is sending each part to one thread, which T: Send allows.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(in crate::backend::cpu) fn new(slice: &'a mut [T]) -> Self {
        Disjoint { ptr: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Where it begins: to prefetch, not to read.
    pub(in crate::backend::cpu) fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No other slice of an overlapping range is in use, on this or another thread.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(in crate::backend::cpu) unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "range {start}+{len} of {}", self.len);
        // SAFETY: inside the slice that `new` borrowed for 'a (asserted); not aliased (the caller's promise).
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
