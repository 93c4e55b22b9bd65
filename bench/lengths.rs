//! What an example costs by the length trained for, with PoSE and with the full length, SmolLM2-135M's shape in bf16: time and
//! resident memory of `pose-engine train`, a fresh process each:
//! `cargo bench --bench lengths [-- --full N,N --targets N,N --window N --threads N --plots DIR]`.
//!
//! PoSE trains windows of `--window` tokens for every target; full-length training windows as long as the length. `--plots`
//! writes time.svg and memory.svg.

mod flags;

use flags::{flag, number, numbers};
use pose_engine::figures::{Axis, Plot, Series};
use pose_engine::quickstart::documents;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const GIGA: f64 = 1e9;
/// Words of the text that is trained on; each is a token or more.
const WORDS: usize = 160_000;
/// Steps of a training; the median is taken. A full-length example of many tokens takes
/// minutes, and one says enough, though it also touches its memory for the first time.
const STEPS: usize = 5;
const ONE_STEP_FROM: usize = 8192;

/// A measured training.
struct Cost {
    length: usize,
    seconds: f64,
    bytes: f64,
}

struct Trainings<'a> {
    dir: &'a Path,
    threads: usize,
}

impl Trainings<'_> {
    /// Trains with windows of `window` tokens for the length.
    fn cost(&self, method: &str, window: usize, length: usize) -> Cost {
        let (out, json) = (self.dir.join(format!("{method}-{length}")), self.dir.join("summary.json"));
        let steps = if window >= ONE_STEP_FROM { 1 } else { STEPS };
        let numbers = [
            ("--train-len", window),
            ("--target-len", length),
            ("--steps", steps),
            ("--batch", 1),
            ("--threads", self.threads),
        ];
        let status = Command::new(env!("CARGO_BIN_EXE_pose-engine"))
            .args(["train", "--preset", "smollm2-135m", "--device", "cpu", "--quiet", "--method", method])
            .args(numbers.iter().flat_map(|(name, value)| [name.to_string(), value.to_string()]))
            .arg("--data")
            .arg(self.dir.join("text.txt"))
            .args([Path::new("--out"), &out, Path::new("--json"), &json])
            .stdout(Stdio::null())
            .status()
            .expect("pose-engine starts");
        assert!(status.success(), "pose-engine train: {status}");
        std::fs::remove_dir_all(&out).expect("the training's directory");
        let text = std::fs::read_to_string(&json).expect("the summary");
        let summary: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let figure = |name: &str| summary[name].as_f64().unwrap_or_else(|| panic!("no {name} in {text}"));
        Cost { length, seconds: figure("seconds_per_step"), bytes: figure("peak_bytes") }
    }
}

fn print(name: &str, costs: &[Cost], first: &Cost) {
    for c in costs {
        println!(
            "| {name} | {} | {:.2} | {:.2}x | {:.2} | {:.3}x |",
            c.length,
            c.seconds,
            c.seconds / first.seconds,
            c.bytes / GIGA,
            c.bytes / first.bytes
        );
    }
}

fn plot(title: &str, y: Axis, curves: &[(&str, &[Cost])], of: impl Fn(&Cost) -> f64) -> Plot {
    let series = curves.iter().enumerate().map(|(i, (name, costs))| {
        let points = costs.iter().map(|c| (c.length as f64, of(c))).collect();
        Series::measured(name, points).coloured(i)
    });
    Plot { title: title.into(), x: Axis::doublings("trained for, tokens"), y, series: series.collect() }
}

fn main() {
    let window = number("--window", 2048);
    let targets = numbers("--targets", "2048,16384,32768,131072");
    let full = numbers("--full", "2048,4096,8192,16384,32768");
    let dir = tempfile::tempdir().expect("a directory for the trainings");
    let text = documents::write(1, 0, WORDS).text();
    std::fs::write(dir.path().join("text.txt"), text).expect("room for the text");
    let trainings = Trainings { dir: dir.path(), threads: number("--threads", 0) };
    println!("| windows | trained for | s an example | | GB resident | |\n|---|---|---|---|---|---|");
    let pose: Vec<Cost> = targets.iter().map(|&l| trainings.cost("pose", window, l)).collect();
    let pose_name = format!("PoSE, windows of {window}");
    print(&pose_name, &pose, &pose[0]);
    let full: Vec<Cost> = full.iter().map(|&l| trainings.cost("full", l, l)).collect();
    print("full length", &full, &pose[0]);
    if let Some(plots) = flag("--plots").map(PathBuf::from) {
        let curves = [(pose_name.as_str(), &pose[..]), ("full length", &full[..])];
        let time = plot("Time of an example", Axis::doublings("seconds"), &curves, |c| c.seconds);
        let gigabytes = Axis::linear("GB resident").from_zero();
        let memory = plot("Memory of a training", gigabytes, &curves, |c| c.bytes / GIGA);
        time.write(&plots.join("time.svg")).expect("the plot's file");
        memory.write(&plots.join("memory.svg")).expect("the plot's file");
    }
}
