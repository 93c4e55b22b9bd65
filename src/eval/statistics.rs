//! Means with their standard errors.

/// Mean of `values` and the standard error of that mean, s/√n; no error for fewer than two.
pub fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, None);
    }
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
    (mean, Some((variance / n).sqrt()))
}

/// Tokens of a text whose losses count as one observation of its mean loss: those of neighbours are correlated.
pub const BLOCK: usize = 512;

/// A text's losses, summed by blocks of 512 tokens.
#[derive(Debug, Default)]
pub struct BlockSums {
    /// Of each block with losses: which it is, their sum and number.
    blocks: Vec<(usize, f64, f64)>,
}

impl BlockSums {
    /// Adds the loss of a token; tokens come in their order.
    pub fn add(&mut self, token: usize, loss: f64) {
        let block = token / BLOCK;
        match self.blocks.last_mut().filter(|last| last.0 == block) {
            Some(last) => (last.1, last.2) = (last.1 + loss, last.2 + 1.0),
            None => self.blocks.push((block, loss, 1.0)),
        }
    }

    /// Losses, their mean (0 of none), and the mean's standard error: that of the ratio of sums over blocks, √(B/(B−1) Σ (sₖ − m·nₖ)²) / n
    /// with sₖ the sum and nₖ the number of a block's losses, m their mean and B the blocks (Cochran, Sampling Techniques, 6.4). None
    /// for fewer than two blocks.
    pub fn mean(&self) -> TextMean {
        let total = |of: fn(&(usize, f64, f64)) -> f64| self.blocks.iter().map(of).sum::<f64>();
        let (sum, n, count) = (total(|b| b.1), total(|b| b.2), self.blocks.len() as f64);
        let mean = sum / n.max(1.0);
        let squares = self.blocks.iter().map(|(_, s, k)| (s - mean * k).powi(2)).sum::<f64>();
        let error = (count >= 2.0).then(|| (count / (count - 1.0) * squares).sqrt() / n);
        TextMean { losses: n as usize, mean, error }
    }
}

impl FromIterator<(usize, f64)> for BlockSums {
    fn from_iter<I: IntoIterator<Item = (usize, f64)>>(losses: I) -> BlockSums {
        let mut sums = BlockSums::default();
        losses.into_iter().for_each(|(token, loss)| sums.add(token, loss));
        sums
    }
}

/// What is summed up of a text: its losses, their mean and the mean's standard error (see [`BlockSums`]).
#[derive(Clone, Copy, Debug)]
pub struct TextMean {
    pub losses: usize,
    pub mean: f64,
    pub error: Option<f64>,
}

/// Mean over all losses of several texts and its standard error, √(Σ (nₖ·eₖ)²) / n. A text too short for an error of its own is
/// one observation beside the others of that kind: nₖ·eₖ is what it adds to the sum above the mean over all, times
/// √(K/(K−1)) of K of them. 0 without an error where there is no loss at all, no error for a single short text.
pub fn pooled(texts: impl Iterator<Item = TextMean> + Clone) -> (f64, Option<f64>) {
    let some = texts.filter(|text| text.losses > 0);
    let n = some.clone().map(|text| text.losses as f64).sum::<f64>();
    let mean = some.clone().map(|text| text.mean * text.losses as f64).sum::<f64>() / n.max(1.0);
    let (all, short) = (some.clone().count(), some.clone().filter(|text| text.error.is_none()).count());
    if all < 2 && short == all {
        return (mean, None);
    }
    let among = if short > 1 { (short as f64 / (short as f64 - 1.0)).sqrt() } else { 1.0 };
    let adds = some.map(|text| text.losses as f64 * text.error.unwrap_or(among * (text.mean - mean)));
    (mean, Some(adds.map(|x| x * x).sum::<f64>().sqrt() / n))
}

