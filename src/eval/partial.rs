//! What a measure has finished, in a file, so that a rerun with the same flags goes on from there.
//!
//! The first line says of what: the command, its protocol, the model. Each further line is a unit (a document at a
//! window, a trial, a question): its key, its result, and the seconds it took. Measures sum up units and nothing else,
//! and floats read back exactly, so a measure that was cut off has the bits of one that was not. Lines are appended
//! whole; the last one of a process that died may be cut short, within a letter too, and is dropped.

use crate::error::{Error, Result};
use crate::regular;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const FORMAT: &str = "pose-engine partial 2";

/// The units of one measure: those that were finished before, and where new ones go.
#[derive(Debug, Default)]
pub struct Partial {
    kept: Option<Kept>,
    done: HashMap<String, Line>,
}

/// The file. It is not touched before there is a unit to write: a command that is refused leaves nothing behind.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    header: String,
    /// Bytes that were read, and how many of them are whole lines.
    read: u64,
    whole: u64,
    file: Option<File>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    unit: Value,
    seconds: f64,
    result: Value,
}

/// A unit's result.
#[derive(Debug)]
pub struct Unit<T> {
    pub result: T,
    pub seconds: f64,
    /// Whether it was finished by an earlier run.
    pub resumed: bool,
}

impl Partial {
    /// Nothing is kept.
    pub fn none() -> Partial {
        Partial::default()
    }

    /// The units in `path`, where it exists, of the measure that `header`, an object, describes.
    ///
    /// # Errors
    /// A file of another measure (and in what it differs), one that is none of ours, a line that is not a unit.
    pub fn open(path: &Path, header: &Value) -> Result<Partial> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(missing) = parent.filter(|parent| !parent.is_dir()) {
            return Err(Error::file(
                path,
                format!("there is no directory {} to keep it in", missing.display()),
            ));
        }
        let bytes = match regular::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(path, "reading what is finished", e)),
        };
        let header = json!({ "format": FORMAT, "measure": header });
        let line = header.to_string();
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        if whole == 0 && !line.as_bytes().starts_with(&bytes) {
            return Err(foreign(path));
        }
        let mut lines = bytes[..whole].split_inclusive(|&b| b == b'\n').enumerate();
        if let Some((_, first)) = lines.next() {
            let found: Value = serde_json::from_slice(first).map_err(|_| foreign(path))?;
            same_measure(path, &found, &header)?;
        }
        let mut done = HashMap::new();
        for (i, line) in lines {
            let line: Line = serde_json::from_slice(line).map_err(|_| damaged(path, i + 1))?;
            done.insert(line.unit.to_string(), line);
        }
        let (read, whole) = (bytes.len() as u64, whole as u64);
        let kept = Kept { path: path.into(), header: line, read, whole, file: None };
        Ok(Partial { kept: Some(kept), done })
    }

    /// Units that were finished before.
    pub fn finished(&self) -> usize {
        self.done.len()
    }

    /// The unit called `key`: as it was finished before, else measured now and kept.
    pub fn unit<T: Serialize + DeserializeOwned>(
        &mut self, key: &impl Serialize, measure: impl FnOnce() -> Result<T>,
    ) -> Result<Unit<T>> {
        let Some(kept) = &mut self.kept else { return timed(measure) };
        let key = serde_json::to_value(key).map_err(|e| kept.failed(&e))?;
        if let Some(line) = self.done.get(&key.to_string()) {
            let result = T::deserialize(&line.result);
            let result = result.map_err(|e| Error::file(&kept.path, format!("the result of {key}: {e}")))?;
            return Ok(Unit { result, seconds: line.seconds, resumed: true });
        }
        let unit = timed(measure)?;
        let result = serde_json::to_value(&unit.result).map_err(|e| kept.failed(&e))?;
        kept.append(&Line { unit: key, seconds: unit.seconds, result })?;
        Ok(unit)
    }
}

fn timed<T>(measure: impl FnOnce() -> Result<T>) -> Result<Unit<T>> {
    let start = std::time::Instant::now();
    let result = measure()?;
    Ok(Unit { result, seconds: start.elapsed().as_secs_f64(), resumed: false })
}

impl Kept {
    fn failed(&self, e: &serde_json::Error) -> Error {
        Error::file(&self.path, format!("a result cannot be written as JSON: {e}"))
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|e| self.failed(&e))? + "\n";
        if self.file.is_none() {
            self.file = Some(self.begin()?);
            if self.whole == 0 {
                text = format!("{}\n{text}", self.header);
            }
        }
        let file = self.file.as_mut().expect("opened above");
        file.write_all(text.as_bytes()).map_err(|e| Error::io(&self.path, "keeping what is finished", e))
    }

    /// The file, at the end of its last whole line, and no other run's meanwhile.
    fn begin(&self) -> Result<File> {
        let failed = |e| Error::io(&self.path, "keeping what is finished", e);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).open(&self.path).map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::file(
                &self.path,
                "another run is writing it; give each run a file of its own",
            ));
        }
        // what another run appended since this one read the file would be cut off
        if file.metadata().map_err(failed)?.len() != self.read {
            return Err(Error::file(
                &self.path,
                "another run wrote to it while this one measured; repeat the command to go on from what it has now",
            ));
        }
        file.set_len(self.whole).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(file)
    }
}

fn foreign(path: &Path) -> Error {
    Error::usage(
        "--partial",
        path.display(),
        "is not what an evaluation left; give another name, nothing is overwritten",
    )
}

