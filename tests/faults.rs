//! The damage that happens to long runs, done on purpose: kills, full disks, flipped bits, two at once.
//!
//! `POSE_FAULTS=full cargo test --release --test faults` kills and interrupts a hundred times each instead of ten.

mod common;

use common::cli::{Dir, Ran};
use common::skip::skip;
use pose_engine::train::events::Event;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A save after every step, so that most of the time is spent in one.
const RUN: &str = "train --preset tiny --data a.txt --train-len 64 --target-len 256 --rope yarn --rope-factor 2 --batch 2 \
                   --lr 1e-3 --schedule cosine --save-every 1 --keep-last 2 --keep-every 16 --tensorboard --quiet";

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

/// The directories in which the process `id` is making checkpoints right now, or was when it died.
fn in_the_making(dir: &Dir, out: &str, id: u32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir.path(out)) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|n| n.starts_with(".checkpoint-") && n.ends_with(&format!(".tmp-{id}"))).collect()
}

fn ended(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

/// Sends a child a signal.
fn signal(child: &Child, signal: i32) {
    // SAFETY: kill takes two numbers; the process is our child and not yet waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Reads the checkpoints that have their names, over and over, while a run makes and removes them.
struct Reader {
    done: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Reader {
    fn of(out: PathBuf) -> Reader {
        let done = Arc::new(AtomicBool::new(false));
        let seen = done.clone();
        let thread = std::thread::spawn(move || {
            let inode = |path: &Path| path.metadata().ok().map(|m| m.ino());
            let mut whole = 0;
            while !seen.load(Ordering::Relaxed) {
                for (_, path) in pose_engine::checkpoint::checkpoints(&out).unwrap() {
                    let before = inode(&path);
                    match pose_engine::checkpoint::verify(&path) {
                        Ok(_) => whole += 1,
                        // it may have been removed, or replaced, while we read it
                        Err(error) => {
                            assert!(before.is_none() || inode(&path) != before, "a reader met: {error}")
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            whole
        });
        Reader { done, thread }
    }

    /// How many it met; all were whole.
    fn stop(self) -> usize {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Sends the processes of runs one of `signals` after the other, at random moments and every second time in the middle of a save.
struct Stopper<'a> {
    signals: &'a [i32],
    /// How often it is to stop one.
    stops: usize,
    /// Milliseconds that a run takes if nothing stops it.
    longest: u64,
    random: u64,
    stopped: usize,
    within_a_save: usize,
}

impl Stopper<'_> {
    /// Starts a run, or goes on with it, and stops it; whether it came to its end all the same.
    fn lets_finish(&mut self, dir: &Dir, out: &str) -> bool {
        let begun = dir.path(&format!("{out}/recipe.toml")).exists();
        let args = if begun {
            format!("train --resume --out {out} --quiet")
        } else {
            format!("{RUN} --steps 40 --out {out}")
        };
        let mut child = dir.start(&args);
        let (id, sent) = (child.id(), self.signals[self.stopped % self.signals.len()]);
        if self.stopped < self.stops {
            self.wait(dir, out, &mut child);
            if !ended(&mut child) {
                signal(&child, sent);
            }
        }
        let output = child.wait_with_output().unwrap();
        let ran = Ran::of(&output, &args);
        match (ran.code, output.status.signal()) {
            (None, Some(libc::SIGKILL)) => {
                self.stopped += 1;
                self.within_a_save += usize::from(!in_the_making(dir, out, id).is_empty());
            }
            // before it had begun to listen for signals
            (None, Some(by)) => assert!(by == sent && ran.stderr.is_empty(), "{}", ran.all()),
            (Some(130), _) => {
                self.stopped += 1;
                left_the_checkpoint_that_it_names(dir, out, ran);
            }
            _ => {
                ran.ok();
                return true;
            }
        }
        false
    }

    fn wait(&mut self, dir: &Dir, out: &str, child: &mut Child) {
        std::thread::sleep(Duration::from_millis(draw(&mut self.random, self.longest)));
        let into_a_save = (self.stopped / self.signals.len()) % 2 == 1;
        while into_a_save && in_the_making(dir, out, child.id()).is_empty() && !ended(child) {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// An interrupted run says after which step, and has a checkpoint of that step and nothing half-written.
fn left_the_checkpoint_that_it_names(dir: &Dir, out: &str, ran: Ran) {
    let ran = ran.refused(130, &["interrupted after step", "of 40", "--resume"]);
    let step = ran.stderr.split("after step ").nth(1).and_then(|rest| rest.split(' ').next());
    let step = step.and_then(|step| step.parse().ok()).expect("a step");
    assert_eq!(dir.checkpoints(out).last(), Some(&step), "{}", ran.all());
    assert_eq!(hidden(dir, out), [""; 0], "{}", ran.all());
}

/// A run of 40 steps left what the one in `whole` did, to the bit.
fn ended_as_the_whole_one(dir: &Dir, out: &str) {
    let weights = |out: &str| dir.read(&format!("{out}/model.safetensors"));
    assert!(weights(out) == weights("whole"), "{out}: other weights");
    assert_eq!(dir.metrics(out), dir.metrics("whole"), "{out}");
    assert_eq!(steps_of(&events(dir, out)), (0..=40).collect::<Vec<_>>(), "{out}: the event file");
    assert_eq!(dir.checkpoints(out), [16, 32, 39, 40]);
    assert_eq!(hidden(dir, out), [""; 0]);
}

/// Runs that are stopped and resumed until that was done `stops` times; all end in the same bits. Returns how many were stopped
/// within a save.
fn stopped_over_and_over(signals: &[i32], stops: usize) -> usize {
    let dir = Dir::new();
    let start = Instant::now();
    dir.run(&format!("{RUN} --steps 40 --out whole")).ok();
    let longest = start.elapsed().as_millis() as u64;
    assert_eq!(dir.checkpoints("whole"), [16, 32, 39, 40]);

    let mut stopper = Stopper { signals, stops, longest, random: 7, stopped: 0, within_a_save: 0 };
    let (mut read, mut runs) = (0, 0);
    while stopper.stopped < stops {
        runs += 1;
        assert!(runs < stops + 20, "runs end before they are stopped");
        let out = format!("run-{runs}");
        let reader = Reader::of(dir.path(&out));
        while !stopper.lets_finish(&dir, &out) {
            // no reader meets half a checkpoint: what has its name is whole
            for step in dir.checkpoints(&out) {
                dir.run(&format!("verify {out}/checkpoint-{step:06}")).ok();
            }
        }
        read += reader.stop();
        ended_as_the_whole_one(&dir, &out);
        std::fs::remove_dir_all(dir.path(&out)).unwrap();
    }
    assert!(read >= stops, "the reader met {read} checkpoints");
    stopper.within_a_save
}

/// What lies in a run's directory under a hidden name.
fn hidden(dir: &Dir, out: &str) -> Vec<String> {
    dir.names().into_iter().filter(|n| n.starts_with(&format!("{out}/."))).collect()
}

/// How often a run is stopped: in the short form 10 times, in the full one 100.
fn stops() -> usize {
    if std::env::var("POSE_FAULTS").is_ok_and(|v| v == "full") { 100 } else { 10 }
}

#[test]
fn a_run_killed_at_random_moments_ends_in_the_same_bits() {
    let within_a_save = stopped_over_and_over(&[libc::SIGKILL], stops());
    println!("{within_a_save} of {} kills came within a save", stops());
    assert!(within_a_save >= stops() / 10, "only {within_a_save} kills came within a save");
}

#[test]
fn a_run_interrupted_at_random_moments_ends_in_the_same_bits() {
    stopped_over_and_over(&[libc::SIGINT, libc::SIGTERM], stops());
}

/// The save of step 2 takes minutes, as on a disk that hangs: the first signal waits for it, the second does not.
#[test]
fn a_second_signal_stops_at_once_and_leaves_the_checkpoint_whole() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 4 --out whole")).ok();
    for sent in [libc::SIGINT, libc::SIGTERM] {
        let out = format!("m{sent}");
        let args = format!("{RUN} --steps 4 --out {out}");
        let mut command = faulty(dir.command(&args), "fsync slow 0 .checkpoint-000002.tmp");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let id = child.id();
        wait_for("save", &mut child, || {
            in_the_making(&dir, &out, id).iter().any(|n| n.starts_with(".checkpoint-000002"))
        });
        signal(&child, sent);
        // two that come at once may be one; the program says when it has met the first
        let mut told = String::new();
        let mut said = child.stderr.take().unwrap();
        let mut chunk = [0; 256];
        while !told.contains("once more stops at once") {
            let n = said.read(&mut chunk).unwrap();
            assert!(n > 0, "the first signal ended the run\n{told}");
            told += &String::from_utf8_lossy(&chunk[..n]);
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none(), "the first signal ended the run\n{told}");
        let start = Instant::now();
        signal(&child, sent);
        let status = child.wait().unwrap();
        said.read_to_string(&mut told).unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "the second signal waited for the save");
        assert_eq!(status.code(), Some(130), "{told}");
        assert!(!told.contains("interrupted after step"), "{told}");
        assert_eq!(dir.checkpoints(&out), [1], "{told}");
        dir.run(&format!("verify {out}")).ok();
        let ran = dir.run(&format!("train --resume --out {out}")).ok();
        assert!(ran.stderr.contains("going on after step 1 "), "{}", ran.all());
        assert!(dir.read(&format!("{out}/model.safetensors")) == dir.read("whole/model.safetensors"));
        assert_eq!(hidden(&dir, &out), [""; 0]);
    }
}

#[test]
fn a_second_process_is_refused_with_the_first_ones_number() {
    let dir = Dir::new();
    let mut first = dir.start(&format!("{RUN} --steps 100k --out m"));
    wait_for("checkpoint", &mut first, || !dir.checkpoints("m").is_empty());
    let process = format!("process {}, which started at 20", first.id());
    dir.run("train --resume --out m").refused(1, &["m: is in use by", &process]);
    dir.run(&format!("{RUN} --steps 40 --out m")).refused(1, &["m: is in use by", &process]);
    first.kill().unwrap();
    first.wait().unwrap();
    let steps = dir.checkpoints("m").into_iter().max().unwrap() + 1;
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
    assert_eq!(dir.checkpoints("disk/m"), [1]);
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

#[test]
fn no_command_makes_a_socket() {
    const OURS: &str = "POSE_TEST_SOCKET";
    if std::env::var_os(OURS).is_some() {
        drop(std::net::TcpListener::bind("127.0.0.1:0"));
        return;
    }
    let dir = Dir::new();
    let within = |args: &str| dir.finish(faulty(dir.command(args), "socket exit 0 -"), args);
    // what makes one is ended, whether or not it may have it
    let mut ours = faulty(Command::new(std::env::current_exe().unwrap()), "socket exit 0 -");
    ours.args(["--exact", "no_command_makes_a_socket", "--nocapture"]).env(OURS, "1");
    let ran = dir.finish(ours, "this test");
    assert!(ran.code == Some(99) && ran.stderr.contains("faulty: socket was called"), "{}", ran.all());
    within(&format!("{RUN} --steps 2 --eval-data a.txt --eval-tokens 64 --out m")).ok();
    within("train --resume --out m").ok();
    within("verify m").ok();
    within("eval-ppl --model m --data a.txt --windows 64 --tokens 256 --quiet").ok();
    within("eval-passkey --model m --lengths 300 --trials 1 --quiet").ok();
    within("generate --model m --prompt the --max-new-tokens 4 --quiet").ok();
    within("report m --out page.html").ok();
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/llama.gguf");
    within(&format!("import {} --out imported", gguf.display())).ok();
}

/// Makes a command's disk fail, as tests/faulty says.
fn faulty(mut command: Command, how: &str) -> Command {
    // cargo leaves a dependency's shared library next to the test's executable
    let library = std::env::current_exe().unwrap().parent().unwrap().join("libfaulty.so");
    assert!(library.is_file(), "{} is missing", library.display());
    command.env("LD_PRELOAD", library).env("FAULTY", how);
    command
}

/// What a command did whose disk failed so, and how many calls went wrong, which were some.
#[track_caller]
fn under(dir: &Dir, how: &str, args: &str) -> (Ran, u64) {
    let count = dir.path("count");
    let _ = std::fs::remove_file(&count);
    let mut command = faulty(dir.command(args), how);
    command.env("FAULTY_COUNT", &count);
    let ran = dir.finish(command, args);
    let wrong = std::fs::read_to_string(&count).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    assert!(wrong > 0, "{how}: no call went wrong\n{}", ran.all());
    (ran, wrong)
}

#[test]
fn short_writes_and_reads_change_nothing() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 3 --out whole")).ok();
    for call in ["write", "read"] {
        let args = format!("{RUN} --steps 3 --out {call}");
        let (ran, short) = under(&dir, &format!("{call} short 0 {}", dir.path("").display()), &args);
        // a checkpoint alone is written and hashed in more
        assert!(short > 100, "only {short} calls of {call} were short\n{}", ran.all());
        ran.ok();
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
    for (i, (fault, parts, left)) in [
        ("write eio 0 checkpoint-000003", ["checkpoint-000003", "writing"], &[1, 2][..]),
        ("write enospc 2 checkpoint-000003", ["checkpoint-000003", "No space left"], &[1, 2]),
        ("fsync eio 0 checkpoint-000003", ["checkpoint-000003", "forcing to disk"], &[1, 2]),
        ("fsync eio 2 checkpoint-000003", ["checkpoint-000003", "Input/output error"], &[1, 2]),
        ("read eio 0 checkpoint-000003", ["checkpoint-000003", "Input/output error"], &[1, 2]),
        // a predecessor that is to be moved aside, and the checkpoint that is to get its name
        ("rename eio 0 checkpoint-000003", ["checkpoint-000003", "renaming the finished directory"], &[1, 2]),
        ("rename eio 1 checkpoint-000003", ["checkpoint-000003", "renaming the finished directory"], &[1, 2]),
        // after the two of its making: its removal, when the third is there
        ("rename eio 2 checkpoint-000001", ["checkpoint-000001", "removing"], &[1, 2, 3]),
        ("write eio 2 metrics.jsonl", ["metrics.jsonl: writing", "Input/output error"], &[1, 2]),
        ("write eio 3 events.out", ["events.out", "Input/output error"], &[1, 2]),
        ("rename eio 0 final.ready", ["final.ready", "renaming the finished directory"], &[4, 5]),
        // of weights, tokenizer and config one has been moved up
        ("rename eio 3 final.ready", ["moving the finished file", "Input/output error"], &[4, 5]),
        (
            "write eio 0 summary.json",
            ["summary.json: writing the summary of a model that is saved", ""],
            &[4, 5],
        ),
        (
            "fsync eio 0 summary.json",
            ["summary.json: writing the summary of a model that is saved", ""],
            &[4, 5],
        ),
        (
            "rename eio 0 summary.json",
            ["summary.json: writing the summary of a model that is saved", ""],
            &[4, 5],
        ),
        // before any step
        ("rename eio 0 metrics.jsonl", ["metrics.jsonl: writing", "Input/output error"], &[]),
        ("write eio 0 events.out", ["events.out", "Input/output error"], &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let (out, args) = (format!("m{i}"), format!("{RUN} --steps 5 --out m{i}"));
        let ran = under(&dir, fault, &args).0.refused(1, &parts);
        assert_eq!(dir.checkpoints(&out), left, "{fault}\n{}", ran.all());
        for step in left {
            dir.run(&format!("verify {out}/checkpoint-{step:06}")).ok();
        }
        assert_eq!(hidden(&dir, &out), [""; 0], "{fault}");
        dir.run(&format!("train --resume --out {out} --quiet")).ok();
        assert!(
            dir.read(&format!("{out}/model.safetensors")) == dir.read("whole/model.safetensors"),
            "{fault}"
        );
        assert_eq!(dir.metrics(&out), dir.metrics("whole"), "{fault}");
        assert_eq!(
            dir.json(&format!("{out}/summary.json"))["last_loss"],
            dir.json("whole/summary.json")["last_loss"]
        );
        dir.run(&format!("verify {out}")).ok();
    }
}

/// Its last checkpoint is there and an older one half gone: no save follows that would have cleaned up.
#[test]
fn a_run_that_was_killed_while_it_removed_its_last_old_checkpoint_leaves_nothing() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 3 --out m")).ok();
    dir.kill_after("m", 3);
    dir.copy("m/checkpoint-000002", "m/.checkpoint-000001.tmp-1");
    assert!(!hidden(&dir, "m").is_empty());
    dir.run("train --resume --out m --quiet").ok();
    assert_eq!(hidden(&dir, "m"), [""; 0]);
    assert_eq!(dir.checkpoints("m"), [2, 3]);
}

#[test]
fn a_start_that_fails_leaves_nothing_in_the_way_of_the_next() {
    let dir = Dir::new();
    let args = format!("{RUN} --steps 2 --out m");
    for fault in [
        "write eio 0 recipe.toml",
        "fsync eio 0 recipe.toml",
        "rename eio 0 recipe.toml",
        "write enospc 0 .lock",
    ] {
        under(&dir, fault, &args)
            .0
            .refused(1, &["m/", if fault.contains("lock") { ".lock" } else { "recipe.toml" }]);
        assert!(!dir.path("m/recipe.toml").exists(), "{fault}");
    }
    // what a start that was killed leaves, of which nothing can be gone on from
    for name in [".lock", ".recipe.toml.new"] {
        dir.write(&format!("m/{name}"), "");
    }
    dir.run(&args).ok();
    assert_eq!(hidden(&dir, "m"), [""; 0]);
    dir.run(&args).refused(2, &["m", "exists already", "--resume"]);
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_passed_over_and_a_recipe_or_metrics_are_said() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 3 --out m")).ok();
    let whole = (dir.read("m/model.safetensors"), dir.metrics("m"));
    std::fs::remove_file(dir.path("m/manifest.json")).unwrap();
    let resume = "train --resume --out m";
    for (fault, parts) in [
        ("read eio 0 m/recipe.toml", &["m/recipe.toml", "Input/output error"][..]),
        ("read eio 0 m/metrics.jsonl", &["m/metrics.jsonl: reading", "Input/output error"]),
        ("read eio 0 events.out", &["events.out", "reading", "Input/output error"]),
        ("read eio 0 m/checkpoint-", &["none is complete", "checkpoint-000003", "Input/output error"]),
    ] {
        under(&dir, fault, resume).0.refused(1, parts);
        assert_eq!((dir.checkpoints("m"), dir.metrics("m")), (vec![2, 3], whole.1.clone()), "{fault}");
    }
    let ran = under(&dir, "read eio 0 m/checkpoint-000003", resume).0;
    for part in ["passed over", "checkpoint-000003", "Input/output error", "going on after step 2"] {
        assert!(ran.stderr.contains(part), "no \"{part}\"\n{}", ran.all());
    }
    // it came to step 3 again, and replaced what could not be read
    ran.ok();
    assert!(dir.read("m/model.safetensors") == whole.0);
    assert_eq!(dir.metrics("m"), whole.1);
}

/// Whatever a run writes beside its checkpoints: what fails for a while costs nothing.
#[test]
fn a_run_that_was_asked_to_tries_all_that_it_writes_again() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 5 --out whole")).ok();
    for (i, fault) in [
        "write enospc 0..1 summary.json",
        "rename eio 0..1 summary.json",
        // the beginning, and the first step's
        "write enospc 0..2 events.out",
        "rename eio 0..2 events.out",
        "rename eio 0..3 metrics.jsonl",
        "write eio 1..4 metrics.jsonl",
        // until after the last step
        "write eio 2..6 events.out",
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("m{i}");
        under(&dir, fault, &format!("{RUN} --steps 5 --on-save-error retry --out {out}")).0.ok();
        assert!(
            dir.read(&format!("{out}/model.safetensors")) == dir.read("whole/model.safetensors"),
            "{fault}"
        );
        assert_eq!(dir.metrics(&out), dir.metrics("whole"), "{fault}");
        assert_eq!(dir.json(&format!("{out}/summary.json"))["steps"], 5, "{fault}");
        assert_eq!(steps_of(&events(&dir, &out)), [0, 1, 2, 3, 4, 5], "{fault}");
        assert_eq!(hidden(&dir, &out), [""; 0], "{fault}");
    }
}

fn events(dir: &Dir, out: &str) -> Vec<Event> {
    pose_engine::train::events::read(&dir.read(&format!("{out}/{}", pose_engine::train::events::NAME)))
}

fn steps_of(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.step).collect()
}

/// As logrotate does it: by a rename, and by a copy after which the file is emptied in its place.
#[test]
fn no_line_is_lost_where_logs_are_rotated() {
    let dir = Dir::new();
    let files = ["metrics.jsonl", pose_engine::train::events::NAME];
    for way in ["rename", "copytruncate"] {
        let mut child = dir.start(&format!("{RUN} --steps 100k --out {way}"));
        let mut parts: Vec<String> = Vec::new();
        for rotation in 0..3 {
            let lines =
                || std::fs::read(dir.path(&format!("{way}/metrics.jsonl"))).map_or(0, |bytes| bytes.len());
            wait_for("metrics", &mut child, || lines() > 1000);
            // what is written between the copy and the cut is lost to every program, so none may be written: it is held within a save
            loop {
                signal(&child, libc::SIGSTOP);
                std::thread::sleep(Duration::from_millis(50));
                if !in_the_making(&dir, way, child.id()).is_empty() {
                    break;
                }
                signal(&child, libc::SIGCONT);
                std::thread::sleep(Duration::from_millis(5));
            }
            for file in files {
                let (from, to) =
                    (dir.path(&format!("{way}/{file}")), dir.path(&format!("{way}-{rotation}-{file}")));
                if way == "rename" {
                    std::fs::rename(from, to).unwrap();
                } else {
                    std::fs::copy(&from, to).unwrap();
                    std::fs::File::options().write(true).open(from).unwrap().set_len(0).unwrap();
                }
            }
            parts.push(format!("{way}-{rotation}-"));
            signal(&child, libc::SIGCONT);
        }
        wait_for("metrics", &mut child, || {
            dir.path(&format!("{way}/metrics.jsonl")).metadata().is_ok_and(|m| m.len() > 500)
        });
        signal(&child, libc::SIGTERM);
        let ran = Ran::of(&child.wait_with_output().unwrap(), way).refused(130, &["interrupted after step"]);
        parts.push(format!("{way}/"));
        let (mut told, mut shown) = (Vec::new(), Vec::new());
        for part in parts {
            told.extend(
                dir.lines(&format!("{part}metrics.jsonl")).iter().map(|line| line["step"].as_i64().unwrap()),
            );
            let bytes = dir.read(&format!("{part}{}", files[1]));
            let events = pose_engine::train::events::read(&bytes);
            assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"), "{part}");
            assert!(events[1..].iter().all(|event| event.summary.is_some()), "{part}");
            shown.extend(steps_of(&events[1..]));
        }
        let last = *dir.checkpoints(way).last().unwrap() as i64;
        assert_eq!(told, (1..=last).collect::<Vec<_>>(), "{}", ran.all());
        assert_eq!(shown, told);
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
        under(&dir, fault, args).0.refused(1, &[file, "Input/output error"]);
    }
}

#[test]
fn a_model_that_vanishes_while_it_is_trained_is_said_at_the_next_save() {
    let dir = Dir::with_model();
    let args = "train --model m --data a.txt --train-len 64 --steps 100k --save-every 1 --keep-last 2 --quiet --out o";
    let mut child = dir.start(args);
    wait_for("checkpoint", &mut child, || !dir.checkpoints("o").is_empty());
    std::fs::rename(dir.path("m"), dir.path("gone")).unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap(), args).refused(1, &["m: is gone", "put it back"]);
    let last = *dir.checkpoints("o").last().expect("a checkpoint is left");
    dir.run(&format!("verify o/checkpoint-{last:06}")).ok();
    assert!(dir.path(&format!("o/checkpoint-{last:06}/tokenizer.json")).exists(), "{}", ran.all());
}

#[test]
fn a_model_that_is_removed_while_it_is_trained_is_trained_to_the_end() {
    let dir = Dir::with_model();
    let args = "train --model m --data a.txt --train-len 64 --steps 60 --save-every 1 --keep-last 2 --quiet";
    dir.run(&format!("{args} --out whole")).ok();
    let mut child = dir.start(&format!("{args} --out o"));
    wait_for("checkpoint", &mut child, || !dir.checkpoints("o").is_empty());
    std::fs::remove_file(dir.path("m/model.safetensors")).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it was done before");
    Ran::of(&child.wait_with_output().unwrap(), args).ok();
    assert!(dir.read("o/model.safetensors") == dir.read("whole/model.safetensors"));
    // and where the file goes while it is read, what is open stays as it was
    let weights = pose_engine::checkpoint::Weights::open(&dir.path("o")).unwrap();
    let mapped = pose_engine::checkpoint::map_file(&dir.path("o/model.safetensors")).unwrap();
    let whole = dir.read("o/model.safetensors");
    let (name, shape) = ("model.norm.weight", weights.shape("model.norm.weight").unwrap().to_vec());
    let (mut before, mut after) = (Vec::new(), Vec::new());
    weights.read_into(name, &shape, &mut before).unwrap();
    std::fs::remove_file(dir.path("o/model.safetensors")).unwrap();
    dir.write("o/model.safetensors", "another");
    weights.read_into(name, &shape, &mut after).unwrap();
    assert!(!before.is_empty() && before == after && mapped[..] == whole[..]);
}

#[test]
fn a_clock_that_goes_backwards_does_no_harm() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --steps 3 --out whole")).ok();
    let args = format!("{RUN} --steps 3 --eval-data a.txt --eval-every 1 --eval-tokens 64 --out m");
    under(&dir, "clock back 0 -", &args).0.ok();
    assert!(dir.read("m/model.safetensors") == dir.read("whole/model.safetensors"));
    dir.run("verify m").ok();
    let times: Vec<f64> = events(&dir, "m").iter().map(|event| event.wall_time).collect();
    assert!(
        times.len() > 4 && times.windows(2).all(|w| w[1] < w[0] - 30.0),
        "the clock did not go backwards: {times:?}"
    );
    let seconds =
        |line: &serde_json::Value| line["seconds"].as_f64().is_none_or(|s| (0.0..60.0).contains(&s));
    assert!(dir.lines("m/metrics.jsonl").iter().all(seconds), "a step's time is not the wall clock's");
    dir.kill_after("m", 2);
    let args = "train --resume --out m --quiet";
    under(&dir, "clock back 0 -", args).0.ok();
    assert!(dir.read("m/model.safetensors") == dir.read("whole/model.safetensors"));
    dir.run("report m --out page.html").ok();
}