/// Standard error of a share p of n, √(n·p(1−p) + 1/4) / (n + 1): half of the range of shares from which p is at most one standard error
/// away (Wilson's interval). Where all or none of ten are right it says 0.045, when √(p(1−p)/n) would be 0; of many they are the same.
pub fn proportion_error(p: f64, n: usize) -> f64 {
    let n = n as f64;
    (n * p * (1.0 - p) + 0.25).sqrt() / (n + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};
    use approx::assert_relative_eq;

    fn error(losses: impl Iterator<Item = (usize, f64)>) -> Option<f64> {
        losses.collect::<BlockSums>().mean().error
    }

    #[test]
    fn blocks_of_equal_size_are_as_many_values() {
        let mean = |block: usize| [3.0, 5.0, 4.0, 9.0][block];
        let losses =
            |tokens: std::ops::Range<usize>| tokens.map(|t| (t, mean(t / BLOCK) + [-1.0, 1.0][t % 2]));
        let (_, of_means) = mean_and_error(&[3.0, 5.0, 4.0, 9.0]);
        assert_relative_eq!(error(losses(0..4 * BLOCK)).expect("four blocks"), of_means.expect("four"));
        assert_eq!(error(losses(0..BLOCK)), None);
        assert_eq!(error(std::iter::empty()), None);
    }

    /// Where losses drift, s/√n over single tokens says too little: the spread of means over many texts is the truth.
    #[test]
    fn the_error_is_the_spread_of_means_of_correlated_losses() {
        let mut random = Stream::new(1, Purpose::Sampling, 0, 0);
        let (mut means, mut errors) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let mut level = 0.0;
            let text: Vec<(usize, f64)> = (0..64 * BLOCK)
                .map(|t| {
                    // a level that is forgotten in some 50 tokens
                    level = 0.98 * level + random.unit_f64() - 0.5;
                    (t, level)
                })
                .collect();
            means.push(text.iter().map(|(_, loss)| loss).sum::<f64>() / text.len() as f64);
            errors.push(error(text.into_iter()).expect("64 blocks"));
        }
        let n = means.len() as f64;
        let spread = (means.iter().map(|m| m * m).sum::<f64>() / n).sqrt();
        let said = errors.iter().sum::<f64>() / n;
        assert!((said / spread - 1.0).abs() < 0.15, "said {said}, seen {spread}");
    }

    #[test]
    fn known_values() {
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        assert_relative_eq!(error.expect("four values have an error"), (5.0f64 / 3.0 / 4.0).sqrt());
        assert_eq!(mean_and_error(&[2.0]), (2.0, None));
        assert_relative_eq!(proportion_error(0.5, 99), 0.05);
        assert_relative_eq!(proportion_error(0.0, 9), 0.05);
        assert_relative_eq!(proportion_error(0.9, 1_000_000), 0.0003, max_relative = 1e-5);
    }

    #[test]
    fn texts_are_pooled() {
        let text = |losses, mean, error| TextMean { losses, mean, error };
        let of = |texts: &[TextMean]| pooled(texts.iter().copied());
        assert_eq!(of(&[]), (0.0, None));
        assert_eq!(of(&[text(0, 0.0, None), text(9, 2.5, None)]), (2.5, None));
        assert_eq!(of(&[text(9, 2.5, Some(0.5)), text(0, 0.0, None)]), (2.5, Some(0.5)));
        let (mean, error) = of(&[text(30, 2.0, Some(0.1)), text(10, 4.0, Some(0.4))]);
        assert_relative_eq!(mean, 2.5);
        assert_relative_eq!(error.expect("both have one"), (9.0f64 + 16.0).sqrt() / 40.0);
        // short ones alone are as many values, and one among long ones adds its distance from the mean
        let (mean, error) = of(&[1.0, 2.0, 3.0, 4.0].map(|mean| text(7, mean, None)));
        let (of_values, its_error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
        assert_relative_eq!(mean, of_values);
        assert_relative_eq!(error.expect("four texts"), its_error.expect("four values"));
        let (mean, error) = of(&[text(30, 2.0, Some(0.1)), text(10, 4.0, None)]);
        assert_relative_eq!(
            error.expect("one has one"),
            (9.0f64 + (10.0 * (4.0 - mean)).powi(2)).sqrt() / 40.0
        );
    }
}
