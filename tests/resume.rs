//! Stop and go: a run that was stopped, politely or not, and resumed ends in the same bits as one that never stopped.

mod common;

use common::cli::{Dir, Ran};
use std::time::{Duration, Instant};

/// 40 steps of a small run with every state that must survive: schedule, moments, drawn positions.
const RUN: &str = "train --preset tiny --data a.txt --train-len 64 --target-len 256 --rope yarn --rope-factor 2 --steps 40 \
                   --batch 2 --grad-accum 2 --lr 1e-3 --schedule cosine --weight-decay 0.1 --save-every 4";

/// The weights of a finished run; metrics.jsonl must tell of every step once.
fn weights(dir: &Dir, out: &str, steps: u64) -> Vec<u8> {
    let told: Vec<u64> =
        dir.lines(&format!("{out}/metrics.jsonl")).iter().map(|m| m["step"].as_u64().unwrap()).collect();
    assert_eq!(told, (1..=steps).collect::<Vec<_>>(), "{out}/metrics.jsonl");
    assert!(
        !dir.names().iter().any(|n| n.contains(".tmp-") || n.contains("final.ready")),
        "{:?}",
        dir.names()
    );
    dir.read(&format!("{out}/model.safetensors"))
}

#[track_caller]
fn same(a: &[u8], b: &[u8], what: &str) {
    let differ = a.iter().zip(b).position(|(a, b)| a != b);
    assert!(a.len() == b.len() && differ.is_none(), "{what}: byte {differ:?} differs");
}

