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

/// [`super::lines::Products::dots`]: 16 keys at a time with one head after the other, a key's partial sums in a register until
/// all 16 are added up. The keys lie in the second-level cache when they are read, so their order does not matter; what is
/// asked for ahead is in the order of the addresses.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn dots(scores: &mut [f32], q: &[bf16], k: Lines<'_, bf16>, s: &Shape) {
    assert!(s.head_dim.is_multiple_of(PER) && k.n * s.kv_stride() <= k.data.len());
    assert!(q.len() == s.heads * s.head_dim);
    assert!(scores.len() >= (s.heads - 1) * KEYS + k.n.next_multiple_of(16));
    for j0 in (0..k.n).step_by(16) {
        for head in 0..s.heads {
            let (kv, first) = (head / s.group, j0 * s.kv_stride());
            let keys = Keys {
                q: &q[head * s.head_dim..][..s.head_dim],
                k: &k.data[first + kv * s.head_dim..],
                stride: s.kv_stride(),
                n: 16.min(k.n - j0),
            };
            let (ahead, asks) = (k.ahead.from(first + 16 * kv * s.head_dim), head.is_multiple_of(s.group));
            // SAFETY: the assertions above are what `dots` asks for.
            let sums = unsafe {
                match (keys.n, asks) {
                    (16, true) => keys.dots::<true, true>(ahead),
                    (16, false) => keys.dots::<true, false>(ahead),
                    (_, true) => keys.dots::<false, true>(ahead),
                    (_, false) => keys.dots::<false, false>(ahead),
                }
            };
            // SAFETY: the slice is 16 floats.
            unsafe { _mm512_storeu_ps(scores[head * KEYS + j0..][..16].as_mut_ptr(), sums) };
        }
    }
}

/// A head's query and up to 16 keys for it.
struct Keys<'a> {
    q: &'a [bf16],
    k: &'a [bf16],
    stride: usize,
    n: usize,
}

impl Keys<'_> {
    /// The products with 16 keys, `ALL` of which are there; if not, the last one takes the places of those that are missing.
    /// `ASK`: with each line of these keys one at `ahead` is asked for.
    ///
    /// # Safety
    /// The CPU has the features; q is whole vectors, k has as many elements for each of n > 0 tokens, `stride` apart.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn dots<const ALL: bool, const ASK: bool>(&self, ahead: Ahead) -> __m512 {
        let mut acc = [_mm512_setzero_ps(); 16];
        for c in (0..self.q.len()).step_by(PER) {
            // SAFETY: q has a vector from c on.
            let q = pairs(unsafe { _mm512_loadu_si512(self.q.as_ptr().add(c).cast()) });
            for (j, acc) in acc.iter_mut().enumerate() {
                if ASK {
                    ahead.ask(16 * c + j * PER);
                }
                let row = if ALL { j } else { j.min(self.n - 1) };
                // SAFETY: row < n of k has a vector from c on.
                let k = unsafe { _mm512_loadu_si512(self.k.as_ptr().add(row * self.stride + c).cast()) };
                *acc = _mm512_dpbf16_ps(*acc, q, pairs(k));
            }
        }
        sums_of_lanes(acc)
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

/// [`super::lines::Products::sums`], two keys at a time with the heads of one key/value head. As in [`dots`], the values have
/// been brought near, and what is asked for ahead is in the order of the addresses.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn sums(acc: &mut [f32], weights: &[bf16], v: Lines<'_, bf16>, s: &Shape) {
    let dim = s.head_dim;
    assert!(dim.is_multiple_of(PER) && v.n * s.kv_stride() <= v.data.len());
    assert!(acc.len() == s.heads * dim && weights.len() >= (s.heads - 1) * KEYS + v.n.next_multiple_of(2));
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
            // SAFETY: the assertions above are what `add` asks for, the match that there are G heads.
            unsafe {
                match s.group - first {
                    1 => some.add::<1>(ahead),
                    2 => some.add::<2>(ahead),
                    3 => some.add::<3>(ahead),
                    4 => some.add::<4>(ahead),
                    5 => some.add::<5>(ahead),
                    6 => some.add::<6>(ahead),
                    7 => some.add::<7>(ahead),
                    _ => some.add::<HEADS>(ahead),
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
    /// For G heads. Asks for a line from `ahead` on with each line it reads.
    ///
    /// # Safety
    /// The CPU has the features; acc, weights and v have what their comments say, weights for n rounded up to even.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn add<const G: usize>(self, mut ahead: Ahead) {
        // Words of two keys: element j of the first operand, element j of the second (numbered from 32).
        let words: [u32; 32] = std::array::from_fn(|j| j as u32 | (j as u32 + 32) << 16);
        // SAFETY: 32 words are two vectors.
        let (low, high) = unsafe {
            (_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(words.as_ptr().add(16).cast()))
        };
        for c in (0..self.dim).step_by(PER) {
            let mut sums = [[_mm512_setzero_ps(); 2]; G];
            for j in (0..self.n).step_by(2) {
                ahead.ask(0);
                ahead.ask(PER);
                ahead = ahead.from(2 * PER);
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
    }
}
