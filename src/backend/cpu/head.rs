//! The head and the loss: logits of a chunk of tokens, softmax and cross-entropy of each row in the row's own memory, and
//! the two products that undo the head. No more than one chunk of logits exists.

use super::Cpu;
use super::buffer::Buf;
use super::check;
use super::isa::{Simd, per_isa};
use super::math::{CpuFloat, LANES, exp, larger, max_lanes, sum_lanes};
use super::matmul::{self, Operand, Size};
use super::norm::add_rows;
use super::prefetch::{STREAM_AHEAD, prefetch_l2};
use super::products::{columns, lines};
use super::scratch::{Carver, grain};
use super::sinks::Output;
use crate::backend::{HeadGrad, HeadShape, MatmulShape, operands};
use crate::error::Result;
use crate::index::TokenId;
use std::ops::Range;

/// Bytes of logits that exist at once.
const LOGITS_BYTES: usize = 100_000_000;
/// A chunk of tokens is a multiple of the first of these that fits: strips of 14 and of 32 rows, and pairs of tokens by 16, are whole; or
/// strips of 14 alone.
const CHUNKS: [usize; 2] = [224, 56];

/// Tokens whose logits exist at once: as few chunks as keep each within [`LOGITS_BYTES`], of even size.
fn chunk_tokens(tokens: usize, vocab: usize) -> usize {
    let fit = LOGITS_BYTES / (4 * row_stride(vocab));
    let unit = CHUNKS.into_iter().find(|chunk| fit >= *chunk).unwrap_or(1);
    let fit = (fit / unit * unit).max(1);
    let even = tokens.div_ceil(tokens.div_ceil(fit).max(1));
    even.next_multiple_of(unit).min(fit).min(tokens)
}

/// Words of a row of logits that the passes go over: whole vectors.
fn row_words(vocab: usize) -> usize {
    vocab.next_multiple_of(32)
}

/// Words from one row of logits to the next: an odd number of cache lines. Many vocabularies are a multiple of a large power of two, and
/// rows that far apart have a column all in a few sets of a cache.
fn row_stride(vocab: usize) -> usize {
    row_words(vocab) + 16
}

/// What multiplies the gradients of some tokens.
#[derive(Clone, Copy)]
struct TokenScale<'a> {
    scale: f32,
    /// One for each; None: they are all 1.
    weights: Option<&'a [f32]>,
}

impl TokenScale<'_> {
    fn of(self, token: usize) -> f32 {
        self.weights.map_or(self.scale, |weights| self.scale * weights[token])
    }
}

impl<E: CpuFloat> Cpu<E> {
    /// Words of scratch of `head_loss`: a chunk of logits, and the largest of its products.
    pub(super) fn head_words(&self, s: HeadShape, with_grad: bool) -> usize {
        let chunk = chunk_tokens(s.tokens, s.vocab);
        let last = s.tokens - s.tokens.saturating_sub(1) / chunk.max(1) * chunk;
        let products = [chunk, last].into_iter().map(|m| {
            let forward = self.nt_words(MatmulShape { m, n: s.vocab, k: s.width });
            if !with_grad {
                return forward;
            }
            let dx = self.product_words(m, s.width, s.vocab, dz_lines(&[], s.vocab));
            let dw = self.product_words(s.vocab, s.width, m, dz_columns(&[], s.vocab));
            forward.max(dx).max(dw)
        });
        grain(chunk * row_stride(s.vocab)) + products.max().unwrap_or(0)
    }

