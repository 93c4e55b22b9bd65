//! Tokens kept on disk, one file for each source, found by what they were made from: the source's bytes, the tokenizer's
//! bytes and the options. A change of any of them is another key, so nothing stale is ever met.
//!
//! Layout, all numbers little-endian: magic, version (u32), 0 (u32), documents (u64), tokens (u64), key, blake3 of all that
//! follows; then line (u64) and tokens (u64) of each document; then the tokens (u32) of all documents.

use super::documents::Source;
use super::tokenizer::Tokenizer;
use crate::index::TokenId;
use crate::regular;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"POSETOKS";
/// To be raised with every change of the layout, and with every version of the tokenizers crate that gives other tokens.
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 96;

/// What a file of tokens was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// One document as it is cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As in [`super::documents::Text::line`].
    pub line: u64,
    pub tokens: Vec<TokenId>,
}

/// What [`read`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    Hit(Vec<Entry>),
    Absent,
    /// There is a file, but it is not what was written; the reason in words.
    Corrupt(String),
}

/// $POSE_CACHE, else $XDG_CACHE_HOME/pose-engine, else ~/.cache/pose-engine. None without any of them.
pub fn default_dir() -> Option<PathBuf> {
    dir_from(|name| std::env::var_os(name))
}

fn dir_from(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification says to ignore a relative path.
    let xdg = || set("XDG_CACHE_HOME").filter(|dir| dir.is_absolute()).map(|dir| dir.join("pose-engine"));
    let home = || set("HOME").map(|dir| dir.join(".cache").join("pose-engine"));
    set("POSE_CACHE").or_else(xdg).or_else(home)
}

impl Key {
    /// Reads the whole source to hash it. `bos` and `eos` are the tokens put around each document.
    pub fn of(
        source: &Source, tokenizer: &Tokenizer, text_field: &str, bos: Option<u32>, eos: Option<u32>,
    ) -> io::Result<Key> {
        let content = blake3::Hasher::new().update_reader(regular::open(&source.path)?)?.finalize();
        let options = format!("{:?} {:?} {text_field:?} {bos:?} {eos:?}", source.format, source.compression);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&MAGIC).update(&VERSION.to_le_bytes());
        hasher.update(content.as_bytes()).update(&tokenizer.fingerprint()).update(options.as_bytes());
        Ok(Key(*hasher.finalize().as_bytes()))
    }

    /// Where the tokens are kept.
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.tokens", blake3::Hash::from(self.0).to_hex()))
    }
}

/// Writes to a temporary file first and renames, so that others see the whole file or none.
pub fn write(dir: &Path, key: Key, entries: &[Entry]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let table: Vec<u8> = entries
        .iter()
        .flat_map(|entry| [entry.line, entry.tokens.len() as u64])
        .flat_map(u64::to_le_bytes)
        .collect();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&table);
    entries.iter().for_each(|entry| _ = hasher.update(&little_endian(&entry.tokens)));
    let tokens: u64 = entries.iter().map(|entry| entry.tokens.len() as u64).sum();

    let mut file = BufWriter::new(tempfile::NamedTempFile::new_in(dir)?);
    file.write_all(&MAGIC)?;
    file.write_all(&VERSION.to_le_bytes())?;
    file.write_all(&[0; 4])?;
    file.write_all(&(entries.len() as u64).to_le_bytes())?;
    file.write_all(&tokens.to_le_bytes())?;
    file.write_all(&key.0)?;
    file.write_all(hasher.finalize().as_bytes())?;
    file.write_all(&table)?;
    for entry in entries {
        file.write_all(&little_endian(&entry.tokens))?;
    }
    let file = file.into_inner().map_err(|e| e.into_error())?;
    file.persist(key.path(dir)).map_err(|e| e.error)?;
    Ok(())
}

