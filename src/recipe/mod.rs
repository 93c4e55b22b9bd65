//! Everything a training run depends on: parse → validate → print.
//!
//! [`Settings`] is what was asked for (flags over a TOML file over defaults, syntax only); [`Recipe`] is what will be
//! done, checked as a whole, and is saved with the run so that `--resume` continues the same one.

mod checks;
mod course;
mod settings;
mod validate;

pub use course::{Adapt, Keep, SpikeRule};
pub use settings::{OnSaveError, OnSpike, Recompute, Settings, Size};
pub use validate::{Recipe, Source};

use crate::error::{Error, Result};
use std::path::Path;

impl Settings {
    /// Reads a TOML file with the same keys as the flags.
    pub fn from_file(path: &Path) -> Result<Settings> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "reading the recipe", e))?;
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
    let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
    let message: Vec<&str> = error.message().lines().map(str::trim).collect();
    format!("line {line}: {}", message.join(" "))
}
