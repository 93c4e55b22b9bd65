//! LongCE (2410.23771): a token's loss weighs the more, the more its far context helps to predict it.
//!
//! With nll_long(t) the loss in the row as it is trained on, and nll_short(t) the loss of the same token at the same
//! position where little of the text before it is seen: `w_t = min(exp(nll_short(t) − nll_long(t)), gamma)`. It is a
//! number, through which no gradient goes, and what is minimised is `Σ w_t·nll_long(t) / tokens`.
//!
//! The paper's short contexts are windows that overlap: each scores its last tokens. Windows that do not overlap are
//! one pass over the row, cut into documents. So the row is cut into blocks of S tokens, and a token of block k is
//! predicted from blocks k−1 and k, which are S+1 to 2·S tokens with itself. Windows of two blocks that begin at even
//! blocks score the odd ones, those that begin at odd blocks the even ones: two passes are all windows. A token whose
//! whole context lies within its window, as all of blocks 0 and 1 does, has weight 1.

use super::buffers::TrainBuffers;
use super::{Gradients, Model, PlacedBatch, download_f32};
use crate::backend::{Backend, Float};
use crate::error::Result;
use crate::index::DocumentId;
use crate::memory::{Kind, Ledger};

/// What is minimised.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Loss {
    /// Cross-entropy: the mean of the tokens' losses.
    #[default]
    Ce,
    /// The same with weights: a token counts the more, the more its far context helps to predict it (2410.23771).
    LongCe,
}

/// How tokens are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LongCe {
    /// S, at least 1: a token sees S to 2·S − 1 tokens before it in its short context.
    pub short: usize,
    /// The largest weight.
    pub gamma: f64,
}

/// The two ways to cut a row; the value is by how many blocks the first window is shorter than two.
const SHIFTS: [usize; 2] = [0, 1];

impl LongCe {
    /// The window of each token, `[T]`, as documents numbered from 0: no window goes over the end of a document.
    fn windows(&self, documents: Option<&[DocumentId]>, tokens: usize, shift: usize) -> Vec<DocumentId> {
        let mut window = 0;
        let at = |t: usize| ((t / self.short + shift) / 2, documents.map(|ids| ids[t]));
        let number = |t: usize| {
            window += u32::from(t > 0 && at(t) != at(t - 1));
            DocumentId(window)
        };
        (0..tokens).map(number).collect()
    }

    /// Whether windows so cut are those that a token is weighed by.
    fn scores(&self, t: usize, shift: usize) -> bool {
        (t / self.short + shift) % 2 == 1
    }

    /// The weights of a row, `[T]`.
    fn weights(&self, documents: Option<&[DocumentId]>, short: &[f32], long: &[f32]) -> Vec<f32> {
        let mut document_start = 0;
        let weight = |(t, (&short, &long)): (usize, (&f32, &f32))| {
            if documents.is_some_and(|ids| t > 0 && ids[t] != ids[t - 1]) {
                document_start = t;
            }
            if document_start >= (t / self.short).saturating_sub(1) * self.short {
                return 1.0;
            }
            let ratio = (f64::from(short) - f64::from(long)).exp();
            // not min: a loss that is no number makes a weight that is none
            (if ratio > self.gamma { self.gamma } else { ratio }) as f32
        };
        short.iter().zip(long).enumerate().map(weight).collect()
    }
}

/// What weighing a batch takes beside the buffers of a step.
pub struct Weighing<B: Backend> {
    how: LongCe,
    /// `[rows, T]`. In an option to change places with the batch's own.
    windows: Option<B::Buf<DocumentId>>,
    weights: B::Buf<B::Stat>, // [rows, T]
}

impl<B: Backend> Weighing<B> {
    pub fn allocate(b: &B, ledger: &mut Ledger, how: LongCe, rows: usize, tokens: usize) -> Result<Self> {
        let shape = [rows, tokens];
        let windows = Some(ledger.buf(b, Kind::Batch, "longce.windows", &shape)?);
        Ok(Weighing { how, windows, weights: ledger.buf(b, Kind::Batch, "longce.weights", &shape)? })
    }

