//! How often each relative distance is trained (the paper's figure 5, over the very sampler that the training uses).
//!
//! A row trains distance d when some token of it attends to a token whose rope position is d less. d = 0 (a token attends to
//! itself) is always trained.

use super::chunks::reference_limit;
use super::{ChunkLengths, Method, Placement, Sampler, span_ranges};
use crate::index::{ChunkSpan, RopePosition, SeqIndex};
use rayon::prelude::*;
use std::ops::Range;

/// The probability that one row trains each distance.
#[derive(Clone, Debug, PartialEq)]
pub struct Coverage {
    /// `[target_len]`, by distance.
    pub probability: Vec<f64>,
    /// Rows that were drawn, 0 where the probability is exact.
    pub rows: usize,
}

/// A [`Coverage`] in a line, over the distances that a row may miss: from 1 on.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub min: f64,
    pub mean: f64,
    /// The distances with probability 0 (of a drawn coverage: those that no row happened to train), as ascending ranges.
    pub never: Vec<Range<usize>>,
}

impl Coverage {
    /// By drawing `rows` rows (at least one), those of step 0 under `seed`.
    pub fn drawn(sampler: &Sampler, seed: u64, rows: usize) -> Coverage {
        let rows = rows.clamp(1, u32::MAX as usize);
        let len = sampler.target_len();
        // Counts are whole numbers, so the sum is the same in any order. A share of rows per thread, because each has
        // an array of target_len of its own.
        let share = rows.div_ceil(rayon::current_num_threads());
        let tasks = (0..rows).step_by(share).collect::<Vec<_>>();
        let steps = tasks
            .into_par_iter()
            .map(|first| {
                let mut steps = vec![0i64; len + 1];
                for row in first..rows.min(first + share) {
                    let placement = sampler.placement(seed, 0, row as u32);
                    for range in trained(&placement, sampler.window(), len) {
                        steps[range.start] += 1;
                        steps[range.end] -= 1;
                    }
                }
                steps
            })
            .reduce_with(|mut a, b| {
                a.iter_mut().zip(&b).for_each(|(a, b)| *a += b);
                a
            })
            .unwrap_or_else(|| vec![0; len + 1]);
        Coverage { probability: running_sums(&steps, rows), rows }
    }

    /// Bytes that [`Coverage::drawn`] and its [`Coverage::summary`] take at most, of arrays as long as the target: each
    /// thread's counts (i64), and where rows are lists of positions their distances as bits and as runs (no more than one
    /// for every second distance); then the probabilities (f64) and the runs of distances that are never trained.
    pub fn drawing_bytes(sampler: &Sampler, rows: usize) -> usize {
        let runs = size_of::<Range<usize>>() / 2;
        let listed = if sampler.spans_per_row().is_none() { 2 * runs + 1 } else { 0 };
        let threads = rows.min(rayon::current_num_threads());
        let bytes = threads * (size_of::<i64>() + listed) + size_of::<f64>() + 2 * runs;
        sampler.target_len().saturating_mul(bytes)
    }

    /// By formula, where there is an easy one: PoSE with two chunks, the balanced mixture, and the methods that draw nothing.
    pub fn exact(sampler: &Sampler) -> Option<Coverage> {
        let window = sampler.window();
        if sampler.method() == Method::Balanced {
            return Some(mixture(&sampler.balance().rows, window, sampler.target_len()));
        }
        let probability = |d: usize| match (sampler.method(), sampler.chunks) {
            (Method::Pose, 2) => Some(two_chunks(sampler, d)),
            (Method::Full | Method::Plain, _) => Some(if d < window { 1.0 } else { 0.0 }),
            _ => None,
        };
        let probability = (0..sampler.target_len()).map(probability).collect::<Option<_>>()?;
        Some(Coverage { probability, rows: 0 })
    }

    pub fn summary(&self) -> Summary {
        let mut never: Vec<Range<usize>> = Vec::new();
        let distances = self.probability.get(1..).unwrap_or_default();
        for d in (1..self.probability.len()).filter(|&d| self.probability[d] == 0.0) {
            match never.last_mut() {
                Some(last) if last.end == d => last.end = d + 1,
                _ => never.push(d..d + 1),
            }
        }
        let min = distances.iter().copied().fold(f64::INFINITY, f64::min);
        let mean = distances.iter().sum::<f64>() / distances.len() as f64;
        Summary { min, mean, never }
    }
}

/// Of rows that are equally likely.
fn mixture(rows: &[Vec<ChunkSpan>], window: usize, target_len: usize) -> Coverage {
    let mut steps = vec![0i64; target_len + 1];
    for run in rows.iter().flat_map(|row| between_chunks(row, window)) {
        steps[run.start] += 1;
        steps[run.end] -= 1;
    }
    Coverage { probability: running_sums(&steps, rows.len()), rows: 0 }
}

