//! Angles that stay exact at any position.
//!
//! A position times a frequency in f32 is off by 5e-3 radians at position 131071. A frequency kept as a 64-bit fraction of
//! a turn has no such error: whole turns overflow out of the product, and what is left is the angle.

use crate::index::RopePosition;
use std::f64::consts::TAU;

/// 2^64, the number of parts that a turn has.
const PARTS: f64 = 18_446_744_073_709_551_616.0;

/// Radians per position as a 64-bit binary fraction of a turn, rounded to the nearest. Whole turns leave no trace at any
/// position, so those of a pair that makes more than one a position are dropped.
pub fn turns(inverse_frequency: f64) -> u64 {
    ((inverse_frequency / TAU).fract() * PARTS).round() as u64
}

/// The angle at `position` in radians, from −π up to π.
pub fn phase(position: RopePosition, turns: u64) -> f64 {
    // signed, so that an angle just below a whole turn keeps its low bits when it becomes a float
    u64::from(position.0).wrapping_mul(turns) as i64 as f64 * (TAU / PARTS)
}