/// Starts a run, waits until `steps` steps are in its metrics, and sends it a signal.
fn stopped(dir: &Dir, args: &str, out: &str, steps: usize, signal: i32) -> Ran {
    let mut child = dir.start(args);
    let metrics = dir.path(&format!("{out}/metrics.jsonl"));
    let start = Instant::now();
    while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < steps {
        assert!(start.elapsed() < Duration::from_secs(60), "no {steps} steps after a minute");
        assert!(
            child.try_wait().unwrap().is_none(),
            "{}",
            Ran::of(&child.wait_with_output().unwrap(), args).all()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: kill takes two numbers; the process is our child and not yet waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    Ran::of(&child.wait_with_output().unwrap(), args)
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --quiet --out whole")).ok();
    let whole = weights(&dir, "whole", 40);
    // --save-every is not one of the numbers: without it, the only checkpoint is that of the interruption
    let run = RUN.replace(" --save-every 4", "");
    for (signal, at) in [(libc::SIGINT, 1), (libc::SIGTERM, 17)] {
        let out = format!("stopped-{at}");
        let ran = stopped(&dir, &format!("{run} --out {out}"), &out, at, signal);
        let ran = ran.refused(130, &["interrupted after step", "of 40", "--resume"]);
        let saved = dir.checkpoints(&out);
        assert_eq!(saved.len(), 1, "{}", ran.all());
        assert!(saved[0] >= at as u64 && saved[0] < 40, "{}", ran.all());
        let resumed = dir.run(&format!("train --resume --out {out}")).ok();
        assert!(resumed.stderr.contains(&format!("going on after step {}", saved[0])), "{}", resumed.all());
        same(&weights(&dir, &out, 40), &whole, &out);
    }
}

#[test]
fn a_killed_run_loses_at_most_the_steps_since_its_checkpoint() {
    let dir = Dir::new();
    dir.run(&format!("{RUN} --quiet --out whole")).ok();
    let whole = weights(&dir, "whole", 40);
    for at in [2, 9, 21, 38] {
        let out = format!("killed-{at}");
        let ran = stopped(&dir, &format!("{RUN} --quiet --out {out}"), &out, at, libc::SIGKILL);
        assert_eq!(ran.code, None, "{}", ran.all());
        let done = dir.lines(&format!("{out}/metrics.jsonl")).len() as u64;
        let kept = dir.checkpoints(&out).into_iter().max().unwrap_or(0);
        // the step after a multiple of 4 begins only when the checkpoint is there
        assert!(kept + 4 >= done, "{done} steps done, the newest checkpoint is of step {kept}");
        dir.run(&format!("train --resume --out {out} --quiet")).ok();
        same(&weights(&dir, &out, 40), &whole, &out);
    }
}

#[test]
fn moments_in_8_bits_go_on_to_the_same_bits() {
    let dir = Dir::new();
    let run = RUN.replace("--steps 40", "--steps 24") + " --optimizer adamw8bit --quiet";
    for (what, flags) in [("all", ""), ("lora", " --lora-rank 4 --lora-merge")] {
        let (run, whole, killed) =
            (format!("{run}{flags}"), format!("{what}-whole"), format!("{what}-killed"));
        dir.run(&format!("{run} --out {whole} --threads 1")).ok();
        let ran = stopped(&dir, &format!("{run} --out {killed}"), &killed, 9, libc::SIGKILL);
        assert_eq!(ran.code, None, "{}", ran.all());
        dir.run(&format!("train --resume --out {killed} --threads 2 --quiet")).ok();
        same(&weights(&dir, &killed, 24), &weights(&dir, &whole, 24), what);
        let state = |out: &str| dir.read(&format!("{out}/checkpoint-000024/resume/optimizer.safetensors"));
        same(&state(&killed), &state(&whole), "codes and scales");
    }
    dir.run("train --resume --out all-whole --optimizer adamw")
        .refused(2, &["--optimizer \"adamw\"", "started with \"adamw8bit\""]);
    dir.run("train --resume --out all-whole --mix 1").refused(2, &["--mix [1.0]", "was started without it"]);
}

#[test]
fn distances_that_a_probe_chose_go_on_to_the_same_bits() {
    let dir = Dir::new();
    dir.write("held.txt", common::cli::words(700));
    // probes after steps 0, 4, 8, ...; checkpoints after 3, 6, 9, ..., most of them between two probes
    let run = RUN.replace("--steps 40", "--steps 21").replace("--save-every 4", "--save-every 3")
        + " --method adaptive --adapt-every 4 --adapt-floor 0.1 --eval-data held.txt --eval-every 1000 --quiet";
    dir.run(&format!("{run} --out whole --threads 1")).ok();
    let whole = dir.metrics("whole");
    let probes: Vec<_> = whole.iter().filter(|line| line["distance_weights"].is_array()).collect();
    assert_eq!(probes.iter().map(|p| p["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 4, 8, 12, 16, 20]);
    for probe in &probes {
        let weights: Vec<f64> =
            probe["distance_weights"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).collect();
        assert!(
            (weights.iter().sum::<f64>() - 1.0).abs() < 1e-9
                && weights.iter().all(|&w| w >= 0.1 / 16.0 - 1e-12)
        );
    }
    for at in [1, 8, 17] {
        let out = format!("killed-{at}");
        let ran = stopped(&dir, &format!("{run} --out {out}"), &out, at, libc::SIGKILL);
        assert_eq!(ran.code, None, "{}", ran.all());
        dir.run(&format!("train --resume --out {out} --threads 2 --quiet")).ok();
        assert_eq!(dir.metrics(&out), whole, "killed after {at} lines");
        let file = |out: &str| dir.read(&format!("{out}/model.safetensors"));
        same(&file(&out), &file("whole"), &out);
    }
    let short =
        run.replace("--steps 21", "--steps 3").replace("--schedule cosine", "--schedule constant --warmup 2");
    dir.run(&format!("{short} --out cut")).ok();
    let state = "cut/checkpoint-000003/resume/state.json";
    assert_eq!(dir.json(state)["distance_weights"].as_array().unwrap().len(), 16);
    // Another held-out text would have chosen other distances.
    dir.write("held.txt", common::cli::words(720).replace("fox", "cat"));
    dir.run("train --resume --out cut --steps 6").refused(1, &["another recipe"]);
}

#[test]
fn threads_and_recomputation_change_no_bit() {
    let dir = Dir::new();
    let run = RUN.replace("--steps 40", "--steps 6");
    dir.run(&format!("{run} --quiet --out one --threads 1")).ok();
    dir.run(&format!("{run} --quiet --out two --threads 2")).ok();
    dir.run(&format!("{run} --quiet --out again --threads 2 --recompute")).ok();
    dir.run(&format!("{run} --quiet --out half --threads 2 --recompute 2")).ok();
    let one = weights(&dir, "one", 6);
    same(&weights(&dir, "two", 6), &one, "2 threads against 1");
    same(&weights(&dir, "again", 6), &one, "--recompute");
    same(&weights(&dir, "half", 6), &one, "--recompute 2");
}

#[test]
fn only_the_same_run_can_be_resumed() {
    let dir = Dir::new();
    let run = RUN.replace("--steps 40", "--steps 8");
    dir.run(&format!("{run} --quiet --out run")).ok();
    let recipe = dir.read("run/recipe.toml");
    dir.write("other.txt", common::cli::words(9_000));
    for (flags, parts) in [
        ("--lr 2e-3", &["--lr 0.002", "run", "started with 0.001"][..]),
        ("--steps 9", &["--steps 9", "started with 8"]),
        ("--seed 1", &["--seed 1"]),
        ("--batch 4", &["--batch 4"]),
        ("--dtype f32", &["--dtype", "f32", "bf16"]),
        ("--clip 0.5", &["--clip 0.5"]),
        ("--optimizer adamw8bit", &["--optimizer \"adamw8bit\"", "started with \"adamw\""]),
    ] {
        dir.run(&format!("train --resume --out run {flags}")).refused(2, parts);
    }
    std::fs::remove_file(dir.path("run/manifest.json")).unwrap();
    dir.run("train --resume --out run --data other.txt").refused(1, &["another recipe"]);
    assert_eq!(dir.read("run/recipe.toml"), recipe, "a refused resume changed the run's recipe");
    // what changes no number may change
    dir.run("train --resume --out run --save-every 3 --recompute --quiet").ok();
}

#[test]
fn a_finished_run_stays_as_it_is_and_can_be_made_longer() {
    let dir = Dir::new();
    let run = RUN.replace("--schedule cosine", "--schedule constant --warmup 2");
    let run = |steps: u32, flags: &str| format!("{} {flags} --quiet", run.replace("40", &steps.to_string()));
    dir.run(&run(6, "--out whole --json whole.json")).ok();
    let whole = weights(&dir, "whole", 6);
    let again = dir.run("train --resume --out whole --json again.json").ok();
    assert!(again.stderr.contains("done already"), "{}", again.all());
    same(&weights(&dir, "whole", 6), &whole, "resumed when finished");
    assert_eq!(dir.json("again.json")["last_loss"], dir.json("whole.json")["last_loss"]);

    dir.run(&run(3, "--out longer")).ok();
    dir.run("train --resume --out longer --steps 6 --quiet").ok();
    same(&weights(&dir, "longer", 6), &whole, "3 steps and 3 more");
    dir.run("train --resume --out longer --steps 4").refused(2, &["--steps 4", "6 steps already"]);

    // one that is stopped on its way past the shorter run's model is not taken for finished
    dir.run(&run(3, "--out again")).ok();
    let ran = stopped(&dir, "train --resume --out again --steps 600 --quiet", "again", 5, libc::SIGINT);
    assert_eq!(ran.code, Some(130), "{}", ran.all());
    assert!(!dir.path("again/config.json").exists() && !dir.path("again/manifest.json").exists());
    let last = *dir.checkpoints("again").last().unwrap();
    dir.run(&format!("train --resume --out again --steps {} --quiet", last + 2)).ok();
    weights(&dir, "again", last + 2);

    dir.run(&run(3, "--out bare").replace("--save-every 4", "")).ok();
    dir.run("train --resume --out bare --steps 6").refused(2, &["bare", "no checkpoint", "--model"]);
}

#[test]
fn a_run_that_died_when_it_was_done_still_knows_what_it_did() {
    let dir = Dir::new();
    let run = RUN.replace("--steps 40", "--steps 6");
    dir.run(&format!("{run} --eval-data a.txt --eval-tokens 256 --quiet --out m")).ok();
    let (metrics, summary) = (dir.read("m/metrics.jsonl"), dir.json("m/summary.json"));
    std::fs::remove_file(dir.path("m/manifest.json")).unwrap();
    // a line that was torn within a character
    dir.write("m/metrics.jsonl", [&metrics[..], b"{\"sample\": \"\xc3"].concat());
    dir.run("train --resume --out m --quiet").ok();
    assert_eq!(dir.read("m/metrics.jsonl"), metrics);
    let again = dir.json("m/summary.json");
    for key in ["steps", "first_loss", "last_loss", "ppl", "seconds_per_step"] {
        assert!(summary[key].is_number() && again[key] == summary[key], "{key}: {}", again[key]);
    }
}

/// A run of 10 steps that looks as if it had been killed after the checkpoint of step 8, and what its weights became.
fn stopped_after_8_of_10() -> (Dir, Vec<u8>) {
    let dir = Dir::new();
    let run = RUN.replace("--steps 40", "--steps 10");
    dir.run(&format!("{run} --quiet --out whole")).ok();
    let whole = weights(&dir, "whole", 10);
    dir.kill_after("whole", 8);
    (dir, whole)
}

#[test]
fn a_broken_checkpoint_is_none_of_those_that_stay() {
    let (dir, whole) = stopped_after_8_of_10();
    dir.write("whole/checkpoint-000008/config.json", "{}");
    let resume = "train --resume --out whole --save-every 1 --keep-last 1 --quiet";
    let ran = stopped(&dir, resume, "whole", 5, libc::SIGKILL);
    assert_ne!(ran.code, Some(0), "{}", ran.all());
    dir.run(resume).ok();
    same(&weights(&dir, "whole", 10), &whole, "with one checkpoint that stays");
}

#[test]
fn a_broken_checkpoint_is_passed_over_and_said() {
    let (dir, whole) = stopped_after_8_of_10();
    let broken = "whole/checkpoint-000008/resume/optimizer.safetensors";
    let mut bytes = dir.read(broken);
    *bytes.last_mut().unwrap() ^= 1;
    dir.write(broken, &bytes);
    let ran = dir.run("train --resume --out whole").ok();
    for part in ["a newer checkpoint is broken", "optimizer.safetensors", "going on after step 4"] {
        assert!(ran.stderr.contains(part), "no \"{part}\"\n{}", ran.all());
    }
    same(&weights(&dir, "whole", 10), &whole, "from the checkpoint before");

    for step in ["000004", "000008", "000010"] {
        dir.write(&format!("whole/checkpoint-{step}/config.json"), "{}");
    }
    std::fs::remove_file(dir.path("whole/manifest.json")).unwrap();
    dir.run("train --resume --out whole")
        .refused(1, &["has checkpoints, but none is complete", "config.json"]);
}

#[test]
fn a_finished_model_that_rots_is_not_taken_for_what_the_run_left() {
    let dir = Dir::new();
    dir.run(&format!("{} --quiet --out m", RUN.replace("--steps 40", "--steps 6"))).ok();
    let whole = dir.read("m/model.safetensors");
    let mut rotten = whole.clone();
    rotten[whole.len() / 2] ^= 4;
    dir.write("m/model.safetensors", &rotten);
    let ran = dir.run("train --resume --out m");
    ran.refused(1, &["m/model.safetensors", "its hash differs", "from step 6 on, remove m/manifest.json"]);
    assert!(dir.read("m/model.safetensors") == rotten, "it may be someone's work");
    std::fs::remove_file(dir.path("m/manifest.json")).unwrap();
    dir.run("train --resume --out m --quiet").ok();
    same(&dir.read("m/model.safetensors"), &whole, "the model that was made again");
    dir.run("verify m").ok();
    dir.run("train --preset tiny --data a.txt --train-len 64 --steps 1 --quiet --out n").ok();
    let mut rotten = dir.read("n/model.safetensors");
    *rotten.last_mut().unwrap() ^= 1;
    dir.write("n/model.safetensors", &rotten);
    dir.run("train --resume --out n --quiet")
        .refused(1, &["n/model.safetensors", "its hash differs", "without a checkpoint"]);
}

/// A run that died between the moves of its files, and one of them, or the list of them, that rots before it is resumed.
#[test]
fn what_rots_while_a_model_is_saved_is_made_again() {
    let (dir, whole) = stopped_after_8_of_10();
    dir.run("train --resume --out whole --quiet").ok();
    for broken in ["model.safetensors", "final.ready/manifest.json"] {
        std::fs::create_dir(dir.path("whole/final.ready")).unwrap();
        std::fs::rename(dir.path("whole/manifest.json"), dir.path("whole/final.ready/manifest.json"))
            .unwrap();
        std::fs::rename(dir.path("whole/config.json"), dir.path("whole/final.ready/config.json")).unwrap();
        let mut bytes = dir.read(&format!("whole/{broken}"));
        let last = bytes.len() - 2;
        bytes[last] ^= 0x80;
        dir.write(&format!("whole/{broken}"), &bytes);
        let ran = dir.run("train --resume --out whole --quiet").ok();
        assert!(ran.stderr.contains("is broken, and made again"), "{broken}\n{}", ran.all());
        same(&weights(&dir, "whole", 10), &whole, broken);
        dir.run("verify whole").ok();
    }
}

#[test]
fn a_recipe_or_metrics_that_rot_are_named() {
    let (dir, _) = stopped_after_8_of_10();
    let recipe = String::from_utf8(dir.read("whole/recipe.toml")).unwrap();
    dir.write("whole/recipe.toml", recipe.replace("save-every = 4", "save-every = 0"));
    dir.run("train --resume --out whole")
        .refused(1, &["whole/recipe.toml", "not as it was saved", "--save-every"]);
    dir.write("whole/recipe.toml", &recipe);
    let metrics = String::from_utf8(dir.read("whole/metrics.jsonl")).unwrap();
    dir.write("whole/metrics.jsonl", metrics.replacen("\"step\":2,", "\"step\";2,", 1));
    let ran = dir.run("train --resume --out whole --quiet").ok();
    assert!(ran.stderr.contains("whole/metrics.jsonl: line 2 is no longer one"), "{}", ran.all());
    dir.kill_after("whole", 8);
    dir.write("whole/recipe.toml", recipe.replace("lr = 0.001", "lr = 0.003"));
    dir.run("train --resume --out whole").refused(1, &["written by a run with another recipe"]);
}
