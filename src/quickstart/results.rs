//! The figures of a quickstart, and what they say about the paper's claims.

use super::measure::Measured;
use super::recipe::{FACTOR, TARGET, WINDOW};
use super::stages::Trained;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub seed: u64,
    pub base: Trained,
    /// One for each method, in the order of [`super::recipe::METHODS`].
    pub extended: Vec<Trained>,
    /// Short runs of PoSE and full-length training at several target lengths.
    pub costs: Vec<Trained>,
    /// The base model ("before") and each method's.
    pub measured: Vec<Measured>,
    pub seconds: f64,
}

/// One claim of the paper, held against the figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    pub text: String,
    pub holds: bool,
}

impl Results {
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(path, e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|e| Error::io(path, "writing the results", e))
    }

    pub fn measured(&self, name: &str) -> Option<&Measured> {
        self.measured.iter().find(|m| m.name == name)
    }

    pub fn trained(&self, method: &str) -> Option<&Trained> {
        self.extended.iter().find(|t| t.method == method)
    }

    /// Perplexity of a model at a window; NaN where it was not measured.
    pub fn ppl(&self, name: &str, window: usize) -> f64 {
        self.measured(name).and_then(|m| m.at(window)).map_or(f64::NAN, |w| w.ppl)
    }

    /// Recall of a model in a window of the target length, over facts `from..to` words back.
    pub fn recall(&self, name: &str, from: usize, to: usize) -> f64 {
        let buckets =
            self.measured(name).and_then(|m| m.at(TARGET)).map(|w| w.recall.as_slice()).unwrap_or_default();
        let inside = buckets.iter().filter(|b| b.from >= from && b.to <= to);
        let (right, asked) = inside.fold((0, 0), |(r, a), b| (r + b.right, a + b.asked));
        if asked == 0 { f64::NAN } else { right as f64 / asked as f64 }
    }

    /// The worst and the best recall of any distance from `from` on.
    pub fn recall_range(&self, name: &str, from: usize) -> (f64, f64) {
        let buckets =
            self.measured(name).and_then(|m| m.at(TARGET)).map(|w| w.recall.as_slice()).unwrap_or_default();
        let shares = buckets.iter().filter(|b| b.from >= from && b.asked > 0).map(|b| b.share());
        shares.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), s| (low.min(s), high.max(s)))
    }

    /// The paper's claims with this run's figures.
    pub fn claims(&self) -> Vec<Claim> {
        let percent = |share: f64| 100.0 * share;
        let before = self.recall_range("before", WINDOW).1;
        let after = self.recall_range("pose", 0).0;
        let gap = self.ppl("pose", TARGET) / self.ppl("full", TARGET) - 1.0;
        let seconds = |method| self.trained(method).map_or(f64::NAN, |t| t.seconds);
        let time = seconds("pose") / seconds("full");
        let (least, most) = self.pose_memory();
        let spread = most / least - 1.0;
        vec![
            Claim {
                text: format!(
                    "before: recall beyond the window is at most {:.1}% (guessing gives 8%)",
                    percent(before)
                ),
                holds: before <= 0.12,
            },
            Claim {
                text: format!(
                    "after PoSE: recall is at least {:.1}% at every distance up to {FACTOR}x",
                    percent(after)
                ),
                holds: after >= 0.9,
            },
            Claim {
                text: format!(
                    "PoSE's perplexity at {FACTOR}x is {:+.1}% from full-length training's, in {:.1}% of its time",
                    percent(gap),
                    percent(time)
                ),
                holds: gap <= 0.03 && time < 0.5,
            },
            Claim {
                text: format!(
                    "PoSE's memory varies by {:.1}% over target lengths from 2x to {FACTOR}x",
                    percent(spread)
                ),
                holds: spread <= 0.03,
            },
        ]
    }

    /// Least and most peak memory of PoSE over the target lengths, in bytes.
    fn pose_memory(&self) -> (f64, f64) {
        let peaks =
            self.costs.iter().filter(|c| c.method == "pose").filter_map(|c| c.peak_bytes).map(|b| b as f64);
        peaks.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), b| (low.min(b), high.max(b)))
    }
}
