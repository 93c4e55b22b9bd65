//! Memory of the CPU backend: zeroed, aligned to a cache line, without `unsafe`.

use crate::backend::{Buffer, Element};
use bytemuck::{Pod, Zeroable};
use std::marker::PhantomData;

/// One cache line; the unit that buffers are made of, so that all of them are aligned to it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

const LINE: usize = std::mem::size_of::<Line>();

/// A run of `T` aligned to 64 bytes.
#[derive(Debug)]
pub struct Buf<T> {
    lines: Vec<Line>,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Element> Buf<T> {
    /// `len` zeros. The pages come zeroed from the system and are not touched here.
    pub fn zeroed(len: usize) -> Self {
        const { assert!(LINE.is_multiple_of(std::mem::size_of::<T>()), "elements must tile a cache line") };
        let lines = (len * std::mem::size_of::<T>()).div_ceil(LINE);
        let mut lines: Vec<Line> = bytemuck::zeroed_vec(lines);
        crate::memory::prefer_large_pages(bytemuck::cast_slice_mut(&mut lines));
        Buf { lines, len, kind: PhantomData }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[T]) -> Self {
        let mut buf = Self::zeroed(values.len());
        buf.as_mut_slice().copy_from_slice(values);
        buf
    }

    /// The two exchange their memory, and are as long as it.
    pub fn exchange<U: Element>(&mut self, other: &mut Buf<U>) {
        std::mem::swap(&mut self.lines, &mut other.lines);
        self.len = self.lines.len() * (LINE / std::mem::size_of::<T>());
        other.len = other.lines.len() * (LINE / std::mem::size_of::<U>());
    }

    pub fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl<T: Send + Sync> Buffer<T> for Buf<T> {
    fn len(&self) -> usize {
        self.len
    }
}
