//! Vectors of f32 for the loops that are written by hand, once: one body for AVX-512, AVX2 and what the compiler makes of an array. bf16
//! and codes of a byte are widened as they are loaded and rounded as they are stored. (Left to the compiler, loops over bf16 became code
//! of single elements, and a maximum or an exponential one chain of steps.)

mod arrays;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::math::{CpuFloat, LANES, Widen};
pub(super) use arrays::Arrays;
#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;

/// Vectors whose lanes are added, or compared, at once.
pub(super) const ACROSS: usize = 4;

/// One width of vectors. A value of it proves that the CPU has the instructions, so only the pointers are the caller's to answer for.
pub(super) trait Vectors: Copy {
    type Vector: Copy;
    const LANES: usize;

    fn splat(self, x: f32) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn subtract(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn multiply(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a·b + c.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger; b where a is NaN.
    fn larger(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// 2^x within 1e-7 of itself, or 2e-7 in arrays and where it is going to be rounded to an E of 16 bits. 0 below 2^-126 (and at -inf), 2^127
    /// or more from 127.5 on, NaN for NaN.
    fn exp2<E: CpuFloat>(self, x: Self::Vector) -> Self::Vector;
    /// The sum of each vector's lanes.
    fn sums(self, x: [Self::Vector; ACROSS]) -> [f32; ACROSS];
    /// The largest of each vector's lanes, of which none is NaN.
    fn largest(self, x: [Self::Vector; ACROSS]) -> [f32; ACROSS];

    /// Whether some lane is more than the limit, or NaN.
    fn exceeds(self, x: Self::Vector, limit: f32) -> bool;

    /// Elements as f32.
    ///
    /// # Safety
    /// LANES elements can be read.
    unsafe fn load<E: Widen>(self, from: *const E) -> Self::Vector;

    /// # Safety
    /// LANES elements can be written.
    unsafe fn store(self, to: *mut f32, x: Self::Vector);

    /// Two vectors one after the other, rounded to E: to the nearest, ties to even; NaN stays NaN. Numbers below 2^-126 may become 0.
    ///
    /// # Safety
    /// 2·LANES elements can be written.
    unsafe fn store_two<E: CpuFloat>(self, to: *mut E, x: [Self::Vector; 2]);

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

/// out[i] = x[i]·factor, rounded to E, for all of out. Inlined, so that it is compiled as the body that calls it is.
#[inline(always)]
pub(super) fn scaled<V: Vectors, X: Widen, E: CpuFloat>(v: V, out: &mut [E], x: &[X], factor: f32) {
    let x = &x[..out.len()];
    let whole = x.len() / (2 * V::LANES) * (2 * V::LANES);
    for at in (0..whole).step_by(2 * V::LANES) {
        // SAFETY: two vectors from `at` on, of both slices, which are of one length.
        unsafe {
            let from = x.as_ptr().add(at);
            let low = v.multiply(v.load(from), v.splat(factor));
            let high = v.multiply(v.load(from.add(V::LANES)), v.splat(factor));
            v.store_two(out.as_mut_ptr().add(at), [low, high]);
        }
    }
    for (out, x) in out[whole..].iter_mut().zip(&x[whole..]) {
        *out = E::narrow(x.widen() * factor);
    }
}

/// Methods of [`Vectors`] that are one instruction each.
#[cfg(target_arch = "x86_64")]
macro_rules! instructions {
    ($($name:ident($($arg:ident),*) => $instruction:ident;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: Self::Vector),*) -> Self::Vector {
            // SAFETY: self proves the instructions.
            unsafe { $instruction($($arg),*) }
        }
    )* };
}
#[cfg(target_arch = "x86_64")]
use instructions;

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
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
            fn avx512_bf16<$($g: $bound),*>($($arg: $ty),*) {
                $body(Avx512::with_bf16(), $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
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
                Width::Avx512Bf16 => unsafe { avx512_bf16::<$($g),*>($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
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

#[cfg(test)]
mod tests {
    use super::super::isa::{Isa, Simd};
    use super::*;
    use half::bf16;
    use std::marker::PhantomData;

    per_width! {
        fn exp2_of[E: CpuFloat](out: &mut [f32], x: &[f32], precision: PhantomData<E>) => exp2_body;
        fn across_of[](sums: &mut [f32], largest: &mut [f32], x: &[f32]) => across_body;
        fn rounded_of[E: CpuFloat](out: &mut [E], x: &[f32]) => rounded_body;
    }

    #[inline(always)]
    fn exp2_body<V: Vectors, E: CpuFloat>(v: V, out: &mut [f32], x: &[f32], _: PhantomData<E>) {
        assert!(x.len() == out.len() && x.len().is_multiple_of(V::LANES));
        for at in (0..x.len()).step_by(V::LANES) {
            // SAFETY: whole vectors of both slices (asserted).
            unsafe { v.store(out.as_mut_ptr().add(at), v.exp2::<E>(v.load(x.as_ptr().add(at)))) };
        }
    }

    /// Vectors of the elements i, i + ACROSS, .. of x.
    #[inline(always)]
    fn across_body<V: Vectors>(v: V, sums: &mut [f32], largest: &mut [f32], x: &[f32]) {
        assert!(x.len() >= ACROSS * V::LANES);
        let mut vectors = [v.splat(0.0); ACROSS];
        for (i, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: ACROSS whole vectors (asserted).
            *vector = unsafe { v.load(x.as_ptr().add(i * V::LANES)) };
        }
        for i in 0..ACROSS {
            sums[i] = v.sums(vectors)[i] - x[i * V::LANES..][..V::LANES].iter().sum::<f32>();
            largest[i] = v.largest(vectors)[i]
                - x[i * V::LANES..][..V::LANES].iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        }
    }

    #[inline(always)]
    fn rounded_body<V: Vectors, E: CpuFloat>(v: V, out: &mut [E], x: &[f32]) {
        assert!(x.len() == out.len() && x.len().is_multiple_of(2 * V::LANES));
        for at in (0..x.len()).step_by(2 * V::LANES) {
            // SAFETY: pairs of whole vectors of both slices (asserted).
            unsafe {
                let from = x.as_ptr().add(at);
                v.store_two(out.as_mut_ptr().add(at), [v.load(from), v.load(from.add(V::LANES))]);
            }
        }
    }

    fn simds() -> impl Iterator<Item = Simd> {
        Isa::available().into_iter().map(|isa| Simd::new(isa).unwrap())
    }

    #[test]
    fn powers_of_two_are_close_everywhere() {
        let x: Vec<f32> = (-1_260_000..1_275_000).step_by(10).map(|i| i as f32 * 1e-4).collect();
        let x = &x[..x.len() / 16 * 16];
        for simd in simds() {
            let mut both = [vec![0f32; x.len()], vec![0f32; x.len()]];
            exp2_of(simd, &mut both[0], x, PhantomData::<f32>);
            exp2_of(simd, &mut both[1], x, PhantomData::<bf16>);
            for (x, y) in both.iter().flat_map(|y| x.iter().zip(y)) {
                let want = f64::from(*x).exp2();
                assert!((f64::from(*y) - want).abs() < 2e-7 * want, "2^{x} = {y} in {}", simd.isa());
            }
        }
    }

    #[test]
    fn powers_of_two_end_in_zero_infinity_and_nan() {
        let x = [f32::NEG_INFINITY, -1e30, -150.0, -126.5, 0.0, -0.0, 1.0, -3.0, 127.6, 1e30, f32::INFINITY];
        let mut all = [f32::NAN; 16];
        all[..x.len()].copy_from_slice(&x);
        for simd in simds() {
            let mut both = [[0f32; 16]; 2];
            exp2_of(simd, &mut both[0], &all, PhantomData::<f32>);
            exp2_of(simd, &mut both[1], &all, PhantomData::<bf16>);
            for y in both {
                assert_eq!(y[..8], [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 0.125], "{}", simd.isa());
                assert!(y[8..11].iter().all(|y| *y >= 2f32.powi(127)), "{y:?} in {}", simd.isa());
                assert!(y[11..].iter().all(|y| y.is_nan()), "{y:?} in {}", simd.isa());
            }
        }
    }

    #[test]
    fn sums_and_maxima_go_across_all_lanes() {
        // Whole numbers: every order of adding gives the same.
        let x: Vec<f32> = (0..ACROSS * LANES).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        for simd in simds() {
            let (mut sums, mut largest) = ([1f32; ACROSS], [1f32; ACROSS]);
            across_of(simd, &mut sums, &mut largest, &x);
            assert_eq!((sums, largest), ([0.0; ACROSS], [0.0; ACROSS]), "{}", simd.isa());
        }
    }

    #[test]
    fn two_vectors_are_rounded_as_one_number_is() {
        let numbers = (0..1 << 16).map(|i: u32| f32::from_bits(i.wrapping_mul(65_535 + 78)));
        let mut x: Vec<f32> = numbers.filter(|x| x.is_nan() || x.abs() > 1e-37).collect();
        x.truncate(x.len() / 32 * 32);
        for simd in simds() {
            let (mut y, mut same) = (vec![bf16::ZERO; x.len()], vec![0f32; x.len()]);
            rounded_of(simd, &mut y, &x);
            rounded_of(simd, &mut same, &x);
            for i in 0..x.len() {
                assert_eq!(y[i].is_nan(), x[i].is_nan(), "{} in {}", x[i], simd.isa());
                let want = bf16::narrow(x[i]).to_bits();
                assert!(x[i].is_nan() || y[i].to_bits() == want, "{} to {} in {}", x[i], y[i], simd.isa());
                assert_eq!(same[i].to_bits(), x[i].to_bits());
            }
        }
    }
}
