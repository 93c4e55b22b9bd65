//! One optimizer step: micro-batches, gradient norm, update.

use super::save::RunDirectory;
use super::spikes::{self, Spike};
use super::{State, StepMetrics};
use crate::backend::Backend;
use crate::data::Loader;
use crate::error::{Error, Result};
use crate::model::download_f32;
use crate::optim::AdamState;
use crate::recipe::Recipe;
use std::time::Instant;

impl<B: Backend> State<B> {
    /// Step `steps_done + 1`. A loss or gradient that is no number stops the run before the update, or is a spike like a
    /// loss that leaps, in a run that watches for them.
    pub(super) fn step(
        &mut self, b: &B, recipe: &Recipe, loader: &Loader, directory: &RunDirectory,
    ) -> Result<Stepped> {
        let start = Instant::now();
        let step = self.steps_done + 1;
        let batch = step + self.spikes.passed;
        let tokens = loader.scored(batch, 0..recipe.rows_per_step() as u32);
        self.grads.zero(b, &self.model.specs)?;
        let (mut losses, mut weighted) = (Vec::with_capacity(recipe.rows_per_step()), None);
        for micro in 0..recipe.grad_accum {
            let rows = (micro * recipe.batch) as u32..((micro + 1) * recipe.batch) as u32;
            let done = self.micro_batch(b, loader, batch, rows, tokens)?;
            losses.extend(done.losses);
            weighted = done.weighted.map(|sum| sum + weighted.unwrap_or(0.0));
        }
        self.model.finish_gradients(b, &mut self.grads)?;
        let norm = AdamState::global_norm(b, &self.model, &self.grads)?;
        let loss = losses.iter().sum::<f64>() / tokens as f64;
        let is_number = loss.is_finite() && norm.is_finite();
        if let Some(rule) = &recipe.on_spike {
            if let Some(z) = spikes::judge(&mut self.spikes, rule, if is_number { loss } else { f64::NAN }) {
                let sample = worst_sample(batch, &losses, loader);
                return Ok(Stepped::Spiked(Spike { step, loss, norm, z, sample }));
            }
        } else if !is_number {
            return Err(broken(step, loss, norm, worst_sample(batch, &losses, loader), directory));
        }
        let lr = recipe.schedule.rate(step);
        self.adam.step(b, &mut self.model, &self.grads, recipe.adam, step, lr, norm)?;
        self.steps_done = step;
        self.tokens_seen += tokens as u64;
        let seconds = start.elapsed().as_secs_f64();
        let tokens_per_second = tokens as f64 / seconds;
        Ok(Stepped::Done(StepMetrics {
            step,
            loss,
            weighted_loss: weighted.map(|sum: f64| sum / tokens as f64),
            grad_norm: norm,
            lr,
            tokens: self.tokens_seen,
            seconds,
            tokens_per_second,
        }))
    }

    /// Forward and backward over some rows of the step. All `step_tokens` tokens of the step that have a target count
    /// the same, but for LongCE's weights, whichever micro-batch they are in.
    fn micro_batch(
        &mut self, b: &B, loader: &Loader, step: u64, rows: std::ops::Range<u32>, step_tokens: usize,
    ) -> Result<MicroBatch> {
        let host = loader.batch(step, rows)?;
        self.batch.fill(b, host.rows, &host.tokens, &host.targets, &host.places)?;
        if let Some(ids) = &host.document_ids {
            self.batch.fill_documents(b, ids)?;
        }
        let scale = 1.0 / step_tokens as f64;
        let (model, buffers, grads) = (&self.model, &mut self.buffers, &mut self.grads);
        let weights = match &mut self.weighing {
            None => {
                model.forward_backward(b, buffers, grads, &self.batch, scale)?;
                None
            }
            Some(weighing) => {
                let (batch, documents) = (&mut self.batch, host.document_ids.as_deref());
                Some(model.forward_backward_weighed(b, buffers, grads, batch, documents, scale, weighing)?)
            }
        };
        let nll = download_f32::<B, B::Stat>(b, &self.buffers.work.nll, 0, host.tokens.len())?;
        let sum = |row: &[f32]| row.iter().map(|&l| f64::from(l)).sum::<f64>();
        let products =
            |weights: Vec<f32>| weights.iter().zip(&nll).map(|(&w, &l)| f64::from(w) * f64::from(l)).sum();
        Ok(MicroBatch {
            losses: nll.chunks_exact(host.window).map(sum).collect(),
            weighted: weights.map(products),
        })
    }
}

/// What a micro-batch's losses sum to.
struct MicroBatch {
    /// Of each row.
    losses: Vec<f64>,
    /// Of all rows, each loss times its weight, where there are weights.
    weighted: Option<f64>,
}

/// What became of a step.
pub(super) enum Stepped {
    Done(StepMetrics),
    /// Nothing was updated.
    Spiked(Spike),
}

/// The first sample whose loss is no number, or that with the largest.
fn worst_sample(batch: u64, losses: &[f64], loader: &Loader) -> String {
    let worst = |a: &(usize, &f64), b: &(usize, &f64)| a.1.abs().total_cmp(&b.1.abs());
    let row =
        losses.iter().enumerate().find(|(_, l)| !l.is_finite()).or(losses.iter().enumerate().max_by(worst));
    loader.describe(batch, row.map_or(0, |(row, _)| row as u32))
}

/// The sentence for a loss or gradient that is no number: the step, the sample that did it, the last good checkpoint.
fn broken(step: u64, loss: f64, norm: f64, sample: String, directory: &RunDirectory) -> Error {
    let good = directory.latest_text();
    Error::NonFinite(format!(
        "step {step}: the loss is {loss} and the gradient norm {norm}; nothing was updated; the sample is {sample}; {good}; \
         a lower --lr or --clip may help"
    ))
}