    pub(super) fn head_loss(
        &self, nll: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, targets: &Buf<TokenId>,
        mut grad: Option<HeadGrad<'_, Self>>, s: HeadShape,
    ) -> Result<()> {
        let HeadShape { tokens, width, vocab } = s;
        operands::head_loss::<Self>(check::DEVICE, nll, [x, w], bias, targets, grad.as_ref(), s)?;
        let bias = bias.map(|bias| &bias.as_slice()[..vocab]);
        let targets = &targets.as_slice()[..tokens];
        check::tokens("head_loss", targets, vocab, true)?;
        let chunk = chunk_tokens(tokens, vocab).max(1);
        let words = self.head_words(s, grad.is_some());
        let mut memory = self.arena.take(words);
        let mut carver = Carver(memory.words(words));
        let logits = carver.words(if tokens == 0 { 0 } else { chunk * row_stride(vocab) });
        let products = carver.0;
        for first in (0..tokens).step_by(chunk) {
            let rows = first..tokens.min(first + chunk);
            let scored = targets[rows.clone()].iter().any(|t| *t != TokenId::IGNORED);
            if !scored {
                nll.as_mut_slice()[rows.clone()].fill(0.0);
                if let Some(grad) = &mut grad {
                    grad.dx.as_mut_slice()[rows.start * width..rows.end * width].fill(E::default());
                }
                continue;
            }
            let x = &x.as_slice()[rows.start * width..];
            self.logits(
                bytemuck::cast_slice_mut(&mut *logits),
                row_stride(vocab),
                products,
                x,
                w.as_slice(),
                HeadShape { tokens: rows.len(), ..s },
            );
            let scale = grad.as_ref().map(|grad| TokenScale {
                scale: grad.scale as f32,
                weights: grad.weights.map(|weights| &weights.as_slice()[rows.clone()]),
            });
            self.row_losses(
                &mut nll.as_mut_slice()[rows.clone()],
                logits,
                bias,
                vocab,
                &targets[rows.clone()],
                scale,
            );
            if let Some(grad) = &mut grad {
                self.undo_head(grad, bytemuck::cast_slice(logits), products, rows, x, w.as_slice(), s);
            }
        }
        Ok(())
    }

    pub(super) fn head_logits(
        &self, logits: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, bias: Option<&Buf<E>>, s: HeadShape,
    ) -> Result<()> {
        let HeadShape { tokens, width, vocab } = s;
        operands::head_logits::<Self>(check::DEVICE, logits, [x, w], bias, s)?;
        let words = self.nt_words(MatmulShape { m: tokens, n: vocab, k: width });
        let mut scratch = self.arena.take(words);
        self.logits(logits.as_mut_slice(), vocab, scratch.words(words), x.as_slice(), w.as_slice(), s);
        if let Some(bias) = bias {
            let rows = logits.as_mut_slice()[..tokens * vocab].chunks_exact_mut(vocab.max(1));
            self.workers.each(0.2 * (tokens * vocab) as f64, rows, |z| {
                add_rows(self.simd, z, &bias.as_slice()[..vocab], vocab);
            });
        }
        Ok(())
    }

    /// out[t·ld + j] = x[t]·w[j].
    pub(super) fn logits(
        &self, out: &mut [f32], ld: usize, scratch: &mut [u32], x: &[E], w: &[E], s: HeadShape,
    ) {
        let sink = Output::new(self.simd, out, ld);
        let shape = MatmulShape { m: s.tokens, n: s.vocab, k: s.width };
        self.nt(scratch, x, w, shape, &sink);
    }

    fn row_losses(
        &self, nll: &mut [f32], logits: &mut [u32], bias: Option<&[E]>, vocab: usize, targets: &[TokenId],
        scale: Option<TokenScale<'_>>,
    ) {
        let ns = 1.5 * (nll.len() * vocab) as f64;
        let rows = logits.chunks_exact_mut(row_stride(vocab)).zip(nll).zip(targets).enumerate();
        self.workers.each(ns, rows, |(t, ((row, nll), target))| {
            if let Some(bias) = bias {
                add_rows(self.simd, &mut bytemuck::cast_slice_mut(&mut *row)[..vocab], bias, vocab);
            }
            let target = (*target != TokenId::IGNORED).then_some(target.0 as usize);
            let row = &mut row[..row_words(vocab)];
            *nll = row_loss::<E>(self.simd, row, vocab, target, scale.map(|scale| scale.of(t)));
        });
    }

