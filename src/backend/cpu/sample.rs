//! Which token comes next: a scan, or a bisection for the nucleus's threshold and a walk.

use crate::backend::SampleShape;
use crate::index::TokenId;

/// Bits of the smallest weight that is not 0: what weighs nothing is never drawn, whatever the sums round to.
const SMALLEST: u32 = 1;

/// The token of one row of logits; weights are left in their place.
pub(super) fn choose(z: &mut [f32], unit: f32, s: SampleShape) -> TokenId {
    if !z.iter().all(|z| z.is_finite()) {
        return TokenId::IGNORED;
    }
    let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if s.temperature == 0.0 {
        return TokenId(z.iter().position(|z| *z == max).unwrap_or(0) as u32);
    }
    z.iter_mut().for_each(|z| *z = (f64::from(*z - max) / s.temperature).exp() as f32);
    let least = if s.top_p < 1.0 { threshold(z, s.top_p) } else { SMALLEST };
    let wanted = f64::from(unit) * sum_from(z, least);
    let (mut running, mut last) = (0.0, 0);
    for (i, w) in z.iter().enumerate().filter(|(_, w)| w.to_bits() >= least) {
        (running, last) = (running + f64::from(*w), i);
        if running > wanted {
            break;
        }
    }
    TokenId(last as u32)
}

/// The sum of the weights whose bits are `least` or more.
fn sum_from(weights: &[f32], least: u32) -> f64 {
    weights.iter().map(|w| if w.to_bits() >= least { f64::from(*w) } else { 0.0 }).sum()
}

/// The bits of the largest weight from which on they are `top_p` of all. Weights are not negative, so their bits are in
/// their order, and no more than those of 1.
fn threshold(weights: &[f32], top_p: f64) -> u32 {
    let wanted = top_p * sum_from(weights, SMALLEST);
    let (mut low, mut high) = (SMALLEST, 1f32.to_bits() + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if sum_from(weights, middle) >= wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}
