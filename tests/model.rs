//! The whole model, forward and backward, by name of parameter: against transformers in float64 (committed fixtures, plain
//! and PoSE positions), against finite differences, and each backend against the f64 reference.

mod common;

use common::rounded::{self, Rounded};
use common::{Bench, MODELS, cases, fixture_dir, relative, within};
use half::bf16;
use pose_engine::backend::cpu::Cpu;
use pose_engine::backend::reference::Reference;
use pose_engine::backend::{Backend, Float};
use pose_engine::data::BatchPlaces;
use pose_engine::index::{ChunkSpan, RopePosition, SeqIndex, TokenId};
use pose_engine::infer::{Reads, Scorer};
use pose_engine::memory::Ledger;
use pose_engine::model::buffers::Reading;
use pose_engine::model::{Config, Model, upload_f32};

/// Loss, logits and gradients of every case against what transformers computed.
fn against_transformers<B: Backend>(b: &B, bound: f64) {
    for model in MODELS {
        for case in cases(model) {
            let what = |part: &str| format!("{model} {} {part}", case.key);
            let mut bench = Bench::new(b, &case.config, 1, case.ids.len(), 0).load(&fixture_dir(model));
            let loss = bench.step_case(&case);
            within((loss - case.loss).abs() / case.loss, bound, &what("loss"));
            for (i, spec) in bench.model.specs.iter().enumerate() {
                let expected = case.gradient_norms[&spec.name].as_f64().expect("a norm for each parameter");
                let gradient = bench.gradient(i);
                let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
                within((norm - expected).abs() / expected, 4.0 * bound, &what(&spec.name));
                if let Some(all) = &case.gradients {
                    within(relative(&gradient, &all[i]), 4.0 * bound, &what(&spec.name));
                }
            }
            within(
                relative(&logits(b, &bench, &case.ids, &case.positions), &case.logits),
                bound,
                &what("logits"),
            );
        }
    }
}

/// Logits by the reading path: layer by layer, in chunks of 7 tokens.
fn logits<B: Backend>(b: &B, bench: &Bench<'_, B>, ids: &[TokenId], positions: &[u32]) -> Vec<f64> {
    let reading = Reading { chunk: 7, spans: 7, ..Reading::of(ids.len()) };
    let mut scorer = Scorer::allocate(b, &mut Ledger::live(), &bench.model, reading).unwrap();
    let mut all = Vec::new();
    let mut keep = |row: &[f32]| {
        all.extend(row.iter().map(|&z| f64::from(z)));
        Ok(())
    };
    let wanted: Vec<usize> = (0..ids.len()).collect();
    scorer.logits_at(b, &bench.model, ids, Some(positions), &wanted, &mut keep).unwrap();
    all
}

#[test]
fn the_reference_is_transformers_in_float64() {
    // what is left is the f32 that logits are handed out in
    against_transformers(&Reference, 2e-7);
}

#[test]
fn f32_on_the_cpu_is_transformers() {
    against_transformers(&Cpu::<f32>::new(2).unwrap(), 1e-5);
}

/// What each quantity of the fixtures is off by, by name: logits, and gradients where all of them are known.
fn errors_against_transformers<B: Backend>(b: &B, prepare: impl Fn(&mut Model<B>)) -> Vec<(String, f64)> {
    let mut errors = Vec::new();
    for model in MODELS {
        for case in cases(model) {
            let mut bench = Bench::new(b, &case.config, 1, case.ids.len(), 0).load(&fixture_dir(model));
            prepare(&mut bench.model);
            bench.step_case(&case);
            for (i, all) in case.gradients.iter().flatten().enumerate() {
                let name = format!("{model} {} {}", case.key, bench.model.specs[i].name);
                errors.push((name, relative(&bench.gradient(i), all)));
            }
            let logits = logits(b, &bench, &case.ids, &case.positions);
            errors.push((format!("{model} {} logits", case.key), relative(&logits, &case.logits)));
        }
    }
    errors
}

/// At most twice the error of plain code in the same precision; where that was lucky, twice what it makes on the average.
fn at_most_twice(ours: &[(String, f64)], plain: &[(String, f64)]) {
    let average = plain.iter().map(|(_, e)| e).sum::<f64>() / plain.len() as f64;
    for ((name, error), (_, cost)) in ours.iter().zip(plain) {
        within(*error, 2.0 * cost.max(average), name);
    }
}

/// Stores every weight as bf16, as a model in that precision does.
fn round_weights(model: &mut Model<Rounded>) {
    model.params.iter_mut().for_each(rounded::round);
}

#[test]
fn bf16_on_the_cpu_is_as_near_transformers_as_bf16_can_be() {
    let plain = errors_against_transformers(&Rounded, round_weights);
    let ours = errors_against_transformers(&Cpu::<bf16>::new(2).unwrap(), |_| {});
    at_most_twice(&ours, &plain);
}

