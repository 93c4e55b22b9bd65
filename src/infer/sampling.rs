//! Which token comes next.

use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::random::{Purpose, Stream};

/// Greedy at temperature 0; else nucleus sampling (1904.09751), drawn as a function of (seed, step).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    pub temperature: f64,
    /// The smallest set of likeliest tokens whose probability reaches this is drawn from.
    pub top_p: f64,
    pub seed: u64,
}

impl Sampling {
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 0 };

    /// Refuses numbers that are no temperature or probability.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::usage(
                "--temperature",
                self.temperature,
                "must be 0 (greedy) or a positive number",
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::usage("--top-p", self.top_p, "must be above 0 and at most 1"));
        }
        Ok(())
    }

    /// The token of step `step` from its logits `[vocab]`, which are used as scratch. The first of equals wins.
    pub fn choose(&self, logits: &mut [f32], step: u64) -> Result<TokenId> {
        if let Some(bad) = logits.iter().find(|z| !z.is_finite()) {
            return Err(Error::NonFinite(format!(
                "a logit of generated token {step} is {bad}: the model is broken"
            )));
        }
        if self.temperature == 0.0 {
            let best = logits.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
            return Ok(TokenId(best.map_or(0, |(i, _)| i as u32)));
        }
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |z: f32| (f64::from(z - max) / self.temperature).exp();
        let mut order: Vec<(f64, u32)> =
            logits.iter().enumerate().map(|(i, &z)| (weight(z), i as u32)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let total: f64 = order.iter().map(|(w, _)| w).sum();
        let mut kept = 0.0;
        let nucleus = order.iter().position(|(w, _)| {
            kept += w;
            kept >= self.top_p * total
        });
        order.truncate(nucleus.map_or(order.len(), |last| last + 1));
        let mut left = Stream::new(self.seed, Purpose::Sampling, step, 0).unit_f64() * kept;
        for &(w, token) in &order {
            left -= w;
            if left < 0.0 {
                return Ok(TokenId(token));
            }
        }
        Ok(TokenId(order.last().map_or(0, |o| o.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampling::GREEDY.choose(&mut [0.0, 2.0, 2.0], 0).unwrap(), TokenId(1));
        assert!(Sampling::GREEDY.choose(&mut [0.0, f32::NAN], 0).is_err());
    }

    #[test]
    fn the_nucleus_bounds_what_is_drawn_and_frequencies_follow_the_softmax() {
        let sampling = |top_p| Sampling { temperature: 1.0, top_p, seed: 7 };
        let logits = [1.0f32, 0.0, 3.0, 2.0];
        let count = |top_p: f64| {
            let mut counts = [0usize; 4];
            for step in 0..20_000 {
                counts[sampling(top_p).choose(&mut logits.clone(), step).unwrap().0 as usize] += 1;
            }
            counts
        };
        let total: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
        for (n, z) in count(1.0).iter().zip(logits) {
            let p = f64::from(z).exp() / total;
            assert!((*n as f64 / 20_000.0 - p).abs() < 4.0 * (p / 20_000.0).sqrt(), "{n} against {p}");
        }
        let counts = count(0.8);
        assert_eq!((counts[0], counts[1]), (0, 0));
        assert!(counts[2] > counts[3] && counts[3] > 0);
    }
}
