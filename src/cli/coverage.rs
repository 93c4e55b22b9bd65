//! `pose-engine coverage`.

use super::common::{Common, Json};
use super::output::{size_text, table};
use super::place;
use crate::error::{Error, Result};
use crate::figures::{Axis, Plot, Series};
use crate::memory;
use crate::positions::coverage::Coverage as Distances;
use crate::positions::{CHUNKS, ChunkLengths, Content, Method, Sampler};
use crate::recipe::Size;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Show which relative distances a way of drawing positions trains
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine coverage --train-len 2k --target-len 16k --chunks 2 --method pose --plot coverage.svg")]
pub struct Coverage {
    /// Training window Lc in tokens
    #[arg(long, value_name = "N")]
    train_len: Size,
    /// Target context length Lt in tokens
    #[arg(long, value_name = "N")]
    target_len: Size,
    /// Chunks that the window is split into (pose, axolotl, balanced, adaptive)
    #[arg(long, default_value_t = CHUNKS, value_name = "N")]
    chunks: usize,
    /// How the tokens of a row get their positions
    #[arg(long, value_enum, default_value_t = Method::Pose)]
    method: Method,
    /// Chunk lengths as in the paper or as in its authors' code
    #[arg(long, value_enum, default_value_t = ChunkLengths::Paper)]
    chunk_lengths: ChunkLengths,
    /// Rows to draw
    #[arg(long, default_value = "10000", value_name = "N")]
    rows: Size,
    /// Seed of the rows
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Write a plot of the probability over distances (the paper's Figure 5)
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    pub json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Coverage {
    pub fn run(self) -> Result<()> {
        place::check("--plot", self.plot.as_deref(), place::Kind::Svg, None)?;
        self.method.refuse_idle(self.chunks, self.chunk_lengths, Content::Uniform)?;
        let (lc, lt) = (self.train_len.0, self.target_len.0);
        let sampler =
            Sampler::new(self.method, lc, lt, self.chunks, self.chunk_lengths, Content::Contiguous)?;
        self.refuse_what_does_not_fit(&sampler)?;
        let drawn = Distances::drawn(&sampler, self.seed, self.rows.0);
        let summary = drawn.summary();
        let marks = [1, lc / 2, lc - 1, lc, lt / 4, lt / 2, 3 * lt / 4, lt - 1];
        let mut marks: Vec<usize> = marks.into_iter().filter(|&d| d > 0 && d < lt).collect();
        marks.sort_unstable();
        marks.dedup();
        let rows: Vec<Vec<String>> =
            marks.iter().map(|&d| vec![d.to_string(), format!("{:.4}", drawn.probability[d])]).collect();
        out!("{}", table(&["distance", "probability"], &rows));
        outln!("least {:.4}, mean {:.4} over distances 1 to {}", summary.min, summary.mean, lt - 1);
        let never: usize = summary.never.iter().map(|r| r.len()).sum();
        if never > 0 {
            outln!("{never} distances were never trained in {} rows", drawn.rows);
        }
        if self.json.is_given() {
            self.json.write(&json!({
                "method": self.method, "train_len": lc, "target_len": lt, "chunks": self.chunks, "rows": drawn.rows,
                "min": summary.min, "mean": summary.mean, "never": never, "probability": drawn.probability,
            }))?;
        }
        self.plot.as_ref().map_or(Ok(()), |path| self.draw(&drawn).write(path))
    }

    /// The counts are as long as the target, and so is the list that --json writes.
    fn refuse_what_does_not_fit(&self, sampler: &Sampler) -> Result<()> {
        let Some(free) = memory::available_bytes() else { return Ok(()) };
        let listed = if self.json.is_given() { size_of::<serde_json::Value>() } else { 0 };
        let listed = sampler.target_len().saturating_mul(listed);
        let needed = Distances::drawing_bytes(sampler, self.rows.0).saturating_add(listed);
        if needed <= free {
            return Ok(());
        }
        Err(Error::DoesNotFit(format!(
            "--target-len {}: counting how often each distance is trained takes up to {} and memory available is {}; lower \
             --target-len, or --threads",
            self.target_len,
            memory::bytes_text(needed),
            memory::bytes_text(free)
        )))
    }

    fn draw(&self, drawn: &Distances) -> Plot {
        let step = (drawn.probability.len() / 1000).max(1);
        let points =
            (1..drawn.probability.len()).step_by(step).map(|d| (d as f64, drawn.probability[d])).collect();
        let name = format!("{:?}, window {}", self.method, size_text(self.train_len.0)).to_lowercase();
        Plot {
            title: "Probability that a relative distance is trained".into(),
            x: Axis::linear("relative distance (tokens)"),
            y: Axis::linear("probability").from_zero(),
            series: vec![Series::line(&name, points)],
        }
    }
}
