//! From `--device`, `--dtype` and `--threads` to a backend.

use super::Backend;
use super::cpu::Cpu;
use super::cuda::{self, Cuda};
use crate::error::Result;

/// What weights and activations are stored as.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// bf16 storage, f32 sums, master weights and moments.
    #[default]
    Bf16,
    /// All in f32.
    F32,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The GPU when there is one that this build can use, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
}

impl std::str::FromStr for Device {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Device::Cuda)
                .ok_or_else(|| "must be auto, cpu or cuda:N, as in cuda:0".to_string()),
        }
    }
}

/// Work that runs on whichever backend was chosen.
pub trait Job {
    type Out;
    fn run<B: Backend>(self, backend: &B) -> Result<Self::Out>;
}

/// `threads`, or one for each core where it is 0.
pub fn threads_or_all(threads: usize) -> usize {
    if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads }
}

/// Runs `job` on the backend for the device and dtype. `threads`: 0 for all cores.
pub fn dispatch<J: Job>(device: Device, dtype: DType, threads: usize, job: J) -> Result<J::Out> {
    let threads = threads_or_all(threads);
    let ordinal = match device {
        Device::Cpu => None,
        Device::Cuda(n) => Some(n),
        Device::Auto => {
            cuda::describe(0).ok().filter(|found| found.image.is_some()).map(|found| found.ordinal)
        }
    };
    match (ordinal, dtype) {
        (Some(n), DType::Bf16) => job.run(&Cuda::<half::bf16>::new(n)?),
        (Some(n), DType::F32) => job.run(&Cuda::<f32>::new(n)?),
        (None, DType::Bf16) => job.run(&Cpu::<half::bf16>::new(threads)?),
        (None, DType::F32) => job.run(&Cpu::<f32>::new(threads)?),
    }
}
