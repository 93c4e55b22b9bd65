//! All documents of a run as tokens.

use super::cache::{self, Entry, Key, Lookup};
use super::documents::{self, Source, Text};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::names;
use crate::random::{Purpose, Stream};
use rayon::prelude::*;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Text of .jsonl files that is held at a time, before it becomes tokens.
const BATCH_BYTES: usize = 32 << 20;

/// One document as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The file, with the line after a colon in a .jsonl file.
    pub name: String,
    pub tokens: Vec<TokenId>,
}

/// Documents in the order of the paths they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    pub documents: Vec<Document>,
}

/// That no document is as long as was asked for, as a part of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllShort {
    pub documents: usize,
    /// The longest one's name and tokens.
    pub longest: String,
    pub tokens: usize,
}

impl std::fmt::Display for AllShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.documents {
            0 => f.write_str("there are no documents"),
            n => {
                let documents = names::counted(n, "document");
                write!(f, "the longest of {documents}, {}, has {}", self.longest, self.tokens)
            }
        }
    }
}

/// How documents become tokens.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The field of a .jsonl line that has the text.
    pub text_field: String,
    /// Put the tokenizer's bos in front of every document.
    pub bos: bool,
    /// Put the tokenizer's eos behind every document.
    pub eos: bool,
    /// As [`Source::max_decompressed`].
    pub max_decompressed: Option<u64>,
    /// Where tokens are kept ([`cache::default_dir`]); None to make them anew.
    pub cache_dir: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            text_field: "text".into(),
            bos: false,
            eos: false,
            max_decompressed: None,
            cache_dir: cache::default_dir(),
        }
    }
}

/// How far [`Corpus::load`] is, in bytes of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

impl Corpus {
    /// Reads and tokenizes files and directories (see [`documents::find`]), in parallel; what was tokenized before comes
    /// from the cache. `progress` is called after every file, from any thread. Returns warnings too: about caches that were
    /// damaged or could not be written.
    ///
    /// Errors: those of [`documents::find`], [`Source::read`] and [`Tokenizer::encode`] (the first in the order of the
    /// files), bos or eos asked of a tokenizer that has none.
    pub fn load(
        paths: &[PathBuf], tokenizer: &Tokenizer, options: &LoadOptions,
        progress: Option<&(dyn Fn(Progress) + Sync)>,
    ) -> Result<(Corpus, Vec<String>)> {
        let job = Job::new(tokenizer, options)?;
        let mut sources = documents::find(paths)?;
        sources.iter_mut().for_each(|source| source.max_decompressed = options.max_decompressed);
        let bytes = |source: &Source| std::fs::metadata(&source.path).map_or(0, |meta| meta.len());
        let (done, total) = (AtomicU64::new(0), sources.iter().map(bytes).sum());
        let load = |source: &Source| {
            let loaded = job.load(source);
            let done = done.fetch_add(bytes(source), Ordering::Relaxed) + bytes(source);
            progress.inspect(|tell| tell(Progress { done, total }));
            loaded
        };
        let loaded: Vec<Result<Loaded>> = sources.par_iter().map(load).collect();
        let (mut corpus, mut warnings) = (Corpus::default(), Vec::new());
        for (source, loaded) in sources.iter().zip(loaded) {
            let loaded = loaded?;
            let name = |entry: Entry| Document { name: source.name_of(entry.line), tokens: entry.tokens };
            corpus.documents.extend(loaded.entries.into_iter().map(name));
            warnings.extend(loaded.warnings);
        }
        tokenizer.forget_words();
        // One full disk is one warning, not one for each file.
        warnings.dedup();
        Ok((corpus, warnings))
    }

    /// Tokens of the longest document; 0 of none.
    pub fn longest(&self) -> usize {
        self.documents.iter().map(|document| document.tokens.len()).max().unwrap_or(0)
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.documents.iter().map(|document| document.tokens.len() as u64).sum()
    }

    /// Cuts every document to its first `tokens` tokens, and gives back the memory of the rest.
    pub fn cut(&mut self, tokens: usize) {
        for document in &mut self.documents {
            document.tokens.truncate(tokens);
            document.tokens.shrink_to_fit();
        }
    }

    /// Drops the documents of fewer than `tokens` tokens and returns how many there were.
    ///
    /// Errors: nothing would be left, and nothing is dropped.
    pub fn retain_at_least(&mut self, tokens: usize) -> std::result::Result<usize, AllShort> {
        let longest = self.documents.iter().max_by_key(|document| document.tokens.len());
        let (name, longest) = longest.map_or(("", 0), |d| (d.name.as_str(), d.tokens.len()));
        if self.documents.is_empty() || longest < tokens {
            let documents = self.documents.len();
            return Err(AllShort { documents, longest: name.into(), tokens: longest });
        }
        let before = self.documents.len();
        self.documents.retain(|document| document.tokens.len() >= tokens);
        Ok(before - self.documents.len())
    }

