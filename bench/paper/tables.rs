//! The tables as Markdown, and whether the order of methods is the paper's.

use crate::runs::{HALF, RUNS, TARGET, WINDOWS};
use crate::seed::{Costs, SeedResults};
use crate::spread::{Spread, number, percent, ppl, recall, windows_of, worst_recall};
use pose_engine::quickstart::recipe::{COST_TARGETS, WINDOW};
use std::fmt::Write;

/// Everything.
pub fn all(seeds: &[SeedResults], measured: &Costs) -> String {
    let numbers: Vec<String> = seeds.iter().map(|s| s.seed.to_string()).collect();
    let mut out = format!(
        "Seeds {}; mean ± half of what lies between the smallest and the largest. Windows of {WINDOW} words are trained, 1x is {WINDOW} words, 16x is \
         {TARGET}. ",
        numbers.join(", ")
    );
    for s in seeds {
        let _ = write!(out, "Seed {}: {}, {:.0} s. ", s.seed, s.machine, s.seconds);
    }
    out += "\n\n";
    for table in &TABLES {
        table.write(&mut out, seeds);
    }
    costs(&mut out, measured);
    commands(&mut out, &seeds[0]);
    out
}

/// Some models side by side, and what the paper has of their order.
struct Table {
    title: &'static str,
    models: &'static [&'static str],
    paper: &'static [Order],
}

/// Models by their perplexity at a window, best first, as the paper has them at that part of its target length.
struct Order {
    at: usize,
    best_first: &'static [&'static str],
}

/// The paper's Table 1 has no full-length training to its second target. Of its Table 5, one chunk is Table 1's untouched model and
/// Lc chunks are its RandPos, figure for figure. Orders are those on Proof-pile, in Figure 4 LLaMA-7B's.
const TABLES: [Table; 5] = [
    Table {
        title: "Table 1: ways to extend",
        models: &["before", "full-8x", "full", "randpos-8x", "randpos", "pose-8x", "pose", "plain"],
        paper: &[
            Order { at: HALF, best_first: &["full-8x", "pose-8x", "randpos-8x", "before"] },
            Order { at: TARGET, best_first: &["pose", "randpos", "before"] },
        ],
    },
    Table {
        title: "Table 4: where the chunks' text comes from",
        models: &["pose", "uniform", "aligned"],
        paper: &[Order { at: TARGET, best_first: &["aligned", "uniform", "pose"] }],
    },
    Table {
        title: "Table 5: number of chunks",
        models: &["before", "plain", "pose", "chunks-3", "chunks-64", "randpos"],
        paper: &[Order { at: TARGET, best_first: &["chunks-3", "pose", "randpos", "before"] }],
    },
    Table {
        title: "Figure 4: interpolation",
        models: &["pose", "ntk", "yarn"],
        paper: &[
            Order { at: HALF, best_first: &["ntk", "pose"] },
            Order { at: HALF, best_first: &["yarn", "pose"] },
            Order { at: TARGET, best_first: &["yarn", "pose", "ntk"] },
        ],
    },
    Table {
        title: "Samplers that came later",
        models: &["pose", "pose-8x", "cream", "longrecipe", "axolotl", "balanced", "adaptive"],
        paper: &[],
    },
];

fn title(name: &str) -> &str {
    RUNS.iter().find(|r| r.name == name).map_or("before (window 64)", |r| r.title)
}

impl Table {
    fn write(&self, out: &mut String, seeds: &[SeedResults]) {
        let heads: Vec<String> = WINDOWS.iter().map(|&w| format!("ppl {}x", windows_of(w))).collect();
        let _ = writeln!(
            out,
            "### {}\n\n| model | {} | recall 64-256 | 256-1024 | worst |",
            self.title,
            heads.join(" | ")
        );
        let _ = writeln!(out, "|---|{}", "---|".repeat(WINDOWS.len() + 3));
        for name in self.models {
            let over = |of: &dyn Fn(&pose_engine::quickstart::Measured) -> f64| {
                Spread::over(seeds, |s| of(s.measured(name)))
            };
            let ppl = WINDOWS.iter().map(|&w| over(&|m| ppl(m, w)).text(number));
            let recall = [
                over(&|m| recall(m, WINDOW, 4 * WINDOW)),
                over(&|m| recall(m, 4 * WINDOW, TARGET)),
                over(&worst_recall),
            ];
            let cells: Vec<String> = ppl.chain(recall.iter().map(|r| r.text(percent))).collect();
            let _ = writeln!(out, "| {} | {} |", title(name), cells.join(" | "));
        }
        out.push('\n');
        self.paper.iter().for_each(|order| order.write(out, seeds));
        if !self.paper.is_empty() {
            out.push('\n');
        }
    }
}

impl Order {
    /// In how many seeds each of the paper's comparisons comes out as it does there.
    fn write(&self, out: &mut String, seeds: &[SeedResults]) {
        let at = windows_of(self.at);
        for pair in self.best_first.windows(2) {
            let [better, worse] = [pair[0], pair[1]].map(title);
            let agrees =
                |s: &&SeedResults| ppl(s.measured(pair[0]), self.at) < ppl(s.measured(pair[1]), self.at);
            let count = seeds.iter().filter(agrees).count();
            let _ = writeln!(
                out,
                "- Perplexity at {at}x: the paper has {better} below {worse}; so it is here in {count} of {} seeds.",
                seeds.len()
            );
        }
    }
}

/// Figure 3: time and memory of a step by the length trained for.
fn costs(out: &mut String, costs: &Costs) {
    let _ = writeln!(out, "### Figure 3: cost of a step ({})\n", costs.machine);
    *out += "| trained for | PoSE, ms | full length, ms | | PoSE, peak MiB | full length, peak MiB |\n|---|---|---|---|---|---|\n";
    let of = |method: &str, length: usize| {
        let run = costs.runs.iter().find(|c| c.method == method && c.target_len == length);
        let run = run.unwrap_or_else(|| panic!("{method} to {length}"));
        (1e3 * run.seconds_per_step, run.peak_bytes.map_or(f64::NAN, |b| b as f64 / (1 << 20) as f64))
    };
    for length in COST_TARGETS {
        let ((pose, pose_mib), (full, full_mib)) = (of("pose", length), of("full", length));
        let ratio = full / pose;
        let _ = writeln!(
            out,
            "| {length} | {pose:.1} | {full:.1} | {ratio:.1}x | {pose_mib:.1} | {full_mib:.1} |"
        );
    }
    out.push('\n');
}

/// How each model was made.
fn commands(out: &mut String, seed: &SeedResults) {
    let _ = writeln!(out, "### Commands (seed {}; the others differ in --seed)\n\n```sh", seed.seed);
    for trained in std::iter::once(&seed.base).chain(seed.runs.iter().map(|r| &r.trained)) {
        let _ = writeln!(out, "{}", trained.command);
    }
    *out += "```\n";
}
