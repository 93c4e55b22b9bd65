//! AVX-512 F, BW, DQ, VL, and the conversion to bf16 where the CPU has it.

use super::super::math::{CpuFloat, Widen, exp2_floor};
use super::{ACROSS, Avx2, Vectors, instructions};
use std::arch::x86_64::*;

/// With BF16, `vcvtne2ps2bf16` rounds two vectors at once.
#[derive(Clone, Copy)]
pub struct Avx512<const BF16: bool> {
    half: Avx2,
}

impl Avx512<false> {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub fn new() -> Self {
        Avx512 { half: Avx2::new() }
    }
}

impl Avx512<true> {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub fn with_bf16() -> Self {
        Avx512 { half: Avx2::new() }
    }
}

impl<const BF16: bool> Vectors for Avx512<BF16> {
    type Vector = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: self proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }
    instructions! {
        add(a, b) => _mm512_add_ps;
        subtract(a, b) => _mm512_sub_ps;
        multiply(a, b) => _mm512_mul_ps;
        multiply_add(a, b, c) => _mm512_fmadd_ps;
        larger(a, b) => _mm512_max_ps;
    }
    /// x less its floor in one instruction, and 2^floor(x) in another. (A power below 2^-126 would take it some sixty times as long.)
    #[inline(always)]
    fn exp2<E: CpuFloat>(self, x: __m512) -> __m512 {
        const FLOOR: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
        // SAFETY: self proves the instructions.
        unsafe {
            let r = _mm512_reduce_ps::<FLOOR>(x);
            let coefficients = exp2_floor::<E>();
            let mut p = _mm512_set1_ps(coefficients[0]);
            for c in &coefficients[1..] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
            }
            // Not less: NaN is kept.
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0));
            _mm512_maskz_scalef_ps(kept, p, x)
        }
    }
    #[inline(always)]
    fn sums(self, x: [__m512; ACROSS]) -> [f32; ACROSS] {
        let mut halves = [self.half.splat(0.0); ACROSS];
        for i in 0..ACROSS {
            let [lower, upper] = self.halves(x[i]);
            halves[i] = self.half.add(lower, upper);
        }
        self.half.sums(halves)
    }
    #[inline(always)]
    fn largest(self, x: [__m512; ACROSS]) -> [f32; ACROSS] {
        let mut halves = [self.half.splat(0.0); ACROSS];
        for i in 0..ACROSS {
            let [lower, upper] = self.halves(x[i]);
            halves[i] = self.half.larger(lower, upper);
        }
        self.half.largest(halves)
    }
    #[inline(always)]
    fn exceeds(self, x: __m512, limit: f32) -> bool {
        // SAFETY: self proves the instructions.
        unsafe { _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(x, self.splat(limit)) != 0 }
    }
    #[inline(always)]
    unsafe fn load<E: Widen>(self, from: *const E) -> __m512 {
        // SAFETY: self proves the instructions, the caller answers for LANES elements.
        unsafe {
            match std::mem::size_of::<E>() {
                4 => _mm512_loadu_ps(from.cast()),
                2 => {
                    let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
                }
                _ => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))),
            }
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: __m512) {
        // SAFETY: self proves the instructions, the caller answers for LANES elements.
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn store_two<E: CpuFloat>(self, to: *mut E, x: [__m512; 2]) {
        // SAFETY: self proves the instructions, the caller answers for 2·LANES elements.
        unsafe {
            if std::mem::size_of::<E>() == 4 {
                self.store(to.cast(), x[0]);
                self.store(to.cast::<f32>().add(16), x[1]);
            } else if BF16 {
                let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(x[1], x[0]));
                _mm512_storeu_si512(to.cast(), rounded);
            } else {
                self.half.store_two(to, self.halves(x[0]));
                self.half.store_two(to.add(16), self.halves(x[1]));
            }
        }
    }
}

impl<const BF16: bool> Avx512<BF16> {
    #[inline(always)]
    fn halves(self, x: __m512) -> [__m256; 2] {
        // SAFETY: self proves the instructions.
        unsafe { [_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)] }
    }
}
