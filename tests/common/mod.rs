//! What the model tests share: the fixtures of tests/fixtures, and a model with its buffers on any backend.
#![allow(dead_code)]

pub mod cli;
pub mod rounded;
pub mod skip;

use half::bf16;
use pose_engine::backend::{Backend, Float};
use pose_engine::checkpoint::Weights;
use pose_engine::data::BatchPlaces;
use pose_engine::index::TokenId;
use pose_engine::infer::Reads;
use pose_engine::memory::Ledger;
use pose_engine::model::buffers::{Reading, TrainBuffers};
use pose_engine::model::{Config, Gradients, Model, ParamId, PlacedBatch};
use pose_engine::model::{download_f32, places_at, places_from, scratch, upload_f32};
use pose_engine::random::{Purpose, Stream};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The fixture models.
pub const MODELS: [&str; 7] = [
    "llama-tiny",
    "llama-tiny-bias",
    "mistral-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
    "gptj-tiny",
    "baichuan2-tiny",
];

pub fn fixture_dir(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(model)
}

/// One case of a fixture: inputs and what transformers computes in float64.
pub struct Case {
    pub key: String,
    pub config: Config,
    pub ids: Vec<TokenId>,
    pub targets: Vec<TokenId>,
    pub positions: Vec<u32>,
    pub scored: usize,
    pub loss: f64,
    pub gradient_norms: Value,
    pub logits: Vec<f64>,
    /// By parameter, for the one case that has them.
    pub gradients: Option<Vec<Vec<f64>>>,
}

fn numbers<T>(value: &Value, convert: impl Fn(i64) -> T) -> Vec<T> {
    value.as_array().expect("a list").iter().map(|v| convert(v.as_i64().expect("a whole number"))).collect()
}

fn f64_tensor(file: &safetensors::SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
}

/// All cases of a fixture model.
pub fn cases(model: &str) -> Vec<Case> {
    let dir = fixture_dir(model);
    let json: Value = serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap();
    let expected = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let targets = numbers(&json["targets"], |t| if t < 0 { TokenId::IGNORED } else { TokenId(t as u32) });
    let case = |case: &Value| {
        let key = case["key"].as_str().unwrap().to_string();
        let mut config = config.clone();
        let object = config.as_object_mut().unwrap();
        object.retain(|key, _| !key.starts_with("rope_"));
        object.insert("rope_parameters".into(), case["rope_parameters"].clone());
        let config = Config::from_json(&config.to_string(), &dir).unwrap();
        let specs = pose_engine::model::params::table(&config);
        let full = json["full_gradients"].as_str() == Some(&key);
        let gradients = full.then(|| {
            specs.iter().map(|s| f64_tensor(&expected, &format!("{key}/gradients/{}", s.name))).collect()
        });
        Case {
            logits: f64_tensor(&expected, &format!("{key}/logits")),
            config,
            ids: numbers(&json["ids"], |t| TokenId(t as u32)),
            targets: targets.clone(),
            positions: numbers(&json["positions"][case["positions"].as_str().unwrap()], |p| p as u32),
            scored: targets.iter().filter(|&&t| t != TokenId::IGNORED).count(),
            loss: case["loss"].as_f64().unwrap(),
            gradient_norms: case["gradient_norms"].clone(),
            gradients,
            key,
        }
    };
    json["cases"].as_array().unwrap().iter().map(case).collect()
}

/// `tiny`, which has not learnt anything, but whose logits are all different.
pub fn untrained<B: Backend>(b: &B) -> Model<B> {
    let mut config = Config::preset("tiny").unwrap();
    config.initializer_range = 0.2;
    let mut model = Model::allocate(b, &mut Ledger::live(), &config, &config.rope).unwrap();
    model.initialise(b, 11).unwrap();
    model
}

/// A scorer or a session, with the scratch that it needs.
pub fn allocate<B: Backend, R: Reads<B>>(b: &B, model: &Model<B>, reading: Reading) -> R {
    b.reserve_scratch(R::scratch_bytes(b, model, reading)).unwrap();
    R::allocate(b, &mut Ledger::live(), model, reading).unwrap()
}

/// A model with everything that a training step needs, one row.
pub struct Bench<'a, B: Backend> {
    pub b: &'a B,
    pub model: Model<B>,
    pub grads: Gradients<B>,
    pub buffers: TrainBuffers<B>,
    pub batch: PlacedBatch<B>,
}

impl<'a, B: Backend> Bench<'a, B> {
    /// For rows placed by spans.
    pub fn new(b: &'a B, config: &Config, rows: usize, tokens: usize, recompute: usize) -> Self {
        Self::placed(b, config, rows, tokens, recompute, tokens)
    }

    /// Of [`untrained`]'s model.
    pub fn untrained(b: &'a B, tokens: usize) -> Self {
        let model = untrained(b);
        let bench = Self::new(b, &model.config, 1, tokens, 0);
        Bench { model, ..bench }
    }

    /// For rows placed as `places` are.
    pub fn for_places(
        b: &'a B, config: &Config, tokens: usize, recompute: usize, places: &BatchPlaces,
    ) -> Self {
        let spans = if matches!(places, BatchPlaces::List(_)) { 0 } else { tokens };
        Self::placed(b, config, 2, tokens, recompute, spans)
    }

