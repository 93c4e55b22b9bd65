//! A model as a Hugging Face directory.

use super::atomic::Staging;
use super::tensors::{Stored, TensorSource, write_safetensors};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::params::{file_tensors, table};
use crate::regular;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Weights larger than this are split into several files, as transformers does.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Files of a model directory that belong to its text side and go along unchanged.
const TOKENIZER_FILES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// Writes config.json and the weights, split where they are above `shard_bytes` ([`SHARD_BYTES`] as a rule), and copies the
/// tokenizer's files from `tokenizer_from`. Returns warnings for the user: what other software will read differently.
///
/// # Errors
/// A source whose tensors are not those of the configuration, or a refusal of the operating system.
pub fn write_model(
    staging: &Staging, config: &Config, source: &dyn TensorSource, tokenizer_from: Option<&Path>,
    shard_bytes: u64,
) -> Result<Vec<String>> {
    check_source(staging, config, source)?;
    let mut config = config.clone();
    if let Some(Stored::Float(dtype)) = source.specs().first().map(|s| s.dtype) {
        config.dtype = Some(dtype);
    }
    let warnings = write_config(staging, &config)?;
    write_weights(staging, source, shard_bytes)?;
    if let Some(from) = tokenizer_from {
        copy_companions(staging, &config, from)?;
    }
    Ok(warnings)
}

/// Copies what goes along with a model's configuration from the directory `from`: its tokenizer, and the code that it names.
pub(super) fn copy_companions(staging: &Staging, config: &Config, from: &Path) -> Result<()> {
    copy_tokenizer(staging, from)?;
    if config.extra.contains_key("auto_map") {
        copy_code(staging, from)?;
    }
    Ok(())
}

/// A checkpoint that its own config cannot load is worse than none.
fn check_source(staging: &Staging, config: &Config, source: &dyn TensorSource) -> Result<()> {
    let wrong = |problem: String| Err(Error::file(staging.dir(), problem));
    let (tensors, specs) = (file_tensors(&table(config)), source.specs());
    if tensors.len() != specs.len() {
        return wrong(format!(
            "the model's parameters are {} tensors, {} were given to save",
            tensors.len(),
            specs.len()
        ));
    }
    for tensor in &tensors {
        match specs.iter().find(|s| s.name == tensor.name) {
            None => return wrong(format!("{} was not given to save", tensor.name)),
            Some(s) if s.shape != tensor.shape => {
                return wrong(format!(
                    "{} was given as {:?}, the model has {:?}",
                    s.name, s.shape, tensor.shape
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Writes config.json and returns the warnings for the user.
pub(super) fn write_config(staging: &Staging, config: &Config) -> Result<Vec<String>> {
    let (json, warnings) = config.to_json();
    write_json(staging, "config.json", &json)?;
    Ok(warnings)
}

/// Writes a file of JSON.
pub fn write_json(staging: &Staging, name: &str, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(name, e.to_string()))?;
    staging.write(name, format!("{text}\n").as_bytes())
}

/// Writes the weights as model.safetensors, or split under an index where they are above `shard_bytes`.
pub fn write_weights(staging: &Staging, source: &dyn TensorSource, shard_bytes: u64) -> Result<()> {
    let shards = split(source, shard_bytes);
    if let [all] = shards.as_slice() {
        return write_safetensors(&staging.dir().join("model.safetensors"), source, all);
    }
    let mut weight_map = Map::new();
    for (n, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", n + 1, shards.len());
        write_safetensors(&staging.dir().join(&file), source, shard)?;
        weight_map.extend(shard.iter().map(|&i| (source.specs()[i].name.clone(), json!(file))));
    }
    let total: usize = source.specs().iter().map(|s| s.bytes()).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_json(staging, "model.safetensors.index.json", &index)
}

/// Places of tensors, in order, in groups of at most `shard_bytes`; a tensor larger than that is alone in its group.
fn split(source: &dyn TensorSource, shard_bytes: u64) -> Vec<Vec<usize>> {
    let (mut shards, mut filled) = (vec![Vec::new()], 0);
    for (i, spec) in source.specs().iter().enumerate() {
        let bytes = spec.bytes() as u64;
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(i);
        }
    }
    shards
}

/// Copies the tokenizer's files that `from` has. Returns their names; none at all is no error (a byte vocabulary has none).
///
/// # Errors
/// A `from` that is gone, which a long run may find, or a refusal of the operating system.
pub fn copy_tokenizer(staging: &Staging, from: &Path) -> Result<Vec<&'static str>> {
    if !from.is_dir() {
        let problem = "is gone, and the tokenizer's files are copied from it; put it back";
        return Err(Error::file(from, problem));
    }
    let mut copied = Vec::new();
    for name in TOKENIZER_FILES {
        let path = from.join(name);
        match regular::read(&path) {
            Ok(bytes) => {
                staging.write(name, &bytes)?;
                copied.push(name);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&path, "copying the tokenizer", e)),
        }
    }
    Ok(copied)
}

/// Copies the Python files that `from` has: a config.json with an auto_map names classes that lie beside it.
fn copy_code(staging: &Staging, from: &Path) -> Result<()> {
    let refused = |e| Error::io(from, "copying the model's code", e);
    for entry in std::fs::read_dir(from).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".py"));
        if let Some(name) = name.filter(|_| path.is_file()) {
            staging.write(name, &regular::read(&path).map_err(refused)?)?;
        }
    }
    Ok(())
}
