//! A device in a test: buffers, arguments, launches.

#![allow(dead_code)]

pub mod isa;
#[path = "../../../common/skip.rs"]
pub mod skip;

use half::{bf16, f16};
use softcuda::{Counters, Fault, Launch, Memory, Module, Options, launch};
use std::path::{Path, PathBuf};
use std::process::Command;

/// nvcc as the build finds it; None where there is none, which is said.
pub fn nvcc() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fetched = root.join("target/cuda-toolchain/nvidia/cu13/bin/nvcc");
    let named = std::env::var_os("POSE_NVCC").map(PathBuf::from);
    let in_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|d| d.join("nvcc"))
        .collect::<Vec<_>>();
    let found = named.into_iter().chain(in_path).chain([fetched]).find(|p| p.is_file());
    if found.is_none() {
        skip::skip_cuda("there is no nvcc; scripts/install-nvcc fetches one");
    }
    found
}

/// The PTX of one of the project's kernel files.
pub fn ptx(name: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cuda");
    compile(&root.join(name))
}

pub fn compile(source: &Path) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.ptx");
    let run = Command::new(nvcc()?)
        .args(["-ptx", "-arch=compute_80", "-std=c++17", "-O3", "-lineinfo"])
        .arg(source)
        .arg("-o")
        .arg(&out)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Some(std::fs::read_to_string(out).unwrap())
}

pub struct Gpu {
    pub memory: Memory,
    pub module: Module,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg {
    Ptr(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl Gpu {
    pub fn new(ptx: &str) -> Gpu {
        let memory = Memory::new(1 << 28);
        let module = Module::load(ptx, &memory).unwrap();
        Gpu { memory, module }
    }

    pub fn bytes(&self, bytes: &[u8]) -> u64 {
        let at = self.memory.alloc(bytes.len().max(1) as u64).unwrap();
        self.memory.write(at, bytes).unwrap();
        at
    }

    pub fn bf16(&self, values: &[f32]) -> u64 {
        self.bytes(&values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn f16(&self, values: &[f32]) -> u64 {
        self.bytes(&values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn read_f16(&self, at: u64, n: usize) -> Vec<f32> {
        let mut bytes = vec![0; 2 * n];
        self.memory.read(at, &mut bytes).unwrap();
        bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }

    pub fn f32(&self, values: &[f32]) -> u64 {
        self.bytes(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn u32(&self, values: &[u32]) -> u64 {
        self.bytes(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn read_bf16(&self, at: u64, n: usize) -> Vec<f32> {
        let mut bytes = vec![0; 2 * n];
        self.memory.read(at, &mut bytes).unwrap();
        bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }

    pub fn read_f32(&self, at: u64, n: usize) -> Vec<f32> {
        let mut bytes = vec![0; 4 * n];
        self.memory.read(at, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub fn launch(
        &self, kernel: &str, grid: [u32; 3], block: u32, shared: u32, args: &[Arg],
    ) -> Result<Counters, Fault> {
        let kernel = self.module.kernels.get(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        assert_eq!(kernel.params.len(), args.len(), "arguments of {}", kernel.name);
        let mut params = vec![0u8; kernel.param_bytes as usize];
        for (p, arg) in kernel.params.iter().zip(args) {
            let word = match arg {
                Arg::Ptr(x) => x.to_le_bytes().to_vec(),
                Arg::Int(x) => x.to_le_bytes().to_vec(),
                Arg::Long(x) => x.to_le_bytes().to_vec(),
                Arg::Float(x) => x.to_le_bytes().to_vec(),
            };
            assert_eq!(word.len(), p.size as usize, "an argument of {}", kernel.name);
            params[p.offset as usize..][..word.len()].copy_from_slice(&word);
        }
        let l = Launch { kernel, grid, block: [block, 1, 1], dynamic_shared: shared, params: &params };
        launch(&self.memory, &l, &Options { max_instructions: Some(1 << 32), ..Options::default() })
    }
}

/// Numbers in (-1, 1) that bf16 holds exactly enough for products to be compared.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut z = seed;
    let mut next = || {
        z = z.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        bf16::from_f32((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0).to_f32()
    };
    (0..n).map(|_| next()).collect()
}

/// The largest difference; NaN counts as infinite.
pub fn worst(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference = |(g, w): (&f32, &f64)| {
        let d = (f64::from(*g) - w).abs();
        if d.is_nan() { f64::INFINITY } else { d }
    };
    got.iter().zip(want).map(difference).fold(0.0, f64::max)
}
