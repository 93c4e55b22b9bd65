//! The real binary in a fresh directory: what it said is printed whenever an expectation is not met.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A directory of its own for one test, with text and a token cache in it.
pub struct Dir(TempDir);

/// What a command did.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    what: String,
}

impl Dir {
    /// With a.txt: 20000 bytes of words.
    pub fn new() -> Dir {
        let dir = Dir(tempfile::tempdir().unwrap());
        dir.write("a.txt", words(20_000));
        dir
    }

    /// With a model in m/ too: tiny, untrained but for one step.
    pub fn with_model() -> Dir {
        let dir = Dir::new();
        dir.run("train --preset tiny --data a.txt --train-len 32 --steps 1 --dtype f32 --quiet --out m").ok();
        dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; there are {:?}", path.display(), self.names()))
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// The lines of a .jsonl file.
    pub fn lines(&self, name: &str) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.read(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The metrics of a run but for what time says.
    pub fn metrics(&self, out: &str) -> Vec<serde_json::Value> {
        let mut lines = self.lines(&format!("{out}/metrics.jsonl"));
        for line in &mut lines {
            line.as_object_mut().unwrap().retain(|key, _| !key.contains("second"));
        }
        lines
    }

    /// The losses of a run's steps.
    pub fn losses(&self, out: &str) -> Vec<f64> {
        self.lines(&format!("{out}/metrics.jsonl")).iter().filter_map(|line| line["loss"].as_f64()).collect()
    }

    /// The steps of a run's checkpoints, ascending.
    pub fn checkpoints(&self, out: &str) -> Vec<u64> {
        let step = |name: &String| name.strip_prefix(&format!("{out}/checkpoint-"))?.parse().ok();
        self.names().iter().filter_map(step).collect()
    }

    /// Makes a finished run look as if it had been killed after the checkpoint of `step`.
    pub fn kill_after(&self, out: &str, step: u64) {
        for later in self.checkpoints(out).into_iter().filter(|&of| of > step) {
            std::fs::remove_dir_all(self.path(&format!("{out}/checkpoint-{later:06}"))).unwrap();
        }
        std::fs::remove_file(self.path(&format!("{out}/manifest.json"))).unwrap();
    }

    /// Everything in the directory and below, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        below(self.0.path(), "", &mut names);
        names.retain(|name| !name.starts_with("cache"));
        names.sort();
        names
    }

    /// The files of a model's directory, without the manifest that would betray a change.
    pub fn copy(&self, from: &str, to: &str) {
        std::fs::create_dir_all(self.path(to)).unwrap();
        let is_copied = |e: &std::fs::DirEntry| e.path().is_file() && e.file_name() != "manifest.json";
        for entry in std::fs::read_dir(self.path(from)).unwrap().flatten().filter(is_copied) {
            std::fs::copy(entry.path(), self.path(to).join(entry.file_name())).unwrap();
        }
    }

    /// The model of m as `to`, the numbers of some of its tensors changed, as from elsewhere.
    pub fn copy_with(&self, to: &str, changes: &[(&str, &dyn Fn(f32) -> f32)]) {
        self.copy("m", to);
        let mut bytes = self.read("m/model.safetensors");
        for (tensor, change) in changes {
            let (at, len) = {
                let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                let tensor = file.tensor(tensor).unwrap();
                assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
                (tensor.data().as_ptr() as usize - bytes.as_ptr() as usize, tensor.data().len())
            };
            for number in bytes[at..at + len].chunks_exact_mut(4) {
                let old = f32::from_le_bytes(number.try_into().unwrap());
                number.copy_from_slice(&change(old).to_le_bytes());
            }
        }
        self.write(&format!("{to}/model.safetensors"), bytes);
    }

    /// The binary with `args`, split at spaces.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pose-engine"));
        command.args(args.split_whitespace()).current_dir(self.0.path());
        command.env("POSE_CACHE", self.path("cache")).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &str) -> Ran {
        self.finish(self.command(args), args)
    }

    /// Runs a command that was changed beforehand.
    pub fn finish(&self, mut command: Command, what: &str) -> Ran {
        Ran::of(&command.output().unwrap(), what)
    }

    /// Starts the binary and leaves it running.
    pub fn start(&self, args: &str) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Ran {
    pub fn of(output: &Output, what: &str) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Ran { code: output.status.code(), stdout, stderr, what: what.into() }
    }

    /// What to print when an expectation is not met.
    pub fn all(&self) -> String {
        let Ran { code, stdout, stderr, what } = self;
        format!("command: pose-engine {what}\nstatus: {code:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        assert!(self.code == Some(0), "should have succeeded\n{}", self.all());
        self
    }

    /// Failed with `code` and one sentence, in which all of `parts` are.
    #[track_caller]
    pub fn refused(self, code: i32, parts: &[&str]) -> Ran {
        assert!(self.code == Some(code), "should have ended with status {code}\n{}", self.all());
        let errors: Vec<&str> = self.stderr.lines().filter(|l| l.starts_with("pose-engine: ")).collect();
        let last = self.stderr.lines().next_back().unwrap_or_default();
        assert!(errors.len() == 1 && errors[0] == last, "should end in one sentence\n{}", self.all());
        for part in parts {
            assert!(last.contains(part), "the sentence should have \"{part}\" in it\n{}", self.all());
        }
        assert!(!last.contains("panicked"), "{}", self.all());
        self
    }
}

fn below(dir: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            below(&entry.path(), &format!("{name}/"), names);
        }
        names.push(name);
    }
}

/// About `bytes` bytes of words, the same every time.
pub fn words(bytes: usize) -> String {
    const WORDS: [&str; 12] =
        ["the", "red", "fox", "ran", "over", "a", "hill", "and", "saw", "an", "old", "bridge"];
    let (mut text, mut state) = (String::new(), 1u64);
    while text.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        text += WORDS[(state >> 33) as usize % WORDS.len()];
        text.push(' ');
    }
    text
}
