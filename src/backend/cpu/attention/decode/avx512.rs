//! The products of decoding in AVX-512: of bf16 in pairs, and of 8-bit codes, as they lie in the cache, with 16-bit integers.

use super::super::super::isa::Simd;
use super::super::Shape;
use super::KEYS;
use super::lines::{Ahead, Lines};
use half::bf16;
use std::arch::x86_64::*;

/// Elements of a vector.
const PER: usize = 32;

/// What a key or a value is kept as, and what that is multiplied by.
pub(super) trait Kept: Copy {
    type Factor: Copy;
    /// Whether sums are of 32-bit integers and not of floats.
    const INTEGERS: bool;
}

impl Kept for bf16 {
    type Factor = bf16;
    const INTEGERS: bool = false;
}

/// A code, without its scale. A sum of up to 512 products of one with an i16 is below 2^31.
impl Kept for i8 {
    type Factor = i16;
    const INTEGERS: bool = true;
}

/// Whether the products of A with B can be computed here: the CPU has the features, both operands are bf16, heads are whole vectors.
pub(super) fn takes<A, B>(simd: Simd, dim: usize) -> bool {
    let bytes = (std::mem::size_of::<A>(), std::mem::size_of::<B>());
    simd.isa().has_pairs() && bytes == (2, 2) && dim.is_multiple_of(PER)
}

/// 32 of what is kept, as factors: codes become 16-bit integers.
///
/// # Safety
/// The CPU has the features; 32 elements can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load<T: Kept>(at: *const T) -> __m512i {
    // SAFETY: 32 elements are 32 bytes of codes, 64 of bf16.
    unsafe {
        if T::INTEGERS {
            _mm512_cvtepi8_epi16(_mm256_loadu_si256(at.cast()))
        } else {
            _mm512_loadu_si512(at.cast())
        }
    }
}

/// sums[i] + a[2i]·b[2i] + a[2i+1]·b[2i+1], for sums of 16 lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512vnni")]
fn dot<T: Kept>(sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    if T::INTEGERS {
        return _mm512_dpwssd_epi32(sums, a, b);
    }
    // SAFETY: both are 64 bytes of plain bits, for which every pattern is valid.
    let [a, b] = unsafe { std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([a, b]) };
    _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sums), a, b))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn plus<T: Kept>(a: __m512i, b: __m512i) -> __m512i {
    if T::INTEGERS {
        return _mm512_add_epi32(a, b);
    }
    _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn floats<T: Kept>(sums: __m512i) -> __m512 {
    if T::INTEGERS { _mm512_cvtepi32_ps(sums) } else { _mm512_castsi512_ps(sums) }
}

/// Keys whose partial sums are in registers at once, and the most heads that a key is multiplied with while it is in one: 24 sums
/// are under way.
const DOT_KEYS: usize = 8;
const DOT_HEADS: usize = 3;

/// scores[head·KEYS + j] = q_head·k_j, as [`super::lines::Products::dots`]: 8 keys at a time with the heads that share them, a key's
/// partial sums in a register until all 8 are added up. The keys are near when they are read, so their order does not matter; what is
/// asked for ahead is in the order of the addresses.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub(super) unsafe fn dots<T: Kept>(scores: &mut [f32], q: &[T::Factor], k: Lines<'_, T>, s: &Shape) {
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
struct Scoring<T: Kept> {
    /// A row for each head, KEYS apart, of which 8 are written.
    scores: *mut f32,
    /// [heads][dim].
    q: *const T::Factor,
    /// n tokens, `stride` elements apart.
    k: *const T,
    stride: usize,
    n: usize,
    dim: usize,
}

impl<T: Kept> Scoring<T> {
    /// For G heads and 8 keys, `ALL` of which are there; if not, the last one takes the places of those that are missing. Asks for
    /// a line from `ahead` on with each vector that it reads.
    ///
    /// # Safety
    /// The CPU has the features; scores, q and k have what their comments say; 0 < n, and n is 8 with `ALL`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn dots<const G: usize, const ALL: bool>(self, mut ahead: Ahead) {
        let mut acc = [[_mm512_setzero_si512(); DOT_KEYS]; G];
        for c in (0..self.dim).step_by(PER) {
            let mut q = [_mm512_setzero_si512(); G];
            for (g, q) in q.iter_mut().enumerate() {
                // SAFETY: each of the G heads has a vector from c on.
                *q = unsafe { _mm512_loadu_si512(self.q.add(g * self.dim + c).cast()) };
            }
            for j in 0..DOT_KEYS {
                ahead.ask(0);
                ahead = ahead.from(PER);
                let row = if ALL { j } else { j.min(self.n - 1) };
                // SAFETY: row < n of k has a vector from c on.
                let k = unsafe { load(self.k.add(row * self.stride + c)) };
                for g in 0..G {
                    acc[g][j] = dot::<T>(acc[g][j], q[g], k);
                }
            }
        }
        for (g, [a, b, c, d, e, f, h, i]) in acc.into_iter().enumerate() {
            let (low, high) = (fours_of_lanes::<T>([a, b, c, d]), fours_of_lanes::<T>([e, f, h, i]));
            let quarters = halves_of_quarters::<T>(low, high);
            let sums = floats::<T>(halves_of_quarters::<T>(quarters, quarters));
            // SAFETY: 8 scores of each of the G heads are written.
            unsafe { _mm256_storeu_ps(self.scores.add(g * KEYS), _mm512_castps512_ps256(sums)) };
        }
    }
}

