//! One whole training step of SmolLM2-135M's shape, 1 x 2048 tokens, PoSE positions, bf16 with f32 master weights and
//! moments, and the same in f32: `cargo bench --bench step [-- --threads 1,2 | --device cuda:0]`. Random weights and tokens. Then the step's operations
//! one by one; or, with `--threads`, the whole step with each number of threads in turns, beside what multiply-adds on registers and
//! reading memory gain by them in the same rounds.

mod breakdown;
#[path = "../flags.rs"]
mod flags;
#[path = "../harness.rs"]
mod harness;

use harness::{Bench, Stopwatch, Table, peak_of, run_on, time};
use pose_engine::backend::cpu::{Cpu, CpuFloat};
use pose_engine::backend::{Backend, Element};
use pose_engine::data::BatchPlaces;
use pose_engine::index::{ChunkSpan, SeqIndex, TokenId};
use pose_engine::memory::Ledger;
use pose_engine::model::buffers::TrainBuffers;
use pose_engine::model::{Config, Gradients, Model, PlacedBatch, scratch};
use pose_engine::optim::{AdamHyper, AdamState, Optimizer};

const TOKENS: usize = 2048;

/// 6·parameters·tokens and attention's 4·h·d·T²/2 a layer, forward and 2.5 times that backward.
fn flops(config: &Config, parameters: usize) -> f64 {
    let width = (config.num_attention_heads * config.head_dim) as f64;
    let attention = 3.5 * 4.0 * width * (TOKENS * TOKENS) as f64 / 2.0 * config.num_hidden_layers as f64;
    6.0 * (parameters * TOKENS) as f64 + attention
}

/// A training of the shape on random weights and tokens: what does one step of it, and its parameters.
fn training<B: Backend>(b: &B, config: &Config) -> (impl FnMut(), usize) {
    let ledger = &mut Ledger::live();
    let mut model = Model::allocate(b, ledger, config, &config.rope).expect("memory");
    model.initialise(b, 1).expect("initial weights");
    let mut grads = Gradients::lodging(b, ledger, &model, 0).expect("memory");
    let mut adam = AdamState::allocate(b, ledger, &model, Optimizer::Adamw).expect("memory");
    adam.start_masters(b, &model).expect("master weights");
    let mut buffers = TrainBuffers::with_lodgers(b, ledger, &model, &grads, TOKENS, 0).expect("memory");
    let mut batch = PlacedBatch::new(b, ledger, 1, TOKENS, 2).expect("memory");
    b.reserve_scratch(scratch::training(b, config, 1, TOKENS)).expect("memory");
    let ids: Vec<TokenId> = (0..TOKENS).map(|t| TokenId((t * 7919 % config.vocab_size) as u32)).collect();
    let spans = vec![ChunkSpan::default(), ChunkSpan { start: SeqIndex(TOKENS as u32 / 3), bias: 20_000 }];
    batch.fill(b, 1, &ids, &ids, &BatchPlaces::Spans { spans, per_row: 2 }).expect("a batch");
    let hyper = AdamHyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, clip: 1.0, seed: 0 };
    let (parameters, mut number) = (model.parameters(), 0);
    let step = move || {
        number += 1;
        grads.zero(b, &model.specs).expect("zero");
        model.forward_backward(b, &mut buffers, &mut grads, &batch, 1.0 / TOKENS as f64).expect("a pass");
        let norm = AdamState::global_norm(b, &model, &grads).expect("a norm");
        adam.step(b, &mut model, &grads, hyper, number, 1e-6, norm).expect("an update");
    };
    (step, parameters)
}

fn preset() -> Config {
    Config::preset("smollm2-135m").expect("a built-in preset")
}

/// The step, and its operations.
struct Step;

impl Bench for Step {
    fn run<B: Stopwatch>(&self, b: &B) {
        let config = preset();
        let table = Table::new(B::Act::NAME, &b.peaks(), false);
        let (step, parameters) = training(b, &config);
        let t = time(b, step);
        table.row(&format!("training step, {}", b.about()), t, flops(&config, parameters), 0.0);
        println!("{:.1} tokens/s", TOKENS as f64 / t.median);
        breakdown::print(b, &table, &config, parameters, t.median);
    }
}

/// What one round gives one number of threads.
struct Round {
    seconds: f64,
    gflops: f64,
    gbs: f64,
}

const ROUNDS: usize = 7;

/// The step with each number of threads in turns: [counts][rounds]. All trainings are in memory at once.
fn rounds<E: CpuFloat>(counts: &[usize]) -> Vec<Vec<Round>> {
    let config = preset();
    let backends: Vec<_> = counts.iter().map(|n| Cpu::<E>::new(*n).expect("a CPU")).collect();
    let mut trainings: Vec<_> = backends.iter().map(|b| training(b, &config).0).collect();
    let mut rounds: Vec<_> = counts.iter().map(|_| Vec::new()).collect();
    trainings.iter_mut().for_each(|step| step()); // to warm up
    for _ in 0..ROUNDS {
        for ((b, step), rounds) in backends.iter().zip(&mut trainings).zip(&mut rounds) {
            let peaks = b.measure_peak();
            let gflops = peak_of(E::NAME, &peaks);
            rounds.push(Round { seconds: b.seconds(step), gflops, gbs: peaks.bandwidth_gbs });
        }
    }
    rounds
}

/// The step's speed against the first number of threads, beside what the machine itself gains.
fn by_threads<E: CpuFloat>(counts: &[usize]) {
    let rounds = rounds::<E>(counts);
    println!("\n{}, {ROUNDS} rounds in turns; against the first:", E::NAME);
    println!(
        "{:>8} {:>10} {:>24} {:>24} {:>24}",
        "threads", "ms a step", "steps", "multiply-adds", "bandwidth"
    );
    for (n, of_count) in counts.iter().zip(&rounds) {
        let [_, ms, _] = range(of_count.iter().map(|round| 1e3 * round.seconds));
        let gain = |rate: fn(&Round) -> f64| {
            let pairs = of_count.iter().zip(&rounds[0]);
            let [least, median, most] = range(pairs.map(|(round, first)| rate(round) / rate(first)));
            format!("{median:.2}x ({least:.2} to {most:.2})")
        };
        let (steps, adds, bandwidth) = (gain(|r| 1.0 / r.seconds), gain(|r| r.gflops), gain(|r| r.gbs));
        println!("{n:>8} {ms:>10.0} {steps:>24} {adds:>24} {bandwidth:>24}");
    }
}

/// The least, the median and the most.
fn range(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn main() {
    if flags::flag("--threads").is_some() {
        let counts = flags::numbers("--threads", "");
        by_threads::<half::bf16>(&counts);
        by_threads::<f32>(&counts);
    } else {
        run_on(flags::device(), 0, true, &Step);
    }
}
