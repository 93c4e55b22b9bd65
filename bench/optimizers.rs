//! The loss with moments in 8 bits beside that with moments in f32: the quickstart's base model, trained on its documents by
//! its recipe with each optimizer, same seed: `cargo bench --bench optimizers [-- --steps N --seed N --threads N --svg FILE]`.
//! Prints the mean loss of each stretch of steps and draws both curves, from where they begin to level off.

mod flags;

use flags::{flag, number};
use pose_engine::backend::cpu::Cpu;
use pose_engine::backend::device::{DType, threads_or_all};
use pose_engine::figures::{Axis, Plot, Series};
use pose_engine::memory::{Kind, Ledger};
use pose_engine::optim::{Optimizer, ScheduleKind};
use pose_engine::positions::{Content, Method};
use pose_engine::quickstart::recipe::{BASE, TRAIN_DOCUMENTS, WINDOW};
use pose_engine::quickstart::{documents, start};
use pose_engine::recipe::{Recipe, Settings, Size};
use pose_engine::train::{StepMetrics, Watch, train};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const OPTIMIZERS: [(&str, Optimizer); 2] =
    [("moments in f32", Optimizer::Adamw), ("moments in 8 bits", Optimizer::Adamw8bit)];
/// Steps whose mean is drawn and printed.
const SMOOTH: usize = 25;
const STRETCH: usize = 100;
/// The first step in a mean that is drawn: until then the loss falls by more than all that follows.
const FIRST: usize = 100;

/// What a run tells of itself.
#[derive(Default)]
struct Told {
    losses: Vec<f64>,
    seconds: f64,
    moment_bytes: usize,
}

struct Listener(Mutex<Told>);

impl Watch for Listener {
    fn planned(&self, ledger: &Ledger) {
        self.0.lock().expect("no panic while locked").moment_bytes = ledger.of(Kind::Moments);
    }
    fn stepped(&self, m: &StepMetrics) {
        let mut told = self.0.lock().expect("no panic while locked");
        told.losses.push(m.loss);
        told.seconds += m.seconds;
    }
}

struct Flags {
    steps: usize,
    seed: u64,
    threads: usize,
    svg: Option<PathBuf>,
}

/// The quickstart's base training, with one of the optimizers.
fn run(dir: &Path, optimizer: Optimizer, flags: &Flags) -> Told {
    let settings = Settings {
        model: Some(dir.join("start")),
        data: Some(vec![dir.join("train.jsonl")]),
        out: Some(dir.join(format!("{optimizer:?}"))),
        dtype: Some(DType::F32),
        method: Some(Method::Plain),
        content: Some(Content::Contiguous),
        train_len: Some(Size(WINDOW)),
        steps: Some(Size(flags.steps)),
        batch: Some(Size(BASE.batch)),
        lr: Some(BASE.lr),
        warmup: Some(Size(BASE.warmup)),
        schedule: Some(ScheduleKind::Linear),
        seed: Some(flags.seed),
        optimizer: Some(optimizer),
        ..Settings::default()
    };
    let recipe = Recipe::validate(&settings, true).expect("a recipe");
    let b = Cpu::<f32>::new(threads_or_all(flags.threads)).expect("a CPU");
    let listener = Listener(Mutex::default());
    train(&b, &recipe, false, &listener).expect("a training");
    listener.0.into_inner().expect("no panic while locked")
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

fn print(told: &[Told]) {
    println!("| steps | {} | {} | difference |\n|---|---|---|---|", OPTIMIZERS[0].0, OPTIMIZERS[1].0);
    for (s, (full, codes)) in told[0].losses.chunks(STRETCH).zip(told[1].losses.chunks(STRETCH)).enumerate() {
        let (full, codes) = (mean(full), mean(codes));
        let first = s * STRETCH + 1;
        let percent = 100.0 * (codes / full - 1.0);
        println!("| {first} to {} | {full:.4} | {codes:.4} | {percent:+.2}% |", s * STRETCH + STRETCH);
    }
    for ((name, _), told) in OPTIMIZERS.iter().zip(told) {
        let ms = 1e3 * told.seconds / told.losses.len() as f64;
        println!("{name}: {} bytes of moments, {ms:.1} ms a step", told.moment_bytes);
    }
}

fn plot(told: &[Told]) -> Plot {
    let curve = |(i, ((name, _), told)): (usize, (&(&str, Optimizer), &Told))| {
        let smooth = told.losses.windows(SMOOTH).enumerate().skip(FIRST - 1);
        let points = smooth.map(|(at, losses)| ((at + SMOOTH) as f64, mean(losses)));
        Series::line(name, points.collect()).coloured(i)
    };
    Plot {
        title: "AdamW on the quickstart's documents".into(),
        x: Axis::linear("step"),
        y: Axis::linear(&format!("loss, mean of {SMOOTH} steps")),
        series: OPTIMIZERS.iter().zip(told).enumerate().map(curve).collect(),
    }
}

fn main() {
    let flags = Flags {
        steps: number("--steps", BASE.steps),
        seed: number("--seed", 1) as u64,
        threads: number("--threads", 0),
        svg: flag("--svg").map(PathBuf::from),
    };
    let dir = tempfile::tempdir().expect("a directory for the runs");
    let (count, words) = TRAIN_DOCUMENTS;
    let line =
        |i| format!("{}\n", serde_json::json!({ "text": documents::write(flags.seed, i, words).text() }));
    std::fs::write(dir.path().join("train.jsonl"), (0..count).map(line).collect::<String>()).expect("room");
    start::write(&dir.path().join("start"), WINDOW, flags.seed).expect("an untrained model");
    let told = OPTIMIZERS.map(|(_, optimizer)| run(dir.path(), optimizer, &flags));
    println!("{} steps of {} x {WINDOW} tokens, seed {}", flags.steps, BASE.batch, flags.seed);
    print(&told);
    if let Some(path) = &flags.svg {
        plot(&told).write(path).expect("the plot's file");
    }
}
