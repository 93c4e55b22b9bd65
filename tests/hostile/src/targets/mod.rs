//! The kinds of files, by the room that reads them.

mod gguf;
mod gpu;
mod model;
mod run;
mod text;

use crate::Target;
use std::path::Path;

/// All of them; names are those of the binaries in `../fuzz`.
pub const ALL: &[Target] = &[
    model::SAFETENSORS,
    model::INDEX,
    model::CONFIG,
    model::TOKENIZER,
    gguf::GGUF,
    model::ADAPTER,
    run::MANIFEST,
    run::RESUME,
    run::RECIPE,
    run::RESULT,
    text::JSONL,
    text::TASK,
    text::GZIP,
    text::ZSTD,
    text::TOKEN_CACHE,
    gpu::FATBIN,
    gpu::PTX,
];

/// A file of the project's fixtures.
fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A text of the project, as a file's only content.
fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}
