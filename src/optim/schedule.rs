//! The learning rate of each step.

use serde::{Deserialize, Serialize};

/// What the rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Stays (the paper's recipe).
    #[default]
    Constant,
    /// Falls in a straight line to zero after the last step.
    Linear,
    /// Falls along half a cosine to zero after the last step.
    Cosine,
}

/// A peak rate reached over `warmup` steps, then `kind`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub kind: ScheduleKind,
    pub peak: f64,
    pub warmup: u64,
    pub steps: u64,
}

impl Schedule {
    /// The rate of step 1, 2, ..., steps. The first step already learns: rate peak/warmup.
    pub fn rate(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let left = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup - 1) as f64 / left).min(1.0);
        self.peak
            * match self.kind {
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => 1.0 - done,
                ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn warms_up_then_falls() {
        let s = Schedule { kind: ScheduleKind::Linear, peak: 1.0, warmup: 4, steps: 14 };
        assert_eq!(s.rate(1), 0.25);
        assert_eq!(s.rate(4), 1.0);
        assert_eq!(s.rate(5), 1.0);
        assert_relative_eq!(s.rate(14), 0.1, max_relative = 1e-12);
        let s = Schedule { kind: ScheduleKind::Cosine, ..s };
        assert_relative_eq!(s.rate(10), 0.5, max_relative = 1e-12);
        let s = Schedule { kind: ScheduleKind::Constant, warmup: 0, ..s };
        assert_eq!(s.rate(1), 1.0);
    }
}
