//! `pose-engine logits`.

use super::common::{Common, Where};
use super::reader::{OpenedReader, Reader};
use crate::backend::Backend;
use crate::backend::device::{Job, dispatch};
use crate::checkpoint::{NpyWriter, refuse_existing};
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::infer::Scorer;
use crate::memory::{self, Kind, Ledger};
use crate::model::buffers::{Reading, TrainBuffers};
use crate::model::{Gradients, Model, PlacedBatch, check_ids, download_f32, places_at, scratch};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Write the logits of given token ids at given positions, to compare with other software
#[derive(Debug, Args)]
#[command(after_help = "Example (ids.json: [[1, 5, 9]], positions.json: [[0, 1, 5000]]):
  pose-engine logits --model smollm2 --ids ids.json --positions positions.json --dtype f32 --grad-norms --out logits.npy")]
pub struct Logits {
    #[command(flatten)]
    reader: Reader,
    /// Token ids: a JSON array, or an array of arrays of one length
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,
    /// Rope positions, shaped as the ids [default: 0, 1, 2, ...]
    #[arg(long, value_name = "FILE")]
    positions: Option<PathBuf>,
    /// Write the loss (each token's successor being its target) and each parameter's gradient norm beside --out, as .json
    #[arg(long)]
    grad_norms: bool,
    /// NumPy file for the logits: float32, batch x tokens x vocabulary
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub common: Common,
}

/// Rows of equal length.
struct Rows {
    rows: Vec<Vec<u32>>,
    tokens: usize,
}

impl Rows {
    fn read(path: &Path) -> Result<Rows> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Either {
            Many(Vec<Vec<u32>>),
            One(Vec<u32>),
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "reading", e))?;
        let rows = match serde_json::from_str(&text) {
            Ok(Either::Many(rows)) => rows,
            Ok(Either::One(row)) => vec![row],
            Err(_) => {
                return Err(Error::file(
                    path,
                    "must be a JSON array of whole numbers, or an array of such arrays",
                ));
            }
        };
        let tokens = rows.first().map_or(0, Vec::len);
        if tokens == 0 || rows.iter().any(|row| row.len() != tokens) {
            return Err(Error::file(path, "must hold at least one row, all rows of one length, none empty"));
        }
        Ok(Rows { rows, tokens })
    }
}

impl Logits {
    pub fn run(self) -> Result<()> {
        refuse_existing(&self.out)?;
        if let Some(path) = self.norms_path() {
            let problem = "is where --grad-norms writes; give --out another name, or remove it";
            if path.exists() || path == self.out {
                return Err(Error::file(&path, problem));
            }
        }
        let ids = Rows::read(&self.ids)?;
        let positions = match &self.positions {
            Some(path) => Rows::read(path)?,
            None => Rows { rows: vec![(0..ids.tokens as u32).collect(); ids.rows.len()], tokens: ids.tokens },
        };
        if (positions.rows.len(), positions.tokens) != (ids.rows.len(), ids.tokens) {
            let problem = format!(
                "has {} rows of {} where --ids has {} of {}",
                positions.rows.len(),
                positions.tokens,
                ids.rows.len(),
                ids.tokens
            );
            return Err(Error::usage("--positions", self.positions.unwrap_or_default().display(), problem));
        }
        let longest = positions.rows.iter().flatten().max().map_or(0, |&p| p as usize + 1);
        let opened = self.reader.open_for_ids(longest)?;
        ids.rows.iter().try_for_each(|row| check_ids(&opened.config, row, "--ids"))?;
        let job = LogitsJob { flags: &self, opened: &opened, ids: &ids, positions: &positions };
        dispatch(self.place.device(&self.common), self.reader.dtype, self.common.threads, job)
    }
}

impl Logits {
    /// The loss and the gradients' norms go beside the logits.
    fn norms_path(&self) -> Option<PathBuf> {
        self.grad_norms.then(|| self.out.with_extension("json"))
    }
}

struct LogitsJob<'a> {
    flags: &'a Logits,
    opened: &'a OpenedReader,
    ids: &'a Rows,
    positions: &'a Rows,
}

