//! Adapters (LoRA) in the model: their gradients, what is frozen and what it costs, and what merging leaves.

mod common;

use common::{Bench, relative, within};
use half::bf16;
use pose_engine::backend::cpu::Cpu;
use pose_engine::backend::reference::Reference;
use pose_engine::backend::{Backend, Element};
use pose_engine::data::BatchPlaces;
use pose_engine::index::{ChunkSpan, SeqIndex, TokenId};
use pose_engine::memory::{Kind, Ledger};
use pose_engine::model::buffers::TrainBuffers;
use pose_engine::model::lora::{Also, Target};
use pose_engine::model::{Config, Gradients, Lora, Merge, Model, ParamId};
use pose_engine::optim::{AdamHyper, AdamState, Optimizer};
use std::collections::BTreeSet;

const ALL: [Target; 7] = [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

/// Awkward sizes, every projection adapted, a scale that is no power of two.
fn config(also: &[Also], targets: &[Target]) -> Config {
    let json = r#"{"model_type":"llama","vocab_size":37,"hidden_size":12,"intermediate_size":17,"num_hidden_layers":2,
        "num_attention_heads":3,"num_key_value_heads":1,"head_dim":6,"rms_norm_eps":1e-5,"tie_word_embeddings":false,
        "attention_bias":true,"hidden_act":"silu","max_position_embeddings":64,"initializer_range":0.4,
        "rope_theta":100.0}"#;
    let lora =
        Lora { rank: 3, alpha: 4.2, targets: targets.to_vec(), also: also.to_vec(), rank_stabilised: false };
    let config = Config::from_json(json, std::path::Path::new("lora.json")).unwrap();
    lora.check(&config).unwrap();
    Config { lora: Some(lora), ..config }
}

fn text() -> (Vec<TokenId>, Vec<TokenId>, BatchPlaces) {
    let ids = (0..26).map(|i| TokenId((i * 29 + i * i) % 37)).collect();
    let targets = (0..26).map(|i| TokenId((i * 13 + 5) % 37)).collect();
    let span = |start, bias| ChunkSpan { start: SeqIndex(start), bias };
    let spans = vec![span(0, 0), span(4, 57), span(0, 0), span(11, 200)];
    (ids, targets, BatchPlaces::Spans { spans, per_row: 2 })
}

/// Fresh weights, and numbers in the adapters.
fn bench<'a, B: Backend>(b: &'a B, config: &Config) -> Bench<'a, B> {
    let mut bench = Bench::new(b, config, 2, 13, 0);
    bench.model.initialise(b, 5).unwrap();
    bench.fill_adapters();
    bench
}

#[test]
fn gradients_are_finite_differences() {
    let (ids, targets, places) = text();
    let mut bench = bench(&Reference, &config(&[Also::Embed, Also::Norm], &ALL));
    bench.step(2, &ids, &targets, &places);
    let trained: Vec<ParamId> = bench.model.trained().map(|(id, _)| id).collect();
    for ParamId(p) in trained {
        let name = bench.model.specs[p].name.clone();
        let gradient: Vec<f64> = bench.gradient(p).into_iter().step_by(3).collect();
        let mut differences = Vec::new();
        for i in (0..bench.model.specs[p].elements()).step_by(3) {
            let h = 1e-5;
            let kept = bench.model.params[p].0[i];
            let mut at = |x: f64| {
                bench.model.params[p].0[i] = x;
                bench.loss(2, &ids, &targets, &places)
            };
            let (above, below) = (at(kept + h), at(kept - h));
            at(kept);
            differences.push((above - below) / (2.0 * h));
        }
        assert!(gradient.iter().any(|g| g.abs() > 1e-9), "{name} has no gradient to speak of");
        within(relative(&gradient, &differences), 1e-7, &name);
    }
}

#[test]
fn f32_gradients_are_the_references() {
    let (ids, targets, places) = text();
    let config = config(&[Also::Norm], &ALL);
    let cpu = Cpu::<f32>::new(2).unwrap();
    let (mut ours, mut truth) = (bench(&cpu, &config), bench(&Reference, &config));
    let losses = [ours.step(2, &ids, &targets, &places), truth.step(2, &ids, &targets, &places)];
    within((losses[0] - losses[1]).abs() / losses[1], 2e-5, "loss");
    for (ParamId(p), spec) in ours.model.trained() {
        within(relative(&ours.gradient(p), &truth.gradient(p)), 2e-5, &spec.name);
    }
}

#[test]
fn fresh_adapters_change_nothing() {
    let (ids, targets, places) = text();
    let with = config(&[], &ALL);
    let b = &Cpu::<bf16>::new(1).unwrap();
    let loss = |config: &Config| {
        let mut bench = Bench::new(b, config, 2, 13, 0);
        bench.model.initialise(b, 5).unwrap();
        bench.loss(2, &ids, &targets, &places)
    };
    assert_eq!(loss(&with).to_bits(), loss(&Config { lora: None, ..with.clone() }).to_bits());
}

