//! The recipe of the quickstart: every number of it.

/// Words of the base model's training window; a word is a token here.
pub const WINDOW: usize = 64;
/// How many times longer the context becomes.
pub const FACTOR: usize = 32;
pub const TARGET: usize = WINDOW * FACTOR;
/// Windows that are measured: 1x, 4x and 32x.
pub const MEASURED: [usize; 3] = [WINDOW, 4 * WINDOW, TARGET];
/// Target lengths at which time and memory of training are measured.
pub const COST_TARGETS: [usize; 5] = [2 * WINDOW, 4 * WINDOW, 8 * WINDOW, 16 * WINDOW, TARGET];

/// Documents to train on, and their length in words.
pub const TRAIN_DOCUMENTS: (u32, usize) = (600, 4096);
/// Held-out documents, and their length in words.
pub const TEST_DOCUMENTS: (u32, usize) = (64, 2048);

/// How a run of optimizer steps goes: AdamW at a peak rate, warmed up, then falling in a line to zero.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    pub steps: usize,
    pub batch: usize,
    pub lr: f64,
    pub warmup: usize,
}

/// Learning the task from nothing, at the short window.
pub const BASE: Steps = Steps { steps: 1200, batch: 32, lr: 3e-3, warmup: 50 };
/// Extending it: the same for every method.
pub const EXTEND: Steps = Steps { steps: 300, batch: 16, lr: 3e-3, warmup: 20 };
/// Enough steps for a median of their time.
pub const COST: Steps = Steps { steps: 9, ..EXTEND };

/// The ways to extend that are compared, by the name of `train --method`.
pub const METHODS: [&str; 4] = ["pose", "randpos", "plain", "full"];
