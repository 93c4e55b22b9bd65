//! Every operation at the shapes of SmolLM2-135M, LLaMA-7B and Llama-3-8B:
//! `cargo bench --bench kernels [-- NAME] [--shape SHAPE] [--device cuda:0] [--threads N] [--json]`.
//!
//! NAME picks groups: matmul, attention, kv, head, elementwise, and on a CPU limits (what products and decoding can reach at most, of
//! the first shape, for people alone); SHAPE is a part of a shape's name. On a GPU a call is timed by events, after its second-level
//! cache was overwritten, and the peaks are those of cuda/peak.cu and of a copy in the same run. `--features bench-cublas` times
//! cuBLAS beside this engine's products. `--json` prints an object a row.

mod elementwise;
#[path = "../harness.rs"]
mod harness;
mod heavy;
mod kv;
mod limits;

use harness::{Bench, Stopwatch, Table, run_on};
use pose_engine::backend::Element;
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

const GROUPS: [&str; 6] = ["matmul", "attention", "kv", "head", "elementwise", "limits"];

/// The command line; cargo adds --bench to it.
struct Flags {
    group: Option<String>,
    /// A part of a shape's name.
    shape: Option<String>,
    device: Device,
    threads: usize,
    json: bool,
}

impl Flags {
    fn parse() -> Flags {
        let mut flags = Flags { group: None, shape: None, device: Device::Cpu, threads: 0, json: false };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--shape" => flags.shape = Some(value(&arg, args.next())),
                "--device" => flags.device = value(&arg, args.next()),
                "--threads" => flags.threads = value(&arg, args.next()),
                "--json" => flags.json = true,
                "--bench" => {}
                _ if GROUPS.iter().any(|group| group.contains(&arg)) => flags.group = Some(arg),
                _ => {
                    eprintln!("{arg}: there is no such flag or group; groups are {}", GROUPS.join(", "));
                    std::process::exit(2);
                }
            }
        }
        flags
    }

    fn wants(&self, group: &str) -> bool {
        self.group.as_ref().is_none_or(|name| group.contains(name))
    }

    /// A 7B layer on a CPU takes seconds: fewer tokens show the same rates.
    fn tokens(&self, shape: &Shape) -> usize {
        match self.device {
            Device::Cuda(_) => 4096,
            _ if shape.hidden > 1000 => 512,
            _ => 2048,
        }
    }

    fn shapes(&self) -> impl Iterator<Item = &'static Shape> {
        SHAPES.iter().filter(|shape| self.shape.as_ref().is_none_or(|part| shape.name.contains(part)))
    }
}

fn value<T: std::str::FromStr<Err: std::fmt::Display>>(flag: &str, text: Option<String>) -> T {
    let text = text.unwrap_or_default();
    text.parse().unwrap_or_else(|problem| {
        eprintln!("{flag} {text}: {problem}");
        std::process::exit(2);
    })
}

fn groups<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, tokens: usize, flags: &Flags) {
    println!("{}, {tokens} tokens", shape.name);
    if flags.wants("matmul") {
        heavy::matmul(b, table, shape, tokens);
    }
    if flags.wants("attention") {
        heavy::attention(b, table, shape, tokens);
    }
    if flags.wants("kv") {
        kv::all(b, table, shape);
    }
    if flags.wants("head") {
        heavy::head(b, table, shape, tokens);
    }
    if flags.wants("elementwise") {
        elementwise::all(b, table, shape, tokens);
    }
}

impl Bench for Flags {
    fn run<B: Stopwatch>(&self, b: &B) {
        println!("\n{}", b.about());
        let table = Table::new(B::Act::NAME, &b.peaks(), self.json);
        for shape in self.shapes() {
            groups(b, &table, shape, self.tokens(shape), self);
        }
    }
}

fn main() {
    let flags = Flags::parse();
    if GROUPS[..5].iter().any(|group| flags.wants(group)) {
        run_on(flags.device, flags.threads, true, &flags);
    }
    if flags.wants("limits") && flags.device == Device::Cpu {
        limits::all::<half::bf16>(&SHAPES[0], threads_or_all(flags.threads));
        limits::all::<f32>(&SHAPES[0], threads_or_all(flags.threads));
    }
}
