//! `pose-engine devices`.

use super::common::{Common, Json};
use crate::backend::cpu::{Cpu, Isa};
use crate::backend::device::{NO_CUDA, threads_or_all};
use crate::error::Result;
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
    json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Devices {
    pub fn run(self) -> Result<()> {
        let cpu = Cpu::<half::bf16>::new(threads_or_all(self.common.threads))?;
        let found: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        outln!("cpu       usable: {} threads, kernels for {}", cpu.threads(), Isa::detect());
        outln!("          instruction sets found: {}", found.join(", "));
        let peaks = self.measure.then(|| cpu.measure_peak());
        if let Some(peaks) = &peaks {
            let (bf16, f32, gbs) = (peaks.bf16_gflops, peaks.f32_gflops, peaks.bandwidth_gbs);
            outln!("          peaks: {bf16:.0} GFLOP/s bf16, {f32:.0} GFLOP/s f32, {gbs:.1} GB/s");
        }
        outln!("cuda      not usable: {NO_CUDA}");
        self.json.write(&json!({
            "cpu": { "threads": cpu.threads(), "isa": Isa::detect().to_string(), "found": found,
                     "bf16_gflops": peaks.as_ref().map(|p| p.bf16_gflops), "f32_gflops": peaks.as_ref().map(|p| p.f32_gflops),
                     "bandwidth_gbs": peaks.as_ref().map(|p| p.bandwidth_gbs) },
            "cuda": { "usable": false, "why": NO_CUDA },
        }))
    }
}
