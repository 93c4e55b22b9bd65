//! Where a block of keys or values comes from: the cache as it lies, or 8-bit codes that are multiplied out.

use super::super::Cpu;
use super::super::isa::Simd;
use super::super::math::CpuFloat;
use super::super::vectors::{Vectors, per_width, scaled};
use crate::backend::Quantised;

/// Codes, and one scale for each head of a token.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Codes<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [f32],
}

impl<'a> Codes<'a> {
    pub(in crate::backend::cpu) fn of<E: CpuFloat>(x: Quantised<'a, Cpu<E>>) -> Self {
        Codes { codes: x.codes.as_slice(), scales: x.scales.as_slice() }
    }
}

/// Keys or values.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) enum Source<'a, E> {
    Plain(&'a [E]),
    Int8(Codes<'a>),
}

impl<'a, E: CpuFloat> Source<'a, E> {
    /// n rows of `width` elements, the first at element `first`, `stride` apart, and the stride at which they are handed out:
    /// in place, or as scale·code, rounded to E, in `room`.
    pub(super) fn rows<'s>(
        &'s self, simd: Simd, (first, stride): (usize, usize), (n, width): (usize, usize),
        room: &'s mut [u32],
    ) -> (&'s [E], usize) {
        match self {
            Source::Plain(x) => (&x[first..], stride),
            Source::Int8(x) => {
                let rows: &mut [E] = &mut bytemuck::cast_slice_mut(room)[..n * width];
                multiply_out(simd, rows, *x, (first, stride), width);
                (rows, width)
            }
        }
    }
}

/// Words of room that [`Source::rows`] takes for codes: n rows of `width` elements of E.
pub(in crate::backend::cpu) fn room_words<E>(n: usize, width: usize) -> usize {
    (n * width * std::mem::size_of::<E>()).div_ceil(4)
}

per_width! {
    /// rows[i][c] = scale·code, rounded to E, for codes of `width` from `first` on, `stride` apart.
    fn multiply_out[E: CpuFloat](
        rows: &mut [E], x: Codes<'_>, at: (usize, usize), width: usize,
    ) => multiply_out_body;
}

#[inline(always)]
fn multiply_out_body<V: Vectors, E: CpuFloat>(
    v: V, rows: &mut [E], x: Codes<'_>, (first, stride): (usize, usize), width: usize,
) {
    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
        let at = first + i * stride;
        scaled(v, row, &x.codes[at..at + width], x.scales[at / width]);
    }
}