    /// dx = dz·w and, unless the head is frozen, dw += dzᵀ·x and db += Σ dz for the tokens `rows`; x is theirs.
    fn undo_head(
        &self, grad: &mut HeadGrad<'_, Self>, dz: &[E], scratch: &mut [u32], rows: Range<usize>, x: &[E],
        w: &[E], s: HeadShape,
    ) {
        let dx = Output::new(self.simd, &mut grad.dx.as_mut_slice()[rows.start * s.width..], s.width);
        let size = Size { m: rows.len(), n: s.width, k: s.vocab };
        matmul::product(self.means(), scratch, dz_lines(dz, s.vocab), columns(w, s.width), size, &dx);
        if let Some(db) = &mut grad.db {
            let (stride, run) =
                (row_stride(s.vocab) * 4 / std::mem::size_of::<E>(), self.columns_at_a_time(s.vocab));
            let columns = db.as_mut_slice()[..s.vocab].chunks_mut(run).enumerate();
            self.workers.each(0.2 * (rows.len() * s.vocab) as f64, columns, |(c, db)| {
                add_rows(self.simd, db, &dz[c * run..rows.len() * stride], stride);
            });
        }
        let Some(dw) = &mut grad.dw else { return };
        let dw = Output::new(self.simd, dw.as_mut_slice(), s.width).added();
        let size = Size { m: s.vocab, n: s.width, k: rows.len() };
        matmul::product(self.means(), scratch, dz_columns(dz, s.vocab), columns(x, s.width), size, &dw);
    }
}

/// The gradients of the logits, which lie in the logits' rows: as A of dx and as A of dw.
fn dz_lines<E: CpuFloat>(dz: &[E], vocab: usize) -> Operand<'_, E> {
    Operand { stride: row_stride(vocab) * 4 / std::mem::size_of::<E>(), ..lines(dz, vocab) }
}

fn dz_columns<E: CpuFloat>(dz: &[E], vocab: usize) -> Operand<'_, E> {
    columns(dz, row_stride(vocab) * 4 / std::mem::size_of::<E>())
}

/// nll of one row; with `grad`, the row's memory then holds grad·(softmax − onehot), as `E`, from its start.
fn row_loss<E: CpuFloat>(
    simd: Simd, row: &mut [u32], vocab: usize, target: Option<usize>, grad: Option<f32>,
) -> f32 {
    let logits: &mut [f32] = bytemuck::cast_slice_mut(&mut *row);
    logits[vocab..].fill(f32::NEG_INFINITY);
    let Some(target) = target else {
        row.fill(0);
        return 0.0;
    };
    let score = logits[target];
    let (max, sum) = max_and_sum(simd, logits);
    let nll = max + sum.ln() - score;
    if let Some(scale) = grad {
        let hit = E::narrow(scale * ((score - max).exp() / sum - 1.0));
        if std::mem::size_of::<E>() == 2 {
            halves(simd, row, max, scale / sum);
        } else {
            singles(simd, logits, max, scale / sum);
        }
        bytemuck::cast_slice_mut::<u32, E>(row)[target] = hit;
    }
    nll
}

per_isa! {
    fn max_and_sum(logits: &[f32]) -> (f32, f32) => max_and_sum_body;
    fn halves(row: &mut [u32], max: f32, factor: f32) => halves_body;
    fn singles(row: &mut [f32], max: f32, factor: f32) => singles_body;
}

/// The largest and Σ exp(x − largest); the length is a multiple of [`LANES`].
#[inline(always)]
fn max_and_sum_body<const FMA: bool>(logits: &[f32]) -> (f32, f32) {
    let (chunks, _) = logits.as_chunks::<LANES>();
    let mut top = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        // The row comes from memory; for the passes after this one it is near.
        prefetch_l2(chunk.as_ptr().wrapping_byte_add(STREAM_AHEAD));
        for l in 0..LANES {
            top[l] = larger(chunk[l], top[l]);
        }
    }
    let max = max_lanes(top);
    let mut sum = [0f32; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            sum[l] += exp::<FMA>(chunk[l] - max);
        }
    }
    (max, sum_lanes(sum))
}

/// factor·exp(x − max) as bf16, two to a word, each over memory that was read before.
#[inline(always)]
fn halves_body<const FMA: bool>(row: &mut [u32], max: f32, factor: f32) {
    for at in (0..row.len()).step_by(2 * LANES) {
        let mut words = [0u32; 2 * LANES];
        words.copy_from_slice(&row[at..at + 2 * LANES]);
        let mut out = [half::bf16::ZERO; 2 * LANES];
        for l in 0..2 * LANES {
            out[l] = half::bf16::narrow(factor * exp::<FMA>(f32::from_bits(words[l]) - max));
        }
        row[at / 2..at / 2 + LANES].copy_from_slice(&bytemuck::cast::<_, [u32; LANES]>(out));
    }
}

#[inline(always)]
fn singles_body<const FMA: bool>(row: &mut [f32], max: f32, factor: f32) {
    for x in row {
        *x = factor * exp::<FMA>(*x - max);
    }
}