fn damaged(path: &Path, line: usize) -> Error {
    Error::file(path, format!("line {line} is not a finished unit; remove the file to measure anew"))
}

fn same_measure(path: &Path, found: &Value, ours: &Value) -> Result<()> {
    if found == ours {
        return Ok(());
    }
    let Some(measure) = found["measure"].as_object() else { return Err(foreign(path)) };
    if found["format"] != ours["format"] {
        let problem = "was left by another version, which measured otherwise; give another name";
        return Err(Error::usage("--partial", path.display(), problem));
    }
    let differs = difference("", &Value::Object(measure.clone()), &ours["measure"]);
    let problem = format!(
        "is of another measure ({}); repeat its flags, or give another name",
        differs.unwrap_or_else(|| "in the order of its keys".into())
    );
    Err(Error::usage("--partial", path.display(), problem))
}

/// The first place in which two values differ, in words.
fn difference(place: &str, found: &Value, ours: &Value) -> Option<String> {
    if found == ours {
        return None;
    }
    if let (Some(a), Some(b)) = (found.as_object(), ours.as_object()) {
        let keys = a.keys().chain(b.keys());
        let inside = |key: &String| {
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            difference(&place, &found[key], &ours[key])
        };
        return keys.map(inside).find_map(|d| d);
    }
    Some(format!("its {place} is {found}, here it is {ours}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(path: &Path, header: &Value, units: std::ops::Range<u32>) -> (Vec<f64>, usize) {
        let mut partial = Partial::open(path, header).unwrap();
        let before = partial.finished();
        let value = |i: u32| (f64::from(i) + 0.1).sqrt() / 3.0;
        let results = units.map(|i| partial.unit(&("trial", i), || Ok(value(i))).unwrap().result).collect();
        (results, before)
    }

    #[test]
    fn what_was_finished_comes_back_with_its_bits_and_a_cut_line_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let header = json!({ "command": "eval", "lengths": [1, 2] });
        let (whole, _) = measure(&dir.path().join("whole.jsonl"), &header, 0..20);
        assert_eq!(measure(&path, &header, 0..12).1, 0);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 7]).unwrap();
        assert_eq!(measure(&path, &header, 0..20), (whole.clone(), 11));
        assert_eq!(measure(&path, &header, 0..20), (whole, 20));
        // within a letter of two bytes
        let name = |i: u32| format!("é{i}");
        let name_units = |units: std::ops::Range<u32>| {
            let mut partial = Partial::open(&path, &header).unwrap();
            let before = partial.finished();
            units.for_each(|i| assert_eq!(partial.unit(&name(i), || Ok(i)).unwrap().result, i));
            before
        };
        std::fs::remove_file(&path).unwrap();
        assert_eq!(name_units(0..2), 0);
        let named = std::fs::read(&path).unwrap();
        let letter = named.iter().rposition(|&b| b == 0xC3).unwrap();
        std::fs::write(&path, &named[..=letter]).unwrap();
        assert_eq!((name_units(0..2), name_units(0..2)), (1, 2));
        // a header that was cut short is written anew
        std::fs::write(&path, &text[..5]).unwrap();
        assert_eq!(measure(&path, &header, 0..3).1, 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
    }

    #[test]
    fn files_of_other_measures_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        measure(&path, &json!({ "command": "eval", "protocol": { "seed": 1 } }), 0..2);
        let text = std::fs::read(&path).unwrap();
        let refused = |header: Value| Partial::open(&path, &header).unwrap_err().to_string();
        let said = refused(json!({ "command": "eval", "protocol": { "seed": 2 } }));
        assert!(said.contains("its protocol.seed is 1, here it is 2"), "{said}");
        let said = refused(json!({ "command": "other", "protocol": { "seed": 1 } }));
        assert!(said.contains("its command is \"eval\", here it is \"other\""), "{said}");
        assert_eq!(std::fs::read(&path).unwrap(), text);
        for other in ["a letter", "{\"a\": 1}\n", "[1]\n{}\n"] {
            std::fs::write(&path, other).unwrap();
            assert!(refused(json!({})).contains("not what an evaluation left"), "{other}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
        }
        let older = String::from_utf8(text.clone()).unwrap().replacen(FORMAT, "pose-engine partial 1", 1);
        std::fs::write(&path, older).unwrap();
        assert!(refused(json!({ "command": "eval" })).contains("left by another version"));
        let broken = String::from_utf8(text).unwrap().replacen("\"seconds\"", "\"second\"", 1);
        std::fs::write(&path, broken).unwrap();
        assert!(refused(json!({ "command": "eval", "protocol": { "seed": 1 } })).contains("line 2"));
    }

    #[test]
    fn two_runs_do_not_write_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let open = || Partial::open(&path, &json!({})).unwrap();
        let (mut one, mut two) = (open(), open());
        one.unit(&0, || Ok(1)).unwrap();
        let said = two.unit(&0, || Ok(1)).unwrap_err().to_string();
        assert!(said.contains("another run is writing it"), "{said}");
    }

    #[test]
    fn what_another_run_wrote_meanwhile_is_not_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        for finished in [0, 3] {
            let mut late = Partial::open(&path, &json!({})).unwrap();
            measure(&path, &json!({}), 0..finished + 3);
            let text = std::fs::read(&path).unwrap();
            let said = late.unit(&"late", || Ok(1)).unwrap_err().to_string();
            assert!(said.contains("repeat the command"), "{said}");
            assert_eq!(std::fs::read(&path).unwrap(), text);
        }
    }
}
