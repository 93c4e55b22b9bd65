//! The damage that happens to long runs, done on purpose: kills, full disks, flipped bits, two at once.
//!
//! `POSE_FAULTS=full cargo test --release --test faults` kills a hundred times instead of ten.

mod common;

use common::cli::{Dir, Ran, skip};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A save after every step, so that most of the time is spent in one.
const RUN: &str = "train --preset tiny --data a.txt --train-len 64 --target-len 256 --rope yarn --rope-factor 2 --batch 2 \
                   --lr 1e-3 --schedule cosine --save-every 1 --keep-last 2 --keep-every 16 --tensorboard --quiet";

fn checkpoints(dir: &Dir, out: &str) -> Vec<u64> {
    let steps = |n: &String| n.strip_prefix(&format!("{out}/checkpoint-"))?.parse().ok();
    dir.names().iter().filter_map(steps).collect()
}

/// A number below `n`: the same sequence in every run of the tests.
fn draw(state: &mut u64, n: u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 33) % n
}

fn wait_for(what: &str, child: &mut Child, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {what} after a minute");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_run_killed_at_random_moments_ends_in_the_same_bits() {
    let kills = if std::env::var("POSE_FAULTS").is_ok_and(|v| v == "full") { 100 } else { 10 };
    let dir = Dir::new();
    let start = Instant::now();
    dir.run(&format!("{RUN} --steps 40 --out whole")).ok();
    let longest = start.elapsed().as_millis() as u64;
    let whole = (dir.read("whole/model.safetensors"), dir.metrics("whole"));
    assert_eq!(checkpoints(&dir, "whole"), [16, 32, 39, 40]);

    let (mut state, mut killed, mut runs) = (7, 0, 0);
    while killed < kills {
        runs += 1;
        assert!(runs < kills + 20, "runs end before they are killed");
        let out = format!("run-{runs}");
        loop {
            let begun = dir.path(&format!("{out}/recipe.toml")).exists();
            let args = if begun {
                format!("train --resume --out {out} --quiet")
            } else {
                format!("{RUN} --steps 40 --out {out}")
            };
            let mut child = dir.start(&args);
            if killed < kills {
                std::thread::sleep(Duration::from_millis(draw(&mut state, longest)));
                let _ = child.kill();
            }
            let ran = Ran::of(&child.wait_with_output().unwrap(), &args);
            match ran.code {
                None => killed += 1,
                Some(_) => {
                    ran.ok();
                    break;
                }
            }
            // no reader meets half a checkpoint: what has its name is whole
            for step in checkpoints(&dir, &out) {
                dir.run(&format!("verify {out}/checkpoint-{step:06}")).ok();
            }
        }
        assert!(
            dir.read(&format!("{out}/model.safetensors")) == whole.0,
            "{out}: other weights after {killed} kills"
        );
        assert_eq!(dir.metrics(&out), whole.1, "{out}");
        assert_eq!(checkpoints(&dir, &out), [16, 32, 39, 40]);
        let leftovers: Vec<String> =
            dir.names().into_iter().filter(|n| n.starts_with(&format!("{out}/."))).collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
        std::fs::remove_dir_all(dir.path(&out)).unwrap();
    }
}

#[test]
fn a_second_signal_stops_at_once_and_leaves_the_checkpoint_whole() {
    let dir = Dir::new();
    let mut child = dir.start(&format!("{RUN} --steps 100k --out m"));
    wait_for("checkpoint", &mut child, || !checkpoints(&dir, "m").is_empty());
    for _ in 0..2 {
        // SAFETY: kill takes two numbers; the process is our child and not yet waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    }
    let ran = Ran::of(&child.wait_with_output().unwrap(), "train");
    assert_eq!(ran.code, Some(130), "{}", ran.all());
    dir.run("verify m").ok();
}

#[test]
fn a_second_process_is_refused_with_the_first_ones_number() {
    let dir = Dir::new();
    let mut first = dir.start(&format!("{RUN} --steps 100k --out m"));
    wait_for("checkpoint", &mut first, || !checkpoints(&dir, "m").is_empty());
    let process = format!("process {}, which started at 20", first.id());
    dir.run("train --resume --out m").refused(1, &["m: is in use by", &process]);
    dir.run(&format!("{RUN} --steps 40 --out m")).refused(1, &["m: is in use by", &process]);
    first.kill().unwrap();
    first.wait().unwrap();
    let steps = checkpoints(&dir, "m").into_iter().max().unwrap() + 1;
    let ran = dir.run(&format!("train --resume --out m --schedule cosine --steps {steps}"));
    // another end of the schedule is another run, but the lock no longer stands in the way
    ran.refused(2, &["--steps"]);
}

#[test]
fn any_flipped_bit_is_found_named_and_passed_over() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 3 --out m")).ok();
    dir.kill_after("m", 3);
    let files: Vec<String> = dir
        .names()
        .into_iter()
        .filter(|n| n.starts_with("m/checkpoint-000003/") && dir.path(n).is_file())
        .collect();
    assert!(files.len() >= 5, "{files:?}");
    let mut state = 3;
    for file in files {
        let whole = dir.read(&file);
        let mut flipped = whole.clone();
        let at = draw(&mut state, whole.len() as u64) as usize;
        flipped[at] ^= 1 << draw(&mut state, 8);
        dir.write(&file, &flipped);
        let name = if file.ends_with("manifest.json") { "checkpoint-000003" } else { file.as_str() };
        let ran = dir.run("verify m");
        assert_eq!(ran.code, Some(1), "{file}, byte {at}\n{}", ran.all());
        assert!(ran.stderr.contains(name) && ran.stdout.contains("BROKEN"), "{}", ran.all());
        let ran = dir.run("train --resume --out m --steps 3");
        assert!(
            ran.stderr.contains("passed over") && ran.stderr.contains("going on after step 2"),
            "{}",
            ran.all()
        );
        // as it was: the run ended at step 3 again, and its checkpoint replaced the broken one
        ran.ok();
        assert!(dir.read(&file) == whole, "{file} is not what it was");
        dir.kill_after("m", 3);
    }
}

