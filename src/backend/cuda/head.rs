//! Head and cross-entropy, a chunk of tokens at a time; and which token comes next.

use super::buffer::Buf;
use super::driver::Arg;
use super::images::tiles;
use super::{Cuda, CudaFloat, line};
use crate::backend::{HeadGrad, HeadShape, MatmulShape, SampleShape, Write, operands};
use crate::error::Result;
use crate::index::TokenId;

/// Bytes of logits that exist at a time, about. Each chunk reads the head's weights and adds to the whole of their gradient, so that a
/// vocabulary of 128256 moves 4 GB for every chunk.
const LOGITS: usize = 256 << 20;
/// Tokens of a chunk: a whole number of these, the rows of a product's tile, so that none is half empty.
const STEP: usize = tiles::MATMUL_M;

/// By the shape alone.
fn chunk_tokens(s: HeadShape) -> usize {
    let most = (LOGITS / (4 * s.vocab.max(1)) / STEP * STEP).clamp(STEP, 1024);
    most.min(s.tokens.next_multiple_of(STEP)).max(1)
}

impl<E: CudaFloat> Cuda<E> {
    /// Bytes from one part of the scratch memory to the next.
    fn logit_bytes(s: HeadShape) -> usize {
        (chunk_tokens(s) * s.vocab * 4).next_multiple_of(256)
    }

    /// Bytes of the pairs of numbers that the product leaves for the loss.
    fn stat_bytes(s: HeadShape) -> usize {
        (chunk_tokens(s) * Self::logit_tiles(s.vocab) * 8).next_multiple_of(256)
    }

    /// Logits in f32, what the product tells of them, and in bf16 their gradients; in f32 those take the logits' place.
    pub(super) fn head_scratch(s: HeadShape, with_grad: bool) -> usize {
        let slopes = if with_grad && size_of::<E>() == 2 { chunk_tokens(s) * s.vocab * 2 } else { 0 };
        Self::logit_bytes(s) + Self::stat_bytes(s) + slopes
    }

    pub(super) fn loss(
        &self, nll: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, targets: &Buf<TokenId>,
        mut grad: Option<HeadGrad<'_, Self>>, s: HeadShape,
    ) -> Result<()> {
        const OP: &str = "head_loss";
        let HeadShape { tokens, width, vocab } = s;
        operands::head_loss::<Self>(&self.name, nll, [x, w], bias, targets, grad.as_ref(), s)?;
        let chunk = chunk_tokens(s);
        let scratch = self.arena.take(Self::head_scratch(s, grad.is_some()))?;
        let logits = scratch.arg();
        // what the product tells of the logits holds before the bias only
        let pieces = if bias.is_some() { 0 } else { Self::logit_tiles(vocab) };
        let stats = if pieces > 0 { scratch.arg_at(Self::logit_bytes(s)) } else { Arg::NULL };
        let slope = match &grad {
            None => Arg::NULL,
            Some(_) if size_of::<E>() == 2 => scratch.arg_at(Self::logit_bytes(s) + Self::stat_bytes(s)),
            Some(_) => logits,
        };
        let scale = grad.as_ref().map_or(0.0, |grad| grad.scale);
        let weights = grad.as_ref().and_then(|grad| grad.weights);
        for first in (0..tokens).step_by(chunk) {
            let rows = chunk.min(tokens - first);
            let shape = MatmulShape { m: rows, n: vocab, k: width };
            let x = x.arg_at(first * width);
            self.logits_with_stats(logits, stats, [x, w.arg()], shape)?;
            bias.map_or(Ok(()), |bias| self.add_bias(logits, bias, rows, vocab))?;
            let args = [
                nll.arg_at(first),
                slope,
                logits,
                targets.arg_at(first),
                weights.map_or(Arg::NULL, |weights| weights.arg_at(first)),
                stats,
                self.int(OP, pieces)?,
                self.int(OP, vocab)?,
                Arg::float(scale),
            ];
            self.launch("cross_entropy", line(rows, tiles::SOFTMAX_THREADS), &args)?;
            if let Some(grad) = &mut grad {
                self.nn(grad.dx.arg_at(first * width), slope, w.arg(), Write::Overwrite, shape)?;
                if let Some(dw) = &grad.dw {
                    self.tn(dw.arg(), slope, x, shape)?;
                }
                if let Some(db) = &mut grad.db {
                    self.column_sum::<E>(db, slope, rows, vocab)?;
                }
            }
        }
        Ok(())
    }

    /// z[t,:] += bias, of logits [rows, vocab].
    pub(super) fn add_bias(&self, z: Arg, bias: &Buf<E>, rows: usize, vocab: usize) -> Result<()> {
        let args = [z, bias.arg(), self.int("head_loss", vocab)?];
        self.launch("add_bias", line(rows, tiles::SOFTMAX_THREADS), &args)
    }

    pub(super) fn choose(
        &self, tokens: &mut Buf<TokenId>, logits: &mut Buf<f32>, units: &Buf<f32>, s: SampleShape,
    ) -> Result<()> {
        const OP: &str = "sample";
        operands::sample::<Self>(&self.name, tokens, logits, units, s)?;
        let greedy = s.temperature == 0.0;
        // a temperature next to nothing must not make 0·inf of the largest logit
        let inverse = if greedy { 0.0 } else { (1.0 / s.temperature).min(f64::from(f32::MAX) / 2.0) };
        let numbers = [Arg::float(inverse), Arg::float(s.top_p), Arg::int(greedy.into())];
        let operands = [tokens.arg(), logits.arg(), units.arg(), self.int(OP, s.vocab)?];
        let args = [&operands[..], &numbers].concat();
        self.gpu.launch(OP, line(s.rows, tiles::SAMPLE_THREADS), &args)
    }
}
