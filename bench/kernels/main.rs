//! Every operation at the shapes of SmolLM2-135M, LLaMA-7B and Llama-3-8B:
//! `cargo bench --bench kernels [-- NAME] [-- --device cuda:0]`.
//!
//! NAME picks groups: matmul, attention, kv, head, elementwise. On a GPU a call is timed by events, after its second-level cache
//! was overwritten, and the peaks are those of cuda/peak.cu and of a copy in the same run. `--features bench-cublas` times
//! cuBLAS beside this engine's products.

mod elementwise;
#[path = "../harness.rs"]
mod harness;
mod heavy;
mod kv;

use harness::{Stopwatch, Table};
use pose_engine::backend::cpu::{Cpu, CpuFloat};
use pose_engine::backend::cuda::{Cuda, CudaFloat};
use pose_engine::backend::device::{Device, threads_or_all};

/// Sizes of a model whose operations are timed.
pub struct Shape {
    pub name: &'static str,
    pub hidden: usize,
    pub inner: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "SmolLM2-135M",
        hidden: 576,
        inner: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49152,
    },
    Shape {
        name: "LLaMA-7B",
        hidden: 4096,
        inner: 11008,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        vocab: 32000,
    },
    Shape {
        name: "Llama-3-8B",
        hidden: 4096,
        inner: 14336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128256,
    },
];

fn run<E: CpuFloat>(threads: usize, only: Option<&str>) {
    let b = Cpu::<E>::new(threads).expect("a CPU");
    println!("\ncpu, {} threads, {}", b.threads(), b.isa());
    let table = Table::new(E::NAME, &b.measure_peak());
    let wanted = |group: &str| only.is_none_or(|name| group.contains(name));
    for shape in &SHAPES {
        // a 7B layer on a CPU takes seconds: fewer tokens show the same rates
        let tokens = if shape.hidden > 1000 { 512 } else { 2048 };
        group(&b, &table, shape, tokens, &wanted);
    }
}

fn group<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, tokens: usize, wanted: &dyn Fn(&str) -> bool) {
    println!("{}, {tokens} tokens", shape.name);
    if wanted("matmul") {
        heavy::matmul(b, table, shape, tokens);
    }
    if wanted("attention") {
        heavy::attention(b, table, shape, tokens);
    }
    if wanted("kv") {
        kv::all(b, table, shape);
    }
    if wanted("head") {
        heavy::head(b, table, shape, tokens);
    }
    if wanted("elementwise") {
        elementwise::all(b, table, shape, tokens);
    }
}

fn run_gpu<E: CudaFloat>(ordinal: usize, only: Option<&str>) -> pose_engine::error::Result<()> {
    let b = Cuda::<E>::new(ordinal)?;
    println!("\ncuda:{ordinal}, {}", b.description().name);
    const ROUNDS: usize = 4096;
    let table = Table::new(E::NAME, &b.measure_peak(ROUNDS)?);
    for shape in &SHAPES {
        group(&b, &table, shape, 4096, &|group| only.is_none_or(|name| group.contains(name)));
    }
    Ok(())
}

fn main() {
    // cargo passes --bench; anything else that does not begin with a dash names a group
    let mut args = std::env::args().skip(1);
    let (mut only, mut device) = (None, Device::Cpu);
    while let Some(arg) = args.next() {
        if arg == "--device" {
            let name = args.next().unwrap_or_default();
            device = name.parse().unwrap_or_else(|problem| {
                eprintln!("--device {name}: {problem}");
                std::process::exit(2);
            });
        } else if !arg.starts_with('-') {
            only = Some(arg);
        }
    }
    let only = only.as_deref();
    if let Device::Cuda(n) = device {
        if let Err(problem) = run_gpu::<half::bf16>(n, only).and_then(|()| run_gpu::<f32>(n, only)) {
            eprintln!("{problem}");
            std::process::exit(1);
        }
        return;
    }
    let threads = threads_or_all(0);
    run::<half::bf16>(threads, only);
    run::<f32>(threads, only);
}