/// Lane 4·i + j is the sum of lanes 4·i to 4·i + 3 of x[j].
#[inline]
#[target_feature(enable = "avx512f")]
fn fours_of_lanes<T: Kept>(x: [__m512i; 4]) -> __m512i {
    let (a, b) = (halves_of_words::<T>(x[0], x[1]), halves_of_words::<T>(x[2], x[3]));
    plus::<T>(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves_of_words<T: Kept>(a: __m512i, b: __m512i) -> __m512i {
    plus::<T>(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves_of_quarters<T: Kept>(a: __m512i, b: __m512i) -> __m512i {
    plus::<T>(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b))
}

/// Most heads whose sums fit in registers, with one vector of values at a time and with two.
const HEADS: usize = 8;
const WIDE_HEADS: usize = 4;

/// acc[head][..] += units[head]·Σ_j weights[head·KEYS + j]·v_j, as [`super::lines::Products::sums`]; without units they are 1. Two
/// keys at a time with the heads of one key/value head. As in [`dots`], the values have been brought near, and what is asked for ahead
/// is in the order of the addresses.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub(super) unsafe fn sums<T: Kept>(
    acc: &mut [f32], weights: &[T::Factor], units: Option<&[f32]>, v: Lines<'_, T>, s: &Shape,
) {
    let (dim, stride) = (s.head_dim, s.kv_stride());
    assert!(dim.is_multiple_of(PER) && stride == s.kv_heads * dim && v.n * stride <= v.data.len());
    assert!(s.heads == s.kv_heads * s.group && acc.len() == s.heads * dim);
    assert!(weights.len() >= (s.heads - 1) * KEYS + v.n.next_multiple_of(2));
    for kv in 0..s.kv_heads {
        for first in (0..s.group).step_by(HEADS) {
            let head = kv * s.group + first;
            let ahead = v.ahead.from(kv * v.n * dim);
            let ahead = if first == 0 { ahead } else { ahead.nothing() };
            let wide = dim.is_multiple_of(2 * PER);
            // SAFETY: the assertions above are what `add` asks for, the match that there are G heads and vectors to go in steps of C.
            unsafe {
                let some = Sharing {
                    acc: acc.as_mut_ptr().add(head * dim),
                    weights: weights.as_ptr().add(head * KEYS),
                    units: units.map(|units| &units[head..]),
                    v: v.data.as_ptr().add(kv * dim),
                    stride,
                    n: v.n,
                    dim,
                };
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
struct Sharing<'a, T: Kept> {
    /// [heads][dim].
    acc: *mut f32,
    /// [heads][KEYS].
    weights: *const T::Factor,
    /// [heads].
    units: Option<&'a [f32]>,
    /// n tokens, `stride` elements apart.
    v: *const T,
    stride: usize,
    n: usize,
    dim: usize,
}

impl<T: Kept> Sharing<'_, T> {
    /// For G heads, C vectors of a value at a time. Asks for a line from `ahead` on with each vector that it
    /// reads.
    ///
    /// # Safety
    /// The CPU has the features; acc, weights, units and v have what their comments say, weights for n rounded up to even; dim is a
    /// multiple of C vectors.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn add<const G: usize, const C: usize>(self, mut ahead: Ahead) {
        // Words of two keys: element j of the first operand, element j of the second (numbered from 32).
        let words: [u32; 32] = std::array::from_fn(|j| j as u32 | (j as u32 + 32) << 16);
        // SAFETY: 32 words are two vectors.
        let (low, high) = unsafe {
            (_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(words.as_ptr().add(16).cast()))
        };
        for c in (0..self.dim).step_by(C * PER) {
            let mut sums = [[[_mm512_setzero_si512(); 2]; C]; G];
            for j in (0..self.n).step_by(2) {
                let mut v = [[_mm512_setzero_si512(); 2]; C];
                for (i, v) in v.iter_mut().enumerate() {
                    ahead.ask(2 * i * PER);
                    ahead.ask((2 * i + 1) * PER);
                    // SAFETY: tokens j and, where it is read, j + 1 < n have a vector from c + i·PER on.
                    let (first, second) = unsafe {
                        let line = self.v.add(j * self.stride + c + i * PER);
                        let there = j + 1 < self.n;
                        (load(line), if there { load(line.add(self.stride)) } else { _mm512_setzero_si512() })
                    };
                    *v = [
                        _mm512_permutex2var_epi16(first, low, second),
                        _mm512_permutex2var_epi16(first, high, second),
                    ];
                }
                for (g, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: a row of weights, of two bytes each, has an even number.
                    let p = unsafe { self.weights.add(g * KEYS + j).cast::<i32>().read_unaligned() };
                    let p = _mm512_set1_epi32(p);
                    for i in 0..C {
                        sums[i][0] = dot::<T>(sums[i][0], p, v[i][0]);
                        sums[i][1] = dot::<T>(sums[i][1], p, v[i][1]);
                    }
                }
                ahead = ahead.from(2 * C * PER);
            }
            for g in 0..G {
                let unit = _mm512_set1_ps(self.units.map_or(1.0, |units| units[g]));
                for i in 0..C {
                    for half in 0..2 {
                        // SAFETY: acc has dim floats for each of the G heads.
                        unsafe {
                            let to = self.acc.add(g * self.dim + c + i * PER + 16 * half);
                            let sum = floats::<T>(sums[g][i][half]);
                            _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, unit, _mm512_loadu_ps(to)));
                        }
                    }
                }
            }
        }
    }
}
