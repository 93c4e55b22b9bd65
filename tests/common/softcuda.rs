//! The CUDA driver in software: where it is, and how a test runs under it.

#[path = "skip.rs"]
mod skip;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set in a process that was started to run one test under softcuda.
const INSIDE: &str = "POSE_TEST_INSIDE_SOFTCUDA";

/// A directory with libcuda.so.1, which is softcuda; None where the kernels were not compiled, which is said.
pub fn directory() -> Option<PathBuf> {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    if pose_engine::backend::cuda::architectures().is_empty() {
        skip::skip_cuda("this build has no kernels; scripts/install-nvcc and a new build make them");
        return None;
    }
    let made = MADE.get_or_init(|| {
        // cargo leaves a dependency's shared library next to the test's executable
        let beside = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
        let library = beside.join("libsoftcuda.so");
        assert!(library.is_file(), "{} is missing", library.display());
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("softcuda-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["libcuda.so", "libcuda.so.1"] {
            let link = dir.join(name);
            if !link.exists() {
                std::os::unix::fs::symlink(&library, link).unwrap();
            }
        }
        dir
    });
    Some(made.clone())
}

/// Makes a command find softcuda as the CUDA driver; `POSE_TEST_DRIVER=real` leaves it the machine's own.
pub fn under(mut command: Command) -> Option<Command> {
    let softcuda = directory()?;
    if std::env::var("POSE_TEST_DRIVER").as_deref() != Ok("real") {
        command.env("LD_LIBRARY_PATH", softcuda);
    }
    Some(command)
}

/// Whether this process is the one that runs the test. Else it starts that one, with the test of this name alone, and fails
/// where it fails or where softcuda found anything.
#[allow(dead_code)]
pub fn inside(test: &str) -> bool {
    inside_with(test, &[]) == Where::Inside
}

/// Where a test goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)]
pub enum Where {
    /// Under softcuda.
    Inside,
    /// In the process that started the other, which is done and found nothing.
    Done,
    /// There are no kernels to test.
    Skipped,
}

/// [`inside`], with more environment variables for softcuda.
pub fn inside_with(test: &str, env: &[(&str, &Path)]) -> Where {
    if std::env::var_os(INSIDE).is_some() {
        return Where::Inside;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(INSIDE, "1").envs(env.iter().copied());
    let Some(mut command) = under(command) else { return Where::Skipped };
    let out = command.output().unwrap();
    let said = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(out.status.success(), "{said}");
    assert!(said.contains("1 passed"), "no test {test} in this file: {said}");
    assert!(!said.contains("softcuda:"), "softcuda found something: {said}");
    Where::Done
}
