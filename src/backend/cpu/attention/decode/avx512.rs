//! The products of decoding in AVX-512 with bf16 dot products.

use super::super::super::isa::Simd;
use super::super::Shape;
use super::KEYS;
use super::lines::{Ahead, Lines};
use half::bf16;
use std::arch::x86_64::*;

/// Elements of a vector.
const PER: usize = 32;

/// Whether these products can be computed here: the CPU has the features, both operands are bf16, heads are whole vectors.
pub(super) fn takes<A, B>(simd: Simd, dim: usize) -> bool {
    let bytes = (std::mem::size_of::<A>(), std::mem::size_of::<B>());
    simd.isa().has_pairs() && bytes == (2, 2) && dim.is_multiple_of(PER)
}

/// The same 512 bits, as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain bits, for which every pattern is valid.
    unsafe { std::mem::transmute(x) }
}

/// Keys whose partial sums are in registers at once, and the most heads that a key is multiplied with while it is in one: 24 sums
/// are under way.
const DOT_KEYS: usize = 8;
const DOT_HEADS: usize = 3;

/// [`super::lines::Products::dots`]: 8 keys at a time with the heads that share them, a key's partial sums in a register until all
/// 8 are added up. The keys are near when they are read, so their order does not matter; what is asked for ahead is in the order of
/// the addresses.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn dots(scores: &mut [f32], q: &[bf16], k: Lines<'_, bf16>, s: &Shape) {
    let (dim, stride) = (s.head_dim, s.kv_stride());
    assert!(dim.is_multiple_of(PER) && stride == s.kv_heads * dim && k.n * stride <= k.data.len());
    assert!(s.heads == s.kv_heads * s.group && q.len() == s.heads * dim);
    assert!(scores.len() >= (s.heads - 1) * KEYS + k.n.next_multiple_of(DOT_KEYS));
    for j0 in (0..k.n).step_by(DOT_KEYS) {
        let mut ahead = k.ahead.from(j0 * stride);
        for kv in 0..s.kv_heads {
            for first in (0..s.group).step_by(DOT_HEADS) {
                let head = kv * s.group + first;
                let n = DOT_KEYS.min(k.n - j0);
                // SAFETY: the assertions above are what `dots` asks for, the match that there are G heads.
                unsafe {
                    let some = Scoring {
                        scores: scores.as_mut_ptr().add(head * KEYS + j0),
                        q: q.as_ptr().add(head * dim),
                        k: k.data.as_ptr().add(j0 * stride + kv * dim),
                        stride,
                        n,
                        dim,
                    };
                    let ahead = if first == 0 { ahead } else { ahead.nothing() };
                    match (s.group - first, n) {
                        (1, DOT_KEYS) => some.dots::<1, true>(ahead),
                        (2, DOT_KEYS) => some.dots::<2, true>(ahead),
                        (_, DOT_KEYS) => some.dots::<DOT_HEADS, true>(ahead),
                        (1, _) => some.dots::<1, false>(ahead),
                        (2, _) => some.dots::<2, false>(ahead),
                        _ => some.dots::<DOT_HEADS, false>(ahead),
                    }
                }
            }
            ahead = ahead.from(DOT_KEYS * dim);
        }
    }
}

/// Some heads that share a key/value head, and up to 8 of its keys.
struct Scoring {
    /// A row for each head, KEYS apart, of which 8 are written.
    scores: *mut f32,
    /// [heads][dim].
    q: *const bf16,
    /// n tokens, `stride` elements apart.
    k: *const bf16,
    stride: usize,
    n: usize,
    dim: usize,
}

impl Scoring {
    /// For G heads and 8 keys, `ALL` of which are there; if not, the last one takes the places of those that are missing. Asks for
    /// a line from `ahead` on with each line it reads.
    ///
    /// # Safety
    /// The CPU has the features; scores, q and k have what their comments say; 0 < n, and n is 8 with `ALL`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn dots<const G: usize, const ALL: bool>(self, mut ahead: Ahead) {
        let mut acc = [[_mm512_setzero_ps(); DOT_KEYS]; G];
        for c in (0..self.dim).step_by(PER) {
            let mut q = [pairs(_mm512_setzero_si512()); G];
            for (g, q) in q.iter_mut().enumerate() {
                // SAFETY: each of the G heads has a vector from c on.
                *q = pairs(unsafe { _mm512_loadu_si512(self.q.add(g * self.dim + c).cast()) });
            }
            for j in 0..DOT_KEYS {
                ahead.ask(0);
                ahead = ahead.from(PER);
                let row = if ALL { j } else { j.min(self.n - 1) };
                // SAFETY: row < n of k has a vector from c on.
                let k = unsafe { _mm512_loadu_si512(self.k.add(row * self.stride + c).cast()) };
                for g in 0..G {
                    acc[g][j] = _mm512_dpbf16_ps(acc[g][j], q[g], pairs(k));
                }
            }
        }
        for (g, [a, b, c, d, e, f, h, i]) in acc.into_iter().enumerate() {
            let quarters = halves_of_quarters(fours_of_lanes([a, b, c, d]), fours_of_lanes([e, f, h, i]));
            let sums = _mm512_castps512_ps256(halves_of_quarters(quarters, quarters));
            // SAFETY: 8 scores of each of the G heads are written.
            unsafe { _mm256_storeu_ps(self.scores.add(g * KEYS), sums) };
        }
    }
}

