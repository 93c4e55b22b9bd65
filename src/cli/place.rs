//! Whether a result can go where a flag says, seen before there is anything to lose.

use crate::error::{Error, Result};
use std::fs::File;
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

    /// How files of this kind begin that this program has written: of JSON, a line for each value.
    fn begins(self) -> &'static [&'static str] {
        match self {
            Kind::Json => &["{\n", "[\n", "{}", "[]"],
            Kind::Svg => &["<svg"],
            Kind::Html => &["<!doctype html"],
        }
    }
}

/// Refuses a place that cannot be written to, and a file that does not begin as results of this kind do: most texts, and .jsonl.
/// `makes` is the directory that the command makes itself, with those above it.
pub fn check(flag: &str, path: Option<&Path>, kind: Kind, makes: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let refuse = |problem: String| Err(Error::usage(flag, path.display(), problem));
    if path.is_dir() {
        return refuse("is a directory; name a file".into());
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
    begin.is_empty() || kind.begins().iter().any(|begins| begin.starts_with(begins.as_bytes()))
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
            ("{\n  \"a\": 1\n}\n", true, false),
            ("[\n  {}\n]\n", true, false),
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
