//! What is compared, read back from files.

use crate::error::{Error, Result};
use crate::recipe::{Recipe, Settings};
use crate::train::StepMetrics;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One thing to compare.
#[derive(Clone, Debug)]
pub struct Input {
    /// Short, and no other input's.
    pub name: String,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    Training(Box<Training>),
    Evaluation(Evaluation),
}

/// A training run, finished or not.
#[derive(Clone, Debug)]
pub struct Training {
    /// None where the recipe no longer holds, as that of a newer version.
    pub recipe: Option<Recipe>,
    /// recipe.toml as it stands.
    pub text: String,
    pub steps: Vec<StepMetrics>,
    /// Perplexity on held-out text: (step, window in tokens, perplexity).
    pub evals: Vec<(u64, usize, f64)>,
    /// Resident at the peak; None where the run is not finished or the system did not say.
    pub peak_bytes: Option<f64>,
}

/// A figure at a length of text, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Point {
    #[serde(alias = "window")]
    pub length: usize,
    #[serde(alias = "ppl", alias = "accuracy")]
    pub value: f64,
    pub standard_error: Option<f64>,
}

/// Share of needles found at a place.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Needle {
    /// Tokens of the prompt.
    pub length: usize,
    /// 0 at the begin of the text, 1 at its end.
    pub depth: f64,
    pub accuracy: f64,
}

/// What an evaluation's `--json` has.
#[derive(Clone, Debug, PartialEq)]
pub enum Evaluation {
    /// Perplexity by window.
    Perplexity(Vec<Point>),
    /// Share of passkeys found, by length of the prompt.
    Passkey(Vec<Point>),
    Needle(Vec<Needle>),
}

/// Reads everything that is to be compared.
pub fn all(paths: &[PathBuf]) -> Result<Vec<Input>> {
    let mut inputs: Vec<Input> = paths.iter().map(|path| read(path)).collect::<Result<_>>()?;
    for (input, path) in inputs.iter_mut().zip(paths) {
        let twin = |other: &&PathBuf| *other != path && name(other) == input.name;
        if let (Some(_), Some(parent)) = (paths.iter().find(twin), path.parent().map(name)) {
            input.name = format!("{parent}/{}", input.name);
        }
    }
    Ok(inputs)
}

/// The last part of a path, without what says that it is JSON.
fn name(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let part =
        if path.extension().is_some_and(|e| e == "json") { path.file_stem() } else { path.file_name() };
    part.map_or_else(|| path.display().to_string(), |part| part.to_string_lossy().into_owned())
}

fn read(path: &Path) -> Result<Input> {
    let content = if path.is_dir() {
        Content::Training(Box::new(training(path)?))
    } else {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::io(path, "reading what to compare", e))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|e| Error::file(path, format!("is not JSON: {e}")))?;
        Content::Evaluation(evaluation(value).map_err(|problem| Error::file(path, problem))?)
    };
    Ok(Input { name: name(path), content })
}

fn training(dir: &Path) -> Result<Training> {
    let file = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path)
            .map_err(|e| Error::io(&path, "reading the run (is this the --out of a train?)", e))
    };
    let (text, metrics) = (file("recipe.toml")?, file("metrics.jsonl")?);
    let recipe = Settings::from_file(&dir.join("recipe.toml")).and_then(|s| Recipe::validate(&s, false)).ok();
    let steps = metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let eval = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some((line["step"].as_u64()?, line["window"].as_u64()? as usize, line["ppl"].as_f64()?))
    };
    let evals = metrics.lines().filter_map(eval).collect();
    // a run that is going on, or one of an older version, has none
    let summary: Option<Value> = file("summary.json").ok().and_then(|text| serde_json::from_str(&text).ok());
    let peak_bytes = summary.and_then(|s| s["peak_bytes"].as_f64());
    Ok(Training { recipe, text, steps, evals, peak_bytes })
}

/// The kind is told by the keys; the error is the end of a sentence about the file.
fn evaluation(value: Value) -> std::result::Result<Evaluation, String> {
    fn list<T: serde::de::DeserializeOwned>(value: &Value, key: &str) -> std::result::Result<Vec<T>, String> {
        Vec::deserialize(&value[key])
            .map_err(|e| format!("is no result of an evaluation as --json writes it: {key}: {e}"))
    }
    let has = |key: &str| value.get(key).is_some();
    match () {
        () if has("results") => list(&value, "results").map(Evaluation::Perplexity),
        () if has("by_length") => list(&value, "by_length").map(Evaluation::Passkey),
        () if has("cells") => list(&value, "cells").map(Evaluation::Needle),
        () => Err("is no result of eval-ppl, eval-passkey or eval-needle as --json writes it".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_are_told_by_their_keys() {
        let point = |length, value| Point { length, value, standard_error: Some(0.5) };
        let ppl = json!({ "results": [{ "window": 64, "ppl": 3.5, "standard_error": 0.5, "nll": 1.25 }] });
        assert_eq!(evaluation(ppl), Ok(Evaluation::Perplexity(vec![point(64, 3.5)])));
        let passkey =
            json!({ "by_length": [{ "length": 64, "accuracy": 0.25, "standard_error": 0.5, "trials": 4 }] });
        assert_eq!(evaluation(passkey), Ok(Evaluation::Passkey(vec![point(64, 0.25)])));
        let needle = json!({ "cells": [{ "length": 64, "depth": 0.5, "accuracy": 1.0, "trials": 4 }] });
        assert_eq!(
            evaluation(needle),
            Ok(Evaluation::Needle(vec![Needle { length: 64, depth: 0.5, accuracy: 1.0 }]))
        );
        for wrong in [json!({}), json!([1]), json!({ "results": 1 }), json!({ "cells": [{ "length": "x" }] })]
        {
            assert!(evaluation(wrong.clone()).is_err_and(|e| e.contains("--json writes it")), "{wrong}");
        }
    }

    #[test]
    fn names_are_the_last_part() {
        for (path, expected) in [("runs/pose", "pose"), ("a/ppl.json", "ppl"), ("v1.5", "v1.5"), ("/", "/")] {
            assert_eq!(name(path), expected, "{path}");
        }
    }
}