/// Bits of every parameter.
fn bits<B: Backend>(bench: &Bench<'_, B>) -> Vec<Vec<u32>> {
    let of = |p| bench.parameter(p).iter().map(|x| x.to_bits()).collect();
    (0..bench.model.specs.len()).map(of).collect()
}

#[test]
fn what_is_frozen_stays_and_the_rest_learns() {
    let (ids, targets, places) = text();
    let b = &Cpu::<bf16>::new(2).unwrap();
    let mut bench = Bench::new(b, &config(&[Also::Norm], &[Target::Q, Target::Down]), 2, 13, 0);
    bench.model.initialise(b, 5).unwrap();
    let mut adam = AdamState::allocate(b, &mut Ledger::live(), &bench.model, Optimizer::Adamw).unwrap();
    adam.start_masters(b, &bench.model).unwrap();
    let before = bits(&bench);
    let hyper = AdamHyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0, seed: 0 };
    let losses: Vec<f64> = (1..=30)
        .map(|step| {
            let loss = bench.step(2, &ids, &targets, &places);
            let norm = AdamState::global_norm(b, &bench.model, &bench.grads).unwrap();
            adam.step(b, &mut bench.model, &bench.grads, hyper, step, 2e-2, norm).unwrap();
            loss
        })
        .collect();
    assert!(losses[29] < 0.8 * losses[0], "{losses:?}");
    let after = bits(&bench);
    for (p, spec) in bench.model.specs.iter().enumerate() {
        assert_eq!(before[p] != after[p], spec.trained, "{}", spec.name);
        assert_eq!(bench.grads.get(ParamId(p)).is_some(), spec.trained, "{}", spec.name);
    }
}

#[test]
fn what_is_frozen_takes_no_memory_but_its_own() {
    let (b, ledger) = (&Cpu::<bf16>::new(1).unwrap(), &mut Ledger::dry());
    let config = config(&[Also::Embed], &[Target::V]);
    let model = Model::allocate(b, ledger, &config, &config.rope).unwrap();
    Gradients::allocate(b, ledger, &model.specs).unwrap();
    AdamState::allocate(b, ledger, &model, Optimizer::Adamw).unwrap();
    TrainBuffers::new(b, ledger, &config, 26, 0).unwrap();
    let in_8_bits = &mut Ledger::dry();
    AdamState::allocate(b, in_8_bits, &model, Optimizer::Adamw8bit).unwrap();
    let trained: usize = model.trained().map(|(_, spec)| spec.elements()).sum();
    // embedding, and in two layers A of 3 x 12 and the transpose of B of 3 x 6
    assert_eq!(trained, 37 * 12 + 2 * 3 * (12 + 6));
    assert_eq!(ledger.of(Kind::Gradients), 4 * trained);
    assert_eq!(ledger.of(Kind::MasterWeights), 4 * trained);
    assert_eq!(ledger.of(Kind::Moments), 8 * trained);
    // a code each, and for each moment of a tensor a scale for 256: 2 for the embedding, 1 for each A and B
    assert_eq!(in_8_bits.of(Kind::Moments), 2 * trained + 2 * 4 * (2 + 4));
    let names = |kind| -> BTreeSet<String> {
        let rows = ledger.rows().iter().filter(|row| row.kind == kind);
        rows.map(|row| row.name.split(' ').next_back().unwrap().to_string()).collect()
    };
    let expected: BTreeSet<String> = model.trained().map(|(_, spec)| spec.name.clone()).collect();
    for kind in [Kind::Gradients, Kind::MasterWeights, Kind::Moments] {
        assert_eq!(names(kind), expected, "{kind}");
    }
}

/// W + s·B·A without adapters is W with them: in f64 but for rounding, in bf16 within what bf16 rounds off.
fn merging<B: Backend>(b: &B, bound: f64) {
    let (ids, targets, places) = text();
    let config = config(&[], &ALL);
    let mut bench = bench(b, &config);
    let with_adapters = bench.loss(2, &ids, &targets, &places);
    let mut merge = Merge::allocate(b, &mut Ledger::live(), &config, config.lora.as_ref().unwrap()).unwrap();
    let before: Vec<f32> = bench.parameter(bench.model.ids.layers[0].q.weight.0);
    bench.model.merge_own(b, &mut merge).unwrap();
    assert_ne!(bench.parameter(bench.model.ids.layers[0].q.weight.0), before);
    // the adapters are used up: without them
    let own = bench.model.own_specs().len();
    for i in own..bench.model.specs.len() {
        let len = bench.model.specs[i].elements();
        b.zero(&mut bench.model.params[i], len).unwrap();
    }
    let merged = bench.loss(2, &ids, &targets, &places);
    within((merged - with_adapters).abs() / with_adapters, bound, B::Act::NAME);
}

#[test]
fn a_merged_model_is_the_model_with_its_adapters() {
    merging(&Reference, 1e-13);
    merging(&Cpu::<f32>::new(1).unwrap(), 1e-6);
    merging(&Cpu::<bf16>::new(1).unwrap(), 2e-2);
}
