//! The container: header, metadata, tensor table.
//!
//! ```text
//! "GGUF", version u32, tensors u64, keys u64
//! each key:    name, type u32, value             a text is its length u64 and its bytes
//! each tensor: name, dimensions u32, sizes u64.. (fastest first), type u32, offset u64
//! data, from the next multiple of general.alignment; offsets count from there
//! ```
//!
//! Little-endian, versions 2 and 3. Nothing is taken on trust: every length is held against what is left of the file before it is
//! used, and values are views of the file, so that reading a hostile one costs no memory.

use super::blocks::Format;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: usize = 32;
const MOST_DIMENSIONS: usize = 4;

/// A value of the metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(&'a [u8]),
    Array(Array<'a>),
}

/// Values of one type after each other, as they lie in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    kind: u32,
    pub len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// All values; they were walked over once when the file was opened.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (mut cursor, kind) = (Cursor { bytes: self.bytes, at: 0 }, self.kind);
        (0..self.len).map_while(move |_| cursor.value(kind, 0).ok())
    }
}

/// A tensor in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    pub name: &'a str,
    /// Slowest first, as the rest of this program has it: `[rows, columns]`.
    pub shape: Vec<usize>,
    pub format: Format,
    pub bytes: &'a [u8],
}

/// An opened file.
#[derive(Debug)]
pub struct Gguf<'a> {
    pub path: &'a Path,
    keys: HashMap<&'a str, Value<'a>>,
    pub tensors: Vec<Tensor<'a>>,
}

/// What is wrong, and at which byte.
type Parsed<T> = std::result::Result<T, String>;

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64, what: &str) -> Parsed<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        match usize::try_from(len).ok().filter(|&len| len <= left) {
            Some(len) => {
                self.at += len;
                Ok(&self.bytes[self.at - len..self.at])
            }
            None => Err(format!(
                "{what} at byte {} takes {len} bytes and {left} are left: truncated or damaged",
                self.at
            )),
        }
    }

    fn number<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().unwrap_or([0; N]))
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        self.number(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        self.number(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &str) -> Parsed<&'a [u8]> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    fn name(&mut self, what: &str) -> Parsed<&'a str> {
        let at = self.at;
        std::str::from_utf8(self.text(what)?).map_err(|_| format!("{what} at byte {at} is not UTF-8"))
    }

    /// A value of type `kind`, in `depth` arrays.
    fn value(&mut self, kind: u32, depth: usize) -> Parsed<Value<'a>> {
        const WHAT: &str = "a value";
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.number(WHAT)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.number(WHAT)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.number(WHAT)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.number(WHAT)?).into()),
            4 => Value::Unsigned(self.u32(WHAT)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.number(WHAT)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.number(WHAT)?).into()),
            7 => Value::Bool(self.number::<1>(WHAT)?[0] != 0),
            8 => Value::Text(self.text("a text")?),
            9 if depth == 0 => Value::Array(self.array()?),
            9 => return Err(format!("an array of arrays at byte {} is not supported", self.at)),
            10 => Value::Unsigned(self.u64(WHAT)?),
            11 => Value::Signed(i64::from_le_bytes(self.number(WHAT)?)),
            12 => Value::Float(f64::from_le_bytes(self.number(WHAT)?)),
            _ => return Err(format!("there is no value type {kind} (before byte {})", self.at)),
        })
    }

    fn array(&mut self) -> Parsed<Array<'a>> {
        let (kind, len) = (self.u32("an array's type")?, self.u64("an array's length")?);
        let from = self.at;
        for _ in 0..len {
            self.value(kind, 1)?;
        }
        Ok(Array { kind, len: len as usize, bytes: &self.bytes[from..self.at] })
    }
}