    /// blake3 of all tokens and where documents end: what a resumed run must find again. Names play no part, so data may be
    /// moved.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for document in &self.documents {
            hasher.update(&(document.tokens.len() as u64).to_le_bytes());
            hasher.update(bytemuck::cast_slice(&document.tokens));
        }
        *hasher.finalize().as_bytes()
    }
}

/// Chooses the document of a row, each with a probability proportional to the number of windows that can be cut from it, so
/// that every window of the corpus is as likely as any other.
#[derive(Debug)]
pub(super) struct Chooser {
    /// Windows in documents 0..=i.
    ends: Vec<u64>,
}

impl Chooser {
    /// For windows that take `need` tokens; shorter documents are never chosen.
    pub(super) fn new(corpus: &Corpus, need: usize) -> Self {
        let mut end = 0;
        let windows = |document: &Document| {
            end += (document.tokens.len() + 1).saturating_sub(need) as u64;
            end
        };
        Chooser { ends: corpus.documents.iter().map(windows).collect() }
    }

    /// An index into the corpus' documents.
    pub(super) fn document(&self, seed: u64, step: u64, row: u32) -> usize {
        let windows = self.ends.last().copied().unwrap_or(0);
        let window = Stream::new(seed, Purpose::Document, step, row).below(windows);
        self.ends.partition_point(|&end| end <= window)
    }
}

/// What one source needs to become tokens.
struct Job<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a LoadOptions,
    bos: Option<u32>,
    eos: Option<u32>,
}

struct Loaded {
    entries: Vec<Entry>,
    warnings: Vec<String>,
}

impl<'a> Job<'a> {
    fn new(tokenizer: &'a Tokenizer, options: &'a LoadOptions) -> Result<Self> {
        let special = |asked: bool, id: Option<u32>, flag: &str, name: &str| match (asked, id) {
            (true, None) => {
                let problem = format!("this tokenizer names no {name} token; leave the flag out");
                Err(Error::usage(flag, "", problem))
            }
            _ => Ok(id.filter(|_| asked)),
        };
        let bos = special(options.bos, tokenizer.bos_id(), "--bos", "bos")?;
        let eos = special(options.eos, tokenizer.eos_id(), "--eos", "eos")?;
        Ok(Job { tokenizer, options, bos, eos })
    }

    fn load(&self, source: &Source) -> Result<Loaded> {
        let mut warnings = Vec::new();
        let Some(dir) = &self.options.cache_dir else {
            return Ok(Loaded { entries: self.tokenize(source)?, warnings });
        };
        let key = Key::of(source, self.tokenizer, &self.options.text_field, self.bos, self.eos)
            .map_err(|e| Error::io(&source.path, "reading the file", e))?;
        match cache::read(dir, key, self.tokenizer.vocab_size()) {
            Lookup::Hit(entries) => return Ok(Loaded { entries, warnings }),
            Lookup::Absent => (),
            Lookup::Corrupt(why) => {
                warnings.push(format!("{}: token cache made anew: {why}", key.path(dir).display()));
            }
        }
        let entries = self.tokenize(source)?;
        if let Err(e) = cache::write(dir, key, &entries) {
            warnings.push(format!("{}: tokens are not cached: {e}", dir.display()));
        }
        Ok(Loaded { entries, warnings })
    }

    fn tokenize(&self, source: &Source) -> Result<Vec<Entry>> {
        let (mut entries, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
        source.read(&self.options.text_field, &mut |text: Text| {
            bytes += text.text.len();
            waiting.push(text);
            if bytes >= BATCH_BYTES {
                entries.extend(self.encode(std::mem::take(&mut waiting), source)?);
                bytes = 0;
            }
            Ok(())
        })?;
        entries.extend(self.encode(waiting, source)?);
        Ok(entries)
    }

    fn encode(&self, texts: Vec<Text>, source: &Source) -> Result<Vec<Entry>> {
        let encode = |Text { line, text }: Text| {
            let failed = |e| Error::file(source.name_of(line), format!("{e}"));
            let mut tokens = Vec::new();
            tokens.extend(self.bos.map(TokenId));
            tokens.extend(self.tokenizer.encode(&text).map_err(failed)?);
            tokens.extend(self.eos.map(TokenId));
            Ok(Entry { line, tokens })
        };
        texts.into_par_iter().map(encode).collect::<Vec<Result<_>>>().into_iter().collect()
    }
}
