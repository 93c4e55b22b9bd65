//! Vectors of f32 for loops that read keys, values and weights once, as they lie: one body for AVX-512, AVX2 and what the compiler makes
//! of an array. bf16 and codes of a byte are widened as they are loaded, so these are exact where the pairs of AVX-512 bf16 are missing, and fast enough for
//! memory: left to the compiler, the same loops over bf16 became code of single elements.

use super::math::{LANES, Widen};

/// One width of vectors. A value of it proves that the CPU has the instructions, so only the pointers are the caller's to answer for.
pub(super) trait Vectors: Copy {
    type Vector: Copy;
    const LANES: usize;

    fn splat(self, x: f32) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a·b + c.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The sum of each vector's lanes.
    fn sums(self, x: [Self::Vector; 4]) -> [f32; 4];

    /// Elements as f32.
    ///
    /// # Safety
    /// LANES elements can be read.
    unsafe fn load<E: Widen>(self, from: *const E) -> Self::Vector;

    /// # Safety
    /// LANES elements can be written.
    unsafe fn store(self, to: *mut f32, x: Self::Vector);

    /// The first n elements where there are no more, and 0 behind them.
    ///
    /// # Safety
    /// n elements, or LANES of them if there are more, can be read.
    #[inline(always)]
    unsafe fn load_up_to<E: Widen>(self, from: *const E, n: usize) -> Self::Vector {
        if n >= Self::LANES {
            // SAFETY: the caller's promise.
            return unsafe { self.load(from) };
        }
        let mut room = [0f32; LANES];
        for (i, room) in room[..n].iter_mut().enumerate() {
            // SAFETY: i < n.
            *room = unsafe { from.add(i).read() }.widen();
        }
        // SAFETY: no vector is wider than `room`.
        unsafe { self.load(room.as_ptr()) }
    }

    /// As many as n of a vector's elements.
    ///
    /// # Safety
    /// n elements, or LANES of them if there are more, can be written.
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut f32, n: usize, x: Self::Vector) {
        if n >= Self::LANES {
            // SAFETY: the caller's promise.
            return unsafe { self.store(to, x) };
        }
        let mut room = [0f32; LANES];
        // SAFETY: no vector is wider than `room`, and n elements go to where there is room for them.
        unsafe {
            self.store(room.as_mut_ptr(), x);
            to.copy_from_nonoverlapping(room.as_ptr(), n);
        }
    }
}

/// Arrays as wide as the registers that most machines have.
#[derive(Clone, Copy)]
pub(super) struct Arrays;

impl Vectors for Arrays {
    type Vector = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
    }
    #[inline(always)]
    fn multiply_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        self.add([a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]], c)
    }
    #[inline(always)]
    fn sums(self, x: [[f32; 4]; 4]) -> [f32; 4] {
        x.map(|x| (x[0] + x[2]) + (x[1] + x[3]))
    }
    #[inline(always)]
    unsafe fn load<E: Widen>(self, from: *const E) -> [f32; 4] {
        // SAFETY: the caller's LANES elements; an array has no more alignment than its elements.
        let x = unsafe { from.cast::<[E; 4]>().read() };
        [x[0].widen(), x[1].widen(), x[2].widen(), x[3].widen()]
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: [f32; 4]) {
        // SAFETY: the caller's LANES elements.
        unsafe { to.cast::<[f32; 4]>().write(x) };
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Vectors, Widen};
    use std::arch::x86_64::*;

    /// AVX-512 F, and with it AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub struct Avx512(());
    /// AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub struct Avx2(());

    impl Avx512 {
        #[target_feature(enable = "avx2,fma,avx512f")]
        pub fn new() -> Self {
            Avx512(())
        }
    }

    impl Avx2 {
        #[target_feature(enable = "avx2,fma")]
        pub fn new() -> Self {
            Avx2(())
        }
    }

    impl Vectors for Avx512 {
        type Vector = __m512;
        const LANES: usize = 16;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: self proves the instructions.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: self proves the instructions.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn multiply_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: self proves the instructions.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn sums(self, x: [__m512; 4]) -> [f32; 4] {
            let mut halves = [Avx2(()).splat(0.0); 4];
            for i in 0..4 {
                // SAFETY: self proves the instructions.
                unsafe {
                    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x[i])));
                    halves[i] = _mm256_add_ps(_mm512_castps512_ps256(x[i]), high);
                }
            }
            Avx2(()).sums(halves)
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
    }

    impl Vectors for Avx2 {
        type Vector = __m256;
        const LANES: usize = 8;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: self proves the instructions.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: self proves the instructions.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn multiply_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: self proves the instructions.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn sums(self, x: [__m256; 4]) -> [f32; 4] {
            // SAFETY: self proves the instructions.
            unsafe {
                let quads = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
                let sums = _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps::<1>(quads));
                std::mem::transmute::<__m128, [f32; 4]>(sums)
            }
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
    }
}

/// Compiles `body(vectors, ..)` for every width of [`Vectors`] and makes a function that runs the one for its first argument, a
/// [`Simd`](super::isa::Simd). The body must be `#[inline(always)]`, as for `per_isa`.
macro_rules! per_width {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident [$($g:ident: $bound:path),*] ($($arg:ident: $ty:ty),* $(,)?) => $body:ident;
    )*) => { $(
        $(#[$meta])*
        $vis fn $name<$($g: $bound),*>(simd: $crate::backend::cpu::isa::Simd, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            use $crate::backend::cpu::vectors::{Avx2, Avx512};
            use $crate::backend::cpu::{isa::Width, vectors::Arrays};
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f")]
            fn avx512<$($g: $bound),*>($($arg: $ty),*) {
                $body(Avx512::new(), $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($g: $bound),*>($($arg: $ty),*) {
                $body(Avx2::new(), $($arg),*)
            }
            match simd.width() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a Simd of this width exists only where the CPU has these features (Simd::new).
                Width::Avx512 => unsafe { avx512::<$($g),*>($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Width::Avx2 => unsafe { avx2::<$($g),*>($($arg),*) },
                _ => $body(Arrays, $($arg),*),
            }
        }
    )* };
}
pub(super) use per_width;
