//! Distances drawn by weights that come from outside: more of those at which a model is found to be bad.
//!
//! The distances 1 to Lt-1 are split into [`BINS`] bins of equal width with weights w_b that sum to 1. A row draws a bin by its
//! weight, a distance d uniformly in it, and the last chunk's bias u uniformly from those that train d: with M tokens in the chunks
//! between them (0 for two chunks), the pairs of the first and the last chunk have the distances u+M+1 to u+Lc-1, so
//! d-Lc+1 <= u <= d-1-M, within 0 <= u <= Lt-Lc. For d <= M that leaves u = 0, a row without a skip, which trains all
//! distances below Lc. The biases between are uniform in 0..=u. So every d is trained with a probability of at least w_b / (distances in b), and a floor under the
//! weights is a floor under every distance. Nothing here is a state: the row is a function of seed, step, row and weights.

use super::chunks;
use crate::random::Stream;

/// Bins of distances.
pub const BINS: usize = 16;

/// How likely each bin of distances is; sums to 1.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct DistanceWeights(pub [f64; BINS]);

impl Default for DistanceWeights {
    /// All alike.
    fn default() -> Self {
        DistanceWeights([1.0 / BINS as f64; BINS])
    }
}

impl DistanceWeights {
    /// `floor` of the examples are shared out evenly, the rest in proportion to `need` (nothing below 0 is taken; all alike where
    /// nothing is needed): w_b = floor/BINS + (1 - floor)·need_b / Σ need.
    pub fn by_need(need: &[f64; BINS], floor: f64) -> DistanceWeights {
        let need = need.map(|n| if n.is_finite() { n.max(0.0) } else { 0.0 });
        let sum: f64 = need.iter().sum();
        if sum <= 0.0 || !sum.is_finite() {
            return DistanceWeights::default();
        }
        DistanceWeights(need.map(|n| floor / BINS as f64 + (1.0 - floor) * n / sum))
    }

    /// Whether they are probabilities: for weights that were read from a file.
    pub fn are_probabilities(&self) -> bool {
        self.0.iter().all(|w| *w >= 0.0) && (self.0.iter().sum::<f64>() - 1.0).abs() < 1e-9
    }
}

/// The distances of a bin: ⌊b·(Lt-1)/BINS⌋ + 1 up to ⌊(b+1)·(Lt-1)/BINS⌋; none in some where the target is very short.
pub fn bin(b: usize, target: usize) -> std::ops::RangeInclusive<usize> {
    let edge = |b: usize| b * (target - 1) / BINS;
    edge(b) + 1..=edge(b + 1)
}

/// The bin of a distance from 1 to Lt-1.
pub fn bin_of(distance: usize, target: usize) -> usize {
    (distance * BINS).div_ceil(target - 1) - 1
}

/// A distance to train, by the weights.
fn distance(stream: &mut Stream, weights: &DistanceWeights, target: usize) -> usize {
    let distances = bin(stream.weighted(&weights.0), target);
    // an empty bin's share goes to the distance above it
    let width = (distances.end() + 1).saturating_sub(*distances.start()).max(1);
    (distances.start() + stream.below_usize(width)).min(target - 1)
}

/// Biases of a row that trains distance `d`, ascending from 0, for chunks of these `lengths`.
fn biases(stream: &mut Stream, d: usize, lengths: &[usize], target: usize) -> Vec<usize> {
    let (window, between) =
        (lengths.iter().sum::<usize>(), lengths[1..lengths.len() - 1].iter().sum::<usize>());
    let (low, high) = ((d + 1).saturating_sub(window), d.saturating_sub(between + 1).min(target - window));
    let last = low + stream.below_usize(high - low + 1);
    let mut biases: Vec<usize> = (2..lengths.len()).map(|_| stream.below_usize(last + 1)).collect();
    biases.sort_unstable();
    biases.insert(0, 0);
    biases.push(last);
    biases
}

/// A row's chunks: lengths as PoSE's.
pub(super) fn spans(
    stream: &mut Stream, lengths: &[usize], weights: &DistanceWeights, target: usize,
) -> Vec<crate::index::ChunkSpan> {
    let d = distance(stream, weights, target);
    chunks::spans(lengths, &biases(stream, d, lengths, target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::positions::coverage::between_chunks;
    use crate::positions::{ChunkLengths, chunks};
    use crate::random::Purpose;

    #[test]
    fn every_distance_is_in_its_bin() {
        for target in [2, 3, 16, 17, 18, 33, 40, 513, 4096] {
            for d in 1..target {
                assert!(bin(bin_of(d, target), target).contains(&d), "{d} of {target}");
            }
        }
    }

    #[test]
    fn every_row_trains_the_distance_drawn_for_it() {
        for (window, target) in [(16, 17), (16, 40), (24, 25), (32, 513), (256, 4096)] {
            for count in [2, 3, 8] {
                for row in 0..2000 {
                    let stream = &mut Stream::new(7, Purpose::Positions, 0, row);
                    let lengths = chunks::lengths(stream, window, count, ChunkLengths::Paper);
                    let d = distance(&mut stream.clone(), &DistanceWeights::default(), target);
                    let spans = spans(stream, &lengths, &DistanceWeights::default(), target);
                    assert!(spans[count - 1].bias as usize <= target - window);
                    assert!(
                        between_chunks(&spans, window).iter().any(|run| run.contains(&d)),
                        "{d} of {target}, chunks of {lengths:?}: {spans:?}"
                    );
                }
            }
        }
    }
}
