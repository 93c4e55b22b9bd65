//! The figures as SVG, means over the seeds.

use crate::runs::{HALF, RUNS, TARGET, WINDOWS};
use crate::seed::{Costs, SeedResults};
use crate::spread::{Spread, ppl, windows_of};
use pose_engine::figures::{Axis, Plot, Series};
use pose_engine::positions::coverage::Coverage;
use pose_engine::positions::{ChunkLengths, Content, Method, Sampler};
use pose_engine::quickstart::Trained;
use pose_engine::quickstart::recipe::WINDOW;

/// Rows that a coverage is counted over.
const ROWS: usize = 20_000;

/// File names and plots.
pub fn all(seeds: &[SeedResults], costs: &Costs) -> Vec<(&'static str, Plot)> {
    vec![
        ("figure-3-memory.svg", memory(costs)),
        ("figure-3-time.svg", time(costs)),
        ("figure-3-perplexity.svg", by_step(seeds)),
        ("figure-4-interpolation.svg", by_window(seeds, "Perplexity by window", &["pose", "ntk", "yarn"])),
        ("methods.svg", by_window(seeds, "Perplexity by window", &["full", "pose", "randpos", "plain"])),
        (
            "samplers.svg",
            by_window(
                seeds,
                "Perplexity by window",
                &["pose", "longrecipe", "axolotl", "balanced", "adaptive"],
            ),
        ),
        ("figure-5-coverage.svg", coverage("PoSE by number of chunks", &PAPER)),
        ("coverage-samplers.svg", coverage("The samplers", &LATER)),
    ]
}

fn by_window(seeds: &[SeedResults], title: &str, names: &[&str]) -> Plot {
    let series = names.iter().enumerate().map(|(i, name)| {
        let at = |&w: &usize| {
            let mean = Spread::over(seeds, |s| ppl(s.measured(name), w)).mean();
            (windows_of(w) as f64, mean)
        };
        let title = RUNS.iter().find(|r| r.name == *name).map_or(*name, |r| r.title);
        Series::measured(title, WINDOWS.iter().map(at).collect()).coloured(i)
    });
    Plot {
        title: title.into(),
        x: Axis::doublings("window, times the trained one"),
        y: Axis::linear("perplexity"),
        series: series.collect(),
    }
}

fn by_step(seeds: &[SeedResults]) -> Plot {
    let series = ["pose", "full"].iter().enumerate().map(|(i, name)| {
        let steps = seeds[0].run(name).watched.iter().map(|&(step, _)| step);
        let at =
            |(k, step): (usize, u64)| (step as f64, Spread::over(seeds, |s| s.run(name).watched[k].1).mean());
        let title = RUNS.iter().find(|r| r.name == *name).map_or(*name, |r| r.title);
        Series::measured(title, steps.enumerate().map(at).collect()).coloured(i)
    });
    Plot {
        title: format!("Perplexity at {TARGET} words while extending"),
        x: Axis::linear("step"),
        y: Axis::linear("perplexity"),
        series: series.collect(),
    }
}

fn cost(costs: &Costs, title: &str, y: Axis, of: impl Fn(&Trained) -> f64) -> Plot {
    let series =
        [("pose", "PoSE"), ("full", "full length")].iter().enumerate().map(|(i, (method, title))| {
            let runs = costs.runs.iter().filter(|c| c.method == *method);
            Series::measured(title, runs.map(|c| (c.target_len as f64, of(c))).collect()).coloured(i)
        });
    Plot { title: title.into(), x: Axis::doublings("trained for, words"), y, series: series.collect() }
}

fn memory(costs: &Costs) -> Plot {
    let mib = Axis::linear("MiB resident").from_zero();
    let of = |t: &Trained| t.peak_bytes.map_or(f64::NAN, |b| b as f64 / (1 << 20) as f64);
    cost(costs, "Peak memory of a training", mib, of)
}

fn time(costs: &Costs) -> Plot {
    cost(costs, "Time of a step", Axis::doublings("milliseconds"), |t| 1e3 * t.seconds_per_step)
}

/// A curve: name, sampler, chunks.
type Covers = (&'static str, Method, usize);

const PAPER: [Covers; 4] = [
    ("2 chunks", Method::Pose, 2),
    ("3 chunks", Method::Pose, 3),
    ("64 chunks (Lc)", Method::Pose, WINDOW),
    ("RandPos", Method::RandPos, 2),
];
const LATER: [Covers; 4] = [
    ("PoSE", Method::Pose, 2),
    ("axolotl", Method::Axolotl, 2),
    ("longrecipe", Method::LongRecipe, 2),
    ("balanced", Method::Balanced, 2),
];

/// How likely a row trains each distance, to 8x where all samplers reach.
fn coverage(title: &str, curves: &[Covers]) -> Plot {
    let series = curves.iter().enumerate().map(|(i, &(name, method, chunks))| {
        let sampler = Sampler::new(method, WINDOW, HALF, chunks, ChunkLengths::Paper, Content::Contiguous);
        let drawn = Coverage::drawn(&sampler.expect("a window and a target that all reach"), 1, ROWS);
        let points = drawn.probability.iter().enumerate().skip(1).map(|(d, &p)| (d as f64, p));
        Series::line(name, points.collect()).coloured(i)
    });
    Plot {
        title: format!("{title}: probability that a row of {WINDOW} trains a distance, target {HALF}"),
        x: Axis::linear("relative distance (words)"),
        y: Axis::linear("probability").from_zero(),
        series: series.collect(),
    }
}