/// A small model with every awkward size, and two rows at positions of three kinds.
fn awkward() -> (Config, Vec<TokenId>, Vec<TokenId>) {
    let json = r#"{"model_type":"llama","vocab_size":37,"hidden_size":12,"intermediate_size":17,"num_hidden_layers":2,
        "num_attention_heads":3,"num_key_value_heads":1,"head_dim":6,"rms_norm_eps":1e-5,"tie_word_embeddings":false,
        "attention_bias":true,"hidden_act":"silu","max_position_embeddings":64,"initializer_range":0.4,
        "rope_theta":100.0,"rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":64}}"#;
    let config = Config::from_json(json, std::path::Path::new("awkward.json")).unwrap();
    let ids: Vec<TokenId> = (0..26).map(|i| TokenId((i * 29 + i * i) % 37)).collect();
    let mut targets: Vec<TokenId> = (0..26).map(|i| TokenId((i * 13 + 5) % 37)).collect();
    targets[9] = TokenId::IGNORED;
    (config, ids, targets)
}

fn placements() -> Vec<(&'static str, BatchPlaces)> {
    let span = |start, bias| ChunkSpan { start: SeqIndex(start), bias };
    let list = |row: u32| (0..13).map(move |t| RopePosition(row * 3 + t * t));
    vec![
        ("plain", BatchPlaces::Spans { spans: vec![span(0, 0); 2], per_row: 1 }),
        (
            "pose",
            BatchPlaces::Spans {
                spans: vec![span(0, 0), span(4, 57), span(0, 0), span(11, 200)],
                per_row: 2,
            },
        ),
        ("randpos", BatchPlaces::List((0..2).flat_map(list).collect())),
    ]
}

#[test]
fn gradients_of_the_reference_are_its_finite_differences() {
    let (config, ids, targets) = awkward();
    let b = &Reference;
    for (name, places) in placements() {
        let mut bench = Bench::for_places(b, &config, 13, 0, &places);
        bench.model.initialise(b, 5).unwrap();
        bench.step(2, &ids, &targets, &places);
        for p in 0..bench.model.specs.len() {
            let gradient = bench.gradient(p);
            let mut differences = vec![0.0; gradient.len()];
            for i in (0..gradient.len()).step_by(7) {
                // central difference of the loss; in f64 the error is h² and 1e-16/h
                let h = 1e-5;
                let kept = bench.model.params[p].0[i];
                bench.model.params[p].0[i] = kept + h;
                let above = bench.loss(2, &ids, &targets, &places);
                bench.model.params[p].0[i] = kept - h;
                let below = bench.loss(2, &ids, &targets, &places);
                bench.model.params[p].0[i] = kept;
                differences[i] = (above - below) / (2.0 * h);
            }
            let sampled: Vec<f64> = gradient.iter().step_by(7).copied().collect();
            let differences: Vec<f64> = differences.into_iter().step_by(7).collect();
            assert!(
                sampled.iter().any(|g| g.abs() > 1e-9),
                "{} has no gradient to speak of",
                bench.model.specs[p].name
            );
            within(relative(&sampled, &differences), 1e-7, &format!("{name} {}", bench.model.specs[p].name));
        }
    }
}

/// What the loss and each parameter's gradient on `b` are off by, against the reference from the same (rounded) weights.
fn errors_against_reference<B: Backend>(b: &B) -> Vec<(String, f64)> {
    let (config, ids, targets) = awkward();
    let mut errors = Vec::new();
    for (name, places) in placements() {
        let mut ours = Bench::for_places(b, &config, 13, 0, &places);
        ours.model.initialise(b, 5).unwrap();
        let mut truth = Bench::for_places(&Reference, &config, 13, 0, &places);
        for p in 0..ours.model.specs.len() {
            // both start from weights that bf16 holds exactly
            let weights: Vec<f32> = ours.parameter(p).iter().map(|&w| bf16::from_f32(w).to_f32()).collect();
            upload_f32::<B, B::Act>(b, &mut ours.model.params[p], 0, &weights).unwrap();
            upload_f32::<Reference, f64>(&Reference, &mut truth.model.params[p], 0, &weights).unwrap();
        }
        let (loss, expected) =
            (ours.step(2, &ids, &targets, &places), truth.step(2, &ids, &targets, &places));
        errors.push((format!("{name} loss"), (loss - expected).abs() / expected));
        for (p, spec) in ours.model.specs.iter().enumerate() {
            errors.push((format!("{name} {}", spec.name), relative(&ours.gradient(p), &truth.gradient(p))));
        }
    }
    errors
}

#[test]
fn f32_gradients_are_the_references() {
    for (name, error) in errors_against_reference(&Cpu::<f32>::new(2).unwrap()) {
        within(error, 2e-5, &name);
    }
}

