//! The products of decoding in AVX-512 with bf16 dot products.

use super::super::super::isa::{Isa, Simd, prefetch};
use super::super::Shape;
use super::KEYS;
use super::lines::{Lines, sums_words};
use half::bf16;
use std::arch::x86_64::*;

/// Elements of a vector, and vectors of a head that are kept in registers at most.
const PER: usize = 32;
const KEPT: usize = 4;

/// Whether these products can be computed here: the CPU has the features, both operands are bf16, heads are whole vectors.
pub(super) fn takes<A, B>(simd: Simd, dim: usize) -> bool {
    let bytes = (std::mem::size_of::<A>(), std::mem::size_of::<B>());
    simd.isa() == Isa::Avx512Bf16 && bytes == (2, 2) && dim.is_multiple_of(PER)
}

/// The same 512 bits, as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain bits, for which every pattern is valid.
    unsafe { std::mem::transmute(x) }
}

/// [`super::lines::Products::dots`]: 16 keys at a time, each with all heads; a product's 16 partial sums wait in `sums`
/// [heads][16 keys][16] until they are added, 16 keys at once.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn dots(scores: &mut [f32], q: &[bf16], k: Lines<'_, bf16>, s: &Shape, sums: &mut [f32]) {
    assert!(s.head_dim.is_multiple_of(PER) && k.n * s.kv_stride() <= k.data.len());
    assert!(q.len() == s.heads * s.head_dim && sums.len() == sums_words(s.heads));
    for j0 in (0..k.n).step_by(16) {
        let keys = Keys { q, k: &k.data[j0 * s.kv_stride()..], n: 16.min(k.n - j0), s };
        for c0 in (0..s.head_dim).step_by(KEPT * PER) {
            // SAFETY: the assertions above are what `partial` asks for, the match that there are C vectors from c0 on.
            unsafe {
                match (s.head_dim - c0) / PER {
                    1 => keys.partial::<1>(sums, c0),
                    2 => keys.partial::<2>(sums, c0),
                    3 => keys.partial::<3>(sums, c0),
                    _ => keys.partial::<KEPT>(sums, c0),
                }
            }
        }
        for (head, sums) in sums.chunks_exact(256).enumerate() {
            let scores = &mut scores[head * KEYS + j0..][..16];
            let mut rows = [_mm512_setzero_ps(); 16];
            for (j, row) in rows.iter_mut().enumerate() {
                // SAFETY: sums has 16 rows of 16 floats for each head.
                *row = unsafe { _mm512_loadu_ps(sums.as_ptr().add(16 * j)) };
            }
            // SAFETY: `scores` is 16 floats.
            unsafe { _mm512_storeu_ps(scores.as_mut_ptr(), sums_of_lanes(rows)) };
        }
    }
}

/// Up to 16 keys.
struct Keys<'a> {
    q: &'a [bf16],
    k: &'a [bf16],
    n: usize,
    s: &'a Shape,
}

impl Keys<'_> {
    /// The share of the C vectors from column c0 on: `=` for the first ones, `+=` for the others.
    ///
    /// # Safety
    /// The CPU has the features; q is [heads][head_dim], k has n tokens of kv_heads·head_dim, sums 256 floats for each
    /// head, a head C vectors from c0 on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn partial<const C: usize>(&self, sums: &mut [f32], c0: usize) {
        let (s, dim) = (self.s, self.s.head_dim);
        for j in 0..self.n {
            for kv in 0..s.kv_heads {
                let mut k = [_mm512_setzero_si512(); C];
                for (c, k) in k.iter_mut().enumerate() {
                    // SAFETY: key j < n, its head kv, C vectors from c0 on.
                    let from = unsafe { self.k.as_ptr().add(j * s.kv_stride() + kv * dim + c0 + c * PER) };
                    // SAFETY: as above.
                    *k = unsafe { _mm512_loadu_si512(from.cast()) };
                }
                for head in kv * s.group..(kv + 1) * s.group {
                    // SAFETY: head < heads; 16 floats for each of its keys.
                    let to = unsafe { sums.as_mut_ptr().add(head * 256 + j * 16) };
                    // SAFETY: as above; after the first columns the floats hold their share.
                    let mut acc = if c0 == 0 { _mm512_setzero_ps() } else { unsafe { _mm512_loadu_ps(to) } };
                    for (c, k) in k.into_iter().enumerate() {
                        // SAFETY: head < heads has C vectors from c0 on.
                        let q = unsafe { self.q.as_ptr().add(head * dim + c0 + c * PER) };
                        // SAFETY: as above.
                        acc = _mm512_dpbf16_ps(acc, pairs(unsafe { _mm512_loadu_si512(q.cast()) }), pairs(k));
                    }
                    // SAFETY: as above.
                    unsafe { _mm512_storeu_ps(to, acc) };
                }
            }
        }
    }
}

