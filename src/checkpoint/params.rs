//! The parameters of a model on a device as tensors of a file.

use super::tensors::{Bytes, Stored, TensorSource, TensorSpec};
use crate::backend::{Backend, Element};
use crate::error::Result;
use crate::model::config::Dtype;
use crate::model::params::{FileTensor, ParamSpec, Role, file_tensors, peft_name};
use crate::model::{Model, transposed};
use std::ops::Range;

/// Elements downloaded at a time.
const PIECE: usize = 1 << 18;

/// What buffers of `T` are stored in.
pub fn dtype_of<T: Element>() -> Stored {
    match T::NAME {
        "bf16" => Dtype::Bf16.into(),
        "i8" => Stored::I8,
        "u8" => Stored::U8,
        "f32" => Dtype::F32.into(),
        other => unreachable!("no tensor of a file is {other}"),
    }
}

/// Downloads a buffer's first elements as little-endian bytes.
pub fn bytes_of<B: Backend, T: Element>(
    b: &B, buf: &B::Buf<T>, len: usize, sink: &mut Bytes<'_>,
) -> Result<()> {
    let mut piece = vec![T::default(); len.min(PIECE)];
    (0..len).step_by(PIECE).try_for_each(|at| {
        let piece = &mut piece[..PIECE.min(len - at)];
        b.download(piece, buf, at)?;
        sink(bytemuck::cast_slice(piece))
    })
}

/// Parameters as the forward pass reads them.
pub struct ModelTensors<'a, B: Backend> {
    b: &'a B,
    model: &'a Model<B>,
    /// By tensor of the file, the parameters that it holds.
    which: Vec<Range<usize>>,
    specs: Vec<TensorSpec>,
}

impl<'a, B: Backend> ModelTensors<'a, B> {
    /// The model's own parameters, as its family keeps them.
    pub fn whole(b: &'a B, model: &'a Model<B>) -> Self {
        let tensors = file_tensors(model.own_specs());
        let spec = |t: &FileTensor| TensorSpec {
            name: t.name.clone(),
            shape: t.shape.clone(),
            dtype: dtype_of::<B::Act>(),
        };
        let specs = tensors.iter().map(spec).collect();
        ModelTensors { b, model, which: tensors.into_iter().map(|t| t.holds).collect(), specs }
    }

    /// What is trained, under PEFT's names.
    pub fn adapter(b: &'a B, model: &'a Model<B>) -> Self {
        let name = |p: &ParamSpec| if p.is_adapter() { p.name.clone() } else { peft_name(&p.name) };
        let mut named: Vec<(usize, String)> = model.trained().map(|(id, p)| (id.0, name(p))).collect();
        let embed = model.ids.embed;
        if model.config.tie_word_embeddings && model.specs[embed.0].trained {
            named.push((embed.0, peft_name("lm_head.weight")));
        }
        Self::named(b, model, named)
    }

    fn named(b: &'a B, model: &'a Model<B>, named: Vec<(usize, String)>) -> Self {
        let spec = |(i, name): &(usize, String)| {
            let p = &model.specs[*i];
            let mut shape = p.shape.clone();
            if p.role == Role::AdapterB {
                shape.reverse();
            }
            TensorSpec { name: name.clone(), shape, dtype: dtype_of::<B::Act>() }
        };
        let specs = named.iter().map(spec).collect();
        ModelTensors { b, model, which: named.into_iter().map(|(i, _)| i..i + 1).collect(), specs }
    }
}

impl<B: Backend> TensorSource for ModelTensors<'_, B> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn bytes(&self, i: usize, sink: &mut Bytes<'_>) -> Result<()> {
        self.which[i]
            .clone()
            .try_for_each(|i| self.param_bytes(&self.model.specs[i], &self.model.params[i], sink))
    }
}

impl<B: Backend> ModelTensors<'_, B> {
    fn param_bytes(&self, spec: &ParamSpec, param: &B::Buf<B::Act>, sink: &mut Bytes<'_>) -> Result<()> {
        match (spec.role, spec.shape.as_slice()) {
            (Role::AdapterB, &[rank, outputs]) => {
                let mut values = vec![B::Act::default(); rank * outputs];
                self.b.download(&mut values, param, 0)?;
                sink(bytemuck::cast_slice(&transposed(&values, rank, outputs)))
            }
            _ => bytes_of::<B, B::Act>(self.b, param, spec.elements(), sink),
        }
    }
}