/// The tokens that were written under `key`, checked against their hash; all below `vocab_size`, whatever the hash says.
pub fn read(dir: &Path, key: Key, vocab_size: usize) -> Lookup {
    let path = key.path(dir);
    let file = match regular::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Lookup::Absent,
        Err(e) => return Lookup::Corrupt(e.to_string()),
    };
    match read_checked(&file, key, vocab_size) {
        Ok(entries) => Lookup::Hit(entries),
        Err(e) => Lookup::Corrupt(e.to_string()),
    }
}

fn wrong<T>(what: &'static str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn read_checked(file: &File, key: Key, vocab_size: usize) -> io::Result<Vec<Entry>> {
    let bytes = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 17, file);
    if bytes < HEADER_BYTES {
        return wrong("shorter than its header");
    }
    if array(&mut reader)? != MAGIC || array(&mut reader)? != VERSION.to_le_bytes() {
        return wrong("not a token cache of this version");
    }
    if array(&mut reader)? != [0; 4] {
        return wrong("damaged: its header is not as it was written");
    }
    let (documents, tokens) = (number(&mut reader)?, number(&mut reader)?);
    // Before any memory is taken for what the header promises.
    let promised = documents.checked_mul(16).zip(tokens.checked_mul(4)).and_then(|(a, b)| a.checked_add(b));
    if promised.and_then(|rest| rest.checked_add(HEADER_BYTES)) != Some(bytes) {
        return wrong("not of the length that its header says");
    }
    if array(&mut reader)? != key.0 {
        return wrong("made from something else");
    }
    let hash: [u8; 32] = array(&mut reader)?;
    let mut hasher = blake3::Hasher::new();
    let table = read_table(&mut reader, &mut hasher, documents, tokens)?;
    let mut entries = Vec::with_capacity(table.len());
    for (line, len) in table {
        let mut tokens = vec![TokenId::default(); len as usize];
        reader.read_exact(bytemuck::cast_slice_mut(&mut tokens))?;
        hasher.update(bytemuck::cast_slice(&tokens));
        tokens.iter_mut().for_each(|token| token.0 = u32::from_le(token.0));
        if tokens.iter().any(|token| token.0 as usize >= vocab_size) {
            return wrong("it has token ids that the tokenizer has not");
        }
        entries.push(Entry { line, tokens });
    }
    if *hasher.finalize().as_bytes() != hash {
        wrong("damaged: its hash does not match")
    } else {
        Ok(entries)
    }
}

/// Line and number of tokens of each document; the numbers sum to `tokens`.
fn read_table(
    reader: &mut impl Read, hasher: &mut blake3::Hasher, documents: u64, tokens: u64,
) -> io::Result<Vec<(u64, u64)>> {
    let mut table = Vec::new();
    let mut left = tokens;
    for _ in 0..documents {
        let record: [u8; 16] = array(reader)?;
        hasher.update(&record);
        let (line, len) = (number(&mut &record[..8])?, number(&mut &record[8..])?);
        let Some(rest) = left.checked_sub(len) else { return wrong("documents longer than the file") };
        left = rest;
        table.push((line, len));
    }
    if left == 0 { Ok(table) } else { wrong("tokens that belong to no document") }
}

fn array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(reader: &mut impl Read) -> io::Result<u64> {
    array(reader).map(u64::from_le_bytes)
}

/// The tokens' bytes as they are on disk; no copy on the machines there are.
fn little_endian(tokens: &[TokenId]) -> std::borrow::Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice(tokens).into()
    } else {
        tokens.iter().flat_map(|token| token.0.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_follows_the_environment() {
        let dir = |vars: &[(&str, &str)]| {
            dir_from(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value)))
        };
        let (pose, xdg, home) = (("POSE_CACHE", "/p"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h"));
        assert_eq!(dir(&[pose, xdg, home]), Some("/p".into()));
        assert_eq!(dir(&[xdg, home]), Some("/x/pose-engine".into()));
        assert_eq!(
            dir(&[("POSE_CACHE", ""), ("XDG_CACHE_HOME", "relative"), home]),
            Some("/h/.cache/pose-engine".into())
        );
        assert_eq!(dir(&[]), None);
    }
}
