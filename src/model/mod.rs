//! The LLaMA-like transformer: configuration, parameters, forward and backward, over any backend.

mod batch;
mod block;
pub mod buffers;
pub mod cache;
pub mod config;
pub mod params;
mod pass;
pub mod scratch;
mod shapes;

pub use batch::{PlacedBatch, places_at, places_from};
pub use config::Config;
pub use params::{Init, ParamId, ParamIds, ParamSpec};

use crate::backend::{Backend, Float};
use crate::checkpoint::Weights;
use crate::error::{Error, Result};
use crate::memory::{Kind, Ledger};
use crate::random::{Purpose, Stream};
use crate::rope::Rope;

/// A model whose parameters lie in the memory of a backend.
pub struct Model<B: Backend> {
    pub config: Config,
    pub specs: Vec<ParamSpec>,
    pub ids: ParamIds,
    /// By [`ParamId`].
    pub params: Vec<B::Buf<B::Act>>,
    /// Each rotated pair's frequency in turns per position, 64-bit binary fractions, [head_dim/2].
    pub turns: B::Buf<u64>,
    pub attention_factor: f64,
}

impl<B: Backend> Model<B> {
    /// Room for the parameters of `config`, all zero, rotated by `rope`.
    pub fn allocate(b: &B, ledger: &mut Ledger, config: &Config, rope: &Rope) -> Result<Self> {
        let (specs, ids) = (params::table(config), ParamIds::new(config));
        let alloc = |spec: &ParamSpec| ledger.buf(b, Kind::Weights, &spec.name, &spec.shape);
        let params = specs.iter().map(alloc).collect::<Result<_>>()?;
        let turns_on_host = rope.turns();
        let mut turns = ledger.buf(b, Kind::Weights, "rope frequencies", &[turns_on_host.len()])?;
        if !ledger.is_dry() {
            b.upload(&mut turns, 0, &turns_on_host)?;
        }
        let attention_factor = rope.attention_factor();
        Ok(Model { config: config.clone(), specs, ids, params, turns, attention_factor })
    }

    /// Fills every parameter from a checkpoint that holds all of them, in their shapes, all finite; a tied model's
    /// checkpoint may hold a head too if it equals the embedding.
    pub fn load(&mut self, b: &B, weights: &Weights) -> Result<()> {
        weights.check_table(&self.specs)?;
        for (spec, param) in self.specs.iter().zip(&mut self.params) {
            weights.read_f32(&spec.name, &spec.shape, &mut |at, values| upload_f32(b, param, at, values))?;
        }
        Ok(())
    }

    /// Draws every parameter anew, a pure function of the seed and the parameter's place in the table.
    pub fn initialise(&mut self, b: &B, seed: u64) -> Result<()> {
        for (i, (spec, param)) in self.specs.iter().zip(&mut self.params).enumerate() {
            let len: usize = spec.shape.iter().product();
            let mut stream = Stream::new(seed, Purpose::Init, 0, i as u32);
            let values: Vec<f32> = match spec.init {
                Init::Normal(std) => (0..len).map(|_| (stream.normal() * std) as f32).collect(),
                Init::Ones => vec![1.0; len],
                Init::Zeros => vec![0.0; len],
            };
            upload_f32(b, param, 0, &values)?;
        }
        Ok(())
    }

    pub fn param(&self, id: ParamId) -> &B::Buf<B::Act> {
        &self.params[id.0]
    }

    /// Total number of parameters.
    pub fn parameters(&self) -> usize {
        self.specs.iter().map(ParamSpec::elements).sum()
    }
}

/// Rounds f32 values to the storage type of activations and uploads them.
pub fn upload_f32<B: Backend, T: Float>(b: &B, dst: &mut B::Buf<T>, at: usize, values: &[f32]) -> Result<()> {
    let rounded: Vec<T> = values.iter().map(|&v| T::from_f64(v.into())).collect();
    b.upload(dst, at, &rounded)
}

/// The gradients of all parameters, summed over the micro-batches of a step.
pub struct Gradients<B: Backend> {
    /// By [`ParamId`].
    pub tensors: Vec<B::Buf<B::Stat>>,
}

impl<B: Backend> Gradients<B> {
    pub fn allocate(b: &B, ledger: &mut Ledger, specs: &[ParamSpec]) -> Result<Self> {
        let alloc =
            |spec: &ParamSpec| ledger.buf(b, Kind::Gradients, &format!("d {}", spec.name), &spec.shape);
        Ok(Gradients { tensors: specs.iter().map(alloc).collect::<Result<_>>()? })
    }

    pub fn zero(&mut self, b: &B, specs: &[ParamSpec]) -> Result<()> {
        self.tensors.iter_mut().zip(specs).try_for_each(|(t, spec)| b.zero(t, spec.elements()))
    }

    pub fn of(&mut self, id: ParamId) -> &mut B::Buf<B::Stat> {
        &mut self.tensors[id.0]
    }

    /// √Σ g² of each parameter, in the order of the table.
    pub fn norms(&self, b: &B, specs: &[ParamSpec]) -> Result<Vec<f64>> {
        self.tensors
            .iter()
            .zip(specs)
            .map(|(t, spec)| Ok(b.sum_squares(t, spec.elements())?.sqrt()))
            .collect()
    }
}

/// A buffer's first `len` elements as f32.
pub fn download_f32<B: Backend, T: Float>(b: &B, src: &B::Buf<T>, at: usize, len: usize) -> Result<Vec<f32>> {
    let mut values = vec![T::default(); len];
    b.download(&mut values, src, at)?;
    Ok(values.into_iter().map(|v| v.to_f64() as f32).collect())
}

/// Refuses a token id that the model has no embedding for.
pub fn check_ids(config: &Config, ids: &[u32], where_from: &str) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= config.vocab_size) {
        Some(id) => Err(Error::Usage {
            flag: where_from.into(),
            value: id.to_string(),
            problem: format!(
                "is not a token of this model, whose vocabulary has {} entries",
                config.vocab_size
            ),
        }),
        None => Ok(()),
    }
}
