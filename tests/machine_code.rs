//! What nvcc made of the kernels, read from the machine code with cuobjdump: no local memory anywhere, the share of tensor core
//! instructions in the main loops, 16-byte accesses in streaming kernels, room for two blocks of matmul on an SM. The table it
//! prints (`--nocapture`) is the one in docs/kernels.md.

#[path = "common/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHS: [&str; 2] = ["sm_80", "sm_90a"];

/// Instructions of one kernel for one architecture: address and text.
type Code = Vec<(u64, String)>;

/// The kernels of an image by architecture and name.
type Kernels = BTreeMap<(String, String), Code>;

fn tools() -> Option<PathBuf> {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cuda-toolchain/nvidia/cu13/bin");
    let there = bin.join("cuobjdump").is_file() && image("matmul").is_file();
    if !there {
        skip::skip_cuda("there is no cuobjdump or no image; scripts/install-nvcc and a new build make them");
    }
    there.then_some(bin)
}

fn image(name: &str) -> PathBuf {
    Path::new(env!("OUT_DIR")).join(format!("{name}.fatbin"))
}

/// Those of [`ARCHS`] that this build is for; the others are said.
fn built() -> Vec<&'static str> {
    let all = pose_engine::backend::cuda::architectures();
    let (built, not): (Vec<_>, Vec<_>) =
        ARCHS.into_iter().partition(|&arch| all.split(", ").any(|a| a == arch));
    for arch in not {
        skip::skip(&format!(
            "this build has no code for {arch}; POSE_CUDA_ARCHS={} makes it",
            ARCHS.join(",")
        ));
    }
    built
}

/// None without tools.
fn kernels(name: &str) -> Option<Kernels> {
    let bin = tools()?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let out =
        Command::new(bin.join("cuobjdump")).arg("-sass").arg(image(name)).env("PATH", path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (mut found, mut arch, mut kernel) = (Kernels::new(), String::new(), String::new());
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        if let Some(rest) = line.trim().strip_prefix("arch = ") {
            arch = rest.into();
        } else if let Some(rest) = line.trim().strip_prefix("Function : ") {
            kernel = rest.into();
        } else if let Some((address, text)) = instruction(line) {
            found.entry((arch.clone(), kernel.clone())).or_default().push((address, text));
        }
    }
    assert!(!found.is_empty(), "no machine code in {name}");
    Some(found)
}

fn code<'a>(found: &'a Kernels, kernel: &str, arch: &str) -> &'a Code {
    let code = found.get(&(arch.into(), kernel.into()));
    code.unwrap_or_else(|| panic!("{kernel} is not in its image for {arch}"))
}

/// `/*0010*/  IMAD R1, R2 ;  /* encoding */` as (0x10, "IMAD R1, R2 ").
fn instruction(line: &str) -> Option<(u64, String)> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    Some((u64::from_str_radix(address, 16).ok()?, rest.split_once(';')?.0.trim().to_string()))
}

/// `HMMA` of `@!P0 HMMA.16816.F32 ...`.
fn opcode(text: &str) -> &str {
    let text = if text.starts_with('@') { text.split_once(' ').map_or(text, |(_, rest)| rest) } else { text };
    text.split([' ', '.']).next().unwrap_or(text)
}

/// Instructions and HMMAs of the loop with the largest share of HMMA among the innermost ones that have `least`.
fn main_loop(code: &Code, least: usize) -> (usize, usize) {
    let place: BTreeMap<u64, usize> =
        code.iter().enumerate().map(|(i, (address, _))| (*address, i)).collect();
    let mut best = (1, 0);
    for (i, (address, text)) in code.iter().enumerate() {
        let target = text.split("0x").nth(1).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        let Some(first) = target.filter(|t| opcode(text) == "BRA" && t < address).and_then(|t| place.get(&t))
        else {
            continue;
        };
        let body = &code[*first..=i];
        let hmma = body.iter().filter(|(_, text)| opcode(text) == "HMMA").count();
        if hmma >= least && hmma * best.0 > best.1 * body.len() {
            best = (body.len(), hmma);
        }
    }
    best
}

/// Registers, static shared bytes of a kernel for an architecture, as ptxas said.
fn resources(kernel: &str, arch: &str) -> (usize, usize) {
    let table = std::fs::read_to_string(Path::new(env!("OUT_DIR")).join("resources.txt")).unwrap();
    let line = table.lines().find(|line| line.starts_with(&format!("{kernel} {arch} ")));
    let line = line.unwrap_or_else(|| panic!("{kernel} for {arch} is not in resources.txt"));
    let numbers: Vec<usize> = line.split(' ').skip(2).map(|n| n.parse().unwrap()).collect();
    (numbers[0], numbers[1])
}

