//! Decoding from 8-bit codes as they lie in the cache: q·(scale·code) is scale·(q·code), a product of f32, or of 16-bit integers where
//! there are instructions for these.
//!
//! For integers a row of factors, a head's query or its weights times the scales of a block's values, becomes integers in units of 2^-14 of the power
//! of two at or below its largest. A query's elements of bf16 are exact as far as 2^-7 of it, and others are rounded by at most 2^-15 of
//! it, where bf16 rounds a product of scale and code by 2^-9. Sums of integers are exact. A row with an element that is no finite
//! number has a unit that is none, and so has what it is a factor of.

// There are no products of integers elsewhere: `takes` is false.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused))]

use super::super::super::isa::{Simd, per_isa};
use super::super::super::math::{CpuFloat, ROUND};
use super::super::super::prefetch::prefetch_piece;
use super::super::super::scratch::{Carver, grain};
use super::super::Shape;
use super::super::source::Codes;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::lines::{Ahead, Lines};
use super::{KEYS, steps, wide};
use half::bf16;

/// Keys of a step of the reading: as many bytes as of bf16.
const STEP: usize = 2 * super::STEP;
/// Most elements of a head whose sums of products fit in 32 bits (`avx512::Kept`).
const WIDEST: usize = 512;

/// Whether they are multiplied with integers: where there are products of integers, and queries and weights are of bf16, which is no more exact.
pub(super) fn takes<E>(simd: Simd, dim: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::takes::<E, bf16>(simd, dim) && dim <= WIDEST;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A block of codes: n tokens from element `first` on.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub codes: Codes<'a>,
    pub first: usize,
    pub n: usize,
}

/// What a worker keeps for reading them.
pub(super) struct Coded<'a> {
    simd: Simd,
    shape: &'a Shape,
    /// [kv_heads][KEYS]: of a block's codes, 0 behind the last.
    scales: &'a mut [f32],
    /// [heads]: of integers, 1 where there are none.
    q_units: &'a mut [f32],
    integers: Option<Integers<'a>>,
}

/// What is multiplied with codes, in units.
struct Integers<'a> {
    /// [heads][head_dim].
    q: &'a mut [i16],
    /// [heads]: of a block's weights.
    weight_units: &'a mut [f32],
}

pub(super) fn room_words(s: &Shape, integers: bool) -> usize {
    let of_integers = if integers { grain((s.heads * s.head_dim).div_ceil(2)) + grain(s.heads) } else { 0 };
    grain(s.kv_heads * KEYS) + grain(s.heads) + of_integers
}

impl<'a> Coded<'a> {
    /// For the queries q of all heads, as integers or as they are.
    pub(super) fn new<E: CpuFloat>(
        simd: Simd, shape: &'a Shape, room: &'a mut [u32], q: &[E], integers: bool,
    ) -> Self {
        let mut carver = Carver(room);
        let scales = carver.floats(shape.kv_heads * KEYS);
        let q_units = carver.floats(shape.heads);
        q_units.fill(1.0);
        let integers = integers.then(|| {
            let words = carver.words((shape.heads * shape.head_dim).div_ceil(2));
            let integers = Integers {
                q: &mut bytemuck::cast_slice_mut(words)[..shape.heads * shape.head_dim],
                weight_units: carver.floats(shape.heads),
            };
            let rows = integers.q.chunks_exact_mut(shape.head_dim).zip(q.chunks_exact(shape.head_dim));
            for ((row, q), unit) in rows.zip(q_units.iter_mut()) {
                row.iter_mut().zip(q).for_each(|(to, q)| *to = bf16::from_f32(q.widen()).to_bits() as i16);
                *unit = to_integers(simd, row, None);
            }
            integers
        });
        Coded { simd, shape, scales, q_units, integers }
    }

    /// scores[head][..n] = q·(scale·code), with the q of `new`; behind n something.
    pub(super) fn dots<E: CpuFloat>(&mut self, scores: &mut [f32], q: &[E], keys: Block<'_>) {
        self.read_scales(keys);
        for (at, k) in keys.steps(self.shape) {
            let scores = &mut scores[at..];
            match &self.integers {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `takes` has seen that the CPU has the features.
                Some(integers) => unsafe { avx512::dots::<i8>(scores, integers.q, k, self.shape) },
                _ => wide::dots(self.simd, scores, q, k, self.shape),
            }
        }
        let of_kv = scores.chunks_mut(self.shape.group * KEYS).zip(self.scales.chunks_exact(KEYS));
        for ((scores, scales), units) in of_kv.zip(self.q_units.chunks_exact(self.shape.group)) {
            multiply(self.simd, scores, scales, units);
        }
    }

