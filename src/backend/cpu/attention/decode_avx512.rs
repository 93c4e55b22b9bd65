//! The products of decoding in AVX-512 with bf16 dot products: a few queries against keys and values where they lie.

use super::super::isa::{Isa, Simd};
use super::decode::{KEYS, Lines};
use half::bf16;
use std::arch::x86_64::*;

/// Elements of a vector.
const PER: usize = 32;

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

/// scores[g·KEYS + j] = q_g·k_j, 16 keys at a time; scores of a group's row beyond k.n may be written too.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn dots(scores: &mut [f32], q: &[bf16], k: Lines<'_, bf16>, dim: usize) {
    assert!(dim.is_multiple_of(PER) && (1..=KEYS).contains(&k.n));
    assert!((k.n - 1) * k.stride + dim <= k.data.len());
    for (q, scores) in q.chunks_exact(dim).zip(scores.chunks_exact_mut(KEYS)) {
        for (b, scores) in scores.chunks_exact_mut(16).enumerate().take(k.n.div_ceil(16)) {
            // Beyond the last key the last one again: its scores are not looked at.
            let mut lines = [0usize; 16];
            for (j, line) in lines.iter_mut().enumerate() {
                *line = (16 * b + j).min(k.n - 1) * k.stride;
            }
            let mut acc = [_mm512_setzero_ps(); 16];
            for c in (0..dim).step_by(PER) {
                // SAFETY: PER elements from c on lie within q, and within each of the k.n lines of dim elements (asserted).
                unsafe {
                    let q = pairs(_mm512_loadu_si512(q.as_ptr().add(c).cast()));
                    for j in 0..16 {
                        let k = _mm512_loadu_si512(k.data.as_ptr().add(lines[j] + c).cast());
                        acc[j] = _mm512_dpbf16_ps(acc[j], q, pairs(k));
                    }
                }
            }
            // SAFETY: a chunk is 16 floats.
            unsafe { _mm512_storeu_ps(scores.as_mut_ptr(), sums_of_lanes(acc)) };
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

/// acc_g += Σ_j weights[g·KEYS + j]·v_j, two keys at a time; weights beyond v.n must be 0.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn sums(acc: &mut [f32], weights: &[bf16], v: Lines<'_, bf16>, dim: usize) {
    assert!(dim.is_multiple_of(PER) && (1..=KEYS).contains(&v.n));
    assert!((v.n - 1) * v.stride + dim <= v.data.len());
    for (acc, weights) in acc.chunks_mut(HEADS * dim).zip(weights.chunks(HEADS * KEYS)) {
        assert!(acc.len() / dim == weights.len() / KEYS);
        // SAFETY: the assertions above are what `sums_of` asks for.
        unsafe {
            match acc.len() / dim {
                1 => sums_of::<1>(acc, weights, v, dim),
                2 => sums_of::<2>(acc, weights, v, dim),
                3 => sums_of::<3>(acc, weights, v, dim),
                4 => sums_of::<4>(acc, weights, v, dim),
                5 => sums_of::<5>(acc, weights, v, dim),
                6 => sums_of::<6>(acc, weights, v, dim),
                7 => sums_of::<7>(acc, weights, v, dim),
                _ => sums_of::<HEADS>(acc, weights, v, dim),
            }
        }
    }
}

/// # Safety
/// The CPU has the features; acc has G·dim floats, weights G·KEYS elements, v.n rows of dim elements lie inside v.data.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn sums_of<const G: usize>(acc: &mut [f32], weights: &[bf16], v: Lines<'_, bf16>, dim: usize) {
    // Words of two keys: element j of the first operand, element j of the second (numbered from 32).
    let words: [u32; 32] = std::array::from_fn(|j| j as u32 | (j as u32 + 32) << 16);
    // SAFETY: 32 words are two vectors.
    let (low, high) = unsafe {
        (_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(words.as_ptr().add(16).cast()))
    };
    for c in (0..dim).step_by(PER) {
        let mut sums = [[_mm512_setzero_ps(); 2]; G];
        for j in (0..v.n).step_by(2) {
            // SAFETY: rows j and j + 1 < v.n have dim elements; a row of weights has KEYS, an even number.
            unsafe {
                let first = _mm512_loadu_si512(v.data.as_ptr().add(j * v.stride + c).cast());
                let second = if j + 1 < v.n {
                    _mm512_loadu_si512(v.data.as_ptr().add((j + 1) * v.stride + c).cast())
                } else {
                    _mm512_setzero_si512()
                };
                let v0 = pairs(_mm512_permutex2var_epi16(first, low, second));
                let v1 = pairs(_mm512_permutex2var_epi16(first, high, second));
                for (g, sums) in sums.iter_mut().enumerate() {
                    let p = weights.as_ptr().add(g * KEYS + j).cast::<i32>().read_unaligned();
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
                    let to = acc.as_mut_ptr().add(g * dim + c + 16 * half);
                    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum));
                }
            }
        }
    }
}
