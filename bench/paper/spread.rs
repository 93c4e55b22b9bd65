//! A figure over several seeds: mean, and how far they are apart.

use crate::runs::{TARGET, WINDOWS};
use crate::seed::SeedResults;
use pose_engine::quickstart::Measured;
use pose_engine::quickstart::recipe::WINDOW;

/// Values of one figure, one for each seed.
pub struct Spread(pub Vec<f64>);

impl Spread {
    pub fn over(seeds: &[SeedResults], of: impl Fn(&SeedResults) -> f64) -> Spread {
        Spread(seeds.iter().map(of).collect())
    }

    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    fn ends(&self) -> (f64, f64) {
        self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
    }

    /// "2.77 ± 0.01": the mean, and half of what lies between the smallest and the largest.
    pub fn text(&self, number: impl Fn(f64) -> String) -> String {
        let (low, high) = self.ends();
        match self.0.len() {
            1 => number(self.mean()),
            _ => format!("{} ± {}", number(self.mean()), number((high - low) / 2.0)),
        }
    }
}

/// Perplexity at a window.
pub fn ppl(measured: &Measured, window: usize) -> f64 {
    measured.at(window).unwrap_or_else(|| panic!("{} at {window}", measured.name)).ppl
}

/// Share of right recalls in a window of the target length, `from..to` words back.
pub fn recall(measured: &Measured, from: usize, to: usize) -> f64 {
    let at = measured.at(TARGET).unwrap_or_else(|| panic!("{} at {TARGET}", measured.name));
    let inside = at.recall.iter().filter(|b| b.from >= from && b.to <= to);
    let (right, asked) = inside.fold((0, 0), |(right, asked), b| (right + b.right, asked + b.asked));
    right as f64 / asked as f64
}

/// The worst recall of any bucket of distances beyond the trained window.
pub fn worst_recall(measured: &Measured) -> f64 {
    let at = measured.at(TARGET).unwrap_or_else(|| panic!("{} at {TARGET}", measured.name));
    at.recall
        .iter()
        .filter(|b| b.from >= WINDOW && b.asked > 0)
        .map(|b| b.share())
        .fold(f64::INFINITY, f64::min)
}

pub fn windows_of(window: usize) -> usize {
    window / WINDOWS[0]
}

/// Large perplexities need no decimals.
pub fn number(v: f64) -> String {
    if v < 100.0 { format!("{v:.3}") } else { format!("{v:.0}") }
}

pub fn percent(v: f64) -> String {
    format!("{:.1}%", 100.0 * v)
}
