//! Forward for a single query a row, as in decoding: keys and values are read once, in the order they lie in.
//!
//! A task has parts of a row's keys that follow one another, and all heads. It goes over blocks of keys: scores of all heads, online
//! softmax, weighted values; in tiles ([`tiles`]), in vectors of pairs or of f32 ([`lines`], [`wide`]), or of codes ([`codes`]). What it takes
//! is the time to read, so reading must be one stream: all key/value heads of a token before the next token. (Head by head, a stride apart, a core of a Zen 4 gets 9 to 12 GB/s; in a stream 22 to 26.) So that memory is busy
//! while there is something to compute, each line that is read asks for one some kilobytes further on, in the order of the addresses.
//! (Asking for the other of keys and values, 48 KB away, a core of a Zen 5 took 39 ns a token of 768 bytes; 8 KB further on in the same
//! stream it takes 24.) Parts begin at places that the shape alone decides and are merged in order.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod codes;
mod lines;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_tiles.rs")]
mod tiles;
mod wide;

use super::super::math::{CpuFloat, LANES};
use super::super::matmul::pack::Packer;
use super::super::pool::{Disjoint, Workers};
use super::super::prefetch::prefetch_piece;
use super::super::scratch::{Carver, grain};
use super::Shape;
use super::forward::{Forward, Out, Task};
use super::mask::Cover;
use super::softmax::{Scores, State, Update, merge};
use super::source::{Codes, Source};
use crate::backend::AttentionShape;
use crate::index::DocumentId;
use codes::{Block, Coded};
use half::bf16;
use lines::{Ahead, Lines, Products};
use std::ops::Range;
use tiles::Tiles;

/// Keys of a block, and of a step of the reading.
const KEYS: usize = 128;
const STEP: usize = 16;
/// Parts of a context, each of at least a block, and keys of a part at most: so many that threads have about as many keys each, so few
/// that merging them takes little.
const PARTS: usize = 32;
const PART: usize = 512;

/// Why there is a [`Coded`] wherever there are codes.
const OF_CODES: &str = "a plan for codes is one `with_room`";

/// How the work is cut.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Plan {
    shape: Shape,
    packer: Packer,
    threads: usize,
    /// Keys of a part, whole blocks, and parts of a row.
    part: usize,
    parts: usize,
    /// Whether codes are multiplied with integers, and words for reading them.
    integers: bool,
    coded: usize,
    /// Words for keys and values of bf16 as [`Tiles`]; none where they are not.
    tiles: usize,
}

impl Plan {
    /// None where there is more than one query a row.
    pub(in crate::backend::cpu) fn new(packer: Packer, threads: usize, s: AttentionShape) -> Option<Self> {
        let shape = Shape { columns: s.head_dim, ..Shape::new(s, packer.kernel) };
        let part = shape.keys.div_ceil(PARTS).next_multiple_of(KEYS).clamp(KEYS, PART);
        let parts = shape.keys.div_ceil(part).max(1);
        let in_tiles = packer.kernel.paired && tiles::takes(packer.simd, s.head_dim);
        let tiles = if in_tiles { tiles::room_words(&shape) } else { 0 };
        (s.queries == 1).then_some(Plan {
            shape,
            packer,
            threads,
            part,
            parts,
            integers: false,
            coded: 0,
            tiles,
        })
    }

    /// With the room that codes take, beside queries of E.
    pub(in crate::backend::cpu) fn with_room<E>(self) -> Self {
        let integers = codes::takes::<E>(self.packer.simd, self.shape.head_dim);
        Plan { integers, coded: codes::room_words(&self.shape, integers), tiles: 0, ..self }
    }

    /// Parts of a row that a thread goes over one after the other: one stretch of memory for each thread, or single parts where some
    /// have less to read than others.
    fn run(&self, documents: bool) -> usize {
        let even = !documents && self.shape.window >= self.shape.keys;
        if even { (self.shape.rows * self.parts).div_ceil(self.threads).clamp(1, self.parts) } else { 1 }
    }

    fn worker_words(&self) -> usize {
        let s = &self.shape;
        2 * grain(s.heads * KEYS) + grain(s.heads * LANES) + grain(self.coded) + grain(self.tiles)
    }

    /// Weighted sums and states of all heads.
    fn part_words(&self) -> usize {
        grain(self.shape.heads * (self.shape.head_dim + 2))
    }

    pub(in crate::backend::cpu) fn scratch_words(&self) -> usize {
        self.threads * self.worker_words() + self.shape.rows * self.parts * self.part_words()
    }
}

/// One worker's memory.
struct Space<'a> {
    /// [heads][KEYS], and [heads][LANES]: sums of weights.
    scores: &'a mut [f32],
    weights: &'a mut [u32],
    sums: &'a mut [f32],
    coded: Option<Coded<'a>>,
    tiles: Option<Tiles<'a>>,
    /// The first key behind those that the task reads: what it need not ask for.
    end: usize,
}

