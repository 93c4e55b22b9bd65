//! A run's directory: manifests, the state to resume from, recipes, and results that `report` lays side by side.

use super::texts;
use crate::budget::Budget;
use crate::{Desk, Target};
use pose_engine::checkpoint::{Resume, verify};
use pose_engine::compare;
use pose_engine::recipe::{Recipe, Settings};

pub const MANIFEST: Target =
    Target { name: "manifest", read: manifest, seeds: manifest_seeds, budget: Budget::PARSED };
pub const RESUME: Target =
    Target { name: "resume", read: resume, seeds: resume_seeds, budget: Budget::PARSED };
pub const RECIPE: Target =
    Target { name: "recipe", read: recipe, seeds: recipe_seeds, budget: Budget::PARSED };
pub const RESULT: Target =
    Target { name: "result", read: result, seeds: result_seeds, budget: Budget::PARSED };

fn manifest(desk: &Desk, bytes: &[u8]) {
    desk.lay("a.txt", b"a");
    desk.lay("manifest.json", bytes);
    let _ = verify(desk.path());
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let file = |path: &str| {
        let hash = blake3::hash(b"a").to_hex();
        format!(
            r#"{{"format": "pose-engine manifest 1", "written_by": "pose-engine 0.1.0", "files": [{{"path": "{path}", "bytes": 1, "blake3": "{hash}"}}]}}"#
        )
    };
    ["a.txt", "../a.txt", "/etc/passwd", "b/c"].map(|path| file(path).into_bytes()).to_vec()
}

fn resume(desk: &Desk, bytes: &[u8]) {
    desk.lay("resume/state.json", bytes);
    let _ = Resume::open(desk.path(), "abc");
}

fn resume_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"format": 1, "written_by": "pose-engine 0.1.0", "step": 2, "tokens": 64, "seed": 0, "recipe": "abc"}"#,
        r#"{"format": 1, "written_by": "", "step": 2, "tokens": 64, "seed": 0, "recipe": "abc", "distance_weights": [1.0, 0.5], "standing": {"best": {"step": 1, "ppl": 3.5}, "since_best": 0}, "spikes": {"losses": [1.0, 2.0], "passed": 0, "in_a_row": 0}}"#,
    ])
}

fn recipe(desk: &Desk, bytes: &[u8]) {
    let path = desk.lay("recipe.toml", bytes);
    let Ok(settings) = Settings::from_file(&path) else { return };
    for need_out in [true, false] {
        if let Ok(recipe) = Recipe::validate(&settings, need_out) {
            let text = recipe.to_toml();
            let path = desk.lay("again.toml", text.as_bytes());
            let again = Settings::from_file(&path).and_then(|s| Recipe::validate(&s, need_out));
            assert_eq!(again.as_ref().ok(), Some(&recipe), "{text}\n{again:?}");
        }
    }
}

fn recipe_seeds() -> Vec<Vec<u8>> {
    texts(&[
        include_str!("../../../../recipes/llama-7b-128k.toml"),
        include_str!("../../../../recipes/smollm2-135m-32k.toml"),
        "preset = \"tiny\"\ndata = [\"a\", \"b\"]\nmix = [0.7, 0.3]\nout = \"o\"\nmethod = \"balanced\"\ntrain-len = 32\ntarget-len = \"1k\"\n",
        "preset = \"tiny\"\ndata = [\"a\"]\nout = \"o\"\nmethod = \"cream\"\nloss = \"longce\"\non-spike = \"skip\"\nspike-z = 4.5\n",
        "preset = \"small\"\ndata = [\"a\"]\nout = \"o\"\nmax-decompressed = \"2GiB\"\nlora-rank = 4\nlora-targets = [\"q\", \"v\"]\nrecompute = 2\n",
    ])
}

fn result(desk: &Desk, bytes: &[u8]) {
    let path = desk.lay("result.json", bytes);
    let out = desk.path().join("report.html");
    let _ = compare::write(&[path], &out, None);
    // the same bytes as the metrics of a run
    desk.lay("run/recipe.toml", b"preset = \"tiny\"\n");
    desk.lay("run/metrics.jsonl", bytes);
    let _ = compare::write(&[desk.path().join("run")], &out, None);
}

fn result_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"command": "eval-ppl", "model": "m", "results": [{"window": 2048, "ppl": 12.5, "standard_error": 0.5}]}"#,
        r#"{"command": "eval-passkey", "model": "m", "by_length": [{"length": 1024, "accuracy": 1.0, "standard_error": null}]}"#,
        r#"{"command": "eval-needle", "model": "m", "cells": [{"length": 1024, "depth": 0.5, "accuracy": 0.75}]}"#,
        r#"{"command": "eval-tasks", "model": "m", "results": {"questions": 3, "acc": 0.5}}"#,
        "{\"step\": 1, \"loss\": 2.5, \"grad_norm\": 1.0, \"lr\": 0.001, \"tokens\": 64}\n{\"step\": 1, \"window\": 64, \"ppl\": 3.25}\n",
    ])
}