#[test]
fn bf16_gradients_are_as_near_the_references_as_bf16_can_be() {
    let ours = errors_against_reference(&Cpu::<bf16>::new(2).unwrap());
    at_most_twice(&ours, &errors_against_reference(&Rounded));
}

#[test]
fn recomputing_gives_the_same_bits() {
    let (config, ids, targets) = awkward();
    let b = &Cpu::<bf16>::new(2).unwrap();
    let run = |recompute| {
        let mut bench = Bench::new(b, &config, 2, 13, recompute);
        bench.model.initialise(b, 5).unwrap();
        let loss = bench.step(2, &ids, &targets, &placements()[1].1);
        let gradients: Vec<Vec<f64>> = (0..bench.model.specs.len()).map(|p| bench.gradient(p)).collect();
        (loss.to_bits(), gradients)
    };
    let kept = run(0);
    for layers in [1, 2, usize::MAX] {
        assert!(run(layers) == kept, "{layers} layers computed again");
    }
}

/// Step after step, whatever the memory held before; with activations that are smaller and larger than the gradients.
fn lodging_gives_the_same_bits<B: Backend>(b: &B) {
    let (config, ids, targets) = awkward();
    let places = &placements()[1].1;
    let run = |mut bench: Bench<'_, B>| {
        bench.model.initialise(b, 5).unwrap();
        let mut step = |_| {
            let loss = bench.step(2, &ids, &targets, places);
            let gradients: Vec<Vec<f64>> = (0..bench.model.specs.len()).map(|p| bench.gradient(p)).collect();
            (loss.to_bits(), gradients)
        };
        (0..3).map(&mut step).collect::<Vec<_>>()
    };
    let own = run(Bench::new(b, &config, 2, 13, 0));
    for (room, recomputed) in [(13, 0), (13, 1), (13, 2), (400, 0)] {
        assert!(
            run(Bench::lodging(b, &config, 2, room, recomputed)) == own,
            "{recomputed} layers, room for {room}"
        );
    }
}

#[test]
fn gradients_that_lodge_in_activations_have_the_same_bits() {
    lodging_gives_the_same_bits(&Reference);
    lodging_gives_the_same_bits(&Cpu::<f32>::new(2).unwrap());
    lodging_gives_the_same_bits(&Cpu::<bf16>::new(2).unwrap());
}

/// 1 / (no tokens) is infinite, and no gradient may show it.
fn nothing_scored_gives_zeros<B: Backend>(b: &B) {
    let (config, ids, _) = awkward();
    let mut bench = Bench::new(b, &config, 2, 13, 0);
    bench.model.initialise(b, 5).unwrap();
    bench.step(2, &ids, &vec![TokenId::IGNORED; ids.len()], &placements()[1].1);
    let mut nll = vec![B::Stat::from_f64(f64::NAN); ids.len()];
    b.download(&mut nll, &bench.buffers.work.nll, 0).unwrap();
    assert!(nll.iter().all(|l| l.to_f64() == 0.0), "{nll:?}");
    for (p, spec) in bench.model.specs.iter().enumerate() {
        let gradient = bench.gradient(p);
        assert!(gradient.iter().all(|g| *g == 0.0), "{}: {gradient:?}", spec.name);
    }
}

#[test]
fn a_batch_without_a_target_has_no_loss_and_no_gradient() {
    nothing_scored_gives_zeros(&Reference);
    nothing_scored_gives_zeros(&Cpu::<f32>::new(2).unwrap());
    nothing_scored_gives_zeros(&Cpu::<bf16>::new(2).unwrap());
}

/// A skip in positions must not cut attention: the second chunk depends on the first.
#[test]
fn chunks_see_each_other() {
    let b = &Reference;
    let case = cases("llama-tiny").into_iter().find(|c| c.key == "none/pose").expect("a PoSE case");
    let bench = Bench::new(b, &case.config, 1, case.ids.len(), 0).load(&fixture_dir("llama-tiny"));
    let before = logits(b, &bench, &case.ids, &case.positions);
    let mut changed = case.ids.clone();
    changed[2] = TokenId((changed[2].0 + 1) % 64);
    let after = logits(b, &bench, &changed, &case.positions);
    let vocab = case.config.vocab_size;
    let last = before.len() - vocab;
    assert!(relative(&after[last..], &before[last..]) > 1e-3, "the last chunk does not see the first");
    assert_eq!(after[..2 * vocab], before[..2 * vocab], "a token sees what comes after it");
}

#[test]
fn types_say_what_they_hold() {
    fn name<T: Float>() -> &'static str {
        T::NAME
    }
    assert_eq!((name::<bf16>(), name::<f32>(), name::<f64>()), ("bf16", "f32", "f64"));
}
