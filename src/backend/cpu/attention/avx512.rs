//! What attention does besides products in AVX-512, where these are of bf16 pairs: what its files say in plain Rust,
//! with the exponential folded into base 2, two instructions for its power, and one that rounds two vectors to bf16.

use super::softmax::State;
use super::source::Codes;
use half::bf16;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

/// 2^x within 2e-7 of itself, 0 below 2^-126 (and at -inf), NaN for NaN. Coefficients of Cephes (exp2f.c) on [-1/2, 1/2].
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let n = _mm512_roundscale_ps::<NEAREST>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(1.535_336_2e-4);
    for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_3e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    // Not less or equal: NaN is kept.
    let kept = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(x, _mm512_set1_ps(-126.0));
    _mm512_maskz_scalef_ps(kept, p, n)
}

/// Two vectors rounded to bf16, `low` in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round_two(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain bits, for which every pattern is valid.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// [`softmax::update`](super::softmax::update) for a positive scale and n a multiple of 32.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn update(
    states: &mut [State], scores: &[f32], weights: &mut [bf16], acc: &mut [f32], ld: usize, n: usize,
    scale: f32,
) {
    let width = acc.len() / states.len();
    for (strip, states) in states.chunks_mut(STATES).enumerate() {
        let r = strip * STATES;
        update_strip(
            states,
            &scores[r * ld..],
            &mut weights[r * ld..],
            &mut acc[r * width..],
            (ld, n, width),
            scale,
        );
    }
}

/// States of a strip: as many as a vector has places.
const STATES: usize = 16;

/// All maxima first, then all weights: so no row waits for the sums across lanes of the one before, and which maxima have
/// risen, which cannot be foreseen, is asked once.
#[target_feature(enable = "avx512f,avx512bf16")]
fn update_strip(
    states: &mut [State], scores: &[f32], weights: &mut [bf16], acc: &mut [f32],
    (ld, n, width): (usize, usize, usize), scale: f32,
) {
    assert!(n.is_multiple_of(32));
    let maxima = maxima(states, scores, (ld, n), scale);
    let slope = _mm512_set1_ps(scale * LOG2_E);
    for (r, state) in states.iter_mut().enumerate() {
        let (scores, weights) = (&scores[r * ld..][..n], &mut weights[r * ld..][..n]);
        let offset = _mm512_set1_ps(maxima.offsets[r]);
        let mut sums = [_mm512_setzero_ps(); 2];
        for at in (0..n).step_by(32) {
            // SAFETY: at + 32 <= n, as n is a multiple of 32 (asserted): two vectors of scores, one of weights.
            unsafe {
                let (low, high) =
                    (_mm512_loadu_ps(scores.as_ptr().add(at)), _mm512_loadu_ps(scores.as_ptr().add(at + 16)));
                let p =
                    [exp2(_mm512_fmsub_ps(low, slope, offset)), exp2(_mm512_fmsub_ps(high, slope, offset))];
                sums = [_mm512_add_ps(sums[0], p[0]), _mm512_add_ps(sums[1], p[1])];
                _mm512_storeu_si512(weights.as_mut_ptr().add(at).cast(), round_two(p[0], p[1]));
            }
        }
        let sum = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
        *state = State { max: maxima.max[r], sum: state.sum * maxima.factors[r] + sum };
    }
    let mut risen = maxima.risen;
    while risen != 0 {
        let r = risen.trailing_zeros() as usize;
        risen &= risen - 1;
        scale_row(&mut acc[r * width..][..width], maxima.factors[r]);
    }
}

/// The new maxima of a strip's rows, and what follows from them.
struct Maxima {
    max: [f32; STATES],
    /// log2(e) times what scores are taken relative to.
    offsets: [f32; STATES],
    /// What the sums so far are multiplied by, and the rows for which it is not 1.
    factors: [f32; STATES],
    risen: u16,
}

