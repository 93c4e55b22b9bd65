//! The whole model, forward and backward, by name of parameter: against transformers in float64 (committed fixtures, plain
//! and PoSE positions), against finite differences, and each backend against the f64 reference.

mod common;

use common::{Bench, MODELS, cases, fixture_dir, relative, within};
use half::bf16;
use pose_engine::backend::cpu::Cpu;
use pose_engine::backend::reference::Reference;
use pose_engine::backend::{Backend, Float};
use pose_engine::data::BatchPlaces;
use pose_engine::index::{ChunkSpan, RopePosition, SeqIndex, TokenId};
use pose_engine::infer::Session;
use pose_engine::memory::Ledger;
use pose_engine::model::{Config, upload_f32};

/// Loss, logits and gradients of every case against what transformers computed.
fn against_transformers<B: Backend>(b: &B, bound: f64) {
    for model in MODELS {
        for case in cases(model) {
            let what = |part: &str| format!("{model} {} {part}", case.key);
            let mut bench = Bench::new(b, &case.config, 1, case.ids.len(), false).load(&fixture_dir(model));
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

/// Logits by the reading path: through the KV cache, in chunks of 7 tokens.
fn logits<B: Backend>(b: &B, bench: &Bench<'_, B>, ids: &[TokenId], positions: &[u32]) -> Vec<f64> {
    let mut session = Session::allocate(b, &mut Ledger::live(), &bench.model, 7, ids.len(), 7).unwrap();
    let mut all = Vec::new();
    let mut keep = |row: &[f32]| {
        all.extend(row.iter().map(|&z| f64::from(z)));
        Ok(())
    };
    let wanted: Vec<usize> = (0..ids.len()).collect();
    session.logits_at(b, &bench.model, ids, Some(positions), &wanted, &mut keep).unwrap();
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

/// What bf16 costs, in relative errors of losses, logits and gradients: those of storing the weights in it, all else in
/// f64, and those of computing in it too.
#[derive(Default)]
struct Bf16Costs {
    storing: Vec<f64>,
    computing: Vec<f64>,
}

impl Bf16Costs {
    /// Adds the errors between three benches that have done the same step: in bf16, in f64 with the same (rounded) weights,
    /// and in f64 with the weights that they were rounded from.
    fn add(
        &mut self,
        ours: &Bench<'_, Cpu<bf16>>,
        rounded: &Bench<'_, Reference>,
        exact: &Bench<'_, Reference>,
    ) {
        for p in 0..ours.model.specs.len() {
            self.storing.push(relative(&rounded.gradient(p), &exact.gradient(p)));
            self.computing.push(relative(&ours.gradient(p), &rounded.gradient(p)));
        }
    }

    /// How far a gradient moves depends on the model: these are badly conditioned ones, where rounding the weights alone
    /// moves single gradients by half. So the one cost is held to the other, as root mean squares, NaN failing.
    fn check(&self) {
        let rms = |v: &[f64]| (v.iter().map(|e| e * e).sum::<f64>() / v.len() as f64).sqrt();
        let (storing, computing) = (rms(&self.storing), rms(&self.computing));
        assert!(
            storing > 1e-3,
            "rounding the weights moved the gradients by {storing:.1e}: nothing was measured"
        );
        assert!(
            computing <= 2.0 * storing,
            "storing in bf16 costs {storing:.3}, computing in it {computing:.3}"
        );
    }
}

/// A reference model with the rounded weights of `ours`.
fn with_weights_of<'a>(ours: &Bench<'_, Cpu<bf16>>, mut bench: Bench<'a, Reference>) -> Bench<'a, Reference> {
    for p in 0..ours.model.specs.len() {
        upload_f32::<Reference, f64>(&Reference, &mut bench.model.params[p], 0, &ours.parameter(p)).unwrap();
    }
    bench
}

#[test]
fn bf16_costs_no_more_than_twice_what_rounding_the_weights_does() {
    let (b, mut costs) = (Cpu::<bf16>::new(2).unwrap(), Bf16Costs::default());
    for model in MODELS {
        for case in cases(model) {
            let (dir, n) = (fixture_dir(model), case.ids.len());
            let mut ours = Bench::new(&b, &case.config, 1, n, false).load(&dir);
            let mut exact = Bench::new(&Reference, &case.config, 1, n, false).load(&dir);
            let mut rounded = with_weights_of(&ours, Bench::new(&Reference, &case.config, 1, n, false));
            let loss = ours.step_case(&case);
            within((loss / case.loss - 1.0).abs(), 2e-2, &format!("{model} {} loss", case.key));
            exact.step_case(&case);
            rounded.step_case(&case);
            costs.add(&ours, &rounded, &exact);
        }
    }
    costs.check();
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
        let mut bench = Bench::for_places(b, &config, 13, false, &places);
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

/// Every parameter's gradient on `b` against the reference, from the same (rounded) weights.
fn against_reference<B: Backend>(b: &B, bound: f64, recompute: bool) {
    let (config, ids, targets) = awkward();
    for (name, places) in placements() {
        let mut ours = Bench::for_places(b, &config, 13, recompute, &places);
        ours.model.initialise(b, 5).unwrap();
        let mut truth = Bench::for_places(&Reference, &config, 13, false, &places);
        for p in 0..ours.model.specs.len() {
            upload_f32::<Reference, f64>(&Reference, &mut truth.model.params[p], 0, &ours.parameter(p))
                .unwrap();
        }
        let loss = ours.step(2, &ids, &targets, &places);
        let expected = truth.step(2, &ids, &targets, &places);
        within((loss - expected).abs() / expected, bound, &format!("{name} loss"));
        for (p, spec) in ours.model.specs.iter().enumerate() {
            // a key's bias shifts all scores of a query alike where positions agree: its gradient is small differences of
            // large terms, so errors are held against the largest gradient of the layer's kind
            let bound = if spec.name.ends_with("k_proj.bias") { 4.0 * bound } else { bound };
            within(relative(&ours.gradient(p), &truth.gradient(p)), bound, &format!("{name} {}", spec.name));
        }
    }
}

#[test]
fn f32_gradients_are_the_references() {
    against_reference(&Cpu::<f32>::new(2).unwrap(), 2e-5, false);
}

#[test]
fn bf16_costs_as_little_at_awkward_sizes_and_all_placements() {
    let (b, mut costs) = (Cpu::<bf16>::new(2).unwrap(), Bf16Costs::default());
    let (config, ids, targets) = awkward();
    for (_, places) in placements() {
        let mut ours = Bench::for_places(&b, &config, 13, false, &places);
        let mut exact = Bench::for_places(&Reference, &config, 13, false, &places);
        ours.model.initialise(&b, 5).unwrap();
        exact.model.initialise(&Reference, 5).unwrap();
        let mut rounded = with_weights_of(&ours, Bench::for_places(&Reference, &config, 13, false, &places));
        let loss = ours.step(2, &ids, &targets, &places);
        let expected = rounded.step(2, &ids, &targets, &places);
        within((loss / expected - 1.0).abs(), 2e-2, "loss");
        exact.step(2, &ids, &targets, &places);
        costs.add(&ours, &rounded, &exact);
    }
    costs.check();
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
    assert!(run(false) == run(true));
}

/// A skip in positions must not cut attention: the second chunk depends on the first.
#[test]
fn chunks_see_each_other() {
    let b = &Reference;
    let case = cases("llama-tiny").into_iter().find(|c| c.key == "none/pose").expect("a PoSE case");
    let bench = Bench::new(b, &case.config, 1, case.ids.len(), false).load(&fixture_dir("llama-tiny"));
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