    /// The same, with gradients that lodge in activations.
    pub fn lodging(b: &'a B, config: &Config, rows: usize, tokens: usize, recompute: usize) -> Self {
        let (bench, ledger) = (Self::new(b, config, rows, tokens, recompute), &mut Ledger::live());
        let grads = Gradients::lodging(b, ledger, &bench.model, recompute).unwrap();
        let len = rows * tokens;
        let buffers = TrainBuffers::with_lodgers(b, ledger, &bench.model, &grads, len, recompute).unwrap();
        Bench { grads, buffers, ..bench }
    }

    fn placed(b: &'a B, config: &Config, rows: usize, tokens: usize, recompute: usize, spans: usize) -> Self {
        let mut ledger = Ledger::live();
        let model = Model::allocate(b, &mut ledger, config, &config.rope).unwrap();
        let grads = Gradients::allocate(b, &mut ledger, &model.specs).unwrap();
        let buffers = TrainBuffers::new(b, &mut ledger, config, rows * tokens, recompute).unwrap();
        let batch = PlacedBatch::new(b, &mut ledger, rows, tokens, spans).unwrap();
        b.reserve_scratch(scratch::training(b, config, rows, tokens)).unwrap();
        Bench { b, model, grads, buffers, batch }
    }

    pub fn load(mut self, dir: &Path) -> Self {
        self.model.load(self.b, &Weights::open(dir).unwrap()).unwrap();
        self
    }

    /// Mean loss over the scored tokens, and the gradients left in `grads`.
    pub fn step(&mut self, rows: usize, ids: &[TokenId], targets: &[TokenId], places: &BatchPlaces) -> f64 {
        let scored = targets.iter().filter(|&&t| t != TokenId::IGNORED).count();
        // a test may have changed a parameter
        self.model.refresh(self.b).unwrap();
        self.batch.fill(self.b, rows, ids, targets, places).unwrap();
        self.grads.zero(self.b, &self.model.specs).unwrap();
        let (model, b) = (&self.model, self.b);
        model
            .forward_backward(b, &mut self.buffers, &mut self.grads, &self.batch, 1.0 / scored as f64)
            .unwrap();
        model.finish_gradients(b, &mut self.grads).unwrap();
        self.mean_loss(ids.len(), scored)
    }

    pub fn loss(&mut self, rows: usize, ids: &[TokenId], targets: &[TokenId], places: &BatchPlaces) -> f64 {
        let scored = targets.iter().filter(|&&t| t != TokenId::IGNORED).count();
        // a test may have changed a parameter
        self.model.refresh(self.b).unwrap();
        self.batch.fill(self.b, rows, ids, targets, places).unwrap();
        self.model.forward_loss(self.b, &mut self.buffers, &self.batch).unwrap();
        self.mean_loss(ids.len(), scored)
    }

    fn mean_loss(&self, tokens: usize, scored: usize) -> f64 {
        self.token_losses(tokens).into_iter().sum::<f64>() / scored as f64
    }

    /// What the last pass left of its tokens' losses.
    pub fn token_losses(&self, tokens: usize) -> Vec<f64> {
        let mut nll = vec![B::Stat::default(); tokens];
        self.b.download(&mut nll, &self.buffers.work.nll, 0).unwrap();
        nll.into_iter().map(Float::to_f64).collect()
    }

    /// The losses of tokens 1.. of a text by one forward pass of training.
    pub fn losses(&mut self, ids: &[TokenId]) -> Vec<f64> {
        self.loss(1, &ids[..ids.len() - 1], &ids[1..], &places_from(1, 0));
        self.token_losses(ids.len() - 1)
    }

    /// Numbers in adapters, whose B starts at zero and would leave A without a gradient: such as bf16 holds, for all backends of
    /// a comparison to start from the same.
    pub fn fill_adapters(&mut self) {
        for i in self.model.own_specs().len()..self.model.specs.len() {
            let mut stream = Stream::new(3, Purpose::Task, 0, i as u32);
            let random = (0..self.model.specs[i].elements()).map(|_| stream.unit_f64() as f32 - 0.5);
            let random: Vec<f32> = random.map(|x| bf16::from_f32(x).to_f32()).collect();
            upload_f32::<B, B::Act>(self.b, &mut self.model.params[i], 0, &random).unwrap();
        }
    }

    pub fn gradient(&self, parameter: usize) -> Vec<f64> {
        let len = self.model.specs[parameter].elements();
        let mut values = vec![B::Stat::default(); len];
        let gradient = self.grads.get(ParamId(parameter)).expect("a trained parameter");
        self.b.download(&mut values, gradient, 0).unwrap();
        values.iter().map(|v| v.to_f64()).collect()
    }

    pub fn parameter(&self, parameter: usize) -> Vec<f32> {
        let len = self.model.specs[parameter].elements();
        download_f32::<B, B::Act>(self.b, &self.model.params[parameter], 0, len).unwrap()
    }

    pub fn step_case(&mut self, case: &Case) -> f64 {
        self.step(1, &case.ids, &case.targets, &places_at(&case.positions))
    }
}

/// ‖a − b‖ / ‖b‖; NaN where anything is.
pub fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-30)
}

/// Fails unless `error` is a number of at most `bound`.
pub fn within(error: f64, bound: f64, what: &str) {
    assert!(error <= bound, "{what}: relative error {error:.3e}, at most {bound:.0e} is allowed");
}
