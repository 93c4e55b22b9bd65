//! Memory of the CPU backend: zeroed, aligned to a cache line, without `unsafe`.

use super::guard::{Guard, Guarded};
use crate::backend::{Buffer, Element};
use bytemuck::{Pod, Zeroable};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;
use std::marker::PhantomData;

/// One cache line; the unit that buffers are made of, so that all of them are aligned to it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

const LINE: usize = std::mem::size_of::<Line>();

/// From here on memory is mapped: pages that the system hands out zeroed, when they are first touched, and large ones where it
/// has them. (An allocator writes zeros into memory of this alignment at once, and so takes small pages for all of it.)
const MAPPED: usize = 128 << 10;

/// Whole cache lines.
#[derive(Debug)]
enum Storage {
    Lines(Vec<Line>),
    Mapped(MmapMut),
    Guarded(Guarded),
}

impl Storage {
    fn zeroed(lines: usize) -> Self {
        if lines * LINE >= MAPPED
            && let Ok(map) = MmapMut::map_anon(lines * LINE)
        {
            // Neighbours that have been advised alike become one region, in which a large page may cover several buffers.
            // Without large pages all is the same, but slower.
            #[cfg(target_os = "linux")]
            let _ = map.advise(Advice::HugePage);
            return Storage::Mapped(map);
        }
        Storage::Lines(bytemuck::zeroed_vec(lines))
    }

    /// What was left of the last cache line may be written from here on.
    fn use_all(&mut self) {
        if let Storage::Guarded(guarded) = self {
            guarded.use_all();
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Storage::Lines(lines) => bytemuck::cast_slice(lines),
            Storage::Mapped(map) => map,
            Storage::Guarded(guarded) => guarded.bytes(),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Storage::Lines(lines) => bytemuck::cast_slice_mut(lines),
            Storage::Mapped(map) => map,
            Storage::Guarded(guarded) => guarded.bytes_mut(),
        }
    }
}

/// A run of `T` aligned to 64 bytes.
#[derive(Debug)]
pub struct Buf<T> {
    memory: Storage,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Element> Buf<T> {
    /// `len` zeros. Long ones come zeroed from the system and are not touched here.
    pub fn zeroed(len: usize) -> Self {
        Buf { memory: Storage::zeroed(Self::lines(len)), len, kind: PhantomData }
    }

    /// The same between forbidden pages, the rest of the last cache line, and of the page, filled with what is no number. Nothing may
    /// write there, which is looked at when the buffer is dropped.
    ///
    /// # Panics
    /// The system maps no more memory: a test that went on with a buffer that nothing guards would hold nothing.
    pub fn guarded(len: usize, guard: Guard) -> Self {
        let guarded = Guarded::zeroed(Self::lines(len) * LINE, len * std::mem::size_of::<T>(), guard);
        Buf { memory: Storage::Guarded(guarded), len, kind: PhantomData }
    }

    /// Cache lines of `len` elements.
    fn lines(len: usize) -> usize {
        const { assert!(LINE.is_multiple_of(std::mem::size_of::<T>()), "elements must tile a cache line") };
        (len * std::mem::size_of::<T>()).div_ceil(LINE)
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[T]) -> Self {
        let mut buf = Self::zeroed(values.len());
        buf.as_mut_slice().copy_from_slice(values);
        buf
    }

    /// The two exchange their memory, and are as long as it.
    pub fn exchange<U: Element>(&mut self, other: &mut Buf<U>) {
        std::mem::swap(&mut self.memory, &mut other.memory);
        self.memory.use_all();
        other.memory.use_all();
        self.len = self.memory.bytes().len() / std::mem::size_of::<T>();
        other.len = other.memory.bytes().len() / std::mem::size_of::<U>();
    }

    pub fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(self.memory.bytes())[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(self.memory.bytes_mut())[..self.len]
    }
}

impl<T: Send + Sync> Buffer<T> for Buf<T> {
    fn len(&self) -> usize {
        self.len
    }
}
