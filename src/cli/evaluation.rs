//! Flags that the evaluations share, and what each does with them.

use super::common::{Common, Json, Where};
use super::output::size_text;
use super::reader::{OpenedReader, Reader, hex};
use crate::backend::Backend;
use crate::backend::device::{DType, Job, dispatch};
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::eval::Partial;
use crate::model::cache::CacheFormat;
use crate::recipe::Size;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

/// How an evaluation reads, where it computes, and where its results go.
#[derive(Debug, Args)]
pub struct Evaluation {
    #[command(flatten)]
    kv: KvCache,
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub resumable: Resumable,
    #[command(flatten)]
    pub json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Evaluation {
    /// What keys and values are kept as.
    pub fn cache(&self, reader: &Reader) -> Result<CacheFormat> {
        self.kv.format(reader.dtype)
    }

    /// Says how is measured, before it begins.
    pub fn announce(&self, protocol: &str) {
        self.common.note(&format!("protocol: {protocol}"));
    }

    pub fn dispatch<J: Job>(&self, reader: &Reader, job: J) -> Result<J::Out> {
        dispatch(self.place.device(&self.common), reader.dtype, self.common.threads, job)
    }

    /// `--json`: what all evaluations say of themselves, then the object `results`.
    pub fn write(
        &self, command: &str, reader: &Reader, protocol: &impl serde::Serialize, results: Value,
    ) -> Result<()> {
        let mut all = json!({
            "command": command, "model": reader.model, "dtype": reader.dtype, "kv_cache": self.kv.name(reader.dtype),
            "protocol": protocol,
        });
        if let (Value::Object(all), Value::Object(results)) = (&mut all, results) {
            all.extend(results);
        }
        self.json.write(&all)
    }
}

/// The longest of `--windows`, after a look at what `--stride` leaves of a text.
pub fn longest_window(windows: &[Size], stride: Option<Size>) -> Result<usize> {
    let shortest = windows.iter().map(|w| w.0).min().unwrap_or(0);
    if shortest < 2 {
        return Err(Error::usage("--windows", shortest, "a window needs at least 2 tokens"));
    }
    if let Some(stride) = stride.filter(|s| s.0 > shortest) {
        let problem = format!("would leave tokens out between windows of {shortest}; ask for at most that");
        return Err(Error::usage("--stride", stride, problem));
    }
    Ok(windows.iter().map(|w| w.0).max().unwrap_or(shortest))
}

/// Tokens that are read at once at most: the longest window, or less where no document, of at most `longest` tokens, fills it with what
/// opens it.
pub fn longest_read(window: usize, longest: usize) -> usize {
    window.min(longest.saturating_add(1))
}

/// Trials in all, of which there are `each` (`--trials`) in each of `places`.
pub fn count_trials(places: usize, each: Size) -> Result<usize> {
    /// Each is kept, with its answer.
    const MOST: usize = 1_000_000;
    let all = places.checked_mul(each.0).filter(|all| *all <= MOST);
    all.ok_or_else(|| {
        let problem = format!("make more than {MOST} trials in {places} places; ask for fewer");
        Error::usage("--trials", each, problem)
    })
}

/// Says so where no document fills a window, whose figure is then that of a shorter one.
pub fn note_unfilled(common: &Common, windows: &[Size], corpus: &Corpus) {
    let longest = corpus.longest();
    let beyond: Vec<String> = windows.iter().filter(|w| w.0 > longest).map(|w| size_text(w.0)).collect();
    if !beyond.is_empty() {
        let windows = beyond.join(", ");
        common.note(&format!(
            "no document has more than {longest} tokens, so windows of {windows} are no longer than that"
        ));
    }
}

/// `--partial FILE`, where a measure takes long.
#[derive(Debug, Args)]
pub struct Resumable {
    /// Keep what is finished in this file; the same command goes on from there after it was stopped, with the same
    /// results
    #[arg(long, value_name = "FILE", help_heading = "General")]
    partial: Option<PathBuf>,
}

impl Resumable {
    /// What was finished before of the measure that `protocol` describes, by this command with this model on this
    /// backend.
    pub fn open<B: Backend>(
        &self, _: &B, command: &str, opened: &OpenedReader, cache: CacheFormat, corpus: Option<&Corpus>,
        protocol: &impl serde::Serialize,
    ) -> Result<Partial> {
        let Some(path) = &self.partial else { return Ok(Partial::none()) };
        let header = json!({
            "command": command, "protocol": protocol, "text": corpus.map(|corpus| hex(&corpus.fingerprint())),
            "model": opened.fingerprint()?, "kv_cache": format!("{cache:?}"), "backend": std::any::type_name::<B>(),
        });
        Partial::open(path, &header)
    }
}

/// `--kv-cache`, where keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    Bf16,
    F32,
    Int8,
}

/// How keys and values are kept while a text is read.
#[derive(Clone, Debug, Args)]
pub struct KvCache {
    /// What the keys and values of earlier tokens are kept as: int8 takes about half the memory of bf16, for a small loss of
    /// precision [default: as --dtype]
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub kv_cache: Option<KvDtype>,
}

impl KvCache {
    /// Refuses a precision that activations do not have.
    pub fn format(&self, dtype: DType) -> Result<CacheFormat> {
        match (self.kv_cache, dtype) {
            (None, _) | (Some(KvDtype::Bf16), DType::Bf16) | (Some(KvDtype::F32), DType::F32) => {
                Ok(CacheFormat::Act)
            }
            (Some(KvDtype::Int8), _) => Ok(CacheFormat::Int8),
            (Some(KvDtype::Bf16), DType::F32) => Err(Self::refuse("bf16", "f32")),
            (Some(KvDtype::F32), DType::Bf16) => Err(Self::refuse("f32", "bf16")),
        }
    }

    fn refuse(asked: &str, dtype: &str) -> Error {
        let problem = format!("does not go with --dtype {dtype}; choose int8, {dtype}, or --dtype {asked}");
        Error::usage("--kv-cache", asked, problem)
    }

    /// What it comes to, for results.
    pub fn name(&self, dtype: DType) -> KvDtype {
        self.kv_cache.unwrap_or(match dtype {
            DType::Bf16 => KvDtype::Bf16,
            DType::F32 => KvDtype::F32,
        })
    }
}
