//! Which token comes next: the numbers that [`Backend::sample`] takes, from flags and from (seed, step).
//!
//! [`Backend::sample`]: crate::backend::Backend::sample

use crate::backend::SampleShape;
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

    /// For one row.
    pub fn shape(&self, vocab: usize) -> SampleShape {
        SampleShape { rows: 1, vocab, temperature: self.temperature, top_p: self.top_p }
    }

    /// The random number of step `step`, in [0, 1), of 24 bits: what f32 holds without becoming 1.
    pub fn unit(&self, step: u64) -> f64 {
        let bits = Stream::new(self.seed, Purpose::Sampling, step, 0).next_u32() >> 8;
        f64::from(bits) / f64::from(1 << 24)
    }
}

/// The first of the largest logits.
pub fn likeliest(logits: &[f32]) -> Result<TokenId> {
    let best = logits.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    match best.filter(|_| logits.iter().all(|z| z.is_finite())) {
        Some((i, _)) => Ok(TokenId(i as u32)),
        None => Err(Error::NonFinite("a logit is no finite number: the model is broken".into())),
    }
}

/// log p(token) = z_token − log Σ exp(z), in f64.
pub fn log_probability(logits: &[f32], token: TokenId) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|z| f64::from(z - max).exp()).sum();
    f64::from(logits[token.0 as usize] - max) - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::reference::{HostBuf, Reference};

    #[test]
    fn probabilities_add_up_to_one() {
        let logits = [1.0, -3.0, 200.0, 199.0];
        let sum: f64 = (0..4).map(|i| log_probability(&logits, TokenId(i)).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert_eq!(likeliest(&logits).unwrap(), TokenId(2));
        assert!(likeliest(&[0.0, f32::NAN]).is_err());
    }

    #[test]
    fn the_nucleus_bounds_what_is_drawn_and_frequencies_follow_the_softmax() {
        let logits = [1.0, 0.0, 3.0, 2.0];
        let count = |top_p: f64| {
            let sampling = Sampling { temperature: 1.0, top_p, seed: 7 };
            let (mut counts, mut token) = ([0usize; 4], HostBuf(vec![TokenId(0)]));
            for step in 0..20_000 {
                let (mut z, unit) = (HostBuf(logits.to_vec()), HostBuf(vec![sampling.unit(step)]));
                Reference.sample(&mut token, &mut z, &unit, sampling.shape(4)).unwrap();
                counts[token.0[0].0 as usize] += 1;
            }
            counts
        };
        let total: f64 = logits.iter().map(|z| z.exp()).sum();
        for (n, z) in count(1.0).iter().zip(logits) {
            let p = z.exp() / total;
            assert!((*n as f64 / 20_000.0 - p).abs() < 4.0 * (p / 20_000.0).sqrt(), "{n} against {p}");
        }
        let counts = count(0.8);
        assert_eq!((counts[0], counts[1]), (0, 0));
        assert!(counts[2] > counts[3] && counts[3] > 0);
    }
}