impl Job for LogitsJob<'_> {
    type Out = ();
    fn run<B: Backend>(self, b: &B) -> Result<()> {
        let shape = [self.ids.rows.len(), self.ids.tokens, self.opened.config.vocab_size];
        let tokens = self.ids.tokens;
        let reading = Reading { spans: tokens, ..Reading::of(tokens) };
        let (model, mut scorer): (_, Scorer<B>) = self.opened.load(b, reading)?;
        let all: Vec<usize> = (0..tokens).collect();
        let mut file = NpyWriter::create(&self.flags.out, &shape)?;
        for (ids, positions) in self.ids.rows.iter().zip(&self.positions.rows) {
            let ids: Vec<TokenId> = ids.iter().map(|&id| TokenId(id)).collect();
            scorer.logits_at(b, &model, &ids, Some(positions), &all, &mut |row| file.append(row))?;
        }
        file.finish()?;
        drop((model, scorer));
        self.flags.norms_path().map_or(Ok(()), |path| self.gradient_norms(b, &path))
    }
}

/// A model and what its two passes need.
struct Passes<B: Backend> {
    model: Model<B>,
    grads: Gradients<B>,
    buffers: TrainBuffers<B>,
    batch: PlacedBatch<B>,
}

impl LogitsJob<'_> {
    /// What a forward and a backward pass over one row take.
    fn allocate<B: Backend>(&self, b: &B, ledger: &mut Ledger) -> Result<Passes<B>> {
        let (config, tokens) = (&self.opened.config, self.ids.tokens);
        let model = Model::allocate(b, ledger, config, &self.opened.rope)?;
        let grads = Gradients::allocate(b, ledger, &model.specs)?;
        let buffers = TrainBuffers::new(b, ledger, config, tokens, 0)?;
        let batch = PlacedBatch::new(b, ledger, 1, tokens, tokens)?;
        let bytes = scratch::training(b, config, 1, tokens);
        ledger.note(Kind::Scratch, "kernels", &[bytes], "u8", bytes);
        if !ledger.is_dry() {
            b.reserve_scratch(bytes)?;
        }
        Ok(Passes { model, grads, buffers, batch })
    }

    fn gradient_norms<B: Backend>(&self, b: &B, path: &Path) -> Result<()> {
        let (mut plan, mut ledger, tokens) = (Ledger::dry(), Ledger::live(), self.ids.tokens);
        self.allocate(b, &mut plan)?;
        memory::check_room(b, &plan)?;
        let Passes { mut model, mut grads, mut buffers, mut batch } = self.allocate(b, &mut ledger)?;
        self.opened.fill(b, &mut ledger, &mut model)?;
        let scored = self.ids.rows.len() * (tokens - 1);
        let mut sum = 0.0;
        for (ids, positions) in self.ids.rows.iter().zip(&self.positions.rows) {
            let ids: Vec<TokenId> = ids.iter().map(|&id| TokenId(id)).collect();
            let targets: Vec<TokenId> = ids[1..].iter().copied().chain([TokenId::IGNORED]).collect();
            batch.fill(b, 1, &ids, &targets, &places_at(positions))?;
            model.forward_backward(b, &mut buffers, &mut grads, &batch, 1.0 / scored.max(1) as f64)?;
            let nll = download_f32::<B, B::Stat>(b, &buffers.work.nll, 0, tokens)?;
            sum += nll.iter().map(|&l| f64::from(l)).sum::<f64>();
        }
        model.finish_gradients(b, &mut grads)?;
        let norms = grads.norms(b, &model.specs)?;
        let by_name: serde_json::Map<String, serde_json::Value> =
            model.specs.iter().zip(norms).map(|(spec, norm)| (spec.name.clone(), json!(norm))).collect();
        let loss = sum / scored.max(1) as f64;
        let text =
            serde_json::to_string_pretty(&json!({ "loss": loss, "scored": scored, "grad_norms": by_name }))
                .map_err(|e| Error::file(path, e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|e| Error::io(path, "writing the gradient norms", e))
    }
}
