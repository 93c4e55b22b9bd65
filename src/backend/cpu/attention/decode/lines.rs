//! The products of decoding: the queries of all heads against a step of keys and values, token by token.

use super::super::super::isa::Simd;
use super::super::super::math::CpuFloat;
use super::super::super::prefetch::{LINE, STREAM_AHEAD, prefetch, prefetch_l2};
use super::super::Shape;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::wide;

/// n tokens of keys or values, [n][kv_heads][head_dim].
#[derive(Clone, Copy)]
pub(super) struct Lines<'a, E> {
    pub data: &'a [E],
    pub n: usize,
    pub ahead: Ahead,
}

/// What is read some time after some lines, as it lies in memory.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    to: *const u8,
    /// Of an element.
    bytes: usize,
}

impl Ahead {
    /// What is asked for while a step from the first of `data` on is read: as far ahead as with any stream, but past the step, whose
    /// lines are not read in the order of their addresses.
    pub fn of<T>(data: &[T], step: usize) -> Self {
        let bytes = std::mem::size_of::<T>();
        Ahead { to: data.as_ptr().cast::<u8>().wrapping_add(STREAM_AHEAD.max(step * bytes)), bytes }
    }

    /// Asks for the line of element `at`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // for pairs and integers
    #[inline(always)]
    pub fn ask(self, at: usize) {
        prefetch(self.to.wrapping_add(at * self.bytes));
    }

    /// Asks for the lines of n elements from `at` on.
    #[inline(always)]
    pub fn ask_for_all(self, at: usize, n: usize) {
        for line in (0..n * self.bytes).step_by(LINE) {
            prefetch(self.to.wrapping_add(at * self.bytes + line));
        }
    }

    /// Asks, as far as the second-level cache, for the next n lines.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // for tiles
    #[inline(always)]
    pub fn ask_for(&mut self, n: usize) {
        if self.bytes > 0 {
            for _ in 0..n {
                prefetch_l2(self.to);
                self.to = self.to.wrapping_add(LINE);
            }
        }
    }

    /// One line again and again, or none, which costs nothing.
    #[inline(always)]
    pub fn nothing(self) -> Self {
        Ahead { bytes: 0, ..self }
    }

    /// The same from element `at` on.
    #[inline(always)]
    pub fn from(self, at: usize) -> Self {
        Ahead { to: self.to.wrapping_add(at * self.bytes), ..self }
    }
}

/// What the products need to know.
pub(super) struct Products<'a> {
    pub simd: Simd,
    pub shape: &'a Shape,
}

impl Products<'_> {
    /// scores[head·[`KEYS`](super::KEYS) + j] = q_head·k_j for the n keys, q [heads][head_dim]; up to the next multiple of 8 something.
    pub(super) fn dots<E: CpuFloat>(&self, scores: &mut [f32], q: &[E], k: Lines<'_, E>) {
        #[cfg(target_arch = "x86_64")]
        if avx512::takes::<E, E>(self.simd, self.shape.head_dim) {
            let (q, k) = (bytemuck::cast_slice(q), k.as_bf16());
            // SAFETY: `takes` has seen that the CPU has the features.
            return unsafe { avx512::dots::<half::bf16>(scores, q, k, self.shape) };
        }
        wide::dots(self.simd, scores, q, k, self.shape);
    }

    /// acc[head][..] += Σ_j weights[head·KEYS + j]·v_j; the weight behind an odd n must be 0.
    pub(super) fn sums<E: CpuFloat, W: CpuFloat>(&self, acc: &mut [f32], weights: &[W], v: Lines<'_, E>) {
        #[cfg(target_arch = "x86_64")]
        if avx512::takes::<E, W>(self.simd, self.shape.head_dim) {
            let (weights, v) = (bytemuck::cast_slice(weights), v.as_bf16());
            // SAFETY: `takes` has seen that the CPU has the features.
            return unsafe { avx512::sums::<half::bf16>(acc, weights, None, v, self.shape) };
        }
        wide::sums(self.simd, acc, weights, v, self.shape);
    }
}

#[cfg(target_arch = "x86_64")]
impl<'a, E: CpuFloat> Lines<'a, E> {
    fn as_bf16(self) -> Lines<'a, half::bf16> {
        Lines { data: bytemuck::cast_slice(self.data), n: self.n, ahead: self.ahead }
    }
}
