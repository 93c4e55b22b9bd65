//! Files of text: .txt (one document a file) and .jsonl (one a line, in a named field), plain or as .gz or .zst.

use crate::error::{Error, Result};
use crate::regular;
use crate::size::bytes_text;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

const KINDS: &str = ".txt and .jsonl, each also with .gz or .zst";

/// What the content of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file is one document.
    Text,
    /// Every line is a JSON object with a document in one field.
    JsonLines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A line of a .jsonl file.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// One file of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    pub format: Format,
    pub compression: Compression,
    /// Bytes that a compressed file may become; None: [`default_limit`].
    pub max_decompressed: Option<u64>,
    /// Compressed files that are read together, this one among them.
    pub together: usize,
}

/// Bytes that a compressed file of `bytes`, one of `files` that are read together, may become unless something else is asked for.
/// Text becomes 2 to 10 times its file; files made to fill a memory become 1000 times and more.
pub fn default_limit(bytes: u64, files: usize) -> u64 {
    const TIMES: u64 = 100;
    const SMALL: u64 = 64 << 20;
    bytes.saturating_mul(TIMES).max(SMALL / files.max(1) as u64)
}

/// One document as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Line of a .jsonl file, from 1; 0 in a .txt file.
    pub line: u64,
    pub text: String,
}

/// All sources that `paths` name, in this order. A directory stands for the files of known kinds in it and below it, sorted
/// by name; hidden and other files there are passed over.
///
/// Errors: a path that does not exist, a named file of unknown kind, a directory without documents, no path at all.
pub fn find(paths: &[PathBuf]) -> Result<Vec<Source>> {
    if paths.is_empty() {
        return Err(Error::usage(
            "PATH",
            "",
            format!("name at least one file or directory of documents ({KINDS})"),
        ));
    }
    let mut found = Vec::new();
    for path in paths {
        let meta = fs::metadata(path).map_err(|e| Error::io(path, "looking for documents", e))?;
        if meta.is_dir() {
            let before = found.len();
            walk(path, &mut found, &mut BTreeSet::new())?;
            if found.len() == before {
                return Err(Error::file(path, format!("no documents in this directory; they are {KINDS}")));
            }
        } else if let Some(source) = Source::of(path) {
            found.push(source);
        } else {
            return Err(Error::file(
                path,
                format!("not a kind of document that can be read; they are {KINDS}"),
            ));
        }
    }
    let together = found.iter().filter(|source| source.compression != Compression::None).count();
    found.iter_mut().for_each(|source| source.together = together);
    Ok(found)
}