impl<'a> Space<'a> {
    fn carve<E: CpuFloat>(plan: &'a Plan, scratch: &'a mut [u32], q: &[E]) -> Self {
        let (mut carver, heads) = (Carver(scratch), plan.shape.heads);
        let (scores, weights) = (carver.floats(heads * KEYS), carver.words(heads * KEYS));
        let sums = carver.floats(heads * LANES);
        let of_codes = carver.words(plan.coded);
        let coded =
            (plan.coded > 0).then(|| Coded::new(plan.packer.simd, &plan.shape, of_codes, q, plan.integers));
        let of_tiles = carver.words(plan.tiles);
        let tiles =
            (plan.tiles > 0).then(|| Tiles::new(plan.packer, &plan.shape, of_tiles, bytemuck::cast_slice(q)));
        Space { scores, weights, sums, coded, tiles, end: 0 }
    }
}

pub(in crate::backend::cpu) fn forward<E: CpuFloat>(
    plan: &Plan, workers: &Workers, scratch: &mut [u32], x: Forward<'_, E>,
) {
    let s = &plan.shape;
    let (parts, scratch) = scratch.split_at_mut(s.rows * plan.parts * plan.part_words());
    let states = scratch[..plan.threads * plan.worker_words()].chunks_exact_mut(plan.worker_words());
    let job = Job { plan, q: x.q, k: x.k, v: x.v, documents: x.documents };
    let run = plan.run(x.documents.is_some());
    let runs = parts.chunks_exact_mut(plan.parts * plan.part_words()).enumerate().flat_map(|(row, parts)| {
        let runs = parts.chunks_mut(run * plan.part_words()).enumerate();
        runs.map(move |(i, pieces)| (row, i * run, pieces))
    });
    workers.each_with(s.ns(s.pairs(), 2.0), states, runs, |scratch, (row, first, pieces)| {
        job.run(row, first, scratch, pieces);
    });
    let out = Out { o: Disjoint::new(x.o), lse: Disjoint::new(x.lse) };
    for (row, pieces) in parts.chunks_exact_mut(plan.parts * plan.part_words()).enumerate() {
        let (acc, states) = merge(pieces, plan.part_words(), s.heads, s.head_dim);
        for (kv, (acc, states)) in
            acc.chunks_exact(s.group * s.head_dim).zip(states.chunks_exact(s.group)).enumerate()
        {
            out.finish(plan.packer.simd, s, Task { row, kv, i0: 0, i1: 1, part: 0 }, acc, states);
        }
    }
}

struct Job<'a, E> {
    plan: &'a Plan,
    q: &'a [E],
    k: Source<'a, E>,
    v: Source<'a, E>,
    documents: Option<&'a [DocumentId]>,
}

