//! Every operation at the shapes of SmolLM2-135M and LLaMA-7B: `cargo bench --bench kernels [-- NAME]`.
//!
//! NAME picks groups: matmul, attention, head, elementwise.

mod elementwise;
#[path = "../harness.rs"]
mod harness;
mod heavy;

use harness::Table;
use pose_engine::backend::Backend;
use pose_engine::backend::cpu::{Cpu, CpuFloat};
use pose_engine::backend::device::threads_or_all;

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

const SHAPES: [Shape; 2] = [
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

fn main() {
    // cargo passes --bench; anything else that does not begin with a dash names a group
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let threads = threads_or_all(0);
    run::<half::bf16>(threads, only.as_deref());
    run::<f32>(threads, only.as_deref());
}
