//! Numbers: bf16 and f32 as the kernels load and store them, exp, sine and cosine as polynomials, sums in a fixed order.
//!
//! Everything here is branch-free and `#[inline(always)]`, so that a loop over it becomes vector code of the ISA of the
//! function it ends up in. Coefficients are those of Cephes (expf.c, sinf.c).

use super::isa::{Isa, Simd};
use super::matmul::kernel::{self, Kernel};
use crate::backend::Float;
use half::bf16;

/// Lanes of a partial sum: a vector of AVX-512, and a fixed order of summation on every ISA.
pub(super) const LANES: usize = 16;

/// What [`Cpu`](super::Cpu) keeps weights and activations in.
pub trait CpuFloat: Float + private::Product + private::Widen {
    /// To the nearest, ties to even; NaN stays NaN.
    fn narrow(x: f32) -> Self;
}

pub(super) use private::Widen;

pub(super) mod private {
    use super::*;
    /// What is read as f32: floats, and codes without their scales.
    pub trait Widen: Copy {
        /// Exact.
        fn widen(self) -> f32;
    }
    /// Sealed: how products of this type are computed.
    pub trait Product {
        #[allow(private_interfaces)]
        fn kernel(simd: Simd) -> &'static Kernel;
        /// The one for operands that are read once, where they lie.
        #[allow(private_interfaces)]
        fn reading_kernel(simd: Simd) -> &'static Kernel;
    }
}

impl private::Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl private::Widen for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl private::Widen for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

impl CpuFloat for f32 {
    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }
}

impl CpuFloat for bf16 {
    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        bf16::from_bits(bf16_bits(x) as u16)
    }
}

impl private::Product for f32 {
    #[allow(private_interfaces)]
    fn kernel(simd: Simd) -> &'static Kernel {
        kernel::of_f32(simd)
    }
    #[allow(private_interfaces)]
    fn reading_kernel(simd: Simd) -> &'static Kernel {
        kernel::of_f32(simd)
    }
}

impl private::Product for bf16 {
    #[allow(private_interfaces)]
    fn kernel(simd: Simd) -> &'static Kernel {
        match simd.isa() {
            Isa::Avx512Bf16 | Isa::Amx => kernel::of_bf16_products(simd),
            _ => kernel::of_f32(simd),
        }
    }
    #[allow(private_interfaces)]
    fn reading_kernel(simd: Simd) -> &'static Kernel {
        if simd.isa().has_pairs() { kernel::of_bf16_pairs(simd) } else { kernel::of_f32(simd) }
    }
}

/// The 16 bits of the bf16 nearest to x.
#[inline(always)]
pub(super) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    if x.is_nan() { quiet } else { rounded }
}

/// a·b + c, fused where that is one instruction.
#[inline(always)]
pub(super) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The larger; b if a is NaN. One instruction, unlike f32::max.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// 1.5·2^23: adding it rounds to the nearest integer, which is left in the low bits of the mantissa.
pub(super) const ROUND: f32 = 12_582_912.0;

/// e^x within 1.2e-7 of itself. 0 below -87.3 (and at -inf), 2.4e38 from 88.3 on, NaN for NaN.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.37;
    let inside = if x > HIGHEST { HIGHEST } else { x };
    let shifted = fma::<FMA>(inside, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -0.693_359_4, inside);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_2e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<FMA>(p, r, c);
    }
    let e = fma::<FMA>(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < LOWEST { 0.0 } else { e * power }
}

/// 2^r on [-1/2, 1/2], highest power first, within 2e-9 of itself but for the roundings (Cephes, exp2f.c).
const EXP2_NEAREST: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_3e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];
/// Within 9e-8 (the least largest relative error of a polynomial that is exact at 0).
const EXP2_NEAREST_SHORT: [f32; 6] =
    [1.327_457_4e-3, 9.671_872e-3, 5.550_671e-2, 2.402_223_7e-1, 6.931_470_6e-1, 1.0];
/// 2^r on [0, 1], as both above.
#[cfg(target_arch = "x86_64")]
const EXP2_FLOOR: [f32; 7] =
    [2.161_291_5e-4, 1.246_784_7e-3, 9.675_452e-3, 5.548_528_2e-2, 2.402_293_1e-1, 6.931_470_6e-1, 1.0];
#[cfg(target_arch = "x86_64")]
const EXP2_FLOOR_SHORT: [f32; 6] =
    [1.868_960_1e-3, 9.014_932e-3, 5.579_926e-2, 2.401_656_5e-1, 6.931_510_6e-1, 1.0];

/// The coefficients of 2^r, r what exceeds the nearest whole number: fewer for a power that is going to be rounded to an E of 16 bits, of whose
/// last digit they leave out a ten thousandth. (What is summed before it is rounded, as weights are, does not allow for much more: the
/// log-sum-exp is in f32.)
#[inline(always)]
pub(super) const fn exp2_nearest<E>() -> &'static [f32] {
    if size_of::<E>() < 4 { &EXP2_NEAREST_SHORT } else { &EXP2_NEAREST }
}

