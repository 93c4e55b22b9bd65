//! Losses that leap: a text with a document of another kind in it, and what each answer to it does.

mod common;

use common::cli::{Dir, Ran};
use std::time::Duration;

const RUN: &str = "train --preset tiny --data a.txt odd.txt --train-len 64 --steps 150 --batch 1 --lr 2e-3 --dtype f32 \
                   --save-every 5 --spike-window 16 --spike-z 8 --quiet";

/// Words, and among them a document that is no words at all.
fn dir() -> Dir {
    let dir = Dir::new();
    let mut state = 5u32;
    let odd: Vec<u8> = (0..800)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            b'!' + (state >> 24) as u8 % 90
        })
        .collect();
    dir.write("odd.txt", odd);
    dir
}

fn spikes(dir: &Dir, out: &str) -> Vec<serde_json::Value> {
    dir.lines(&format!("{out}/metrics.jsonl")).into_iter().filter(|line| line["spike"].is_string()).collect()
}

/// A run of these flags, and one that is killed now and then, end in the same decisions and the same weights.
fn goes_on_to_the_same_bits(dir: &Dir, run: &str) -> Vec<serde_json::Value> {
    dir.run(&format!("{run} --out whole")).ok();
    for (i, milliseconds) in [150, 300, 450].into_iter().enumerate() {
        let out = format!("killed-{i}");
        let mut child = dir.start(&format!("{run} --out {out}"));
        std::thread::sleep(Duration::from_millis(milliseconds));
        let _ = child.kill();
        child.wait().unwrap();
        let begun = dir.path(&format!("{out}/recipe.toml")).exists();
        let args =
            if begun { format!("train --resume --out {out} --quiet") } else { format!("{run} --out {out}") };
        dir.run(&args).ok();
        assert_eq!(dir.metrics(&out), dir.metrics("whole"), "killed after {milliseconds} ms");
        assert!(dir.read(&format!("{out}/model.safetensors")) == dir.read("whole/model.safetensors"));
    }
    let spikes = spikes(dir, "whole");
    assert!(!spikes.is_empty(), "the odd document was never met");
    for spike in &spikes {
        assert!(
            spike["z"].as_f64().unwrap() >= 8.0 && spike["sample"].as_str().unwrap().contains("odd.txt"),
            "{spike}"
        );
    }
    spikes
}

#[test]
fn a_spike_is_skipped_and_the_run_decides_the_same_when_resumed() {
    let dir = dir();
    let spikes = goes_on_to_the_same_bits(&dir, &format!("{RUN} --on-spike skip"));
    let steps = dir.lines("whole/metrics.jsonl");
    assert_eq!(steps.len(), 150, "a line for each step");
    for spike in &spikes {
        assert_eq!(spike["spike"], "skip");
        assert_eq!(steps.iter().filter(|line| line["step"] == spike["step"]).count(), 1);
    }
}

#[test]
fn a_rollback_passes_over_the_batches_since_the_checkpoint() {
    let dir = dir();
    let spikes = goes_on_to_the_same_bits(&dir, &format!("{RUN} --on-spike rollback --tensorboard"));
    let mut passed = 0;
    for spike in &spikes {
        let (to, from) = (spike["step"].as_u64().unwrap(), spike["from"].as_u64().unwrap());
        assert_eq!(spike["spike"], "rollback");
        assert!(to.is_multiple_of(5) && to < from && from <= to + 5, "{spike}");
        passed += from - to;
        assert_eq!(spike["passed"], passed);
    }
    let steps: Vec<u64> = dir
        .lines("whole/metrics.jsonl")
        .iter()
        .filter(|l| l["loss"].is_f64() && l["spike"].is_null())
        .map(|l| l["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=150).collect::<Vec<_>>(), "every step is told once");
}

#[test]
fn a_spike_stops_a_run_that_asks_for_it_before_the_update() {
    let dir = dir();
    let parts = ["the loss leapt to", "odd.txt", "nothing was updated", "the last good checkpoint is"];
    dir.run(&format!("{RUN} --on-spike stop --out m")).refused(1, &parts);
    dir.run("verify m").ok();
    let lines = dir.metrics("m");
    let (decision, steps) = lines.split_last().unwrap();
    assert_eq!(
        (decision["spike"].as_str(), decision["step"].as_u64()),
        (Some("stop"), Some(lines.len() as u64))
    );
    assert!(
        decision["z"].as_f64().unwrap() >= 8.0 && decision["sample"].as_str().unwrap().contains("odd.txt")
    );
    assert!(decision["grad_norm"].as_f64().unwrap() > 0.0 && decision["not_finite"].is_null(), "{decision}");
    assert!(
        steps.iter().all(|line| line["spike"].is_null() && line["lr"].is_f64()),
        "the steps before are steps"
    );
    // the same again when it is resumed, from the checkpoint before, and told once
    dir.run("train --resume --out m --quiet").refused(1, &parts);
    assert_eq!(dir.metrics("m"), lines);
}

#[test]
fn spikes_without_end_end_the_run() {
    let dir = Dir::with_model();
    // finite numbers whose products are not
    dir.copy_with("large", &[("model.norm.weight", &|_| 3e38)]);
    let run = "train --model large --data a.txt --train-len 64 --steps 50 --dtype f32 --quiet --out broken";
    dir.run(&format!("{run} --on-spike skip")).refused(1, &["step 11", "so did the 10 before it"]);
    let lines = dir.lines("broken/metrics.jsonl");
    let decisions: Vec<&str> = lines.iter().map(|line| line["spike"].as_str().unwrap()).collect();
    assert_eq!(decisions, [&["skip"; 10][..], &["stop"]].concat());
    for line in &lines {
        // which of both was no number, and what it was instead
        assert!(line["loss"].is_null() && line["z"].is_null(), "{line}");
        assert!(["NaN", "inf"].contains(&line["not_finite"]["loss"].as_str().unwrap()), "{line}");
        assert_eq!(line["grad_norm"].is_null(), line["not_finite"]["grad_norm"].is_string(), "{line}");
    }
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let dir = dir();
    let refused = |flags: &str, parts: &[&str]| {
        let ran: Ran = dir.run(&format!("train --preset tiny --data a.txt --out m {flags}"));
        ran.refused(2, parts);
    };
    refused("--spike-z 4", &["--spike-z 4", "--on-spike"]);
    refused("--on-spike skip --spike-window 1", &["--spike-window 1", "at least 2"]);
    refused("--on-spike skip --spike-z 0.5", &["--spike-z 0.5", "between 1"]);
    refused("--keep-every 10", &["--keep-every 10", "--keep-last"]);
}