#[inline]
#[target_feature(enable = "avx512f")]
fn maxima(states: &[State], scores: &[f32], (ld, n): (usize, usize), scale: f32) -> Maxima {
    let (mut before, mut largest) = ([f32::NEG_INFINITY; STATES], [f32::NEG_INFINITY; STATES]);
    for r in 0..states.len() {
        before[r] = states[r].max;
        largest[r] = largest_of(scores[r * ld..][..n].as_chunks::<32>().0);
    }
    // SAFETY: both have 16 floats.
    let (before, largest) = unsafe { (_mm512_loadu_ps(before.as_ptr()), _mm512_loadu_ps(largest.as_ptr())) };
    // The maximum of (NaN, y) is y.
    let max = _mm512_max_ps(_mm512_mul_ps(largest, _mm512_set1_ps(scale)), before);
    // As State::base: 0 where there is none yet.
    let some = _mm512_cmp_ps_mask::<_CMP_NEQ_OQ>(max, _mm512_set1_ps(f32::NEG_INFINITY));
    let base = _mm512_maskz_mov_ps(some, max);
    let log2 = _mm512_set1_ps(LOG2_E);
    Maxima {
        max: floats(max),
        offsets: floats(_mm512_mul_ps(base, log2)),
        factors: floats(exp2(_mm512_mul_ps(_mm512_sub_ps(before, base), log2))),
        risen: _mm512_cmp_ps_mask::<_CMP_NEQ_OQ>(max, before),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn scale_row(row: &mut [f32], factor: f32) {
    let factor = _mm512_set1_ps(factor);
    for x in row.chunks_mut(16) {
        let kept = (u32::MAX >> (32 - x.len())) as u16;
        // SAFETY: the mask keeps to the elements of the chunk.
        unsafe {
            let scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(kept, x.as_ptr()), factor);
            _mm512_mask_storeu_ps(x.as_mut_ptr(), kept, scaled);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn floats(x: __m512) -> [f32; 16] {
    let mut out = [0.0; 16];
    // SAFETY: 16 floats are a vector.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
    out
}

/// The largest score that is not NaN, or -inf.
#[inline]
#[target_feature(enable = "avx512f")]
fn largest_of(scores: &[[f32; 32]]) -> f32 {
    let mut top = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
    for chunk in scores {
        for (at, top) in [0, 16].into_iter().zip(&mut top) {
            // SAFETY: a chunk has 32 elements. The maximum of (NaN, y) is y.
            *top = unsafe { _mm512_max_ps(_mm512_loadu_ps(chunk.as_ptr().add(at)), *top) };
        }
    }
    _mm512_reduce_max_ps(_mm512_max_ps(top[0], top[1]))
}

/// One row of Pᵀ and dSᵀ: `weights = exp(scale·scores − lse)`, `ds = weights·(slopes − delta)`; all of one length, a
/// multiple of 32.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn weights_and_slopes(
    (scores, slopes): (&[f32], &[f32]), (lse, delta): (&[f32], &[f32]), scale: f32, weights: &mut [bf16],
    ds: &mut [bf16],
) {
    let (slope, log2) = (_mm512_set1_ps(scale * LOG2_E), _mm512_set1_ps(LOG2_E));
    let n = scores.len();
    assert!(n.is_multiple_of(32) && [slopes, lse, delta].iter().all(|x| x.len() == n));
    assert!(weights.len() == n && ds.len() == n);
    for at in (0..n).step_by(32) {
        // SAFETY: at + 32 elements are within each of the slices, whose lengths are equal and a multiple of 32 (asserted).
        unsafe {
            let load = |x: &[f32], at: usize| _mm512_loadu_ps(x.as_ptr().add(at));
            let offset = [_mm512_mul_ps(load(lse, at), log2), _mm512_mul_ps(load(lse, at + 16), log2)];
            let p = [
                exp2(_mm512_fmsub_ps(load(scores, at), slope, offset[0])),
                exp2(_mm512_fmsub_ps(load(scores, at + 16), slope, offset[1])),
            ];
            let d = [
                _mm512_mul_ps(p[0], _mm512_sub_ps(load(slopes, at), load(delta, at))),
                _mm512_mul_ps(p[1], _mm512_sub_ps(load(slopes, at + 16), load(delta, at + 16))),
            ];
            _mm512_storeu_si512(weights.as_mut_ptr().add(at).cast(), round_two(p[0], p[1]));
            _mm512_storeu_si512(ds.as_mut_ptr().add(at).cast(), round_two(d[0], d[1]));
        }
    }
}

/// `source::multiply_out` for a width that is a multiple of 32.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply_out(
    rows: &mut [bf16], x: Codes<'_>, (first, stride): (usize, usize), width: usize,
) {
    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
        let at = first + i * stride;
        let scale = _mm512_set1_ps(x.scales[at / width]);
        let codes = x.codes[at..at + width].chunks_exact(32);
        for (out, codes) in row.chunks_exact_mut(32).zip(codes) {
            // SAFETY: 32 codes of a byte, and room for 32 elements of two.
            unsafe {
                let low = _mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
                let high = _mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().add(16).cast()));
                let low = _mm512_mul_ps(_mm512_cvtepi32_ps(low), scale);
                let high = _mm512_mul_ps(_mm512_cvtepi32_ps(high), scale);
                _mm512_storeu_si512(out.as_mut_ptr().cast(), round_two(low, high));
            }
        }
    }
}