impl<'a> Gguf<'a> {
    /// Opens the bytes of a file; `path` is for messages.
    ///
    /// # Errors
    /// Not GGUF, a version that is not read, anything that points outside the file, two tensors of one name or in one place, a
    /// format that is not read.
    pub fn open(bytes: &'a [u8], path: &'a Path) -> Result<Gguf<'a>> {
        let parsed = Gguf::parse(bytes, path);
        parsed.map_err(|problem| Error::file(path, problem))
    }

    fn parse(bytes: &'a [u8], path: &'a Path) -> Parsed<Gguf<'a>> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4, "the magic number").ok() != Some(MAGIC) {
            return Err("is not a GGUF file".into());
        }
        match cursor.u32("the version")? {
            2 | 3 => (),
            v if v.swap_bytes() == 2 || v.swap_bytes() == 3 => {
                return Err("is a big-endian GGUF file; only little-endian ones are read".into());
            }
            v => return Err(format!("has GGUF version {v}; versions 2 and 3 are read")),
        }
        let (tensors, keys) = (cursor.u64("the tensor count")?, cursor.u64("the key count")?);
        let keys = metadata(&mut cursor, keys)?;
        let alignment = match keys.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n as usize,
            Some(other) => {
                return Err(format!("general.alignment is {other:?}, but it should be a power of two"));
            }
        };
        let tensors = table(&mut cursor, tensors, alignment)?;
        Ok(Gguf { path, keys, tensors })
    }

    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::file(self.path, problem)
    }

    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.keys.get(key).copied()
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        self.tensors.iter().find(|t| t.name == name)
    }

    fn wrong(&self, key: &str, should: &str) -> Error {
        self.error(format!("{key} should be {should}"))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => {
                std::str::from_utf8(text).map(Some).map_err(|_| self.wrong(key, "UTF-8"))
            }
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A whole number, whatever type it is written in.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => usize::try_from(n).ok(),
            Some(Value::Signed(n)) => usize::try_from(n).ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| self.wrong(key, "a whole number of at least 0"))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(x)),
            Some(Value::Unsigned(n)) => Ok(Some(n as f64)),
            Some(Value::Signed(n)) => Ok(Some(n as f64)),
            Some(_) => Err(self.wrong(key, "a finite number")),
        }
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    pub fn array(&self, key: &str) -> Result<Option<Array<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(_) => Err(self.wrong(key, "an array")),
        }
    }

    pub fn require<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format!("{key} is missing")))
    }
}

fn metadata<'a>(cursor: &mut Cursor<'a>, count: u64) -> Parsed<HashMap<&'a str, Value<'a>>> {
    let mut keys = HashMap::new();
    for _ in 0..count {
        let name = cursor.name("a key")?;
        let kind = cursor.u32("a value's type")?;
        let value = cursor.value(kind, 0).map_err(|problem| format!("{name}: {problem}"))?;
        if keys.insert(name, value).is_some() {
            return Err(format!("{name} stands twice in the metadata"));
        }
    }
    Ok(keys)
}

/// A row of the tensor table, its place still a number.
struct Row<'a> {
    name: &'a str,
    shape: Vec<usize>,
    format: Format,
    start: usize,
    len: usize,
}

fn table<'a>(cursor: &mut Cursor<'a>, count: u64, alignment: usize) -> Parsed<Vec<Tensor<'a>>> {
    let mut rows = Vec::new();
    for _ in 0..count {
        rows.push(row(cursor, alignment)?);
    }
    let data = cursor.at.next_multiple_of(alignment).min(cursor.bytes.len());
    let data = &cursor.bytes[data..];
    let tensor = |row: &Row<'a>| match row.start.checked_add(row.len).and_then(|end| data.get(row.start..end))
    {
        Some(bytes) => Ok(Tensor { name: row.name, shape: row.shape.clone(), format: row.format, bytes }),
        None => Err(format!(
            "{} takes bytes {} to {} of {} of data: truncated or damaged",
            row.name,
            row.start,
            row.start as u64 as u128 + row.len as u128,
            data.len()
        )),
    };
    let tensors = rows.iter().map(tensor).collect::<Parsed<Vec<_>>>()?;
    refuse_shared(&rows)?;
    Ok(tensors)
}

fn row<'a>(cursor: &mut Cursor<'a>, alignment: usize) -> Parsed<Row<'a>> {
    let name = cursor.name("a tensor's name")?;
    let dimensions = cursor.u32("a tensor's dimensions")? as usize;
    if dimensions == 0 || dimensions > MOST_DIMENSIONS {
        return Err(format!("{name} has {dimensions} dimensions; from 1 to {MOST_DIMENSIONS} are possible"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64("a tensor's size")?;
        shape.push(usize::try_from(size).map_err(|_| format!("{name} has a size of {size}"))?);
    }
    shape.reverse();
    let format =
        Format::from_code(cursor.u32("a tensor's type")?).map_err(|problem| format!("{name} {problem}"))?;
    let start = cursor.u64("a tensor's offset")?;
    let len = format.bytes_of(&shape).ok_or_else(|| {
        format!("{name} has the sizes {shape:?}, whose rows are not whole blocks of {format:?} that a file could hold")
    })?;
    match usize::try_from(start) {
        Ok(start) if start.is_multiple_of(alignment) => Ok(Row { name, shape, format, start, len }),
        _ => Err(format!("{name} begins at {start}, which is no multiple of {alignment}")),
    }
}

/// A name or a byte that two tensors share.
fn refuse_shared(rows: &[Row<'_>]) -> Parsed<()> {
    let mut sorted: Vec<&Row<'_>> = rows.iter().collect();
    sorted.sort_by_key(|row| row.name);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(format!("there are two tensors {}", pair[0].name));
    }
    sorted.retain(|row| row.len > 0);
    sorted.sort_by_key(|row| row.start);
    match sorted.windows(2).find(|pair| pair[0].start + pair[0].len > pair[1].start) {
        Some(pair) => Err(format!("{} and {} lie in the same place", pair[0].name, pair[1].name)),
        None => Ok(()),
    }
}