/// A file system of its own, of `kib` KiB; None where this process may not mount one.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, kib: u64) -> Option<Tmpfs> {
        std::fs::create_dir(at).unwrap();
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Tmpfs(at.into())),
            _ => {
                skip("a tmpfs cannot be mounted by this user");
                None
            }
        }
    }

    fn remount(&self, how: &str) {
        let done =
            Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// KiB of one checkpoint of [`RUN`].
fn checkpoint_kib(dir: &Dir) -> u64 {
    dir.run(&format!("{RUN} --steps 1 --out one")).ok();
    let files = dir.names().into_iter().filter(|n| n.starts_with("one/checkpoint-000001/"));
    files.map(|n| dir.path(&n).metadata().unwrap().len()).sum::<u64>() / 1024
}

#[test]
fn a_full_disk_ends_a_run_with_its_checkpoint_whole() {
    let dir = Dir::new();
    let kib = checkpoint_kib(&dir);
    let Some(_disk) = Tmpfs::mount(&dir.path("disk"), 2 * kib) else { return };
    let ran = dir.run(&format!("{RUN} --steps 40 --out disk/m"));
    ran.refused(1, &["disk/m", "No space left on device"]);
    dir.run("verify disk/m").ok();
    assert_eq!(checkpoints(&dir, "disk/m"), [1]);
    assert!(!dir.names().iter().any(|n| n.starts_with("disk/m/.")), "{:?}", dir.names());
}

#[test]
fn a_run_that_was_asked_to_waits_for_space_and_ends_in_the_same_bits() {
    let dir = Dir::new();
    let kib = checkpoint_kib(&dir);
    dir.run(&format!("{RUN} --steps 40 --out whole")).ok();
    let Some(disk) = Tmpfs::mount(&dir.path("disk"), 8 * kib) else { return };
    let fill = |kib: u64| dir.write("disk/filler", vec![1; kib as usize * 1024]);
    fill(7 * kib);
    let args = format!("{RUN} --steps 40 --on-save-error retry --out disk/m").replace(" --quiet", "");
    let mut child = dir.start(&args);
    let mut said = child.stderr.take().unwrap();
    let mut told = String::new();
    let mut chunk = [0; 256];
    while !told.contains("the next step tries again") && !told.contains("trying again") {
        let n = said.read(&mut chunk).unwrap();
        assert!(n > 0, "the run ended\n{told}");
        told += &String::from_utf8_lossy(&chunk[..n]);
    }
    assert!(told.contains("No space left on device"), "{told}");
    std::fs::remove_file(dir.path("disk/filler")).unwrap();
    said.read_to_string(&mut told).unwrap();
    assert!(child.wait().unwrap().success(), "{told}");
    assert!(dir.read("disk/m/model.safetensors") == dir.read("whole/model.safetensors"));
    assert_eq!(dir.metrics("disk/m"), dir.metrics("whole"));
    drop(disk);
}

#[test]
fn a_directory_that_cannot_be_written_is_said_before_any_step() {
    let dir = Dir::new();
    let Some(disk) = Tmpfs::mount(&dir.path("disk"), 8192) else { return };
    disk.remount("ro");
    dir.run(&format!("{RUN} --steps 40 --out disk/m")).refused(1, &["disk/m", "Read-only file system"]);
}

#[test]
fn everything_works_without_a_network() {
    let dir = Dir::new();
    // a network namespace of its own, in which not even the loopback is up
    let within = |args: &str| {
        let mut command = dir.command(args);
        let mut outer = Command::new("unshare");
        outer.args(["--map-root-user", "--net", "--"]).arg(command.get_program()).args(command.get_args());
        outer.current_dir(dir.path(".")).env("POSE_CACHE", dir.path("cache"));
        command = outer;
        dir.finish(command, args)
    };
    if !Command::new("unshare").args(["--map-root-user", "--net", "true"]).status().is_ok_and(|s| s.success())
    {
        return skip("this user may not make a network namespace");
    }
    within(&format!("{RUN} --steps 2 --out m")).ok();
    within("verify m").ok();
    within("eval-ppl --model m --data a.txt --windows 64 --tokens 256 --quiet").ok();
    within("generate --model m --prompt the --max-new-tokens 4 --quiet").ok();
}

/// Makes a command's disk fail, as tests/faulty says.
fn faulty(mut command: Command, how: &str) -> Command {
    // cargo leaves a dependency's shared library next to the test's executable
    let library = std::env::current_exe().unwrap().parent().unwrap().join("libfaulty.so");
    assert!(library.is_file(), "{} is missing", library.display());
    command.env("LD_PRELOAD", library).env("FAULTY", how);
    command
}

#[test]
fn short_writes_and_reads_change_nothing() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 3 --out whole")).ok();
    for call in ["write", "read"] {
        let args = format!("{RUN} --steps 3 --out {call}");
        dir.finish(faulty(dir.command(&args), &format!("{call} short 0 {}", dir.path("").display())), &args)
            .ok();
        assert!(
            dir.read(&format!("{call}/model.safetensors")) == dir.read("whole/model.safetensors"),
            "{call}"
        );
        dir.run(&format!("verify {call}")).ok();
    }
}