impl<E: CpuFloat> Job<'_, E> {
    /// A row's parts from `first` on, one for each of the pieces.
    fn run(&self, row: usize, first: usize, scratch: &mut [u32], pieces: &mut [u32]) {
        let (s, plan) = (&self.plan.shape, self.plan);
        let q = &self.q[s.query_at(row, 0, 0)..][..s.heads * s.head_dim];
        let mut space = Space::carve(plan, scratch, q);
        let pieces = pieces.chunks_exact_mut(plan.part_words());
        let seen = s.mask(self.documents, row).keys_of(s.past());
        space.end = ((first + pieces.len()) * plan.part).min(seen.end);
        let begin = (first * plan.part).max(seen.start / KEYS * KEYS);
        if space.tiles.is_some() && begin < space.end {
            self.ask_for_first(row, begin..space.end.min(begin + KEYS));
        }
        for (i, piece) in pieces.enumerate() {
            self.part(row, q, first + i, &mut space, piece);
        }
    }

    /// The first block, where each asks for the next one.
    fn ask_for_first(&self, row: usize, keys: Range<usize>) {
        let s = &self.plan.shape;
        for source in [&self.k, &self.v] {
            if let Source::Plain(x) = source {
                prefetch_piece(&x[s.key_at(row, 0, keys.start)..][..keys.len() * s.kv_stride()], (0, 1));
            }
        }
    }

    /// Leaves weighted sums [heads][head_dim] and states [heads] of a part of a row's keys in `piece`.
    fn part(&self, row: usize, q: &[E], part: usize, space: &mut Space<'_>, piece: &mut [u32]) {
        let (s, packer) = (&self.plan.shape, self.plan.packer);
        let (acc, states) = piece.split_at_mut(s.heads * s.head_dim);
        let acc: &mut [f32] = bytemuck::cast_slice_mut(acc);
        let states: &mut [State] = bytemuck::cast_slice_mut(&mut states[..2 * s.heads]);
        acc.fill(0.0);
        states.fill(State::EMPTY);
        let (mask, index) = (s.mask(self.documents, row), s.past());
        let seen = mask.keys_of(index);
        let first = (part * self.plan.part).max(seen.start / KEYS * KEYS);
        let end = ((part + 1) * self.plan.part).min(seen.end);
        for j0 in (first..end).step_by(KEYS) {
            let n = KEYS.min(end - j0);
            let cover = mask.cover(index..index + 1, j0..j0 + n);
            if cover == Cover::Nothing {
                continue;
            }
            self.score(row, q, (j0, n), space);
            if cover == Cover::Part || n < KEYS {
                for scores in space.scores.chunks_exact_mut(KEYS) {
                    mask.apply(&mut scores[..n], index, seen.clone(), j0..j0 + n);
                    scores[n..].fill(f32::NEG_INFINITY);
                }
            }
            let (weights, sums) = (&mut *space.weights, &mut *space.sums);
            let scores = Scores { rows: space.scores, ld: KEYS, keys: 0..KEYS, last: true };
            let mut update = Update { states, acc, weights, ld: KEYS, sums, scale: s.scale };
            update.take(packer.simd, packer.kernel, &scores);
            let keys = (j0, n);
            if packer.kernel.paired {
                self.add_values::<bf16>(row, keys, space, acc);
            } else {
                self.add_values::<f32>(row, keys, space, acc);
            }
        }
    }

    fn products(&self) -> Products<'_> {
        Products { simd: self.plan.packer.simd, shape: &self.plan.shape }
    }

    /// scores[head][..n] = q·k for the n keys from j0 on.
    fn score(&self, row: usize, q: &[E], (j0, n): (usize, usize), space: &mut Space<'_>) {
        let k = match (self.k, &mut space.coded) {
            (Source::Plain(k), _) => k,
            (Source::Int8(codes), coded) => {
                let block = self.block(codes, row, (j0, n));
                return coded.as_mut().expect(OF_CODES).dots(space.scores, q, block);
            }
        };
        let mut begin = 0;
        if let Some(tiles) = &space.tiles {
            begin = tiles::whole_tiles(n);
            for (at, n) in steps(0..begin, tiles::step(&self.plan.shape)) {
                tiles.dots(&mut space.scores[at..], self.stretch(k, row, (j0 + at, n), space.end));
            }
        }
        for (at, n) in steps(begin..n, STEP) {
            self.products().dots(&mut space.scores[at..], q, self.lines(k, row, (j0 + at, n)));
        }
    }

    /// acc[head] += Σ_j weights[head][j]·v_j.
    fn add_values<W: CpuFloat>(
        &self, row: usize, (j0, n): (usize, usize), space: &mut Space<'_>, acc: &mut [f32],
    ) {
        let weights: &mut [W] = bytemuck::cast_slice_mut(space.weights);
        let v = match (self.v, &mut space.coded) {
            (Source::Plain(v), _) => v,
            (Source::Int8(codes), coded) => {
                let block = self.block(codes, row, (j0, n));
                return coded.as_mut().expect(OF_CODES).sums(acc, weights, block);
            }
        };
        let mut begin = 0;
        if let Some(tiles) = &mut space.tiles {
            begin = tiles::whole_tiles(n);
            let weights: &[bf16] = bytemuck::cast_slice(weights);
            for (at, n) in steps(0..begin, tiles::step(&self.plan.shape)) {
                tiles.sums(acc, &weights[at..], self.stretch(v, row, (j0 + at, n), space.end));
            }
        }
        for (at, n) in steps(begin..n, STEP) {
            self.products().sums(acc, &weights[at..], self.lines(v, row, (j0 + at, n)));
        }
    }

    fn block<'s>(&self, codes: Codes<'s>, row: usize, (j, n): (usize, usize)) -> Block<'s> {
        Block { codes, first: self.plan.shape.key_at(row, 0, j), n }
    }

    /// n tokens of bf16 from j on, for tiles; asks for nothing from `end` on.
    fn stretch<'s>(&self, x: &'s [E], row: usize, (j, n): (usize, usize), end: usize) -> Lines<'s, bf16> {
        let (s, step) = (&self.plan.shape, tiles::step(&self.plan.shape));
        let data: &[bf16] = bytemuck::cast_slice(&x[s.key_at(row, 0, j)..]);
        let ahead = Ahead::of(data, step * s.kv_stride());
        Lines { data, n, ahead: if j + step < end { ahead } else { ahead.nothing() } }
    }

    /// n tokens of the cache from j on.
    fn lines<'s>(&self, x: &'s [E], row: usize, (j, n): (usize, usize)) -> Lines<'s, E> {
        let s = &self.plan.shape;
        let data = &x[s.key_at(row, 0, j)..];
        Lines { data, n, ahead: Ahead::of(data, STEP * s.kv_stride()) }
    }
}

/// The steps of some keys: where each begins, and its keys.
fn steps(keys: Range<usize>, step: usize) -> impl Iterator<Item = (usize, usize)> {
    keys.clone().step_by(step).map(move |at| (at, step.min(keys.end - at)))
}
