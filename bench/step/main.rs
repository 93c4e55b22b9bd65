//! One whole training step of SmolLM2-135M's shape, 1 x 2048 tokens, PoSE positions, bf16 with f32 master weights and
//! moments, and the same in f32: `cargo bench --bench step`. Random weights and
//! tokens. Then the step's operations one by one.

mod breakdown;
#[path = "../harness.rs"]
mod harness;

use harness::{Table, time};
use pose_engine::backend::Backend;
use pose_engine::backend::cpu::{Cpu, CpuFloat};
use pose_engine::backend::device::threads_or_all;
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

fn step<E: CpuFloat>(threads: usize) {
    let b = &Cpu::<E>::new(threads).expect("a CPU");
    let table = Table::new(E::NAME, &b.measure_peak(), false);
    let config = Config::preset("smollm2-135m").expect("a built-in preset");
    let ledger = &mut Ledger::live();
    let mut model = Model::allocate(b, ledger, &config, &config.rope).expect("memory");
    model.initialise(b, 1).expect("initial weights");
    let mut grads = Gradients::lodging(b, ledger, &model, 0).expect("memory");
    let mut adam = AdamState::allocate(b, ledger, &model, Optimizer::Adamw).expect("memory");
    adam.start_masters(b, &model).expect("master weights");
    let mut buffers = TrainBuffers::with_lodgers(b, ledger, &model, &grads, TOKENS, 0).expect("memory");
    let mut batch = PlacedBatch::new(b, ledger, 1, TOKENS, 2).expect("memory");
    b.reserve_scratch(scratch::training(b, &config, 1, TOKENS)).expect("memory");
    let ids: Vec<TokenId> = (0..TOKENS).map(|t| TokenId((t * 7919 % config.vocab_size) as u32)).collect();
    let spans = vec![ChunkSpan::default(), ChunkSpan { start: SeqIndex(TOKENS as u32 / 3), bias: 20_000 }];
    batch.fill(b, 1, &ids, &ids, &BatchPlaces::Spans { spans, per_row: 2 }).expect("a batch");
    let hyper = AdamHyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, clip: 1.0, seed: 0 };
    let mut number = 0;
    let t = time(b, || {
        number += 1;
        grads.zero(b, &model.specs).expect("zero");
        model.forward_backward(b, &mut buffers, &mut grads, &batch, 1.0 / TOKENS as f64).expect("a pass");
        let norm = AdamState::global_norm(b, &model, &grads).expect("a norm");
        adam.step(b, &mut model, &grads, hyper, number, 1e-6, norm).expect("an update");
    });
    table.row(
        &format!("training step, {} threads, {}", b.threads(), b.isa()),
        t,
        flops(&config, model.parameters()),
        0.0,
    );
    println!("{:.1} tokens/s", TOKENS as f64 / t.median);
    let parameters = model.parameters();
    drop((model, grads, adam, buffers));
    breakdown::print(b, &table, &config, parameters, t.median);
}

fn main() {
    let threads = threads_or_all(0);
    step::<half::bf16>(threads);
    step::<f32>(threads);
}
