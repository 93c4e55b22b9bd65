//! Every byte is planned: the peak of a run is within 5% of its plan, and `plan` tells of the same bytes that the same
//! flags of `train` and `eval-ppl` allocate.

mod common;

use common::cli::{Dir, words};
use serde_json::Value;

/// Some hundreds of MB, so that 5% is more than what a process takes anyway.
const FLAGS: &str = "--preset 10m --train-len 256 --steps 1 --quiet";

/// Planned and peak bytes, from a command's JSON.
fn bytes(dir: &Dir, json: &str) -> (f64, Option<f64>) {
    let json = dir.json(json);
    (json["planned_bytes"].as_f64().unwrap(), json["peak_bytes"].as_f64())
}

fn near(dir: &Dir, json: &str) {
    let (planned, peak) = bytes(dir, json);
    let Some(peak) = peak else {
        return common::skip::skip("this system does not say how much memory a process took");
    };
    assert!(planned > 100e6, "{json}: {planned} bytes are too few to measure");
    assert!((peak / planned - 1.0).abs() <= 0.05, "{json}: planned {planned}, at the peak {peak}");
}

fn train(dir: &Dir, name: &str, flags: &str) {
    dir.run(&format!("train --data a.txt --out {name} --json {name}.json {FLAGS} {flags}")).ok();
    near(dir, &format!("{name}.json"));
    dir.run(&format!("plan train --data a.txt --json plan.json {FLAGS} {flags}")).ok();
    assert_eq!(
        dir.json("plan.json")["total"].as_f64().unwrap(),
        bytes(dir, &format!("{name}.json")).0,
        "{name}"
    );
}

#[test]
fn bf16_training() {
    train(&Dir::new(), "bf16", "--batch 12 --target-len 4k");
}

#[test]
fn f32_training() {
    train(&Dir::new(), "f32", "--batch 12 --dtype f32");
}

#[test]
fn training_with_moments_in_8_bits() {
    let dir = Dir::new();
    train(&dir, "narrow", "--batch 12 --optimizer adamw8bit --save-every 1");
    let moments = |optimizer: &str| {
        dir.run(&format!("plan {FLAGS} --optimizer {optimizer} --json plan.json")).ok();
        dir.json("plan.json")["by_kind"]["moments"].as_f64().unwrap()
    };
    let share = moments("adamw8bit") / moments("adamw");
    assert!((share - (2.0 + 8.0 / 256.0) / 8.0).abs() < 1e-4, "{share}");
}

#[test]
fn recomputing_training_with_checkpoints() {
    train(&Dir::new(), "recompute", "--recompute --batch 24 --save-every 1");
}

#[test]
fn training_that_recomputes_some_layers() {
    train(&Dir::new(), "some", "--recompute 4 --batch 20");
}

#[test]
fn training_of_adapters() {
    train(&Dir::new(), "lora", "--lora-rank 16 --batch 20 --save-every 1 --lora-merge");
}

#[test]
fn training_that_accumulates() {
    train(&Dir::new(), "accumulate", "--batch 8 --grad-accum 2");
}

/// Where a step is one pass, gradients of projections lie in the memory of activations that are over.
#[test]
fn gradients_lodge_in_activations() {
    let dir = Dir::new();
    let plan = |flags: &str| {
        dir.run(&format!("plan {FLAGS} --batch 16 {flags} --json plan.json")).ok();
        dir.json("plan.json")
    };
    let (one, two) = (plan("--grad-accum 1"), plan("--grad-accum 2"));
    let bytes = |plan: &Value, kind: &str| plan["by_kind"][kind].as_u64().unwrap();
    let of_projections: u64 = two["buffers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["kind"] == "gradients" && row["name"].as_str().unwrap().contains("_proj.weight"))
        .map(|row| row["bytes"].as_u64().unwrap())
        .sum();
    assert!(of_projections > 10_000_000);
    assert_eq!(bytes(&one, "gradients"), bytes(&two, "gradients") - of_projections);
    assert_eq!(bytes(&one, "activations"), bytes(&two, "activations"));
    assert_eq!(one["total"].as_u64().unwrap(), two["total"].as_u64().unwrap() - of_projections);
    let recomputed = plan("--recompute");
    assert_eq!(bytes(&recomputed, "gradients"), bytes(&two, "gradients"));
}

#[test]
fn the_target_length_costs_nothing() {
    let dir = Dir::new();
    let total = |target: &str| {
        dir.run(&format!("plan {FLAGS} --target-len {target} --json plan.json")).ok();
        dir.json("plan.json")["total"].as_u64().unwrap()
    };
    assert_eq!(total("256"), total("1M"));
}

#[test]
fn perplexity() {
    let dir = Dir::new();
    dir.write("long.txt", words(40_000));
    dir.run("train --preset 10m --data a.txt --train-len 32 --steps 1 --quiet --out m").ok();
    let flags = "--model m --data long.txt --windows 32k --tokens 17k --mode truncate --dtype f32";
    dir.run(&format!("plan eval-ppl {flags} --json plan.json")).ok();
    dir.run(&format!("eval-ppl {flags} --quiet --json ppl.json")).ok();
    near(&dir, "ppl.json");
    assert_eq!(dir.json("plan.json")["total"].as_f64().unwrap(), bytes(&dir, "ppl.json").0);
}

/// Scoring holds one layer's keys and values and the residual stream of the window, whatever the number of layers.
#[test]
fn a_window_costs_one_layers_keys_and_values() {
    let dir = Dir::new();
    dir.run("train --preset 10m --data a.txt --train-len 32 --steps 1 --quiet --out m").ok();
    let config = dir.json("m/config.json");
    let size = |key: &str| config[key].as_u64().unwrap();
    let plan = |window: &str| {
        dir.run(&format!("plan eval-ppl --model m --windows {window} --json plan.json")).ok();
        dir.json("plan.json")
    };
    let (short, long) = (plan("16k"), plan("48k"));
    let grown =
        |kind: &str| long["by_kind"][kind].as_u64().unwrap() - short["by_kind"][kind].as_u64().unwrap();
    let kv_width = size("num_key_value_heads") * size("head_dim");
    assert!(size("num_hidden_layers") > 2);
    assert_eq!(grown("KV cache"), (32 << 10) * 2 * kv_width * 2);
    assert_eq!(grown("residual stream"), (32 << 10) * size("hidden_size") * 2);
    assert_eq!(grown("work"), 0);
}