/// From where runs begin and end to the share of `rows` that each distance is in.
fn running_sums(steps: &[i64], rows: usize) -> Vec<f64> {
    let mut count = 0;
    let running = |step: &i64| {
        count += step;
        count as f64 / rows as f64
    };
    steps[..steps.len() - 1].iter().map(running).collect()
}

/// 1 - (1 - P(within a chunk))·(1 - P(across)): the length l decides the one and the bias u the other, independently.
/// Within: d < max(l, Lc - l). Across: from u + 1 (last token of the first chunk to the first of the second) to u + Lc - 1.
fn two_chunks(sampler: &Sampler, d: usize) -> f64 {
    let (window, longest) = (sampler.train_len(), sampler.target_len() - sampler.train_len());
    let lengths = match sampler.chunk_lengths {
        ChunkLengths::Paper => window - 1,
        ChunkLengths::Reference => reference_limit(window, 2),
    };
    // l in 1..=lengths with l <= window - 1 - d or l > d; the two overlap for small d.
    let (short, long) = ((window - 1).saturating_sub(d).min(lengths), lengths.saturating_sub(d));
    let within = (short + long).min(lengths) as f64 / lengths as f64;
    let across =
        (d.min(longest + 1)).saturating_sub((d + 1).saturating_sub(window)) as f64 / (longest + 1) as f64;
    1.0 - (1.0 - within) * (1.0 - across)
}

/// The distances that one row trains, as disjoint ascending ranges below `target_len`.
fn trained(placement: &Placement, window: usize, target_len: usize) -> Vec<Range<usize>> {
    match placement {
        Placement::Spans(spans) => between_chunks(spans, window),
        Placement::List(positions) => {
            let runs = spans_of(positions);
            // pairs of runs against words of sets: sentences are few and long, random positions are not
            if runs.len() * runs.len() / 2 < positions.len() * target_len.div_ceil(64) {
                between_chunks(&runs, window)
            } else {
                between_positions(positions, target_len)
            }
        }
    }
}

/// Two chunks are two runs of consecutive positions, so the distances between them are one run too.
pub(super) fn between_chunks(spans: &[ChunkSpan], window: usize) -> Vec<Range<usize>> {
    let places = |(range, span): (Range<usize>, &ChunkSpan)| {
        let bias = span.bias as usize;
        range.start + bias..range.end + bias
    };
    let chunks: Vec<Range<usize>> = span_ranges(spans, window).map(places).collect();
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, late) in chunks.iter().enumerate() {
        runs.push(0..late.len());
        runs.extend(chunks[..i].iter().map(|early| late.start + 1 - early.end..late.end - early.start));
    }
    runs.sort_unstable_by_key(|run| run.start);
    runs.into_iter().fold(Vec::new(), |mut joined: Vec<Range<usize>>, run| {
        match joined.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => joined.push(run),
        }
        joined
    })
}

/// Ascending positions as runs of consecutive ones.
fn spans_of(positions: &[RopePosition]) -> Vec<ChunkSpan> {
    let mut spans: Vec<ChunkSpan> = Vec::new();
    for (t, p) in positions.iter().enumerate() {
        let bias = p.0 - t as u32;
        if spans.last().is_none_or(|span| span.bias != bias) {
            spans.push(ChunkSpan { start: SeqIndex(t as u32), bias });
        }
    }
    spans
}

/// All differences of a set of positions: the set as bits, shifted down by each of its members and joined.
fn between_positions(positions: &[RopePosition], target_len: usize) -> Vec<Range<usize>> {
    let mut set = vec![0u64; target_len.div_ceil(64) + 1];
    for p in positions {
        set[p.0 as usize / 64] |= 1 << (p.0 % 64);
    }
    let mut distances = vec![0u64; set.len()];
    for p in positions {
        let (word, bit) = (p.0 as usize / 64, p.0 % 64);
        for (to, from) in distances.iter_mut().zip(set[word..].windows(2)) {
            // Shifting by 1 and by 63 - bit instead of by 64 - bit: a shift by 64 is no shift.
            *to |= from[0] >> bit | (from[1] << 1) << (63 - bit);
        }
    }
    let is_set = |d: usize| distances[d / 64] >> (d % 64) & 1 == 1;
    let mut runs: Vec<Range<usize>> = Vec::new();
    for d in (0..target_len).filter(|&d| is_set(d)) {
        match runs.last_mut() {
            Some(last) if last.end == d => last.end = d + 1,
            _ => runs.push(d..d + 1),
        }
    }
    runs
}
