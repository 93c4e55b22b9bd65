//! `pose-engine quickstart`.

use super::common::{Common, Json};
use super::output::{seconds_text, table};
use super::progress::Progress;
use crate::checkpoint::is_occupied;
use crate::error::{Error, Result};
use crate::quickstart::{self, Results, Watch};
use crate::size::whole;
use clap::Args;
use std::cell::RefCell;
use std::path::PathBuf;

/// Show PoSE at work in a few minutes: train a small model, extend it 32x, measure, write a report
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine quickstart --out quickstart-out
Needs no download: it writes its own documents. Then open quickstart-out/report.html.")]
pub struct Quickstart {
    /// Directory for documents, models, results.json and report.html; must not exist yet
    #[arg(long, default_value = "quickstart-out", value_name = "DIR")]
    pub out: PathBuf,
    /// Remove an earlier quickstart in --out first
    #[arg(long)]
    overwrite: bool,
    /// Seed of documents, weights and positions
    #[arg(long, value_parser = whole::<u64>(), default_value_t = 1, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    pub json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Quickstart {
    pub fn run(self) -> Result<()> {
        self.make_room()?;
        let bars = Bars { quiet: self.common.quiet, bar: RefCell::new(None) };
        let results = quickstart::run(&self.out, self.seed, self.common.threads, &bars)?;
        print_results(&results);
        outln!("report: {}", self.out.join("report.html").display());
        self.json.write(&results)
    }

    /// Refuses a directory with anything in it, or clears it if it is a quickstart's and that was asked for.
    fn make_room(&self) -> Result<()> {
        if !is_occupied(&self.out) {
            return Ok(());
        }
        let ours = self.out.join(quickstart::MARK).is_file();
        match (self.overwrite, ours) {
            (true, true) => std::fs::remove_dir_all(&self.out)
                .map_err(|e| Error::io(&self.out, "removing the old quickstart", e)),
            (true, false) => Err(Error::usage(
                "--overwrite",
                self.out.display(),
                "has no .quickstart file, so it is not known to be a quickstart of this program; remove it yourself",
            )),
            (false, _) => {
                let problem = "exists already and is never overwritten unasked; name a new directory, or add --overwrite";
                Err(Error::usage("--out", self.out.display(), problem))
            }
        }
    }
}

struct Bars {
    quiet: bool,
    bar: RefCell<Option<(Progress, usize)>>,
}

impl Watch for Bars {
    fn begin(&self, label: &str, total: usize) {
        let progress = Progress::new(&format!("{label:28}"), total, "", self.quiet);
        *self.bar.borrow_mut() = Some((progress, 0));
    }

    fn done(&self, parts: usize, message: &str) {
        if let Some((progress, before)) = self.bar.borrow_mut().as_mut() {
            progress.advance(parts.saturating_sub(*before), message);
            *before = parts;
        }
    }

    fn end(&self) {
        if let Some((progress, _)) = self.bar.borrow_mut().take() {
            progress.keep();
        }
    }
}

fn print_results(results: &Results) {
    let (headings, rows) = quickstart::table(results);
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    outln!();
    out!("{}", table(&headings, &rows));
    outln!();
    for claim in results.claims() {
        outln!("{}  {}", if claim.holds { "yes" } else { "NO " }, claim.text);
    }
    outln!("{} in all", seconds_text(results.seconds));
}
