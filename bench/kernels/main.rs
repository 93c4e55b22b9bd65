//! Every operation at the shapes of SmolLM2-135M, LLaMA-7B and Llama-3-8B:
//! `cargo bench --bench kernels [-- NAME] [-- --device cuda:0]`.
//!
//! NAME picks groups: matmul, attention, head, elementwise. On a GPU a call is timed with the wait for its end, and the peaks
//! are those of the largest product and of a copy in the same run.

mod elementwise;
#[path = "../harness.rs"]
mod harness;
mod heavy;

use harness::{Table, random, time};
use pose_engine::backend::cpu::{Cpu, CpuFloat};
use pose_engine::backend::cuda::{Cuda, CudaFloat};
use pose_engine::backend::device::{Device, threads_or_all};
use pose_engine::backend::{Backend, MatmulShape};

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

fn group<B: Backend>(b: &B, table: &Table, shape: &Shape, tokens: usize, wanted: &dyn Fn(&str) -> bool) {
    println!("{}, {tokens} tokens", shape.name);
    if wanted("matmul") {
        heavy::matmul(b, table, shape, tokens);
    }
    if wanted("attention") {
        heavy::attention(b, table, shape, tokens);
    }
    if wanted("head") {
        heavy::head(b, table, shape, tokens);
    }
    if wanted("elementwise") {
        elementwise::all(b, table, shape, tokens);
    }
}

/// What the GPU does at most, measured: GFLOP/s of a product of 8192³, GB/s of a copy (read and written).
fn gpu_peaks<B: Backend>(b: &B) -> (f64, f64) {
    const SIDE: usize = 8192;
    let square = || random::<B, B::Act>(b, SIDE * SIDE);
    let (mut y, x, w) = (square(), square(), square());
    let s = MatmulShape { m: SIDE, n: SIDE, k: SIDE };
    let product = time(b, || b.matmul_nt(&mut y, &x, &w, None, None, s).expect("matmul_nt"));
    let copy = time(b, || b.copy(&mut y, 0, &x, 0, SIDE * SIDE).expect("copy"));
    let bytes = 2 * SIDE * SIDE * size_of::<B::Act>();
    (2.0 * (SIDE as f64).powi(3) / product.median / 1e9, bytes as f64 / copy.median / 1e9)
}

fn run_gpu<E: CudaFloat>(ordinal: usize, only: Option<&str>) -> pose_engine::error::Result<()> {
    let b = Cuda::<E>::new(ordinal)?;
    println!("\ncuda:{ordinal}, {}", b.description().name);
    let (gflops, gbs) = gpu_peaks(&b);
    let table = Table::against(E::NAME, gflops, gbs);
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
