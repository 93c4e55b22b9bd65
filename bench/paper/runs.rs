//! What is trained: the ways to extend the base model that the paper compares, and those that came after it.

use pose_engine::quickstart::Stage;
use pose_engine::quickstart::recipe::{EXTEND, WINDOW};

/// The target length: 16 times the window, in a row of which CREAM still goes to half as far.
pub const TARGET: usize = 16 * WINDOW;
/// Half the target: the second target length of the paper's Table 1.
pub const HALF: usize = TARGET / 2;
/// Windows that every model is measured at.
pub const WINDOWS: [usize; 5] = [WINDOW, 2 * WINDOW, 4 * WINDOW, HALF, TARGET];
/// As far as CREAM's middle part can go with this window: 2·⌊4·Lt/Lc⌋ < Lc.
pub const CREAM_TARGET: usize = HALF - 1;
/// Steps between two measures of perplexity in a run that Figure 3 shows.
const EVAL_EVERY: usize = 30;

/// One way to extend the base model.
#[derive(Clone, Copy)]
pub struct Run {
    /// Its directory, and its name in `seed-N.json`.
    pub name: &'static str,
    /// In tables.
    pub title: &'static str,
    method: &'static str,
    target: usize,
    /// More flags of `train`.
    with: &'static [(&'static str, &'static str)],
    /// Whether perplexity is measured as it goes.
    watched: bool,
}

const fn run(name: &'static str, title: &'static str, method: &'static str, target: usize) -> Run {
    Run { name, title, method, target, with: &[], watched: false }
}

impl Run {
    const fn with(self, with: &'static [(&'static str, &'static str)]) -> Run {
        Run { with, ..self }
    }

    const fn watched(self) -> Run {
        Run { watched: true, ..self }
    }

    pub fn stage(&self) -> Stage {
        let mut with: Vec<(&'static str, String)> =
            self.with.iter().map(|&(flag, value)| (flag, value.to_string())).collect();
        if self.watched {
            with.push(("--eval-data", "test.jsonl".into()));
            with.push(("--eval-every", EVAL_EVERY.to_string()));
        }
        Stage { with, ..Stage::extend(self.name, self.method, self.target, EXTEND) }
    }
}

/// Every run but the base model. The first is the paper's method as the others vary it: two chunks, the text as it
/// stands, linear interpolation, 16 times the window.
pub const RUNS: [Run; 18] = [
    run("pose", "PoSE to 16x", "pose", TARGET).watched(),
    run("pose-8x", "PoSE to 8x", "pose", HALF),
    run("randpos", "RandPos to 16x", "randpos", TARGET),
    run("randpos-8x", "RandPos to 8x", "randpos", HALF),
    run("plain", "plain, 16x", "plain", TARGET),
    run("full", "full length 16x", "full", TARGET).watched(),
    run("full-8x", "full length 8x", "full", HALF),
    run("uniform", "v_i at random", "pose", TARGET).with(&[("--content", "uniform")]),
    run("aligned", "v_i = u_i", "pose", TARGET).with(&[("--content", "aligned")]),
    run("chunks-3", "3 chunks", "pose", TARGET).with(&[("--chunks", "3")]),
    run("chunks-64", "64 chunks (Lc)", "pose", TARGET).with(&[("--chunks", "64")]),
    run("ntk", "PoSE with NTK", "pose", TARGET).with(&[("--rope", "ntk")]),
    run("yarn", "PoSE with YaRN", "pose", TARGET).with(&[("--rope", "yarn")]),
    run("cream", "CREAM to 8x", "cream", CREAM_TARGET).with(&[("--rope-factor", "8")]),
    run("longrecipe", "LongRecipe", "longrecipe", TARGET),
    run("axolotl", "axolotl", "axolotl", TARGET),
    run("balanced", "balanced", "balanced", TARGET),
    run("adaptive", "adaptive", "adaptive", TARGET).with(&[("--eval-data", "probe.jsonl")]),
];
