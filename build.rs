//! Compiles `cuda/*.cu` with nvcc into one image a file (machine code for each GPU generation, and PTX) and embeds them.
//!
//! nvcc is looked for in `POSE_NVCC`, `CUDA_HOME`, `PATH` and `target/cuda-toolchain` (`scripts/install-nvcc`). Without it the
//! build goes on for the CPU alone and says so. `POSE_CUDA=off` does not look, `POSE_CUDA=require` insists.
//! `POSE_CUDA_ARCHS` names the generations: `sm_80,sm_90a`, or `all`. A kernel that spills registers fails the build.
//!
//! Left in OUT_DIR: `images.rs` (the images, and tiles.cuh's sizes as constants) and `resources.txt` (a line for each kernel
//! and generation: registers, static shared bytes).

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What is compiled where no GPU tells otherwise; PTX for [`PTX`] comes with it.
const DEFAULT: &[&str] = &["sm_80", "sm_90a"];
const ALL: &[&str] = &["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];
const PTX: &str = "compute_80";

fn main() {
    println!("cargo:rustc-check-cfg=cfg(pose_cuda)");
    for name in ["POSE_CUDA", "POSE_NVCC", "POSE_CUDA_ARCHS", "CUDA_HOME", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cuda");
    if let Err(problem) = build() {
        eprintln!("{problem}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let wanted = std::env::var("POSE_CUDA").unwrap_or_default();
    if !matches!(wanted.as_str(), "" | "off" | "require") {
        return Err(format!("POSE_CUDA={wanted}: must be off, require or unset"));
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let nvcc = if wanted == "off" { None } else { find_nvcc(&out)? };
    let images = match &nvcc {
        Some(nvcc) => compile_all(nvcc, &out)?,
        None if wanted == "require" => {
            return Err("POSE_CUDA=require, but there is no nvcc in POSE_NVCC, CUDA_HOME, PATH or target/cuda-toolchain; \
                        scripts/install-nvcc fetches one"
                .into());
        }
        None => {
            if wanted != "off" {
                println!(
                    "cargo:warning=no nvcc: building for the CPU alone; scripts/install-nvcc fetches one"
                );
            }
            Vec::new()
        }
    };
    if nvcc.is_some() {
        println!("cargo:rustc-cfg=pose_cuda");
    }
    let source = embedded(&images)? + &tile_constants()?;
    std::fs::write(out.join("images.rs"), source).map_err(|e| format!("{}: {e}", out.display()))
}

/// The first nvcc there is. One that `POSE_NVCC` or `CUDA_HOME` names must exist.
fn find_nvcc(out: &Path) -> Result<Option<PathBuf>, String> {
    let named = std::env::var_os("POSE_NVCC").map(PathBuf::from);
    let home = std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    if let Some(nvcc) = named.or(home) {
        return if nvcc.is_file() {
            Ok(Some(nvcc))
        } else {
            Err(format!("{}: no nvcc there", nvcc.display()))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join("nvcc"));
    // OUT_DIR is <target>/<profile>/build/<package>/out, whatever <target> is
    let fetched = out.ancestors().map(|dir| dir.join("cuda-toolchain/nvidia/cu13/bin/nvcc"));
    let in_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cuda-toolchain/nvidia/cu13/bin/nvcc");
    Ok(in_path.chain(fetched).chain([in_root]).find(|nvcc| nvcc.is_file()))
}

/// The generations to make machine code for.
fn architectures() -> Vec<String> {
    let names = |list: &[&str]| list.iter().map(|a| a.to_string()).collect();
    match std::env::var("POSE_CUDA_ARCHS").as_deref() {
        Ok("all") => names(ALL),
        Ok(list) if !list.trim().is_empty() => list.split(',').map(|a| a.trim().to_string()).collect(),
        _ => own_gpu().map_or_else(|| names(DEFAULT), |arch| vec![arch]),
    }
}

/// This machine's GPU, as `sm_90a`; none that the kernels are not for, which need copies and products of sm_80.
fn own_gpu() -> Option<String> {
    let query = Command::new("nvidia-smi")
        .args(["--query-gpu=compute_cap", "--format=csv,noheader"])
        .output()
        .ok()?;
    let capability: String = String::from_utf8_lossy(&query.stdout).lines().next()?.trim().replace('.', "");
    let suffix = if capability == "90" { "a" } else { "" };
    let usable = capability.parse::<u32>().is_ok_and(|capability| capability >= 80);
    (query.status.success() && usable).then(|| format!("sm_{capability}{suffix}"))
}

struct Image {
    name: String,
    file: PathBuf,
    archs: Vec<String>,
}

/// All of `cuda/*.cu`, the longest first, on as many threads as cargo gives.
fn compile_all(nvcc: &Path, out: &Path) -> Result<Vec<Image>, String> {
    let mut sources: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("cuda").map_err(|e| format!("cuda: {e}"))? {
        let path = entry.map_err(|e| format!("cuda: {e}"))?.path();
        if path.extension().is_some_and(|e| e == "cu") {
            sources.push((path.metadata().map_or(0, |m| m.len()), path));
        }
    }
    sources.sort_by(|a, b| b.cmp(a));
    let archs = architectures();
    let queue: Mutex<VecDeque<PathBuf>> = Mutex::new(sources.into_iter().map(|(_, path)| path).collect());
    let done: Mutex<Vec<Result<(Image, String), String>>> = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap().pop_front();
    let threads = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(source) = next() {
                    let image = compile(nvcc, &source, &archs, out);
                    done.lock().unwrap().push(image);
                }
            });
        }
    });
    let mut images = done.into_inner().unwrap().into_iter().collect::<Result<Vec<_>, _>>()?;
    images.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let table: String = images.iter().map(|(_, resources)| resources.as_str()).collect();
    std::fs::write(out.join("resources.txt"), table).map_err(|e| format!("{}: {e}", out.display()))?;
    Ok(images.into_iter().map(|(image, _)| image).collect())
}

fn compile(nvcc: &Path, source: &Path, archs: &[String], out: &Path) -> Result<(Image, String), String> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let file = out.join(format!("{name}.fatbin"));
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-lineinfo", "-Werror", "all-warnings", "-Xptxas", "-v", "-fatbin"]);
    // as it is, so that any loader can read it
    command.arg("--compress-mode=none");
    for arch in archs {
        command.arg("-gencode").arg(format!("arch={},code={arch}", arch.replace("sm_", "compute_")));
    }
    command.arg("-gencode").arg(format!("arch={PTX},code={PTX}"));
    let run = command.arg(source).arg("-o").arg(&file).output();
    let run = run.map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        return Err(format!("nvcc refused {}:\n{said}", source.display()));
    }
    let resources = resources(&said).map_err(|e| format!("{}: {e}", source.display()))?;
    let archs = archs.iter().cloned().chain([PTX.to_string()]).collect();
    Ok((Image { name, file, archs }, resources))
}

