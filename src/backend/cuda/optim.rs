//! The global norm and AdamW over all parameters in one launch.

use super::buffer::Buf;
use super::driver::{Arg, Gpu};
use super::images::tiles;
use super::{Cuda, CudaFloat, line};
use crate::backend::{Adam8Tensor, AdamStep, AdamTensor, Buffer, MOMENT_BLOCK};
use crate::error::Result;
use crate::random::{Purpose, Stream};
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

/// `Adam8Tensor` of cuda/adamw8.cu.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Tensor8 {
    param: u64,
    master: u64,
    m_codes: u64,
    m_scales: u64,
    v_codes: u64,
    v_scales: u64,
    grad: u64,
    len: i64,
    decay: f32,
    unused: f32,
}

const _: () = assert!(tiles::MOMENT_BLOCK == MOMENT_BLOCK);

/// A row of the kernels' table of tensors.
trait Entry: Pod + PartialEq {
    fn elements(&self) -> usize;
}
impl Entry for Tensor {
    fn elements(&self) -> usize {
        self.len as usize
    }
}
impl Entry for Tensor8 {
    fn elements(&self) -> usize {
        self.len as usize
    }
}

/// `AdamStep` of cuda/adam.cuh.
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

impl From<AdamStep> for Step {
    fn from(step: AdamStep) -> Step {
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(step.step as f64))) as f32;
        Step {
            lr: step.lr as f32,
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            eps: step.eps as f32,
            correction1: correction(step.beta1),
            correction2: correction(step.beta2),
            grad_scale: step.grad_scale as f32,
        }
    }
}

/// Bytes of partial sums and of [`Launch`]'s tables for tensors of so many elements, in the larger of their two forms.
pub fn table_bytes(lengths: &[usize]) -> usize {
    let runs: usize = lengths.iter().map(|len| len.div_ceil(tiles::ADAMW_RUN)).sum();
    let sums = tiles::SUM_BLOCKS * size_of::<f64>();
    lengths.len() * (size_of::<Tensor8>() + sums) + runs * size_of::<[u32; 2]>()
}

/// What stays on the device from step to step: partial sums, and the tables of the optimizer that runs.
pub struct Tables {
    partial: Mutex<Buf<f64>>,
    adamw: Mutex<Option<Launch<Tensor>>>,
    adamw8: Mutex<Option<Launch<Tensor8>>>,
}

/// The table of tensors, and of which block has which run of one.
struct Launch<T> {
    tensors: Vec<T>,
    blocks: usize,
    tensors_there: Buf<u8>,
    runs_there: Buf<u8>,
}

impl<T: Entry> Launch<T> {
    fn new(gpu: &Arc<Gpu>, tensors: Vec<T>) -> Result<Self> {
        let runs: Vec<[u32; 2]> = tensors
            .iter()
            .enumerate()
            .flat_map(|(t, tensor)| {
                let count = tensor.elements().div_ceil(tiles::ADAMW_RUN);
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

    /// The tables of `known` where they are of these tensors, else new ones in their place.
    fn of<'a>(known: &'a mut Option<Self>, gpu: &Arc<Gpu>, tensors: Vec<T>) -> Result<&'a Self> {
        let table = match known.take() {
            Some(table) if table.tensors == tensors => table,
            _ => Launch::new(gpu, tensors)?,
        };
        Ok(known.insert(table))
    }

    fn args(&self) -> [Arg; 2] {
        [self.tensors_there.arg(), self.runs_there.arg()]
    }
}

impl Tables {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let partial = Mutex::new(Buf::zeroed(gpu, tiles::SUM_BLOCKS)?);
        Ok(Tables { partial, adamw: Mutex::new(None), adamw8: Mutex::new(None) })
    }

    /// Partial sums by tensor and block, which are waited for once; each tensor's are added in order here.
    pub fn sum_squares(&self, gpu: &Arc<Gpu>, tensors: &[(&Buf<f32>, usize)]) -> Result<Vec<f64>> {
        if tensors.is_empty() {
            return Ok(Vec::new());
        }
        let mut partial = self.partial.lock().unwrap_or_else(|e| e.into_inner());
        let all = tensors.len() * tiles::SUM_BLOCKS;
        if partial.len() < all {
            *partial = Buf::zeroed(gpu, all)?;
        }
        for (i, (x, len)) in tensors.iter().enumerate() {
            let args = [partial.arg_at(i * tiles::SUM_BLOCKS), x.arg(), Arg::long(*len as i64)];
            gpu.launch("sum_squares", line(tiles::SUM_BLOCKS, tiles::SUM_THREADS), &args)?;
        }
        let mut sums = vec![0f64; all];
        gpu.download(bytemuck::cast_slice_mut(&mut sums), partial.at(0))?;
        Ok(sums.chunks_exact(tiles::SUM_BLOCKS).map(|sums| sums.iter().sum()).collect())
    }
}

impl<E: CudaFloat> Cuda<E> {
    pub(super) fn step(&self, tensors: &[AdamTensor<'_, Self>], step: AdamStep) -> Result<()> {
        let tensors = tensors
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
        self.launch_step("adamw", &self.optimizer.adamw, tensors, step, &[])
    }

    pub(super) fn step8(&self, tensors: &[Adam8Tensor<'_, Self>], step: AdamStep, seed: u64) -> Result<()> {
        let tensors = tensors
            .iter()
            .map(|t| Tensor8 {
                param: t.param.at(0),
                master: t.master.as_ref().map_or(0, |master| master.at(0)),
                m_codes: t.m.codes.at(0),
                m_scales: t.m.scales.at(0),
                v_codes: t.v.codes.at(0),
                v_scales: t.v.scales.at(0),
                grad: t.grad.at(0),
                len: t.param.len() as i64,
                decay: t.decay as f32,
                unused: 0.0,
            })
            .collect();
        // the counter's first two words are the kernel's: the draw and the tensor
        let ([low, high], [_, at_step, purpose]) =
            Stream::new(seed, Purpose::Rounding, step.step, 0).coordinates();
        let rounding = Arg::bytes(bytemuck::bytes_of(&[low, high, at_step, purpose]));
        self.launch_step("adamw8", &self.optimizer.adamw8, tensors, step, &[rounding])
    }

    /// Launches an optimizer's kernel: its tables, the step's numbers, and what it takes beside them.
    fn launch_step<T: Entry>(
        &self, kernel: &str, known: &Mutex<Option<Launch<T>>>, tensors: Vec<T>, step: AdamStep, more: &[Arg],
    ) -> Result<()> {
        let mut known = known.lock().unwrap_or_else(|e| e.into_inner());
        let launch = Launch::of(&mut known, &self.gpu, tensors)?;
        let numbers = Arg::bytes(bytemuck::bytes_of(&Step::from(step)));
        let args = [&launch.args()[..], &[numbers], more].concat();
        self.launch(kernel, line(launch.blocks, tiles::ADAMW_THREADS), &args)
    }
}
