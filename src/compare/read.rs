//! What is compared, read back from files.

use crate::error::{Error, Result};
use crate::recipe::{Recipe, Settings};
use crate::regular;
use crate::train::StepMetrics;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One thing to compare.
#[derive(Clone, Debug)]
pub struct Input {
    /// Short, and no other input's.
    pub name: String,
    /// The directory of the run, or of the model that was measured.
    pub about: PathBuf,
    /// Of an evaluation: how was measured and on which texts, as far as the file says.
    pub measured: String,
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
    pub length: usize,
    #[serde(alias = "accuracy")]
    pub value: f64,
    /// Of `value`.
    pub standard_error: Option<f64>,
    /// Mean over documents, where `value` is over all their tokens, with its standard error.
    pub mean: Option<f64>,
    pub mean_error: Option<f64>,
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
    Passkey(Passkeys),
    Needle(Vec<Needle>),
    /// Perplexity on the tokens that need the long context, by window.
    LongPpl(Vec<Point>),
    Shift(Vec<Shift>),
    Tasks(Tasks),
}

/// Shares of passkeys found.
#[derive(Clone, Debug, PartialEq)]
pub struct Passkeys {
    /// By length of the prompt.
    pub by_length: Vec<Point>,
    /// By length and depth; none in files of versions that did not write them.
    pub cells: Vec<Needle>,
}

/// The same passages at one offset: differences of their mean NLL to that at offset 0, nats per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// In tokens.
    pub offset: usize,
    pub alone: f64,
    /// None where no document has so many tokens before a passage.
    pub after: Option<f64>,
}

/// Shares of questions answered rightly, each with its standard error.
#[derive(Clone, Debug, PartialEq)]
pub struct Tasks {
    /// As "acc", "acc_norm".
    pub measures: Vec<(String, f64, Option<f64>)>,
    pub questions: usize,
}

