//! Flags that many commands share.

use super::{place, printed};
use crate::backend::cuda;
use crate::backend::device::Device;
use crate::error::{Error, Result};
use crate::printable;
use clap::Args;
use std::path::{Path, PathBuf};

/// Threads and quiet: every command has them.
#[derive(Debug, Args)]
pub struct Common {
    /// Threads to compute with [default: all cores]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = "General")]
    pub threads: usize,
    /// Print results only: no progress bars, no notes
    #[arg(long, help_heading = "General")]
    pub quiet: bool,
}

impl Common {
    /// A note on standard error.
    pub fn note(&self, sentence: &str) {
        if !self.quiet {
            printed::note(&printable::sentence(sentence));
        }
    }

    /// A note about something lost or broken, which `--quiet` does not silence.
    pub fn warn(&self, sentence: &str) {
        printed::note(&printable::sentence(sentence));
    }
}

/// `--json FILE`, where a command produces numbers.
#[derive(Debug, Args)]
pub struct Json {
    /// Write the numbers to this file too
    #[arg(long, value_name = "FILE", help_heading = "General")]
    pub json: Option<PathBuf>,
}

impl Json {
    pub fn is_given(&self) -> bool {
        self.json.is_some()
    }

    /// As [`place::check`].
    pub fn check(&self, makes: Option<&Path>) -> Result<()> {
        place::check("--json", self.json.as_deref(), place::Kind::Json, makes)
    }

    pub fn write(&self, value: &impl serde::Serialize) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::file(path, format!("a result cannot be written as JSON: {e}")))?;
        std::fs::write(path, text + "\n").map_err(|e| Error::io(path, "writing the results", e))
    }
}

/// Where to compute.
#[derive(Debug, Args)]
pub struct Where {
    /// Where to compute: auto, cpu or cuda:N (`pose-engine devices` lists those that there are)
    #[arg(long, default_value = "auto", value_name = "DEVICE", help_heading = "General")]
    pub device: Device,
}

impl Where {
    /// Where to compute; says why, where `auto` leaves out a GPU that is there.
    pub fn device(&self, common: &Common) -> Device {
        if self.device == Device::Auto
            && let Some(why) = cuda::passed_over()
        {
            common.warn(&format!("computing on the CPU: {why}"));
        }
        self.device
    }
}
