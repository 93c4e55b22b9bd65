//! The optimizer's state as tensors of a checkpoint: master weights and moments, slot by slot.

use crate::backend::{Backend, Element};
use crate::checkpoint::{Bytes, Slot, TensorSource, TensorSpec, Weights, bytes_of, dtype_of, slot_name};
use crate::error::Result;
use crate::model::{Model, ParamSpec, upload_f32};
use crate::optim::{AdamState, Codes, Moments};

/// A buffer of the state.
enum Kept<'a, B: Backend> {
    Stat(&'a B::Buf<B::Stat>),
    I8(&'a B::Buf<i8>),
    U8(&'a B::Buf<u8>),
}

/// The state on its way to a file.
pub struct OptimizerTensors<'a, B: Backend> {
    b: &'a B,
    kept: Vec<Kept<'a, B>>,
    specs: Vec<TensorSpec>,
}

impl<'a, B: Backend> OptimizerTensors<'a, B> {
    pub fn new(b: &'a B, adam: &'a AdamState<B>, model: &Model<B>) -> Self {
        let mut tensors = OptimizerTensors { b, kept: Vec::new(), specs: Vec::new() };
        let trained: Vec<&ParamSpec> = model.trained().map(|(_, spec)| spec).collect();
        tensors.stats(Slot::Master, &trained, &adam.master);
        match &adam.moments {
            Moments::Full { m, v } => {
                tensors.stats(Slot::M, &trained, m);
                tensors.stats(Slot::V, &trained, v);
            }
            Moments::Codes { m, v } => {
                tensors.codes([Slot::MCodes, Slot::MScales], &trained, m, Kept::I8);
                tensors.codes([Slot::VCodes, Slot::VScales], &trained, v, Kept::U8);
            }
        }
        tensors
    }

    fn push<T: Element>(&mut self, slot: Slot, of: &ParamSpec, shape: Vec<usize>, kept: Kept<'a, B>) {
        self.specs.push(TensorSpec { name: slot_name(slot, &of.name), shape, dtype: dtype_of::<T>() });
        self.kept.push(kept);
    }

    fn stats(&mut self, slot: Slot, trained: &[&ParamSpec], buffers: &'a [B::Buf<B::Stat>]) {
        for (spec, buffer) in trained.iter().zip(buffers) {
            self.push::<B::Stat>(slot, spec, spec.shape.clone(), Kept::Stat(buffer));
        }
    }

    fn codes<C: Element>(
        &mut self, [codes, scales]: [Slot; 2], trained: &[&ParamSpec], moment: &'a [Codes<B, C>],
        kept: impl Fn(&'a B::Buf<C>) -> Kept<'a, B>,
    ) {
        for (spec, moment) in trained.iter().zip(moment) {
            self.push::<C>(codes, spec, spec.shape.clone(), kept(&moment.codes));
            let blocks = Codes::<B, C>::blocks(spec.elements());
            self.push::<B::Stat>(scales, spec, vec![blocks], Kept::Stat(&moment.scales));
        }
    }
}

impl<B: Backend> TensorSource for OptimizerTensors<'_, B> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }
    fn bytes(&self, i: usize, sink: &mut Bytes<'_>) -> Result<()> {
        let len = self.specs[i].elements();
        match self.kept[i] {
            Kept::Stat(buffer) => bytes_of::<B, B::Stat>(self.b, buffer, len, sink),
            Kept::I8(buffer) => bytes_of::<B, i8>(self.b, buffer, len, sink),
            Kept::U8(buffer) => bytes_of::<B, u8>(self.b, buffer, len, sink),
        }
    }
}

/// The state back from a file of [`OptimizerTensors`].
pub fn read<B: Backend>(b: &B, adam: &mut AdamState<B>, model: &Model<B>, file: &Weights) -> Result<()> {
    let trained: Vec<&ParamSpec> = model.trained().map(|(_, spec)| spec).collect();
    read_stats(b, file, Slot::Master, &trained, &mut adam.master)?;
    match &mut adam.moments {
        Moments::Full { m, v } => {
            read_stats(b, file, Slot::M, &trained, m)?;
            read_stats(b, file, Slot::V, &trained, v)
        }
        Moments::Codes { m, v } => {
            read_codes(b, file, [Slot::MCodes, Slot::MScales], &trained, m)?;
            read_codes(b, file, [Slot::VCodes, Slot::VScales], &trained, v)
        }
    }
}

fn read_stats<B: Backend>(
    b: &B, file: &Weights, slot: Slot, trained: &[&ParamSpec], buffers: &mut [B::Buf<B::Stat>],
) -> Result<()> {
    for (spec, buffer) in trained.iter().zip(buffers) {
        read_stat(b, file, &slot_name(slot, &spec.name), &spec.shape, buffer)?;
    }
    Ok(())
}

fn read_codes<B: Backend, C: Element>(
    b: &B, file: &Weights, [codes, scales]: [Slot; 2], trained: &[&ParamSpec], moment: &mut [Codes<B, C>],
) -> Result<()> {
    for (spec, moment) in trained.iter().zip(moment) {
        let mut upload = |at, read: &[C]| b.upload(&mut moment.codes, at, read);
        file.read_stored(&slot_name(codes, &spec.name), &spec.shape, &mut upload)?;
        let blocks = Codes::<B, C>::blocks(spec.elements());
        read_stat(b, file, &slot_name(scales, &spec.name), &[blocks], &mut moment.scales)?;
    }
    Ok(())
}

fn read_stat<B: Backend>(
    b: &B, file: &Weights, name: &str, shape: &[usize], buffer: &mut B::Buf<B::Stat>,
) -> Result<()> {
    file.read_f32(name, shape, &mut |at, values| upload_f32::<B, B::Stat>(b, buffer, at, values))
}