/// The same for r what exceeds the whole number below.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) const fn exp2_floor<E>() -> &'static [f32] {
    if size_of::<E>() < 4 { &EXP2_FLOOR_SHORT } else { &EXP2_FLOOR }
}

/// (cos, sin) of 2π·phase/2^32, within 1.2e-7.
#[inline(always)]
pub(super) fn cos_sin_turns<const FMA: bool>(phase: u32) -> (f32, f32) {
    const RADIANS: f32 = (std::f64::consts::TAU / 4_294_967_296.0) as f32;
    let quadrant = phase.wrapping_add(1 << 29) >> 30;
    let a = phase.wrapping_sub(quadrant << 30) as i32 as f32 * RADIANS;
    let z = a * a;
    let s = fma::<FMA>(fma::<FMA>(-1.951_529_6e-4, z, 8.332_161e-3), z, -1.666_665_5e-1);
    let s = fma::<FMA>(s * z, a, a);
    let c = fma::<FMA>(fma::<FMA>(2.443_315_7e-5, z, -1.388_731_6e-3), z, 4.166_664_6e-2);
    let c = fma::<FMA>(c, z * z, fma::<FMA>(z, -0.5, 1.0));
    let swap = quadrant & 1 == 1;
    let (c, s) = (if swap { s } else { c }, if swap { c } else { s });
    // cos: + - - +, sin: + + - - over the quadrants 0, 1, 2, 3.
    let minus_c = (quadrant.wrapping_add(1) & 2) << 30;
    let minus_s = (quadrant & 2) << 30;
    (f32::from_bits(c.to_bits() ^ minus_c), f32::from_bits(s.to_bits() ^ minus_s))
}

/// The sum of the lanes, by halves.
#[inline(always)]
pub(super) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The largest of the lanes that is not NaN.
#[inline(always)]
pub(super) fn max_lanes(lanes: [f32; LANES]) -> f32 {
    lanes.into_iter().fold(f32::NEG_INFINITY, |m, x| larger(x, m))
}

/// max |x|, NaN where an x is no finite number.
#[inline(always)]
pub(super) fn largest<E: CpuFloat>(x: &[E]) -> f32 {
    let (mut top, mut poison) = ([0f32; LANES], [0f32; LANES]);
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            let x = chunk[l].widen();
            top[l] = larger(x.abs(), top[l]);
            poison[l] += x * 0.0; // 0, or NaN of NaN and of infinity
        }
    }
    for (l, x) in tail.iter().enumerate() {
        top[l] = larger(x.widen().abs(), top[l]);
        poison[l] += x.widen() * 0.0;
    }
    max_lanes(top) + sum_lanes(poison)
}

/// Σ_i Π_k x[k][i] of slices of one length, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub(super) fn sum_products<E: CpuFloat, const FMA: bool, const K: usize>(x: [&[E]; K]) -> f32 {
    let n = x[0].len();
    let parts = x.map(|x| x[..n].as_chunks::<LANES>());
    let mut acc = [0.0f32; LANES];
    for c in 0..n / LANES {
        for l in 0..LANES {
            let mut product = parts[0].0[c][l].widen();
            for part in &parts[1..K - 1] {
                product *= part.0[c][l].widen();
            }
            acc[l] = fma::<FMA>(product, parts[K - 1].0[c][l].widen(), acc[l]);
        }
    }
    let mut tail = 0.0;
    for i in n / LANES * LANES..n {
        tail += x.iter().map(|x| x[i].widen()).product::<f32>();
    }
    sum_lanes(acc) + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp::<true>(x)) - want).abs() / want);
            worst = worst.max((f64::from(exp::<false>(x)) - want).abs() / want);
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn cos_and_sin_are_close_on_the_whole_turn() {
        for i in 0..200_000u32 {
            let phase = i.wrapping_mul(0x9e37_79b9);
            let angle = f64::from(phase) * std::f64::consts::TAU / 4_294_967_296.0;
            let (c, s) = cos_sin_turns::<true>(phase);
            assert!((f64::from(c) - angle.cos()).abs() < 1.5e-7, "cos {phase}");
            assert!((f64::from(s) - angle.sin()).abs() < 1.5e-7, "sin {phase}");
        }
    }

    #[test]
    fn bf16_rounds_as_half_does() {
        for i in 0..1_000_000u32 {
            let x = f32::from_bits(i.wrapping_mul(4295));
            assert_eq!(bf16::narrow(x).to_bits(), bf16::from_f32(x).to_bits(), "{x}");
        }
        assert!(bf16::narrow(f32::NAN).is_nan());
    }
}