/// What `ptxas -v` said, as a line for each kernel; an error where one spills or has a stack frame.
fn resources(said: &str) -> Result<String, String> {
    let (mut table, mut kernel) = (String::new(), String::new());
    for line in said.lines() {
        if let Some(rest) = line.split_once("entry function '").map(|(_, rest)| rest) {
            kernel = rest.replace("' for '", " ").trim_end_matches('\'').to_string();
        } else if line.contains("bytes stack frame") {
            if !line.trim().starts_with("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") {
                return Err(format!("{kernel} keeps registers in memory: {}", line.trim()));
            }
        } else if let Some((_, used)) = line.split_once("Used ") {
            let number = |unit: &str| {
                used.split(',')
                    .find(|part| part.contains(unit))
                    .and_then(|part| part.split_whitespace().next())
            };
            let registers = used.split_whitespace().next().unwrap_or("?");
            _ = writeln!(table, "{kernel} {registers} {}", number("bytes smem").unwrap_or("0"));
        }
    }
    Ok(table)
}

/// `images.rs`: what `backend/cuda` loads.
fn embedded(images: &[Image]) -> Result<String, String> {
    let mut text = String::from("pub static IMAGES: &[Image] = &[\n");
    for Image { name, file, archs } in images {
        _ = writeln!(
            text,
            "    Image {{ name: {name:?}, archs: &{archs:?}, bytes: include_bytes!({file:?}) }},"
        );
    }
    Ok(text + "];\n")
}

/// Each `constexpr int NAME = VALUE;` of cuda/tiles.cuh as a Rust constant, so that launches and kernels agree.
fn tile_constants() -> Result<String, String> {
    let tiles = std::fs::read_to_string("cuda/tiles.cuh").map_err(|e| format!("cuda/tiles.cuh: {e}"))?;
    let mut text = String::from("/// The sizes of `cuda/tiles.cuh`.\n#[allow(dead_code)]\npub mod tiles {\n");
    for line in tiles.lines() {
        let Some((name, rest)) = line.strip_prefix("constexpr int ").and_then(|l| l.split_once(" = ")) else {
            continue;
        };
        let value = rest.split(';').next().unwrap_or(rest);
        value.parse::<u32>().map_err(|e| format!("cuda/tiles.cuh: {name} = {value}: {e}"))?;
        _ = writeln!(text, "    pub const {name}: usize = {value};");
    }
    Ok(text + "}\n")
}