/// Reads everything that is to be compared.
pub fn all(paths: &[PathBuf]) -> Result<Vec<Input>> {
    let mut inputs: Vec<Input> = paths.iter().map(|path| read(path)).collect::<Result<_>>()?;
    let short: Vec<String> = paths.iter().map(name).collect();
    for (i, (input, path)) in inputs.iter_mut().zip(paths).enumerate() {
        if let Some(same) = paths[..i].iter().find(|other| *other == path) {
            return Err(Error::usage("RUN", same.display(), "is named twice"));
        }
        if short.iter().filter(|name| **name == input.name).count() > 1 {
            input.name = path.display().to_string();
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
    let (content, about, measured) = if path.is_dir() {
        (Content::Training(Box::new(training(path)?)), path.into(), String::new())
    } else {
        let text =
            regular::read_to_string(path).map_err(|e| Error::io(path, "reading what to compare", e))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|e| Error::file(path, format!("is not JSON: {e}")))?;
        let about = value["model"].as_str().unwrap_or_default().into();
        let measured = measured(&value);
        let content = evaluation(value).map_err(|problem| Error::file(path, problem))?;
        (Content::Evaluation(content), about, measured)
    };
    Ok(Input { name: name(path), about: std::path::absolute(&about).unwrap_or(about), measured, content })
}

fn training(dir: &Path) -> Result<Training> {
    let file = |name: &str| {
        let path = dir.join(name);
        regular::read_to_string(&path)
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

/// The protocol, in which precision and by which judge, and the texts with the tokens of each that were read.
fn measured(value: &Value) -> String {
    let said = |key: &str| value[key].as_str();
    let mut parts: Vec<String> = said("protocol_text").map(String::from).into_iter().collect();
    parts.extend(said("dtype").map(|dtype| format!("{dtype}, cache {}", said("kv_cache").unwrap_or(dtype))));
    parts.extend(said("judge").map(|judge| format!("judged by {judge}")));
    let documents = value["results"][0]["documents"].as_array().into_iter().flatten();
    let text = |document: &Value| {
        let name = document["name"].as_str()?;
        let name = Path::new(name).file_name().map_or(name.into(), |name| name.to_string_lossy());
        Some(format!("{name} ({} tokens)", document["tokens"]))
    };
    let texts: Vec<String> = documents.filter_map(text).collect();
    parts.extend((!texts.is_empty()).then(|| texts.join(", ")));
    parts.join("; ")
}

/// The error is the end of a sentence about the file.
fn evaluation(value: Value) -> std::result::Result<Evaluation, String> {
    // files of versions that did not write their command are told by their keys
    let by_keys = [("results", "eval-ppl"), ("by_length", "eval-passkey"), ("cells", "eval-needle")];
    let by_keys =
        || by_keys.into_iter().find(|(key, _)| value.get(key).is_some()).map(|(_, command)| command);
    let of = |key: &str| list(&value[key], key);
    match value["command"].as_str().or_else(by_keys) {
        Some("eval-ppl") => points(&value, "ppl").map(Evaluation::Perplexity),
        Some("eval-passkey") => {
            let cells = value.get("cells").map_or(Ok(Vec::new()), needles)?;
            of("by_length").map(|by_length| Evaluation::Passkey(Passkeys { by_length, cells }))
        }
        Some("eval-needle") => needles(&value["cells"]).map(Evaluation::Needle),
        Some("eval-longppl") => points(&value, "longppl").map(Evaluation::LongPpl),
        Some("eval-shift") => list(&value["results"], "results").map(shift),
        Some("eval-tasks") => tasks(&value["results"]).map(Evaluation::Tasks),
        _ => {
            let known = "eval-ppl, eval-longppl, eval-shift, eval-passkey, eval-needle or eval-tasks";
            Err(format!("is no result of {known} as --json writes it"))
        }
    }
}

/// More than anyone looks at on a page, and few enough to be laid out at once.
const MOST_RESULTS: usize = 10_000;

fn needles(cells: &Value) -> std::result::Result<Vec<Needle>, String> {
    let cells: Vec<Needle> = list(cells, "cells")?;
    let lengths: BTreeSet<usize> = cells.iter().map(|c| c.length).collect();
    let depths: BTreeSet<u64> = cells.iter().map(|c| c.depth.to_bits()).collect();
    if lengths.len() * depths.len() > MOST_RESULTS {
        return Err(format!("has {} lengths and {} depths, too many for a map", lengths.len(), depths.len()));
    }
    Ok(cells)
}

fn list<T: serde::de::DeserializeOwned>(value: &Value, key: &str) -> std::result::Result<Vec<T>, String> {
    let all: Vec<T> = Vec::deserialize(value)
        .map_err(|e| format!("is no result of an evaluation as --json writes it: {key}: {e}"))?;
    match all.len() > MOST_RESULTS {
        true => Err(format!("has {} {key}, too many for a page", all.len())),
        false => Ok(all),
    }
}

/// Perplexity by window, "ppl" or "longppl"; a window without key tokens has no LongPPL and is left out.
fn points(value: &Value, measure: &str) -> std::result::Result<Vec<Point>, String> {
    let point = |r: &Value| {
        let missing =
            |key: &str| format!("is no result of an evaluation as --json writes it: no {key} in results");
        if measure == "longppl" && r[measure].is_null() {
            return Ok(None);
        }
        Ok(Some(Point {
            length: r["window"].as_u64().ok_or_else(|| missing("window"))? as usize,
            value: r[measure].as_f64().ok_or_else(|| missing(measure))?,
            standard_error: r[format!("{measure}_error")].as_f64(),
            mean: r[format!("mean_{measure}")].as_f64(),
            mean_error: r[format!("mean_{measure}_error")].as_f64(),
        }))
    };
    let reports: Vec<Value> = list(&value["results"], "results")?;
    reports.iter().filter_map(|r| point(r).transpose()).collect()
}

fn shift(reports: Vec<Value>) -> Evaluation {
    let at = |r: &Value| {
        let offset = r["offset"].as_u64()? as usize;
        Some(Shift {
            offset,
            alone: r["alone"]["difference"].as_f64()?,
            after: r["after"]["difference"].as_f64(),
        })
    };
    Evaluation::Shift(reports.iter().filter_map(at).collect())
}

fn tasks(report: &Value) -> std::result::Result<Tasks, String> {
    let measure = |name: &str| {
        let mean = report[name]["mean"].as_f64()?;
        Some((name.to_string(), mean, report[name]["standard_error"].as_f64()))
    };
    let measures: Vec<_> = ["acc", "acc_norm", "acc_bytes", "mc2"].into_iter().filter_map(measure).collect();
    let questions = report["questions"].as_array().map_or(0, Vec::len);
    if measures.is_empty() {
        return Err("is no result of eval-tasks as --json writes it".into());
    }
    Ok(Tasks { measures, questions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_are_told_by_their_keys() {
        let point = |length, value, mean: Option<f64>| Point {
            length,
            value,
            standard_error: Some(0.5),
            mean,
            mean_error: mean.map(|_| 0.25),
        };
        let ppl = json!({ "results": [
            { "window": 64, "ppl": 3.5, "ppl_error": 0.5, "mean_ppl": 4.5, "mean_ppl_error": 0.25, "nll": 1.25 }] });
        assert_eq!(evaluation(ppl), Ok(Evaluation::Perplexity(vec![point(64, 3.5, Some(4.5))])));
        let passkey =
            json!({ "by_length": [{ "length": 64, "accuracy": 0.25, "standard_error": 0.5, "trials": 4 }] });
        let found = |cells| Passkeys { by_length: vec![point(64, 0.25, None)], cells };
        assert_eq!(evaluation(passkey.clone()), Ok(Evaluation::Passkey(found(vec![]))));
        let cell = json!([{ "length": 64, "depth": 0.5, "accuracy": 1.0, "trials": 4 }]);
        let needle = vec![Needle { length: 64, depth: 0.5, accuracy: 1.0 }];
        assert_eq!(evaluation(json!({ "cells": cell })), Ok(Evaluation::Needle(needle.clone())));
        let mut with_cells = passkey;
        with_cells["cells"] = cell;
        assert_eq!(evaluation(with_cells), Ok(Evaluation::Passkey(found(needle))));
        let long = json!({ "command": "eval-longppl", "results": [
            { "window": 64, "ppl": 3.5, "longppl": 2.5, "longppl_error": 0.5, "mean_longppl": 2.75,
              "mean_longppl_error": 0.25 },
            { "window": 128, "longppl": null }] });
        assert_eq!(evaluation(long), Ok(Evaluation::LongPpl(vec![point(64, 2.5, Some(2.75))])));
        let shifted = json!({ "command": "eval-shift", "results": [
            { "offset": 64, "alone": { "difference": 0.25 }, "after": null }] });
        assert_eq!(
            evaluation(shifted),
            Ok(Evaluation::Shift(vec![Shift { offset: 64, alone: 0.25, after: None }]))
        );
        let asked = json!({ "command": "eval-tasks", "results": {
            "acc": { "mean": 0.5, "standard_error": null }, "questions": [1, 2] } });
        let measures = vec![("acc".to_string(), 0.5, None)];
        assert_eq!(evaluation(asked), Ok(Evaluation::Tasks(Tasks { measures, questions: 2 })));
        for wrong in [
            json!({}),
            json!({ "command": "train" }),
            json!([1]),
            json!({ "results": 1 }),
            json!({ "cells": [{ "length": "x" }] }),
            json!({ "results": [{ "x": 1 }] }),
            json!({ "results": [{ "window": 64, "ppl": null }] }),
        ] {
            assert!(evaluation(wrong.clone()).is_err_and(|e| e.contains("--json writes it")), "{wrong}");
        }
    }

    #[test]
    fn how_is_measured_is_the_protocol_and_the_texts() {
        let mut ppl = json!({ "protocol_text": "sliding windows", "dtype": "bf16", "kv_cache": "int8", "results": [
            { "documents": [{ "name": "a/b.txt", "tokens": 100 }, { "name": "c.txt", "tokens": 7 }] }, {}] });
        let texts = "b.txt (100 tokens), c.txt (7 tokens)";
        assert_eq!(measured(&ppl), format!("sliding windows; bf16, cache int8; {texts}"));
        ppl["judge"] = json!("big");
        assert_eq!(measured(&ppl), format!("sliding windows; bf16, cache int8; judged by big; {texts}"));
        assert_eq!(measured(&json!({ "results": [] })), "");
    }

    #[test]
    fn names_are_the_last_part() {
        for (path, expected) in [("runs/pose", "pose"), ("a/ppl.json", "ppl"), ("v1.5", "v1.5"), ("/", "/")] {
            assert_eq!(name(path), expected, "{path}");
        }
    }
}
