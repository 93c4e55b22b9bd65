//! The transformer: families, configuration, parameters, forward and backward, over any backend.

mod batch;
mod block;
pub mod buffers;
pub mod cache;
pub mod config;
pub mod family;
mod gradients;
mod head;
mod heads;
mod linear;
pub mod longce;
pub mod lora;
mod merge;
mod norm;
pub mod params;
mod pass;
pub mod scratch;
mod shapes;

pub use batch::{PlacedBatch, places_at, places_from};
pub use config::Config;
pub use gradients::Gradients;
pub use head::UnitHead;
pub use longce::{LongCe, Loss, Weighing};
pub use lora::Lora;
pub use merge::{Merge, transposed};
pub use params::{Init, ParamId, ParamIds, ParamSpec};

use crate::backend::{Backend, Float};
use crate::checkpoint::Weights;
use crate::error::{Error, Result};
use crate::memory::{Kind, Ledger};
use crate::random::{Purpose, Stream};
use crate::rope::Rope;

/// Numbers drawn at a time: a whole embedding on the host would be more than the plan knows of.
const PIECE: usize = 1 << 18;

/// A model whose parameters lie in the memory of a backend.
pub struct Model<B: Backend> {
    pub config: Config,
    pub specs: Vec<ParamSpec>,
    pub ids: ParamIds,
    /// By [`ParamId`].
    pub params: Vec<B::Buf<B::Act>>,
    unit_head: Option<UnitHead<B>>,
    /// Each rotated pair's frequency in turns per position, 64-bit binary fractions, [rotary_dim/2].
    pub turns: B::Buf<u64>,
    pub attention_factor: f64,
}

impl<B: Backend> Model<B> {
    /// Room for the parameters of `config`, all zero, rotated by `rope`.
    pub fn allocate(b: &B, ledger: &mut Ledger, config: &Config, rope: &Rope) -> Result<Self> {
        let (specs, ids) = (params::table(config), ParamIds::new(config));
        let alloc = |spec: &ParamSpec| ledger.buf(b, Kind::Weights, &spec.name, &spec.shape);
        let params = specs.iter().map(alloc).collect::<Result<_>>()?;
        let unit_head = UnitHead::new(b, ledger, config)?;
        let turns = ledger.buf(b, Kind::Weights, "rope frequencies", &[rope.rotary_dim / 2])?;
        let mut model =
            Model { config: config.clone(), specs, ids, params, unit_head, turns, attention_factor: 1.0 };
        if !ledger.is_dry() {
            model.set_rope(b, rope)?;
        }
        Ok(model)
    }

    /// From now on positions are rotated by `rope`; keys that were cached before are of no use then.
    pub fn set_rope(&mut self, b: &B, rope: &Rope) -> Result<()> {
        self.attention_factor = rope.attention_factor();
        b.upload(&mut self.turns, 0, &rope.turns())
    }

    /// Fills every parameter from a checkpoint that holds all of them, in their shapes, all finite; a tied model's
    /// checkpoint may hold a head too if it equals the embedding.
    /// Adapters are not touched.
    pub fn load(&mut self, b: &B, weights: &Weights) -> Result<()> {
        weights.check_table(self.own_specs())?;
        for (spec, param) in self.specs.iter().zip(&mut self.params).filter(|(spec, _)| !spec.is_adapter()) {
            weights.read_param(spec, &mut |at, values| upload_f32(b, param, at, values))?;
        }
        self.refresh(b)
    }

    /// Draws every parameter anew, a pure function of the seed and the parameter's place in the table.
    pub fn initialise(&mut self, b: &B, seed: u64) -> Result<()> {
        self.draw(b, seed, 0)
    }

    /// Draws the adapters alone, as [`Model::initialise`] does.
    pub fn initialise_adapters(&mut self, b: &B, seed: u64) -> Result<()> {
        self.draw(b, seed, self.own_specs().len())
    }

    /// Draws the parameters from the `first` on.
    fn draw(&mut self, b: &B, seed: u64, first: usize) -> Result<()> {
        for (i, (spec, param)) in self.specs.iter().zip(&mut self.params).enumerate().skip(first) {
            let mut stream = Stream::new(seed, Purpose::Init, 0, i as u32);
            let mut next = || match spec.init {
                Init::Normal(std) => (stream.normal() * std) as f32,
                Init::Uniform(most) => ((2.0 * stream.unit_f64() - 1.0) * most) as f32,
                Init::Ones => 1.0,
                Init::Zeros => 0.0,
            };
            for at in (0..spec.elements()).step_by(PIECE) {
                let values: Vec<f32> = (at..spec.elements().min(at + PIECE)).map(|_| next()).collect();
                upload_f32(b, param, at, &values)?;
            }
        }
        self.refresh(b)
    }

    /// The model's own parameters: all but the adapters, which stand behind them.
    pub fn own_specs(&self) -> &[ParamSpec] {
        let own = self.specs.iter().position(ParamSpec::is_adapter).unwrap_or(self.specs.len());
        &self.specs[..own]
    }

    /// The parameters that are trained, in the order of the table.
    pub fn trained(&self) -> impl Iterator<Item = (ParamId, &ParamSpec)> {
        self.specs.iter().enumerate().filter(|(_, spec)| spec.trained).map(|(i, spec)| (ParamId(i), spec))
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