/// A size that kernels and launches share.
fn tile(name: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/tiles.cuh");
    let table = std::fs::read_to_string(path).unwrap();
    let value =
        |line: &str| line.strip_prefix(&format!("constexpr int {name} = "))?.split(';').next()?.parse().ok();
    table.lines().find_map(value).unwrap_or_else(|| panic!("{name} is not in cuda/tiles.cuh"))
}

#[test]
fn no_kernel_touches_local_memory() {
    let mut seen = 0;
    let sources = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")).unwrap();
    for source in sources.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "cu")) {
        let Some(found) = kernels(source.file_stem().unwrap().to_str().unwrap()) else { return };
        for ((arch, kernel), code) in found {
            seen += 1;
            let local = code.iter().find(|(_, text)| matches!(opcode(text), "LDL" | "STL"));
            assert!(local.is_none(), "{kernel} for {arch}: {local:?}");
        }
    }
    assert!(seen > 100, "only {seen} kernels");
}

/// The share of tensor core instructions in a kernel's main loop on each architecture is at least this, in thousandths.
fn holds(image: &str, least_hmma: usize, expected: &[(&str, usize)]) {
    let Some(found) = kernels(image) else { return };
    let archs = built();
    for (kernel, least) in expected {
        for &arch in &archs {
            let (all, hmma) = main_loop(code(&found, kernel, arch), least_hmma);
            let (registers, shared) = resources(kernel, arch);
            println!(
                "| {kernel} | {arch} | {hmma} of {all} | {}% | {registers} | {shared} |",
                100 * hmma / all
            );
            assert!(1000 * hmma >= least * all, "{kernel} for {arch}: {hmma} of {all} instructions are HMMA");
        }
    }
}

#[test]
fn tensor_cores_have_half_of_the_products_main_loop() {
    holds("matmul", 64, &["matmul_nt_bf16", "matmul_nn_bf16", "matmul_tn_bf16"].map(|kernel| (kernel, 500)));
}

#[test]
fn tensor_cores_have_a_third_of_attentions_main_loop() {
    holds("attention_forward", 32, &[("attention_d128_bf16", 333)]);
    holds("attention_backward", 16, &[("attention_dq_d128_bf16", 333), ("attention_dkv_d128_bf16", 333)]);
}

#[test]
fn two_blocks_of_matmul_fit_on_an_sm() {
    const REGISTERS: usize = 65536;
    const SHARED: usize = 164 << 10;
    if tools().is_none() {
        return;
    }
    let (threads, dynamic, archs) = (tile("MATMUL_THREADS"), tile("MATMUL_SHARED_BYTES"), built());
    for kernel in ["matmul_nt_bf16", "matmul_nn_bf16", "matmul_tn_bf16"] {
        for &arch in &archs {
            let (registers, shared) = resources(kernel, arch);
            assert!(
                2 * threads * registers.next_multiple_of(8) <= REGISTERS,
                "{kernel} for {arch}: {registers} registers"
            );
            assert!(2 * (shared + dynamic + 1024) <= SHARED, "{kernel} for {arch}: {shared} bytes");
        }
    }
}

#[test]
fn streaming_kernels_go_by_16_bytes() {
    if tools().is_none() {
        return;
    }
    let archs = built();
    for (image, names) in [
        ("swiglu", &["swiglu_bf16", "swiglu_backward_bf16"][..]),
        ("scale", &["scale_bf16"]),
        ("gelu", &["gelu_bf16", "gelu_backward_bf16"]),
        ("norm", &["rmsnorm_bf16", "rmsnorm_backward_bf16"]),
        ("layernorm", &["layernorm_bf16", "layernorm_backward_bf16"]),
        ("unit", &["unit_rows_bf16", "unit_rows_backward_bf16"]),
        ("embed", &["embed_bf16"]),
        ("optim", &["adamw_bf16", "adamw_f32"]),
        ("adamw8", &["adamw8_bf16", "adamw8_f32"]),
        ("loss", &["cross_entropy_bf16", "add_bias_bf16"]),
        ("rope", &["rope_bf16"]),
    ] {
        let found = kernels(image).expect("the tools are there");
        for name in names {
            for arch in &archs {
                let code = code(&found, name, arch);
                let wide = |op: &str| code.iter().any(|(_, t)| opcode(t) == op && t.contains(".128"));
                // adamw finds its tensors by a table: pointers that are generic to the compiler
                let (loads, stores) = (["LDG", "LDGSTS", "LD"], ["STG", "ST"]);
                assert!(loads.into_iter().any(wide), "{name} for {arch} has no 16-byte load");
                assert!(stores.into_iter().any(wide), "{name} for {arch} has no 16-byte store");
            }
        }
    }
}
