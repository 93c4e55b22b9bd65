//! The products of decoding: the queries of all heads against a step of keys and values, token by token.

use super::super::super::isa::{Simd, per_isa};
use super::super::super::math::{CpuFloat, fma, sum_products};
use super::super::super::prefetch::{LINE, STREAM_AHEAD, prefetch, prefetch_l2};
use super::super::Shape;
use super::KEYS;
#[cfg(target_arch = "x86_64")]
use super::avx512;

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
    #[inline(always)]
    pub fn ask(self, at: usize) {
        prefetch(self.to.wrapping_add(at * self.bytes));
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
    /// scores[head·KEYS + j] = q_head·k_j for the n keys, q [heads][head_dim]; up to the next multiple of 8 something.
    pub(super) fn dots<E: CpuFloat>(&self, scores: &mut [f32], q: &[E], k: Lines<'_, E>) {
        #[cfg(target_arch = "x86_64")]
        if avx512::takes::<E, E>(self.simd, self.shape.head_dim) {
            let (q, k) = (bytemuck::cast_slice(q), k.as_bf16());
            // SAFETY: `takes` has seen that the CPU has the features.
            return unsafe { avx512::dots::<half::bf16>(scores, q, k, self.shape) };
        }
        plain_dots(self.simd, scores, q, k, self.shape);
    }

    /// acc[head][..] += Σ_j weights[head·KEYS + j]·v_j; the weight behind an odd n must be 0.
    pub(super) fn sums<E: CpuFloat, W: CpuFloat>(&self, acc: &mut [f32], weights: &[W], v: Lines<'_, E>) {
        #[cfg(target_arch = "x86_64")]
        if avx512::takes::<E, W>(self.simd, self.shape.head_dim) {
            let (weights, v) = (bytemuck::cast_slice(weights), v.as_bf16());
            // SAFETY: `takes` has seen that the CPU has the features.
            return unsafe { avx512::sums::<half::bf16>(acc, weights, None, v, self.shape) };
        }
        plain_sums(self.simd, acc, weights, v, self.shape);
    }
}

#[cfg(target_arch = "x86_64")]
impl<'a, E: CpuFloat> Lines<'a, E> {
    fn as_bf16(self) -> Lines<'a, half::bf16> {
        Lines { data: bytemuck::cast_slice(self.data), n: self.n, ahead: self.ahead }
    }
}

per_isa! {
    fn plain_dots[E: CpuFloat](scores: &mut [f32], q: &[E], k: Lines<'_, E>, s: &Shape) => dots_body;
    fn plain_sums[E: CpuFloat, W: CpuFloat](
        acc: &mut [f32], weights: &[W], v: Lines<'_, E>, s: &Shape,
    ) => sums_body;
}

#[inline(always)]
fn dots_body<E: CpuFloat, const FMA: bool>(scores: &mut [f32], q: &[E], k: Lines<'_, E>, s: &Shape) {
    for (j, k) in k.data.chunks_exact(s.kv_stride()).enumerate().take(k.n) {
        for (head, q) in q.chunks_exact(s.head_dim).enumerate() {
            let k = &k[head / s.group * s.head_dim..][..s.head_dim];
            scores[head * KEYS + j] = sum_products::<E, FMA, 2>([q, k]);
        }
    }
}

#[inline(always)]
fn sums_body<E: CpuFloat, W: CpuFloat, const FMA: bool>(
    acc: &mut [f32], weights: &[W], v: Lines<'_, E>, s: &Shape,
) {
    for (j, v) in v.data.chunks_exact(s.kv_stride()).enumerate().take(v.n) {
        for (head, acc) in acc.chunks_exact_mut(s.head_dim).enumerate() {
            let v = &v[head / s.group * s.head_dim..][..s.head_dim];
            let weight = weights[head * KEYS + j].widen();
            for (acc, x) in acc.iter_mut().zip(v) {
                *acc = fma::<FMA>(weight, x.widen(), *acc);
            }
        }
    }
}
