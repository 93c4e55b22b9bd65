//! Whether a result can go where a flag says, seen before there is anything to lose.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;

/// Results that are files of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Svg,
    Html,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Json => "JSON",
            Kind::Svg => "SVG",
            Kind::Html => "HTML",
        }
    }

    /// Whether a file that begins so is of this kind and by this program.
    fn is_ours(self, begin: &str) -> bool {
        match self {
            Kind::Json => RESULTS.iter().any(|key| is_result(begin, key)) || begin.starts_with("[]"),
            Kind::Svg => begin.starts_with("<svg"),
            Kind::Html => begin.starts_with("<!doctype html"),
        }
    }
}

/// The first key of what each command writes as JSON: the evaluations, train, quickstart, generate, coverage, plan, import, devices,
/// verify (of each directory). Files of other software seldom begin so.
const RESULTS: [&str; 9] =
    ["command", "steps", "seed", "prompt_tokens", "method", "parameters", "architecture", "cpu", "path"];

/// Whether an object, or a list of objects, begins with this key; a line for each value.
fn is_result(begin: &str, key: &str) -> bool {
    let object = begin.strip_prefix("[\n  ").unwrap_or(begin);
    let inside = object.strip_prefix("{\n").map(str::trim_start);
    inside.is_some_and(|inside| inside.starts_with(&format!("\"{key}\":")))
}

/// Refuses a place that cannot be written to, and a file that does not begin as results of this kind do: most texts, and .jsonl.
/// `makes` is the directory that the command makes itself, with those above it.
pub fn check(flag: &str, path: Option<&Path>, kind: Kind, makes: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let refuse = |problem: String| Err(Error::usage(flag, path.display(), problem));
    if path.is_dir() {
        return refuse("is a directory; name a file".into());
    }
    if let Err(e) = writable(path) {
        return refuse(format!("cannot be written: {e}"));
    }
    if !may_be(kind, path) {
        let name = kind.name();
        return refuse(format!(
            "is there already and is no {name} of a result; it is not written over, name another file"
        ));
    }
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
    let made = |parent: &Path| makes.is_some_and(|dir| absolute(dir).starts_with(absolute(parent)));
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() && !made(parent) => {
            refuse(format!("there is no directory {} to write it to; make it first", parent.display()))
        }
        _ => Ok(()),
    }
}

/// An empty file may be anything, as may what is no file, a pipe or /dev/null.
fn may_be(kind: Kind, path: &Path) -> bool {
    let mut begin = Vec::new();
    if path.is_file() && File::open(path).and_then(|file| file.take(64).read_to_end(&mut begin)).is_err() {
        return true;
    }
    begin.is_empty() || kind.is_ours(&String::from_utf8_lossy(&begin))
}

/// Opens what is there as it will be opened to write, and changes nothing; of what is not there, asks its directory.
fn writable(path: &Path) -> std::io::Result<()> {
    if path.is_file() {
        return OpenOptions::new().append(true).open(path).map(drop);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match parent.metadata() {
        Ok(parent) if !path.exists() && parent.permissions().readonly() => {
            Err(std::io::ErrorKind::PermissionDenied.into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_earlier_result_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let checked = |kind| check("--json", Some(&path), kind, None).map_err(|e| e.to_string());
        assert_eq!(checked(Kind::Json), Ok(()));
        for (text, json, svg) in [
            ("", true, true),
            ("{\n  \"command\": \"eval-ppl\"\n}\n", true, false),
            ("[\n  {\n    \"path\": \"m\"\n  }\n]\n", true, false),
            ("{\n  \"architectures\": [\n    \"LlamaForCausalLM\"\n  ]\n}\n", false, false),
            ("{\n  \"a\": 1\n}\n", false, false),
            ("[\n  {}\n]\n", false, false),
            ("[]\n", true, false),
            ("{\"text\": \"a line of JSONL\"}\n", false, false),
            ("<svg/>", false, true),
            ("Once", false, false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!((checked(Kind::Json).is_ok(), checked(Kind::Svg).is_ok()), (json, svg), "{text}");
        }
        let refused = checked(Kind::Html).unwrap_err();
        assert!(refused.contains("is there already and is no HTML of a result"), "{refused}");
        assert!(check("--svg", Some(&dir.path().join("no/x")), Kind::Svg, None).is_err());
        assert!(
            check("--svg", Some(&dir.path().join("no/x")), Kind::Svg, Some(&dir.path().join("no"))).is_ok()
        );
    }
}