#[test]
fn a_device_that_fails_is_said_and_costs_one_checkpoint() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 5 --out whole")).ok();
    for (i, (fault, said)) in [
        ("write eio 0 checkpoint-000003", "writing"),
        ("write enospc 2 checkpoint-000003", "No space left"),
        ("fsync eio 0 checkpoint-000003", "forcing to disk"),
        ("fsync eio 2 checkpoint-000003", "Input/output error"),
        ("read eio 0 checkpoint-000003", "Input/output error"),
    ]
    .into_iter()
    .enumerate()
    {
        let args = format!("{RUN} --steps 5 --out m{i}");
        let ran =
            dir.finish(faulty(dir.command(&args), fault), &args).refused(1, &["checkpoint-000003", said]);
        assert_eq!(checkpoints(&dir, &format!("m{i}")), [1, 2], "{}", ran.all());
        dir.run(&format!("verify m{i}")).ok();
        dir.run(&format!("train --resume --out m{i} --quiet")).ok();
        assert!(
            dir.read(&format!("m{i}/model.safetensors")) == dir.read("whole/model.safetensors"),
            "{fault}"
        );
    }
}

#[test]
fn a_text_or_a_model_that_cannot_be_read_is_said() {
    let dir = Dir::with_model();
    for (args, fault, file) in [
        ("eval-ppl --model m --windows 32 --data a.txt", "read eio 0 a.txt", "a.txt"),
        ("eval-ppl --model m --windows 32 --data a.txt", "read eio 0 model.safetensors", "model.safetensors"),
        ("generate --model m --prompt x", "read eio 0 config.json", "config.json"),
    ] {
        dir.finish(faulty(dir.command(args), fault), args).refused(1, &[file, "Input/output error"]);
    }
}

#[test]
fn a_model_that_vanishes_while_it_is_trained_is_said_at_the_next_save() {
    let dir = Dir::with_model();
    let args = "train --model m --data a.txt --train-len 64 --steps 100k --save-every 1 --keep-last 2 --quiet --out o";
    let mut child = dir.start(args);
    wait_for("checkpoint", &mut child, || !checkpoints(&dir, "o").is_empty());
    std::fs::rename(dir.path("m"), dir.path("gone")).unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap(), args).refused(1, &["m: is gone", "put it back"]);
    let last = *checkpoints(&dir, "o").last().expect("a checkpoint is left");
    dir.run(&format!("verify o/checkpoint-{last:06}")).ok();
    assert!(dir.path(&format!("o/checkpoint-{last:06}/tokenizer.json")).exists(), "{}", ran.all());
}

#[test]
fn a_clock_that_goes_backwards_does_no_harm() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 3 --out whole")).ok();
    let args = format!("{RUN} --steps 3 --eval-data a.txt --eval-every 1 --eval-tokens 64 --out m");
    dir.finish(faulty(dir.command(&args), "clock back 0 -"), &args).ok();
    assert!(dir.read("m/model.safetensors") == dir.read("whole/model.safetensors"));
    dir.run("verify m").ok();
    let seconds =
        |line: &serde_json::Value| line["seconds"].as_f64().is_none_or(|s| (0.0..60.0).contains(&s));
    assert!(dir.lines("m/metrics.jsonl").iter().all(seconds), "a step's time is not the wall clock's");
    dir.kill_after("m", 2);
    let args = "train --resume --out m --quiet";
    dir.finish(faulty(dir.command(args), "clock back 0 -"), args).ok();
    assert!(dir.read("m/model.safetensors") == dir.read("whole/model.safetensors"));
    dir.run("report m --out page.html").ok();
}