/// Adds the sources in and below a directory. `entered` are the directories on the way, to stop at links that lead back.
fn walk(dir: &Path, found: &mut Vec<Source>, entered: &mut BTreeSet<PathBuf>) -> Result<()> {
    let listing = |e| Error::io(dir, "listing the directory", e);
    let canonical = dir.canonicalize().map_err(listing)?;
    if !entered.insert(canonical.clone()) {
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(listing)? {
        entries.push(entry.map_err(listing)?.path());
    }
    entries.sort();
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    for path in entries.into_iter().filter(|path| !hidden(path)) {
        if path.is_dir() {
            walk(&path, found, entered)?;
        } else if path.is_file() {
            found.extend(Source::of(&path));
        }
    }
    entered.remove(&canonical);
    Ok(())
}

impl Source {
    /// By the name's endings, in any case; None for a kind that is not read.
    pub fn of(path: &Path) -> Option<Source> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (stem, compression) = match name.rsplit_once('.')? {
            (stem, "gz") => (stem, Compression::Gzip),
            (stem, "zst") => (stem, Compression::Zstd),
            _ => (name.as_str(), Compression::None),
        };
        let format = match stem.rsplit_once('.')?.1 {
            "txt" => Format::Text,
            "jsonl" => Format::JsonLines,
            _ => return None,
        };
        Some(Source { path: path.into(), format, compression, max_decompressed: None, together: 1 })
    }

    /// What a document of this file is called in messages.
    pub fn name_of(&self, line: u64) -> String {
        if line == 0 { self.path.display().to_string() } else { format!("{}:{line}", self.path.display()) }
    }

    /// Passes every document to `sink` in order; of a .jsonl file, only one line is held at a time.
    ///
    /// Errors: those of `sink`, reading and decompression, text that is not UTF-8, a file without documents, a line that is
    /// no JSON object with the text in `text_field`.
    pub fn read(&self, text_field: &str, sink: &mut dyn FnMut(Text) -> Result<()>) -> Result<()> {
        match self.format {
            Format::Text => {
                let (mut reader, mut bytes) = (self.open()?, Vec::new());
                reader.read_to_end(&mut bytes).map_err(|e| self.unreadable(e))?;
                let text = self.utf8(bytes, 0)?;
                if text.trim().is_empty() {
                    return Err(Error::file(&self.path, "the file has no text; remove it or leave it out"));
                }
                sink(Text { line: 0, text })
            }
            Format::JsonLines => self.read_objects(&mut |line, object| {
                sink(Text { line, text: self.field(object, text_field, line)? })
            }),
        }
    }

    /// Passes every line, a JSON object, to `sink` with its number from 1; blank lines are left out.
    ///
    /// Errors: those of `sink`, reading and decompression, text that is not UTF-8, a file without lines, a line that is
    /// no JSON object.
    pub fn read_objects(&self, sink: &mut dyn FnMut(u64, Object) -> Result<()>) -> Result<()> {
        let (mut reader, mut any) = (self.open()?, false);
        for line in 1.. {
            let mut bytes = Vec::new();
            if reader.read_until(b'\n', &mut bytes).map_err(|e| self.unreadable(e))? == 0 {
                break;
            }
            let json = self.utf8(bytes, line)?;
            if !json.trim().is_empty() {
                sink(line, self.object(&json, line)?)?;
                any = true;
            }
        }
        if any {
            Ok(())
        } else {
            Err(Error::file(&self.path, "the file has no lines; remove it or leave it out"))
        }
    }

    /// What is wrong with a line.
    pub fn bad_line(&self, line: u64, problem: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("line {line}: {problem}"))
    }

    fn object(&self, json: &str, line: u64) -> Result<Object> {
        match serde_json::from_str(json) {
            Ok(serde_json::Value::Object(object)) => Ok(object),
            Ok(_) => Err(self.bad_line(line, "not a JSON object; one with named fields is expected")),
            Err(e) => {
                let problem = format!("not valid JSON at column {}: {}", e.column(), category(&e));
                Err(self.bad_line(line, problem))
            }
        }
    }

    fn field(&self, mut object: Object, text_field: &str, line: u64) -> Result<String> {
        match object.get_mut(text_field).map(serde_json::Value::take) {
            Some(serde_json::Value::String(text)) => Ok(text),
            Some(_) => Err(self.bad_line(line, format!("the field \"{text_field}\" is not a string"))),
            None => {
                let problem = format!(
                    "no field \"{text_field}\"; the line has {}. Name the field with --text-field",
                    names_of(&object)
                );
                Err(self.bad_line(line, problem))
            }
        }
    }

    fn open(&self) -> Result<Box<dyn BufRead>> {
        let opening = |e| Error::io(&self.path, "opening the file", e);
        let file = regular::open(&self.path).map_err(opening)?;
        let bytes = file.metadata().map_err(opening)?.len();
        let file = BufReader::with_capacity(1 << 17, file);
        let most = self.max_decompressed.unwrap_or_else(|| default_limit(bytes, self.together));
        Ok(match self.compression {
            Compression::None => Box::new(file),
            // Multi: a .gz file may consist of several streams one after the other.
            Compression::Gzip => limited(flate2::bufread::MultiGzDecoder::new(file), most),
            Compression::Zstd => limited(super::zstd::ZstdReader::new(file), most),
        })
    }

    /// A failed read: of a compressed file as a rule one that is damaged or not what its name says.
    fn unreadable(&self, error: std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::FileTooLarge {
            let problem = format!(
                "{error}, as files do that are made to fill a memory; where it is text, allow more with --max-decompressed"
            );
            return Error::file(&self.path, problem);
        }
        let kind = match self.compression {
            Compression::None => return Error::io(&self.path, "reading the file", error),
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        Error::file(&self.path, format!("damaged, cut short or not {kind}: {error}"))
    }

    /// Bytes as text, without the byte order mark that some editors put first.
    fn utf8(&self, bytes: Vec<u8>, line: u64) -> Result<String> {
        let mut text = String::from_utf8(bytes).map_err(|e| {
            let byte = e.utf8_error().valid_up_to();
            let place = if line == 0 { format!("byte {byte}") } else { format!("line {line}, byte {byte}") };
            Error::file(
                &self.path,
                format!("not UTF-8 at {place}; convert it, with iconv -t UTF-8 for example"),
            )
        })?;
        if line <= 1 && text.starts_with('\u{FEFF}') {
            text.drain(..'\u{FEFF}'.len_utf8());
        }
        Ok(text)
    }
}

/// A decompressor that fails once it has given more than `most` bytes.
fn limited(decompressed: impl Read + 'static, most: u64) -> Box<dyn BufRead> {
    Box::new(BufReader::new(Limited { inner: decompressed, most, left: most }))
}

struct Limited<R> {
    inner: R,
    most: u64,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buf)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                let problem =
                    format!("becomes more than {} when it is decompressed", bytes_text(self.most as usize));
                return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, problem));
            }
        }
        Ok(read)
    }
}

/// The fields of a line, in words.
pub fn names_of(object: &Object) -> String {
    let fields: Vec<String> = object.keys().map(|key| format!("\"{key}\"")).collect();
    if fields.is_empty() { "none".into() } else { fields.join(", ") }
}

/// serde_json's message without the place, which it counts from the start of the line that it was given.
fn category(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.clone(), |(what, _)| what.to_string())
}