    /// acc[head] += Σ_j weights[head][j]·(scale_j·code_j); the weights become something else.
    pub(super) fn sums<W: CpuFloat>(&mut self, acc: &mut [f32], weights: &mut [W], values: Block<'_>) {
        self.read_scales(values);
        let scales =
            self.scales.chunks_exact(KEYS).flat_map(|row| std::iter::repeat_n(row, self.shape.group));
        let rows = weights.chunks_exact_mut(KEYS).zip(scales);
        match &mut self.integers {
            Some(integers) => {
                for ((row, scales), unit) in rows.zip(integers.weight_units.iter_mut()) {
                    *unit = to_integers(self.simd, bytemuck::cast_slice_mut(row), Some(scales));
                }
            }
            None => rows.for_each(|(row, scales)| scale(self.simd, row, scales)),
        }
        for (at, v) in values.steps(self.shape) {
            let weights = &weights[at..];
            match &self.integers {
                #[cfg(target_arch = "x86_64")]
                Some(integers) => {
                    let weights = bytemuck::cast_slice(weights);
                    // SAFETY: `takes` has seen that the CPU has the features.
                    unsafe {
                        avx512::sums::<i8>(acc, weights, Some(integers.weight_units), v, self.shape);
                    }
                }
                _ => wide::sums(self.simd, acc, weights, v, self.shape),
            }
        }
    }

    /// Each head's scales in a row; asks for those of the next block.
    fn read_scales(&mut self, block: Block<'_>) {
        let first = block.first / self.shape.head_dim;
        let next = block.codes.scales.get(first + block.n * self.shape.kv_heads..).unwrap_or_default();
        prefetch_piece(&next[..next.len().min(self.scales.len())], (0, 1));
        for (kv, row) in self.scales.chunks_exact_mut(KEYS).enumerate() {
            let scales = block.codes.scales[first + kv..].iter().step_by(self.shape.kv_heads);
            row[..block.n].iter_mut().zip(scales).for_each(|(to, scale)| *to = *scale);
            row[block.n..].fill(0.0);
        }
    }
}

impl<'a> Block<'a> {
    fn steps(self, s: &Shape) -> impl Iterator<Item = (usize, Lines<'a, i8>)> {
        let stride = s.kv_stride();
        steps(0..self.n, STEP).map(move |(at, n)| {
            let data = &self.codes.codes[self.first + at * stride..];
            (at, Lines { data, n, ahead: Ahead::of(data, STEP * stride) })
        })
    }
}

per_isa! {
    /// A row of bf16 bits, times the factors, becomes integers in units of what is returned.
    fn to_integers[](row: &mut [i16], factors: Option<&[f32]>) -> f32 => to_integers_body;
    /// x[i][j] *= rows[i]·columns[j].
    fn multiply[](x: &mut [f32], columns: &[f32], rows: &[f32]) => multiply_body;
    /// row[j] *= factors[j].
    fn scale[W: CpuFloat](row: &mut [W], factors: &[f32]) => scale_body;
}

#[inline(always)]
fn to_integers_body<const FMA: bool>(row: &mut [i16], factors: Option<&[f32]>) -> f32 {
    let float = |x: i16| f32::from_bits(u32::from(x as u16) << 16);
    match factors {
        Some(factors) => {
            let factors = &factors[..row.len()];
            round_to_integers(row, |j, x| float(x) * factors[j])
        }
        None => round_to_integers(row, |_, x| float(x)),
    }
}

/// row[j] becomes `at(j, row[j])`, in units of what is returned.
#[inline(always)]
fn round_to_integers(row: &mut [i16], at: impl Fn(usize, i16) -> f32) -> f32 {
    /// 2^-100: what is smaller counts as so large, and units are normal numbers.
    const LEAST: u32 = (127 - 100) << 23;
    let mut largest = LEAST;
    for j in 0..row.len() {
        // As bits, so that NaN is the largest.
        largest = largest.max(at(j, row[j]).to_bits() & 0x7fff_ffff);
    }
    let power = f32::from_bits(largest & 0x7f80_0000);
    let per_unit = 16384.0 / power;
    for j in 0..row.len() {
        let x = at(j, row[j]) * per_unit;
        let x = if x > 32767.0 { 32767.0 } else { x };
        row[j] = (x + ROUND).to_bits() as i16;
    }
    power * (1.0 / 16384.0)
}

#[inline(always)]
fn multiply_body<const FMA: bool>(x: &mut [f32], columns: &[f32], rows: &[f32]) {
    for (x, row) in x.chunks_exact_mut(columns.len()).zip(rows) {
        for (x, column) in x.iter_mut().zip(columns) {
            *x *= row * column;
        }
    }
}

#[inline(always)]
fn scale_body<W: CpuFloat, const FMA: bool>(row: &mut [W], factors: &[f32]) {
    for (x, factor) in row.iter_mut().zip(factors) {
        *x = W::narrow(x.widen() * factor);
    }
}
