//! Adapters added into the weights that they belong to: W += s·B·A, after which no adapter is needed.

use super::{Config, Lora, Model, download_f32, upload_f32};
use crate::backend::{Backend, MatmulShape, ScratchFor, Write};
use crate::checkpoint::{Adapter, Weights};
use crate::error::Result;
use crate::memory::{Kind, Ledger};
use crate::model::params::{Role, adapter_name, peft_name};

/// Room for the matrices of one adapter at a time.
pub struct Merge<B: Backend> {
    a: B::Buf<B::Act>, // [rank, inputs]
    b: B::Buf<B::Act>, // [outputs, rank]
}

/// The product of every merge, by target.
fn products<'a>(c: &'a Config, lora: &'a Lora) -> impl Iterator<Item = MatmulShape> + 'a {
    lora.targets.iter().map(|target| {
        let (outputs, inputs) = target.sides(c);
        MatmulShape { m: outputs, n: lora.rank, k: inputs }
    })
}

impl<B: Backend> Merge<B> {
    pub fn allocate(b: &B, ledger: &mut Ledger, c: &Config, lora: &Lora) -> Result<Self> {
        let most = |side: fn(MatmulShape) -> usize| products(c, lora).map(side).max().unwrap_or(0);
        let (inputs, outputs) = (most(|s| s.k), most(|s| s.m));
        Ok(Merge {
            a: ledger.buf(b, Kind::Work, "adapter.a", &[lora.rank, inputs])?,
            b: ledger.buf(b, Kind::Work, "adapter.b", &[outputs, lora.rank])?,
        })
    }

    /// Working memory that the kernels take.
    pub fn scratch_bytes(b: &B, c: &Config, lora: &Lora) -> usize {
        products(c, lora).map(|s| b.scratch_bytes(ScratchFor::MatmulNn(s))).max().unwrap_or(0)
    }

    /// W += (s·B)·A, rounded once. `w[m,k]`, `a[n,k]`, `b[m,n]`.
    fn add(
        &mut self, backend: &B, w: &mut B::Buf<B::Act>, a: &[f32], b: &[f32], scale: f64, s: MatmulShape,
    ) -> Result<()> {
        upload_f32::<B, B::Act>(backend, &mut self.a, 0, a)?;
        upload_f32::<B, B::Act>(backend, &mut self.b, 0, b)?;
        backend.scale(&mut self.b, scale, b.len())?;
        backend.matmul_nn(w, &self.b, &self.a, Write::Accumulate, s)
    }
}

impl<B: Backend> Model<B> {
    /// Adds an adapter of this model's own into its weights, and takes over what was trained in full.
    pub fn merge_adapter(&mut self, b: &B, merge: &mut Merge<B>, adapter: &Adapter) -> Result<()> {
        let tied = self.config.tie_word_embeddings.then(|| &self.specs[self.ids.embed.0]);
        adapter.check(self.own_specs(), tied)?;
        let weights = &adapter.weights;
        let (mut a, mut b_matrix) = (Vec::new(), Vec::new());
        for i in 0..self.own_specs().len() {
            let spec = &self.specs[i];
            let full = peft_name(&spec.name);
            if weights.shape(&full).is_some() {
                let mut upload = |at, values: &[f32]| upload_f32(b, &mut self.params[i], at, values);
                weights.read_f32(&full, &spec.shape, &mut upload)?;
            }
            let [a_name, b_name] = ["A", "B"].map(|letter| adapter_name(&spec.name, letter));
            if weights.shape(&a_name).is_some() {
                let s = MatmulShape { m: spec.shape[0], n: adapter.lora.rank, k: spec.shape[1] };
                weights.read_into(&a_name, &[s.n, s.k], &mut a)?;
                weights.read_into(&b_name, &[s.m, s.n], &mut b_matrix)?;
                merge.add(b, &mut self.params[i], &a, &b_matrix, adapter.lora.scale(), s)?;
            }
        }
        self.refresh(b)
    }

    /// Adds the adapters that were trained with the model into its weights. The model is not trained on after that.
    pub fn merge_own(&mut self, b: &B, merge: &mut Merge<B>) -> Result<()> {
        let Some(lora) = self.config.lora.clone() else { return Ok(()) };
        for layer in 0..self.ids.layers.len() {
            for &target in &lora.targets {
                let Some(linear) = self.ids.layers[layer].linear(target).copied() else { continue };
                let Some(ids) = linear.adapter else { continue };
                let (outputs, inputs) = target.sides(&self.config);
                let s = MatmulShape { m: outputs, n: lora.rank, k: inputs };
                let a = download_f32::<B, B::Act>(b, self.param(ids.a), 0, s.n * s.k)?;
                let b_t = download_f32::<B, B::Act>(b, self.param(ids.b), 0, s.n * s.m)?;
                let w = &mut self.params[linear.weight.0];
                merge.add(b, w, &a, &transposed(&b_t, s.n, s.m), lora.scale(), s)?;
            }
        }
        Ok(())
    }

    /// Reads what is trained from the weights of an adapter, to train on.
    pub fn load_trained(&mut self, b: &B, weights: &Weights) -> Result<()> {
        for (spec, param) in self.specs.iter().zip(&mut self.params).filter(|(spec, _)| spec.trained) {
            let mut upload = |at, values: &[f32]| upload_f32(b, param, at, values);
            match (spec.role, spec.shape.as_slice()) {
                (Role::AdapterB, &[rank, outputs]) => {
                    let mut values = Vec::new();
                    weights.read_into(&spec.name, &[outputs, rank], &mut values)?;
                    upload(0, &transposed(&values, outputs, rank))?;
                }
                (Role::Model, shape) => weights.read_f32(&peft_name(&spec.name), shape, &mut upload)?,
                (_, shape) => weights.read_f32(&spec.name, shape, &mut upload)?,
            }
        }
        self.refresh(b)
    }
}

/// `x[rows, columns]` as `[columns, rows]`.
pub fn transposed<T: Copy>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..rows * columns).map(|at| x[at % rows * columns + at / rows]).collect()
}
