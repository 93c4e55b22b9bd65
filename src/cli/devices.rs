//! `pose-engine devices`.

use super::common::{Common, Json};
use crate::backend::cpu::{Cpu, Isa};
use crate::backend::cuda;
use crate::backend::device::threads_or_all;
use crate::error::{Error, Result};
use crate::memory::bytes_text;
use clap::Args;
use serde_json::json;

/// Show what this build can run on, and why not on the rest
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pose-engine devices --measure")]
pub struct Devices {
    /// Measure this machine's multiply-add and memory peaks too (a few seconds)
    #[arg(long)]
    measure: bool,
    #[command(flatten)]
    pub json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Devices {
    pub fn run(self) -> Result<()> {
        let cpu = Cpu::<half::bf16>::new(threads_or_all(self.common.threads))?;
        let found: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        outln!("cpu       usable: {} threads, kernels for {}", cpu.threads(), cpu.isa());
        outln!("          instruction sets found: {}", found.join(", "));
        let peaks = self.measure.then(|| cpu.measure_peak());
        if let Some(peaks) = &peaks {
            let (bf16, f32, gbs) = (peaks.bf16_gflops, peaks.f32_gflops, peaks.bandwidth_gbs);
            outln!("          peaks: {bf16:.0} GFLOP/s bf16, {f32:.0} GFLOP/s f32, {gbs:.1} GB/s");
        }
        let gpus = cuda::count().and_then(|n| (0..n).map(cuda::describe).collect::<Result<Vec<_>>>());
        print_gpus(&gpus);
        self.json.write(&json!({
            "cpu": { "threads": cpu.threads(), "isa": cpu.isa().to_string(), "found": found,
                     "bf16_gflops": peaks.as_ref().map(|p| p.bf16_gflops), "f32_gflops": peaks.as_ref().map(|p| p.f32_gflops),
                     "bandwidth_gbs": peaks.as_ref().map(|p| p.bandwidth_gbs) },
            "cuda": gpus_json(&gpus),
        }))
    }
}

fn print_gpus(gpus: &Result<Vec<cuda::Description>>) {
    let gpus = match gpus {
        Ok(gpus) => gpus,
        Err(why) => return outln!("cuda      not usable: {}", said(why)),
    };
    for gpu in gpus {
        let ((major, minor), version) = (gpu.capability, gpu.driver_version);
        outln!(
            "cuda:{:<5}{}, compute capability {major}.{minor}, {}",
            gpu.ordinal,
            gpu.name,
            bytes_text(gpu.total_bytes)
        );
        outln!("          driver for CUDA {}.{}", version / 1000, version % 1000 / 10);
        match gpu.image {
            Some(image) => {
                outln!("          usable: image {image} of this build's {}", cuda::architectures())
            }
            None => outln!("          not usable: this build has {} alone", cuda::architectures()),
        }
    }
}

/// The reason alone: which device it is about is said by where it stands.
fn said(why: &Error) -> String {
    match why {
        Error::Device { problem, .. } => problem.clone(),
        other => other.to_string(),
    }
}

fn gpus_json(gpus: &Result<Vec<cuda::Description>>) -> serde_json::Value {
    match gpus {
        Err(why) => json!({ "usable": false, "why": said(why) }),
        Ok(gpus) => {
            let each = gpus.iter().map(|gpu| {
                json!({ "ordinal": gpu.ordinal, "name": gpu.name, "memory": gpu.total_bytes, "image": gpu.image,
                        "compute_capability": format!("{}.{}", gpu.capability.0, gpu.capability.1),
                        "driver_version": gpu.driver_version })
            });
            let usable = gpus.iter().any(|gpu| gpu.image.is_some());
            json!({ "usable": usable, "devices": each.collect::<Vec<_>>() })
        }
    }
}