    /// The losses of all tokens in their short contexts, `[rows, T]`: two passes, each of which gives half of them.
    fn short_losses(
        &mut self, b: &B, model: &Model<B>, buffers: &mut TrainBuffers<B>, batch: &mut PlacedBatch<B>,
        documents: Option<&[DocumentId]>,
    ) -> Result<Vec<f32>> {
        let (how, tokens) = (self.how, batch.tokens);
        let mut losses = vec![0.0; batch.len()];
        for shift in SHIFTS {
            let row = |row: usize| how.windows(documents.map(|ids| &ids[row * tokens..]), tokens, shift);
            let ids: Vec<DocumentId> = (0..batch.rows).flat_map(row).collect();
            self.windows.as_mut().map_or(Ok(()), |windows| b.upload(windows, 0, &ids))?;
            std::mem::swap(&mut batch.documents, &mut self.windows);
            let done = model.forward_loss(b, buffers, batch);
            std::mem::swap(&mut batch.documents, &mut self.windows);
            done?;
            let nll = download_f32::<B, B::Stat>(b, &buffers.work.nll, 0, batch.len())?;
            let scored = losses.iter_mut().zip(nll).enumerate();
            scored.filter(|(at, _)| how.scores(at % tokens, shift)).for_each(|(_, (loss, nll))| *loss = nll);
        }
        Ok(losses)
    }
}

impl<B: Backend> Model<B> {
    /// [`Model::forward_backward`] with weighted tokens: gradients of Σ weight·nll·`scale`. Leaves the losses in
    /// `buffers.work.nll`, without weights, and returns the weights, both [rows, tokens]. `documents` are the batch's, where
    /// it has some. Takes two passes forward more, and the head three times more.
    pub fn forward_backward_weighed(
        &self, b: &B, buffers: &mut TrainBuffers<B>, grads: &mut Gradients<B>, batch: &mut PlacedBatch<B>,
        documents: Option<&[DocumentId]>, scale: f64, weighing: &mut Weighing<B>,
    ) -> Result<Vec<f32>> {
        buffers.reclaim(b, grads, &self.ids.layers);
        let short = weighing.short_losses(b, self, buffers, batch, documents)?;
        self.forward_loss(b, buffers, batch)?;
        let long = download_f32::<B, B::Stat>(b, &buffers.work.nll, 0, batch.len())?;
        let mut weights = Vec::with_capacity(batch.len());
        for row in 0..batch.rows {
            let range = row * batch.tokens..(row + 1) * batch.tokens;
            let documents = documents.map(|ids| &ids[range.clone()]);
            weights.extend(weighing.how.weights(documents, &short[range.clone()], &long[range]));
        }
        let values: Vec<B::Stat> = weights.iter().map(|&w| B::Stat::from_f64(w.into())).collect();
        b.upload(&mut weighing.weights, 0, &values)?;
        self.backward(b, buffers, grads, batch, scale, Some(&weighing.weights))?;
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: LongCe = LongCe { short: 3, gamma: 5.0 };

    fn ids(list: &[u32]) -> Vec<DocumentId> {
        list.iter().copied().map(DocumentId).collect()
    }

    #[test]
    fn a_token_is_weighed_by_its_block_and_the_one_before() {
        let [odd, even] = SHIFTS.map(|shift| HOW.windows(None, 14, shift));
        assert_eq!(odd, ids(&[0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2]));
        assert_eq!(even, ids(&[0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]));
        for t in 0..14 {
            let [a, b] = SHIFTS.map(|shift| HOW.scores(t, shift));
            assert!(a != b, "token {t} is scored once");
            let windows = if a { &odd } else { &even };
            let seen = (0..=t).filter(|&s| windows[s] == windows[t]).count();
            let want = if t < 6 { t + 1 } else { 4 + t % 3 };
            assert_eq!(seen, want, "tokens that token {t} sees");
        }
    }

    #[test]
    fn windows_end_with_documents() {
        let documents = ids(&[0, 0, 0, 0, 1, 1, 1, 2]);
        assert_eq!(HOW.windows(Some(&documents), 8, 0), ids(&[0, 0, 0, 0, 1, 1, 2, 3]));
        assert_eq!(HOW.windows(Some(&documents), 8, 1), ids(&[0, 0, 0, 1, 2, 2, 2, 3]));
        // each begins within the windows of all its tokens
        let weights = HOW.weights(Some(&documents), &[2.0; 8], &[1.0; 8]);
        assert_eq!(weights, [1.0; 8]);
        let one = HOW.weights(None, &[2.0; 8], &[1.0; 8]);
        assert_eq!(one, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1f64.exp() as f32, 1f64.exp() as f32]);
    }

    #[test]
    fn weights_are_ratios_of_probabilities_up_to_gamma() {
        let (short, long) = ([0.0; 6], [9.0; 6]);
        let short = [&short[..], &[3.0, 1.0, 9.0, f32::NAN]].concat();
        let long = [&long[..], &[1.0, 2.0, 0.5, 1.0]].concat();
        let weights = HOW.weights(None, &short, &long);
        assert_eq!(&weights[..9], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0, (-1f64).exp() as f32, 5.0]);
        assert!(weights[9].is_nan());
    }
}
