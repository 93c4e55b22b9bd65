//! The global norm and AdamW over all parameters in one launch.

use super::buffer::Buf;
use super::driver::{Arg, Gpu};
use super::images::tiles;
use super::{Cuda, CudaFloat, line};
use crate::backend::{AdamStep, AdamTensor, Buffer};
use crate::error::Result;
use bytemuck::{Pod, Zeroable};
use std::sync::{Arc, Mutex};

/// `AdamTensor` of cuda/optim.cu: addresses, elements, weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Tensor {
    param: u64,
    master: u64,
    m: u64,
    v: u64,
    grad: u64,
    len: i64,
    decay: f32,
    unused: f32,
}

/// `AdamStep` of cuda/optim.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Step {
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    correction1: f32,
    correction2: f32,
    grad_scale: f32,
}

/// What stays on the device from step to step: partial sums, and the table of tensors and of which block has which run.
pub struct Tables {
    partial: Buf<f64>,
    launch: Mutex<Option<Launch>>,
}

struct Launch {
    tensors: Vec<Tensor>,
    blocks: usize,
    tensors_there: Buf<u8>,
    runs_there: Buf<u8>,
}

impl Launch {
    fn new(gpu: &Arc<Gpu>, tensors: Vec<Tensor>) -> Result<Self> {
        let runs: Vec<[u32; 2]> = tensors
            .iter()
            .enumerate()
            .flat_map(|(t, tensor)| {
                let count = (tensor.len as usize).div_ceil(tiles::ADAMW_RUN);
                (0..count).map(move |run| [t as u32, run as u32])
            })
            .collect();
        let there = |bytes: &[u8]| {
            let buf = Buf::<u8>::zeroed(gpu, bytes.len())?;
            gpu.upload(buf.at(0), bytes).map(|()| buf)
        };
        let tensors_there = there(bytemuck::cast_slice(&tensors))?;
        let runs_there = there(bytemuck::cast_slice(&runs))?;
        Ok(Launch { tensors, blocks: runs.len(), tensors_there, runs_there })
    }
}

impl Tables {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        Ok(Tables { partial: Buf::zeroed(gpu, tiles::SUM_BLOCKS)?, launch: Mutex::new(None) })
    }

    /// Partial sums by block, added in order here.
    pub fn sum_squares(&self, gpu: &Gpu, x: &Buf<f32>, len: usize) -> Result<f64> {
        let args = [self.partial.arg(), x.arg(), Arg::long(len as i64)];
        gpu.launch("sum_squares", line(tiles::SUM_BLOCKS, tiles::SUM_THREADS), &args)?;
        let mut sums = [0f64; tiles::SUM_BLOCKS];
        gpu.download(bytemuck::cast_slice_mut(&mut sums), self.partial.at(0))?;
        Ok(sums.iter().sum())
    }
}

impl<E: CudaFloat> Cuda<E> {
    pub(super) fn step(&self, tensors: &[AdamTensor<'_, Self>], step: AdamStep) -> Result<()> {
        let tensors: Vec<Tensor> = tensors
            .iter()
            .map(|t| Tensor {
                param: t.param.at(0),
                master: t.master.as_ref().map_or(0, |master| master.at(0)),
                m: t.m.at(0),
                v: t.v.at(0),
                grad: t.grad.at(0),
                len: t.param.len() as i64,
                decay: t.decay as f32,
                unused: 0.0,
            })
            .collect();
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(step.step as f64))) as f32;
        let numbers = Step {
            lr: step.lr as f32,
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            eps: step.eps as f32,
            correction1: correction(step.beta1),
            correction2: correction(step.beta2),
            grad_scale: step.grad_scale as f32,
        };
        let mut launch = self.optimizer.launch.lock().unwrap_or_else(|e| e.into_inner());
        let launch = match &mut *launch {
            Some(known) if known.tensors == tensors => known,
            other => other.insert(Launch::new(&self.gpu, tensors)?),
        };
        let args =
            [launch.tensors_there.arg(), launch.runs_there.arg(), Arg::bytes(bytemuck::bytes_of(&numbers))];
        self.launch("adamw", line(launch.blocks, tiles::ADAMW_THREADS), &args)
    }
}