/// Lane j is the sum of the lanes of x[j]: halves are added until one vector is left.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_of_lanes(x: [__m512; 16]) -> __m512 {
    let mut fours = [_mm512_setzero_ps(); 4];
    for i in 0..4 {
        let (a, b) = (halves_of_words(x[4 * i], x[4 * i + 1]), halves_of_words(x[4 * i + 2], x[4 * i + 3]));
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        fours[i] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    let (a, b) = (halves_of_quarters(fours[0], fours[1]), halves_of_quarters(fours[2], fours[3]));
    halves_of_quarters(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves_of_words(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves_of_quarters(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
}

/// Most heads whose sums are in registers at once.
const HEADS: usize = 8;

/// [`super::lines::Products::sums`], two keys at a time. The step is small enough to lie in L1, so that its heads can be taken
/// one by one; what brings it there in one stream are the prefetches of the next step, in the order of the addresses.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn sums(acc: &mut [f32], weights: &[bf16], v: Lines<'_, bf16>, s: &Shape) {
    let dim = s.head_dim;
    assert!(dim.is_multiple_of(PER) && v.n * s.kv_stride() <= v.data.len());
    assert!(acc.len() == s.heads * dim && weights.len() >= (s.heads - 1) * KEYS + v.n.next_multiple_of(2));
    let mut next = v.data.as_ptr().wrapping_add(v.n * s.kv_stride());
    for kv in 0..s.kv_heads {
        for first in (0..s.group).step_by(HEADS) {
            let head = kv * s.group + first;
            let some = Sharing {
                acc: &mut acc[head * dim..],
                weights: &weights[head * KEYS..],
                v: &v.data[kv * dim..],
                stride: s.kv_stride(),
                n: v.n,
                dim,
            };
            // SAFETY: the assertions above are what `add` asks for, the match that there are G heads.
            next = unsafe {
                match s.group - first {
                    1 => some.add::<1>(next),
                    2 => some.add::<2>(next),
                    3 => some.add::<3>(next),
                    4 => some.add::<4>(next),
                    5 => some.add::<5>(next),
                    6 => some.add::<6>(next),
                    7 => some.add::<7>(next),
                    _ => some.add::<HEADS>(next),
                }
            };
        }
    }
}

/// Some heads that share a key/value head, and its values.
struct Sharing<'a> {
    /// [heads][dim].
    acc: &'a mut [f32],
    /// [heads][KEYS].
    weights: &'a [bf16],
    /// n tokens, `stride` elements apart.
    v: &'a [bf16],
    stride: usize,
    n: usize,
    dim: usize,
}

impl Sharing<'_> {
    /// For G heads. Asks for a line at `next` with each line it reads; returns where that has come to.
    ///
    /// # Safety
    /// The CPU has the features; acc, weights and v have what their comments say, weights for n rounded up to even.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn add<const G: usize>(self, mut next: *const bf16) -> *const bf16 {
        // Words of two keys: element j of the first operand, element j of the second (numbered from 32).
        let words: [u32; 32] = std::array::from_fn(|j| j as u32 | (j as u32 + 32) << 16);
        // SAFETY: 32 words are two vectors.
        let (low, high) = unsafe {
            (_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(words.as_ptr().add(16).cast()))
        };
        for c in (0..self.dim).step_by(PER) {
            let mut sums = [[_mm512_setzero_ps(); 2]; G];
            for j in (0..self.n).step_by(2) {
                prefetch(next);
                prefetch(next.wrapping_add(PER));
                next = next.wrapping_add(2 * PER);
                // SAFETY: tokens j and j + 1 < n have dim elements; a row of weights has an even number.
                unsafe {
                    let line = self.v.as_ptr().add(j * self.stride + c);
                    let first = _mm512_loadu_si512(line.cast());
                    let second = if j + 1 < self.n {
                        _mm512_loadu_si512(line.add(self.stride).cast())
                    } else {
                        _mm512_setzero_si512()
                    };
                    let v0 = pairs(_mm512_permutex2var_epi16(first, low, second));
                    let v1 = pairs(_mm512_permutex2var_epi16(first, high, second));
                    for (g, sums) in sums.iter_mut().enumerate() {
                        let p = self.weights.as_ptr().add(g * KEYS + j).cast::<i32>().read_unaligned();
                        let p = pairs(_mm512_set1_epi32(p));
                        sums[0] = _mm512_dpbf16_ps(sums[0], p, v0);
                        sums[1] = _mm512_dpbf16_ps(sums[1], p, v1);
                    }
                }
            }
            for (g, sums) in sums.into_iter().enumerate() {
                for (half, sum) in sums.into_iter().enumerate() {
                    // SAFETY: acc has dim floats for each of the G heads.
                    unsafe {
                        let to = self.acc.as_mut_ptr().add(g * self.dim + c + 16 * half);
                        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum));
                    }
                }
            }
        }
        next
    }
}
