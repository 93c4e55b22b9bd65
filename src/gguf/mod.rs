//! GGUF files (llama.cpp's format) of LLaMA and Qwen2 models, as Hugging Face directories.
//!
//! [`reader`] takes the file apart, [`blocks`] turns quantised numbers into f32, [`names`] finds each tensor and puts rows in order,
//! [`config`] and [`tokenizer`] write what stands beside the weights. The file is mapped and its numbers are converted row by row,
//! so memory is that of the vocabulary.

pub mod blocks;
pub mod config;
pub mod names;
pub mod reader;
pub mod tokenizer;

use crate::checkpoint::{
    Bytes, Existing, SHARD_BYTES, Staging, Stored, TensorSource, TensorSpec, admit, copy_tokenizer,
    is_occupied, map_file, write_json, write_weights,
};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::model::config::Dtype;
use half::bf16;
use names::Part;
use reader::Gguf;
use std::path::Path;

/// What was imported.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    pub architecture: &'static str,
    pub tensors: usize,
    pub parameters: usize,
    /// Context length in tokens.
    pub context: usize,
    pub tokenizer: &'static str,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Writes the model of `file` to the directory `out`, whole or not at all; weights as `dtype`. `tokenizer` is a directory whose
/// tokenizer files are taken in the place of the file's own vocabulary.
///
/// # Errors
/// An `out` that exists, and whatever in the file is damaged, contradicts itself, or cannot be read without loss.
pub fn import(file: &Path, out: &Path, dtype: Dtype, tokenizer: Option<&Path>) -> Result<Imported> {
    if is_occupied(out) {
        let problem = "exists already and is never overwritten; name a new directory";
        return Err(Error::usage("--out", out.display(), problem));
    }
    let mapped = map_file(file)?;
    let gguf = Gguf::open(&mapped, file)?;
    let architecture = config::architecture(&gguf)?;
    let mut config = config::config(&gguf, architecture)?;
    config.dtype = Some(dtype);
    let parts = names::parts(&gguf, architecture, &config)?;
    let staging = Staging::create(out, Existing::Refuse)?;
    let kind = match tokenizer {
        None => {
            let files = tokenizer::tokenizer(&gguf, config.vocab_size)?;
            write_json(&staging, "tokenizer.json", &files.tokenizer)?;
            write_json(&staging, "tokenizer_config.json", &files.config)?;
            files.kind
        }
        Some(from) => {
            if !from.is_dir() {
                return Err(Error::usage("--tokenizer", from.display(), "is no directory"));
            }
            admit(from)?;
            if !from.join("tokenizer.json").exists() {
                return Err(Error::usage("--tokenizer", from.display(), "has no tokenizer.json"));
            }
            Tokenizer::load(from)?.check_vocab(config.vocab_size)?;
            copy_tokenizer(&staging, from)?;
            "copied"
        }
    };
    let (json, warnings) = config.to_json();
    write_json(&staging, "config.json", &json)?;
    let source = Source::new(file, &parts, dtype);
    write_weights(&staging, &source, SHARD_BYTES)?;
    staging.commit()?;
    Ok(Imported {
        architecture: architecture.name(),
        tensors: parts.len(),
        parameters: source.specs.iter().map(TensorSpec::elements).sum(),
        context: config.max_position_embeddings,
        tokenizer: kind,
        warnings,
    })
}

/// The tensors on their way, converted as they go.
struct Source<'a> {
    file: &'a Path,
    parts: &'a [Part<'a>],
    specs: Vec<TensorSpec>,
    dtype: Dtype,
}

impl<'a> Source<'a> {
    fn new(file: &'a Path, parts: &'a [Part<'a>], dtype: Dtype) -> Source<'a> {
        let spec = |part: &Part<'_>| TensorSpec {
            name: part.name.clone(),
            shape: part.tensor.shape.clone(),
            dtype: Stored::Float(dtype),
        };
        Source { file, parts, specs: parts.iter().map(spec).collect(), dtype }
    }
}

impl TensorSource for Source<'_> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn bytes(&self, i: usize, sink: &mut Bytes<'_>) -> Result<()> {
        let mut bytes = Vec::new();
        self.parts[i].read(&mut |numbers: &[f32]| {
            if let Some(wrong) = numbers.iter().find(|x| !x.is_finite()) {
                let name = self.parts[i].tensor.name;
                return Err(Error::file(self.file, format!("{name} has {wrong}: the file is damaged")));
            }
            bytes.clear();
            match self.dtype {
                Dtype::F32 => bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
                Dtype::Bf16 => bytes.extend(numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
                Dtype::F16 => {
                    bytes.extend(numbers.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()))
                }
            }
            sink(&bytes)
        })
    }
}
