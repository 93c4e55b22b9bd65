//! `pose-engine verify`.

use super::common::{Common, Json};
use super::output::table;
use crate::checkpoint::{Examined, examine};
use crate::error::{Error, Result};
use crate::memory::bytes_text;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Hold the files of a checkpoint, or of all checkpoints of a run, to what was written
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine verify smollm2-32k
Reads every file that a manifest.json names and compares its length and its BLAKE3 hash. Exit code 1 where one differs.")]
pub struct Verify {
    /// Directory of a run, a checkpoint, or a model that this program wrote
    dir: PathBuf,
    #[command(flatten)]
    pub json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Verify {
    pub fn run(self) -> Result<()> {
        let examined = examine(&self.dir)?;
        let rows: Vec<Vec<String>> = examined.iter().map(row).collect();
        out!("{}", table(&["directory", "files", "size", "state"], &rows));
        self.json.write(&examined.iter().map(as_json).collect::<Vec<_>>())?;
        let broken: Vec<&Error> = examined.iter().filter_map(|e| e.problem.as_ref()).collect();
        match broken.first() {
            None => Ok(()),
            Some(first) => {
                let all = format!("broken: {} of {}; the first: {first}", broken.len(), examined.len());
                Err(Error::file(&self.dir, all))
            }
        }
    }
}

fn row(e: &Examined) -> Vec<String> {
    let path = e.path.display().to_string();
    match &e.problem {
        None => vec![path, e.files.to_string(), bytes_text(e.bytes as usize), "whole".into()],
        Some(_) => vec![path, "-".into(), "-".into(), "BROKEN".into()],
    }
}

fn as_json(e: &Examined) -> serde_json::Value {
    json!({ "path": e.path.display().to_string(), "files": e.files, "bytes": e.bytes, "problem": e.problem.as_ref().map(Error::to_string) })
}
