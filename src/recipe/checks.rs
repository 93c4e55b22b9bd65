//! Numbers within their bounds, or a sentence that names the flag.

use super::Size;
use crate::error::{Error, Result};

/// A finite number within [low, high], or a sentence.
pub(super) fn number(flag: &str, value: f64, low: f64, high: f64) -> Result<f64> {
    if value.is_finite() && value >= low && value <= high {
        return Ok(value);
    }
    let range =
        if high == f64::MAX { format!("of at least {low}") } else { format!("between {low} and {high}") };
    Err(Error::usage(flag, value, format!("must be a finite number {range}")))
}

pub(super) fn at_least_one(flag: &str, size: Size) -> Result<usize> {
    if size.0 == 0 {
        return Err(Error::usage(flag, 0, "must be at least 1"));
    }
    Ok(size.0)
}

/// A number of steps or times, where one is given.
pub(super) fn counted(flag: &str, size: Option<Size>) -> Result<Option<u64>> {
    size.map(|n| at_least_one(flag, n)).transpose().map(|n| n.map(|n| n as u64))
}
