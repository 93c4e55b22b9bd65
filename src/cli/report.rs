//! `pose-engine report`.

use super::common::Common;
use super::place;
use crate::compare;
use crate::error::Result;
use clap::Args;
use std::path::PathBuf;

/// Lay runs and results of evaluations side by side on one page
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine eval-ppl --model runs/pose --data book.txt --windows 2k,8k,32k --json pose-ppl.json
  pose-engine report runs/pose runs/plain pose-ppl.json plain-ppl.json --out report.html")]
pub struct Report {
    /// Directories of training runs, and files that --json of an evaluation wrote
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page, one self-contained HTML file; written over if it is there
    #[arg(long, default_value = "report.html", value_name = "FILE")]
    out: PathBuf,
    /// Write every figure of the page into this directory too, as SVG
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

impl Report {
    pub fn run(self) -> Result<()> {
        place::check("--out", Some(&self.out), place::Kind::Html, None)?;
        let figures = compare::write(&self.runs, &self.out, self.svg.as_deref())?;
        if let Some(dir) = &self.svg {
            self.common.note(&format!("figures in {}: {}", dir.display(), figures.join(", ")));
        }
        outln!("report: {}", self.out.display());
        Ok(())
    }
}
