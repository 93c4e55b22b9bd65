//! Which token comes next: a scan, or a bisection for the nucleus's threshold and a walk.

use super::isa::{Simd, per_isa};
use super::math::{LANES, exp, larger, max_lanes};
use crate::backend::SampleShape;
use crate::index::TokenId;

/// Bits of the smallest weight that is not 0: what weighs nothing is never drawn, whatever the sums round to.
const SMALLEST: u32 = 1;

/// The token of one row of logits; weights are left in their place.
pub(super) fn choose(simd: Simd, z: &mut [f32], unit: f32, s: SampleShape) -> TokenId {
    let (max, finite) = largest(simd, z);
    if !finite {
        return TokenId::IGNORED;
    }
    if s.temperature == 0.0 {
        return TokenId(z.iter().position(|z| *z == max).unwrap_or(0) as u32);
    }
    // a temperature below what f32 can divide by leaves the largest alone, as a larger one would
    weigh(simd, z, max, (1.0 / s.temperature).min(f64::from(f32::MAX)) as f32);
    let least = if s.top_p < 1.0 { threshold(simd, z, s.top_p) } else { SMALLEST };
    let wanted = f64::from(unit) * sum_from(simd, z, least);
    let (mut running, mut last) = (0.0, 0);
    for (i, w) in z.iter().enumerate().filter(|(_, w)| w.to_bits() >= least) {
        (running, last) = (running + f64::from(*w), i);
        if running > wanted {
            break;
        }
    }
    TokenId(last as u32)
}

/// The bits of the largest weight from which on they are `top_p` of all. Weights are not negative, so their bits are in
/// their order, and no more than those of 1.
fn threshold(simd: Simd, weights: &[f32], top_p: f64) -> u32 {
    let wanted = top_p * sum_from(simd, weights, SMALLEST);
    let (mut low, mut high) = (SMALLEST, 1f32.to_bits() + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if sum_from(simd, weights, middle) >= wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

per_isa! {
    /// The largest of a row, and whether all are finite.
    fn largest(z: &[f32]) -> (f32, bool) => largest_body;
    /// z = exp((z − max)·inverse), in place.
    fn weigh(z: &mut [f32], max: f32, inverse: f32) => weigh_body;
    /// The sum of the weights whose bits are `least` or more.
    fn sum_from(weights: &[f32], least: u32) -> f64 => sum_from_body;
}

#[inline(always)]
fn largest_body<const FMA: bool>(z: &[f32]) -> (f32, bool) {
    let (chunks, rest) = z.as_chunks::<LANES>();
    let (mut top, mut broken) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    for chunk in chunks {
        for l in 0..LANES {
            top[l] = larger(chunk[l], top[l]);
            broken[l] |= !chunk[l].is_finite();
        }
    }
    let mut max = max_lanes(top);
    let mut finite = broken == [false; LANES];
    for x in rest {
        max = larger(*x, max);
        finite &= x.is_finite();
    }
    (max, finite)
}

#[inline(always)]
fn weigh_body<const FMA: bool>(z: &mut [f32], max: f32, inverse: f32) {
    for z in z {
        *z = exp::<FMA>((*z - max) * inverse);
    }
}

#[inline(always)]
fn sum_from_body<const FMA: bool>(weights: &[f32], least: u32) -> f64 {
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            sums[l] += f64::from(if chunk[l].to_bits() >= least { chunk[l] } else { 0.0 });
        }
    }
    let rest = rest.iter().filter(|w| w.to_bits() >= least).map(|w| f64::from(*w)).sum::<f64>();
    sums.iter().sum::<f64>() + rest
}
