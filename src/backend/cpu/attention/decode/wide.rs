//! The products of decoding in vectors of f32: of f32, and of bf16 and codes for processors without products of their own for these.

use super::super::super::math::{CpuFloat, Widen};
use super::super::super::vectors::{Vectors, per_width};
use super::super::Shape;
use super::KEYS;
use super::lines::{Ahead, Lines};

/// Keys whose partial sums are in registers at once, and the most heads that share a key or a value while it is there: 12 sums of 16
/// registers, one for each head's query, one for a key; or 3 weights and a value.
const AT_ONCE: usize = 4;
const HEADS: usize = 3;

per_width! {
    /// As [`Products::dots`](super::lines::Products::dots), of which up to the next multiple of [`AT_ONCE`] are written.
    pub(super) fn dots[E: CpuFloat, K: Widen](scores: &mut [f32], q: &[E], k: Lines<'_, K>, s: &Shape) => dots_body;
    /// As [`Products::sums`](super::lines::Products::sums).
    pub(super) fn sums[K: Widen, W: CpuFloat](
        acc: &mut [f32], weights: &[W], v: Lines<'_, K>, s: &Shape,
    ) => sums_body;
}

#[inline(always)]
fn dots_body<V: Vectors, E: CpuFloat, K: Widen>(
    vectors: V, scores: &mut [f32], q: &[E], k: Lines<'_, K>, s: &Shape,
) {
    let (dim, stride) = (s.head_dim, s.kv_stride());
    assert!(stride == s.kv_heads * dim && k.n * stride <= k.data.len());
    assert!(s.heads == s.kv_heads * s.group && q.len() == s.heads * dim);
    for j0 in (0..k.n).step_by(AT_ONCE) {
        for kv in 0..s.kv_heads {
            k.ahead.ask_for_all(j0 * stride + kv * AT_ONCE * dim, AT_ONCE * dim);
            for first in (0..s.group).step_by(HEADS) {
                let head = kv * s.group + first;
                let data = &k.data[j0 * stride + kv * dim..];
                let keys = Keys { data: data.as_ptr(), stride, dim, n: AT_ONCE.min(k.n - j0) };
                let q = q[head * dim..].as_ptr();
                let scores = &mut scores[head * KEYS + j0..];
                // SAFETY: n keys from j0 on (asserted), and as many heads from `head` on as are named.
                unsafe {
                    match s.group - first {
                        1 => keys.dots::<V, E, 1>(vectors, q, scores),
                        2 => keys.dots::<V, E, 2>(vectors, q, scores),
                        _ => keys.dots::<V, E, HEADS>(vectors, q, scores),
                    }
                }
            }
        }
    }
}

/// Up to [`AT_ONCE`] keys of a head, dim elements each, `stride` apart.
struct Keys<K> {
    data: *const K,
    stride: usize,
    dim: usize,
    n: usize,
}

impl<K: Widen> Keys<K> {
    /// scores[g·KEYS + j] = q_g·k_j for G heads and AT_ONCE keys; the last key takes the places of those that are missing.
    ///
    /// # Safety
    /// There are 0 < n keys, and q is [G][dim].
    #[inline(always)]
    unsafe fn dots<V: Vectors, E: Widen, const G: usize>(&self, v: V, q: *const E, scores: &mut [f32]) {
        let mut acc = [[v.splat(0.0); AT_ONCE]; G];
        let whole = self.dim / V::LANES * V::LANES;
        // SAFETY: whole vectors, and what is left, more than nothing.
        unsafe {
            for c in (0..whole).step_by(V::LANES) {
                self.add_columns(v, q, &mut acc, (c, V::LANES));
            }
            if whole < self.dim {
                self.add_columns(v, q, &mut acc, (whole, self.dim - whole));
            }
        }
        for g in 0..G {
            scores[g * KEYS..][..AT_ONCE].copy_from_slice(&v.sums(acc[g]));
        }
    }

    /// The products of n columns, at most a vector, from c on.
    ///
    /// # Safety
    /// As of `dots`; c + n <= dim.
    #[inline(always)]
    unsafe fn add_columns<V: Vectors, E: Widen, const G: usize>(
        &self, v: V, q: *const E, acc: &mut [[V::Vector; AT_ONCE]; G], (c, n): (usize, usize),
    ) {
        let mut queries = [v.splat(0.0); G];
        for g in 0..G {
            // SAFETY: n elements of head g from c on.
            queries[g] = unsafe { v.load_up_to(q.add(g * self.dim + c), n) };
        }
        for j in 0..AT_ONCE {
            let row = j.min(self.n - 1);
            // SAFETY: likewise, of a key before n.
            let key = unsafe { v.load_up_to(self.data.add(row * self.stride + c), n) };
            for g in 0..G {
                acc[g][j] = v.multiply_add(queries[g], key, acc[g][j]);
            }
        }
    }
}

#[inline(always)]
fn sums_body<V: Vectors, K: Widen, W: CpuFloat>(
    vectors: V, acc: &mut [f32], weights: &[W], v: Lines<'_, K>, s: &Shape,
) {
    let (dim, stride) = (s.head_dim, s.kv_stride());
    assert!(stride == s.kv_heads * dim && v.n * stride <= v.data.len());
    assert!(s.heads == s.kv_heads * s.group && acc.len() == s.heads * dim);
    assert!(v.n == 0 || weights.len() >= (s.heads - 1) * KEYS + v.n);
    for kv in 0..s.kv_heads {
        for first in (0..s.group).step_by(HEADS) {
            let head = kv * s.group + first;
            let ahead = v.ahead.from(kv * v.n * dim);
            let values = Values {
                data: v.data[kv * dim..].as_ptr(),
                weights: weights[head * KEYS..].as_ptr(),
                stride,
                dim,
                n: v.n,
                ahead: if first == 0 { ahead } else { ahead.nothing() },
            };
            let acc = acc[head * dim..].as_mut_ptr();
            // SAFETY: all n values (asserted), and as many heads from `head` on as are named.
            unsafe {
                match s.group - first {
                    1 => values.add::<V, 1>(vectors, acc),
                    2 => values.add::<V, 2>(vectors, acc),
                    _ => values.add::<V, HEADS>(vectors, acc),
                }
            }
        }
    }
}

/// n values of a head, dim elements each, `stride` apart, with weights [heads][KEYS].
struct Values<K, W> {
    data: *const K,
    weights: *const W,
    stride: usize,
    dim: usize,
    n: usize,
    ahead: Ahead,
}

impl<K: Widen, W: CpuFloat> Values<K, W> {
    /// acc[g] += Σ_j weights[g][j]·v_j for G heads, acc [G][dim].
    ///
    /// # Safety
    /// All of that is there.
    #[inline(always)]
    unsafe fn add<V: Vectors, const G: usize>(mut self, v: V, acc: *mut f32) {
        let (wide, lanes) = (AT_ONCE * V::LANES, V::LANES);
        let (most, whole) = (self.dim / wide * wide, self.dim / lanes * lanes);
        // SAFETY: some whole vectors at a time, single ones, and what is left, more than nothing.
        unsafe {
            for c in (0..most).step_by(wide) {
                self.add_columns::<V, G, AT_ONCE>(v, acc.add(c), (c, lanes));
            }
            for c in (most..whole).step_by(lanes) {
                self.add_columns::<V, G, 1>(v, acc.add(c), (c, lanes));
            }
            if whole < self.dim {
                self.add_columns::<V, G, 1>(v, acc.add(whole), (whole, self.dim - whole));
            }
        }
    }

    /// C vectors of all values from column c on, of n columns each.
    ///
    /// # Safety
    /// As of `add`, with acc from column c on; c + C·n <= dim, and n is LANES where C is not 1.
    #[inline(always)]
    unsafe fn add_columns<V: Vectors, const G: usize, const C: usize>(
        &mut self, v: V, acc: *mut f32, (c, n): (usize, usize),
    ) {
        let mut sums = [[v.splat(0.0); C]; G];
        for j in 0..self.n {
            self.ahead.ask_for_all(0, C * n);
            self.ahead = self.ahead.from(C * n);
            let mut weights = [v.splat(0.0); G];
            for g in 0..G {
                // SAFETY: weight j < n of head g.
                weights[g] = v.splat(unsafe { self.weights.add(g * KEYS + j).read() }.widen());
            }
            for i in 0..C {
                // SAFETY: n columns of value j.
                let value = unsafe { v.load_up_to(self.data.add(j * self.stride + c + i * n), n) };
                for g in 0..G {
                    sums[g][i] = v.multiply_add(weights[g], value, sums[g][i]);
                }
            }
        }
        for g in 0..G {
            for i in 0..C {
                // SAFETY: n columns of row g of acc.
                unsafe {
                    let to = acc.add(g * self.dim + i * n);
                    v.store_up_to(to, n, v.add(sums[g][i], v.load_up_to(to, n)));
                }
            }
        }
    }
}