/// Lane 4·i + j is the sum of lanes 4·i to 4·i + 3 of x[j].
#[inline]
#[target_feature(enable = "avx512f")]
fn fours_of_lanes(x: [__m512; 4]) -> __m512 {
    let (a, b) = (halves_of_words(x[0], x[1]), halves_of_words(x[2], x[3]));
    let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
    let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
    _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
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

/// Most heads whose sums fit in registers, with one vector of values at a time and with two.
const HEADS: usize = 8;
const WIDE_HEADS: usize = 4;

/// [`super::lines::Products::sums`], two keys at a time with the heads of one key/value head. As in [`dots`], the values have
/// been brought near, and what is asked for ahead is in the order of the addresses.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn sums(acc: &mut [f32], weights: &[bf16], v: Lines<'_, bf16>, s: &Shape) {
    let dim = s.head_dim;
    assert!(
        dim.is_multiple_of(PER) && s.kv_stride() == s.kv_heads * dim && v.n * s.kv_stride() <= v.data.len()
    );
    assert!(
        s.heads == s.kv_heads * s.group
            && acc.len() == s.heads * dim
            && weights.len() >= (s.heads - 1) * KEYS + v.n.next_multiple_of(2)
    );
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
            let ahead = v.ahead.from(kv * v.n * dim);
            let ahead = if first == 0 { ahead } else { ahead.nothing() };
            let wide = dim.is_multiple_of(2 * PER);
            // SAFETY: the assertions above are what `add` asks for, the match that there are G heads and vectors to go in steps of C.
            unsafe {
                match (s.group - first, wide) {
                    (1, true) => some.add::<1, 2>(ahead),
                    (2, true) => some.add::<2, 2>(ahead),
                    (3, true) => some.add::<3, 2>(ahead),
                    (WIDE_HEADS, true) => some.add::<WIDE_HEADS, 2>(ahead),
                    (1, _) => some.add::<1, 1>(ahead),
                    (2, _) => some.add::<2, 1>(ahead),
                    (3, _) => some.add::<3, 1>(ahead),
                    (4, _) => some.add::<4, 1>(ahead),
                    (5, _) => some.add::<5, 1>(ahead),
                    (6, _) => some.add::<6, 1>(ahead),
                    (7, _) => some.add::<7, 1>(ahead),
                    _ => some.add::<HEADS, 1>(ahead),
                }
            }
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
    /// For G heads, C vectors of a value at a time. Asks for a line from `ahead` on with each line it reads.
    ///
    /// # Safety
    /// The CPU has the features; acc, weights and v have what their comments say, weights for n rounded up to even; dim is a
    /// multiple of C vectors.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn add<const G: usize, const C: usize>(self, mut ahead: Ahead) {
        // Words of two keys: element j of the first operand, element j of the second (numbered from 32).
        let words: [u32; 32] = std::array::from_fn(|j| j as u32 | (j as u32 + 32) << 16);
        // SAFETY: 32 words are two vectors.
        let (low, high) = unsafe {
            (_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(words.as_ptr().add(16).cast()))
        };
        for c in (0..self.dim).step_by(C * PER) {
            let mut sums = [[[_mm512_setzero_ps(); 2]; C]; G];
            for j in (0..self.n).step_by(2) {
                // SAFETY: tokens j and j + 1 < n have dim elements; a row of weights has an even number.
                unsafe {
                    let mut v = [[pairs(_mm512_setzero_si512()); 2]; C];
                    for (i, v) in v.iter_mut().enumerate() {
                        ahead.ask(2 * i * PER);
                        ahead.ask((2 * i + 1) * PER);
                        let line = self.v.as_ptr().add(j * self.stride + c + i * PER);
                        let first = _mm512_loadu_si512(line.cast());
                        let second = if j + 1 < self.n {
                            _mm512_loadu_si512(line.add(self.stride).cast())
                        } else {
                            _mm512_setzero_si512()
                        };
                        v[0] = pairs(_mm512_permutex2var_epi16(first, low, second));
                        v[1] = pairs(_mm512_permutex2var_epi16(first, high, second));
                    }
                    for (g, sums) in sums.iter_mut().enumerate() {
                        let p = self.weights.as_ptr().add(g * KEYS + j).cast::<i32>().read_unaligned();
                        let p = pairs(_mm512_set1_epi32(p));
                        for i in 0..C {
                            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], p, v[i][0]);
                            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], p, v[i][1]);
                        }
                    }
                }
                ahead = ahead.from(2 * C * PER);
            }
            for g in 0..G {
                for i in 0..C {
                    for half in 0..2 {
                        // SAFETY: acc has dim floats for each of the G heads.
                        unsafe {
                            let to = self.acc.as_mut_ptr().add(g * self.dim + c + i * PER + 16 * half);
                            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sums[g][i][half]));
                        }
                    }
                }
            }
        }
    }
}
