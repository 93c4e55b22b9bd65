//! AVX2 and FMA.

use super::super::math::{CpuFloat, Widen, exp2_nearest};
use super::{ACROSS, Vectors, instructions};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    #[target_feature(enable = "avx2,fma")]
    pub fn new() -> Self {
        Avx2(())
    }
}

impl Vectors for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: self proves the instructions.
        unsafe { _mm256_set1_ps(x) }
    }
    instructions! {
        add(a, b) => _mm256_add_ps;
        subtract(a, b) => _mm256_sub_ps;
        multiply(a, b) => _mm256_mul_ps;
        multiply_add(a, b, c) => _mm256_fmadd_ps;
        larger(a, b) => _mm256_max_ps;
    }
    /// The power goes into the exponent's bits, which an argument of at most 127.49 leaves finite.
    #[inline(always)]
    fn exp2<E: CpuFloat>(self, x: __m256) -> __m256 {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: self proves the instructions.
        unsafe {
            // The minimum of (y, NaN) is NaN.
            let inside = _mm256_min_ps(self.splat(127.49), x);
            let n = _mm256_round_ps::<NEAREST>(inside);
            let r = _mm256_sub_ps(inside, n);
            let coefficients = exp2_nearest::<E>();
            let mut p = self.splat(coefficients[0]);
            for c in &coefficients[1..] {
                p = _mm256_fmadd_ps(p, r, self.splat(*c));
            }
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
            // Not less: NaN is kept.
            let kept = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, self.splat(-126.0));
            _mm256_and_ps(kept, _mm256_mul_ps(p, power))
        }
    }
    #[inline(always)]
    fn sums(self, x: [__m256; ACROSS]) -> [f32; ACROSS] {
        // SAFETY: self proves the instructions.
        unsafe {
            let quads = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
            let sums = _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps::<1>(quads));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        }
    }
    #[inline(always)]
    fn largest(self, x: [__m256; ACROSS]) -> [f32; ACROSS] {
        // SAFETY: self proves the instructions.
        unsafe {
            let two = |a, b| _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (low, high) = (_mm256_castps_pd(two(x[0], x[1])), _mm256_castps_pd(two(x[2], x[3])));
            let quads = _mm256_max_ps(
                _mm256_castpd_ps(_mm256_unpacklo_pd(low, high)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(low, high)),
            );
            let tops = _mm_max_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps::<1>(quads));
            std::mem::transmute::<__m128, [f32; 4]>(tops)
        }
    }
    #[inline(always)]
    fn exceeds(self, x: __m256, limit: f32) -> bool {
        // SAFETY: self proves the instructions.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(x, self.splat(limit))) != 0 }
    }
    #[inline(always)]
    unsafe fn load<E: Widen>(self, from: *const E) -> __m256 {
        // SAFETY: self proves the instructions, the caller answers for LANES elements.
        unsafe {
            match std::mem::size_of::<E>() {
                4 => _mm256_loadu_ps(from.cast()),
                2 => {
                    let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
                }
                _ => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))),
            }
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: __m256) {
        // SAFETY: self proves the instructions, the caller answers for LANES elements.
        unsafe { _mm256_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn store_two<E: CpuFloat>(self, to: *mut E, x: [__m256; 2]) {
        // SAFETY: self proves the instructions, the caller answers for 2·LANES elements.
        unsafe {
            if std::mem::size_of::<E>() == 4 {
                self.store(to.cast(), x[0]);
                self.store(to.cast::<f32>().add(8), x[1]);
                return;
            }
            // The packed words lie by halves of the registers: 0 2 1 3.
            let packed = _mm256_packus_epi32(self.upper_halves(x[0]), self.upper_halves(x[1]));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
}

impl Avx2 {
    /// The bits of each bf16, as `math::bf16_bits`.
    #[inline(always)]
    fn upper_halves(self, x: __m256) -> __m256i {
        // SAFETY: self proves the instructions.
        unsafe {
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
        }
    }
}
