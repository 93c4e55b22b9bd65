//! Programs that know softcuda as `libcuda.so.1` alone: NVIDIA's Python bindings, and a C program's calls by `dlsym`.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

/// libsoftcuda.so under the driver's name, in a directory of its own.
fn directory() -> tempfile::TempDir {
    let beside: PathBuf = std::env::current_exe().unwrap().parent().unwrap().into();
    let candidates = [beside.join("libsoftcuda.so"), beside.join("../libsoftcuda.so")];
    let library =
        candidates.iter().find(|path| path.is_file()).expect("libsoftcuda.so is built with the crate");
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(library.canonicalize().unwrap(), dir.path().join("libcuda.so.1")).unwrap();
    dir
}

fn scale_ptx(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/scale.cu");
    let file = dir.join("scale.ptx");
    std::fs::write(&file, common::compile(&source)?).unwrap();
    Some(file)
}

/// python3 with cuda-bindings, its own or those of scripts/install-nvcc.
fn python() -> Option<Command> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cuda-toolchain");
    let python = |code: &str| {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &fetched).args(if code.is_empty() { vec![] } else { vec!["-c", code] });
        command
    };
    if python("from cuda.bindings import driver").output().is_ok_and(|out| out.status.success()) {
        return Some(python(""));
    }
    common::skip::skip("python3 has no cuda-bindings; scripts/install-nvcc fetches them");
    None
}

fn run_bindings(settings: &[(&str, &str)]) -> Option<(bool, String)> {
    let dir = directory();
    let (mut command, ptx) = (python()?, scale_ptx(dir.path())?);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_bindings.py");
    command.arg(script).arg(ptx).env("LD_LIBRARY_PATH", dir.path()).envs(settings.iter().copied());
    let out = command.output().unwrap();
    let said = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Some((out.status.success(), said))
}

#[test]
fn nvidias_python_bindings_load_launch_and_copy() {
    if let Some((ok, said)) = run_bindings(&[]) {
        assert!(ok && said.contains("scaled 1000 numbers"), "{said}");
        assert!(!said.contains("softcuda:"), "{said}");
    }
}

#[test]
fn a_planted_fault_is_told_by_the_calls_after_it() {
    if let Some((ok, said)) = run_bindings(&[("SOFTCUDA_FAULT", "kernel:scale")]) {
        assert!(!ok && said.contains("softcuda: OutOfBounds: kernel scale"), "{said}");
        assert!(said.contains("700: b'an illegal memory access was encountered'"), "{said}");
    }
}

#[test]
fn the_report_has_every_launch_with_its_counters() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    let Some((ok, said)) = run_bindings(&[("SOFTCUDA_REPORT", file.to_str().unwrap())]) else { return };
    assert!(ok, "{said}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let launch = &report["launches"][0];
    assert_eq!(launch["kernel"], "scale");
    assert_eq!(launch["grid"], serde_json::json!([8, 1, 1]));
    // 1000 floats read and written: 4000 bytes each way, 125 sectors of 32 bytes
    assert_eq!(launch["loads"]["bytes"], 4000);
    assert_eq!(launch["stores"]["sectors"], 125);
    assert!(launch["warp_instructions_by_class"]["arithmetic"].as_u64().unwrap() > 0);
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["leaks"], serde_json::json!([]));
}
