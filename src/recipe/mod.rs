//! Everything a training run depends on: parse → validate → print.
//!
//! [`Settings`] is what was asked for (flags over a TOML file over defaults, syntax only); [`Recipe`] is what will be
//! done, checked as a whole, and is saved with the run so that `--resume` continues the same one.

mod checks;
mod course;
mod defaults;
mod flat;
mod learning;
mod settings;
mod validate;

pub use course::{Adapt, Keep, SpikeRule};
pub use settings::{OnSaveError, OnSpike, Recompute, Settings, Size};
pub use validate::{Recipe, Source};

use crate::error::{Error, Result};
use crate::names;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Of a recipe.
const MOST_BYTES: u64 = 256 << 10;

impl Settings {
    /// Reads a TOML file with the same keys as the flags; one that the user names, so it may be a pipe.
    ///
    /// # Errors
    /// It cannot be read, is longer than 256 KiB, has a table, or a key or a value that a recipe has not.
    pub fn from_file(path: &Path) -> Result<Settings> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text))
            .map_err(|e| Error::io(path, "reading the recipe", e))?;
        if text.len() as u64 > MOST_BYTES {
            let problem = format!("is longer than {} KiB, which no recipe is", MOST_BYTES >> 10);
            return Err(Error::file(path, problem));
        }
        if let Some(table) = flat::first_table(&text) {
            let problem = "a table or a key of dots; a recipe has keys with plain values";
            return Err(Error::file(
                path,
                format!("is not a recipe: {}: {problem}", line(&text, table.start)),
            ));
        }
        toml::from_str(&text)
            .map_err(|e| Error::file(path, format!("is not a recipe: {}", one_line(&e, &text))))
    }

    /// These settings, and `below`'s where these say nothing.
    pub fn over(&self, below: &Settings) -> Settings {
        let mut merged = below.as_table();
        merged.extend(self.as_table());
        toml::Table::try_into(merged).expect("both tables were made from settings")
    }

    /// Keys and values, those that are set.
    pub fn as_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("settings are plain keys and values")
    }
}

/// A TOML error on one line.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(" ");
    format!("{}: {}", line(text, start), unknown_key(&message).unwrap_or(message))
}

/// Of serde's "unknown field `metod`, expected one of `model`, `preset`, ...": which key was meant, where one is near.
fn unknown_key(message: &str) -> Option<String> {
    let quoted: Vec<&str> = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2).collect();
    let (name, known) = quoted.split_first()?;
    Some(format!("there is no key {name}; the nearest is {}", names::nearest(name, known)?))
}

/// "line N", the one that the byte `start` is in.
fn line(text: &str, start: usize) -> String {
    format!("line {}", 1 + text[..start].matches('\n').count())
}
