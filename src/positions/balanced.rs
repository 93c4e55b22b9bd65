//! Biases that train every distance alike.
//!
//! PoSE trains some distances far more often than others: its bias is uniform in 0..=Lt-Lc, so the distances within Lc of the
//! target fall off to a probability of 1/(Lt-Lc+1) for the last, and those below Lc are met within chunks.
//!
//! **What can be reached.** With two chunks of a and Lc-a tokens and a bias u, a row trains 0 .. max(a, Lc-a)-1 within the chunks
//! and u+1 .. u+Lc-1 between them. Chunks of equal length leave the least for the first part: distances below
//! h = ⌈Lc/2⌉ are trained by every row, and no choice of chunks can avoid that. Of the Lt-h distances from h on a row of
//! even chunks trains at most Lc-1, so the least trained one has a probability of at most (Lc-1)/(Lt-h), and all have the
//! same where that is reached. Only u = Lt-Lc trains distance Lt-1; what it leaves is the same problem with a target
//! that is shorter by Lc-1. So the even distribution has its biases on a lattice Lt-Lc, Lt-Lc-(Lc-1), ..., each equally
//! likely. With more chunks there are N(N-1)/2 such runs in a row and no closed form.
//!
//! **How it is found**, for any N: as the solution of a game. One player names a distance, the other answers with a row, and
//! wins where the row trains the distance; the best mixture of rows is the one whose least trained distance is trained most.
//! Multiplicative weights find it (Freund & Schapire, "Adaptive game playing using multiplicative weights", 1999): each distance
//! has a weight, 1 at first; in each of T rounds the row is taken that trains the most weight, and the weights of what it trains are
//! halved. The T rows, each with probability 1/T, are the mixture. The row of a round is searched bias by bias, from the last to the
//! first and back, each at its best place between its neighbours. No random number is drawn, and halving is exact: the
//! mixture is the same on every machine.

use super::chunks;
use super::coverage::between_chunks;
use crate::index::ChunkSpan;
use crate::random::Stream;
use std::ops::Range;

/// More chunks than this take too long to place.
pub const MOST_CHUNKS: usize = 64;
/// Targets beyond this many windows take too long: rows times places for each grow with the square.
pub const MOST_WINDOWS: usize = 512;
/// How often the rows of the mixture could train all distances: 32 times, less where that would be more than [`MOST_ROWS`] rows; at
/// [`MOST_WINDOWS`] it is still 8 times.
const SWEEPS: usize = 32;
const MOST_ROWS: usize = 4096;
/// Cells that are passed over for all rows, about one a nanosecond: what many chunks over a far target may take.
const MOST_WORK: usize = 10_000_000_000;
/// Places that are tried for a bias where a row has more than one.
const TRIALS: usize = 1024;

/// The mixture: rows that are equally likely.
#[derive(Debug)]
pub(super) struct Balance {
    /// `[T]` rows of `[N]` spans.
    pub rows: Vec<Vec<ChunkSpan>>,
}

impl Balance {
    /// For 2 <= chunk_count <= window <= target <= [`MOST_WINDOWS`]·window.
    pub fn new(window: usize, target: usize, chunk_count: usize) -> Balance {
        let mut game = Game::new(window, target, chunk_count);
        let rounds = rounds(window, target, chunk_count);
        Balance { rows: (0..rounds).map(|_| game.round()).collect() }
    }

    /// Whether that takes some seconds and not minutes: 2N-3 biases are placed in a round, each after a pass over the cells.
    pub fn is_quick(window: usize, target: usize, chunk_count: usize) -> bool {
        let per_bias = target / cell(window, chunk_count) + TRIALS * chunk_count;
        let places = rounds(window, target, chunk_count).saturating_mul(2 * chunk_count - 3);
        places.saturating_mul(per_bias) <= MOST_WORK
    }

    pub fn draw(&self, stream: &mut Stream) -> Vec<ChunkSpan> {
        self.rows[stream.below_usize(self.rows.len())].clone()
    }
}

/// T, for a target of up to [`MOST_WINDOWS`].
fn rounds(window: usize, target: usize, chunk_count: usize) -> usize {
    let sweep = target.div_ceil((chunk_count - 1) * window);
    sweep * (MOST_ROWS / sweep).min(SWEEPS)
}

/// Tokens of a cell: a sixty-fourth of a chunk.
fn cell(window: usize, chunk_count: usize) -> usize {
    (window / chunk_count / 64).max(1)
}

/// All chunks of ⌊Lc/N⌋ tokens, the first with what is left over.
fn even_lengths(window: usize, chunk_count: usize) -> Vec<usize> {
    let mut lengths = vec![window / chunk_count; chunk_count];
    lengths[0] += window % chunk_count;
    lengths
}

/// Distances are weighed in cells of `cell` tokens that end at the target: cell i is offset + i·cell .. offset + (i+1)·cell.
struct Game {
    window: usize,
    lengths: Vec<usize>,
    /// Largest bias, Lt - Lc.
    longest: usize,
    cell: usize,
    offset: usize,
    /// 2^-(rounds that trained the cell); 0 where every row trains it.
    weights: Vec<f64>,
    /// Weight of the cells before each that the rest of the row does not train.
    sums: Vec<f64>,
}

impl Game {
    fn new(window: usize, target: usize, chunk_count: usize) -> Game {
        let lengths = even_lengths(window, chunk_count);
        let cell = cell(window, chunk_count);
        let (offset, cells) = (target % cell, target / cell);
        let always = lengths[0];
        let weight = |i: usize| if offset + (i + 1) * cell <= always { 0.0 } else { 1.0 };
        let weights = (0..cells).map(weight).collect();
        Game { window, lengths, longest: target - window, cell, offset, weights, sums: vec![0.0; cells + 1] }
    }

    /// The cells that lie in a run of distances as a whole.
    fn cells(&self, run: &Range<usize>) -> Range<usize> {
        let first = run.start.saturating_sub(self.offset).div_ceil(self.cell);
        let end = (run.end.saturating_sub(self.offset) / self.cell).min(self.weights.len());
        first..end.max(first)
    }

    /// The row that trains the most weight; halves the weights that it trains.
    fn round(&mut self) -> Vec<ChunkSpan> {
        let count = self.lengths.len();
        let mut biases = vec![0; count];
        for i in (1..count).rev().chain(1..count - 1) {
            // on the way back the biases below i are not placed yet
            let low = biases[i - 1];
            let high = if i + 1 < count { biases[i + 1] } else { self.longest };
            self.sum_without(&biases, i);
            biases[i] = self.best(&biases, i, low..=high);
        }
        let row = chunks::spans(&self.lengths, &biases);
        for run in between_chunks(&row, self.window) {
            for i in self.cells(&run) {
                self.weights[i] *= 0.5;
            }
        }
        row
    }

    /// Fills `sums` with what all chunks but `left_out` leave.
    fn sum_without(&mut self, biases: &[usize], left_out: usize) {
        let mut taken = vec![false; self.weights.len()];
        for late in (1..biases.len()).filter(|&late| late != left_out) {
            for early in (0..late).filter(|&early| early != left_out) {
                let cells = self.cells(&self.run(biases, early, late));
                taken[cells].fill(true);
            }
        }
        let mut sum = 0.0;
        for (i, taken) in taken.into_iter().enumerate() {
            self.sums[i] = sum;
            sum += if taken { 0.0 } else { self.weights[i] };
        }
        self.sums[self.weights.len()] = sum;
    }

    /// Distances between two chunks.
    fn run(&self, biases: &[usize], early: usize, late: usize) -> Range<usize> {
        let apart: usize = self.lengths[early..late].iter().sum::<usize>() + biases[late] - biases[early];
        apart + 1 - self.lengths[early]..apart + self.lengths[late]
    }

    /// The bias of chunk i that adds most to what the others train; the largest of several.
    fn best(&self, biases: &[usize], i: usize, range: std::ops::RangeInclusive<usize>) -> usize {
        let (low, high) = range.into_inner();
        let trials = if biases.len() == 2 { usize::MAX } else { TRIALS };
        let step = self.cell.max((high - low) / trials);
        let mut trial = biases.to_vec();
        let mut gain = |bias: usize| {
            trial[i] = bias;
            let pairs = (0..i).map(|early| (early, i)).chain((i + 1..trial.len()).map(|late| (i, late)));
            let cells = pairs.map(|(early, late)| self.cells(&self.run(&trial, early, late)));
            cells.map(|cells| self.sums[cells.end] - self.sums[cells.start]).sum::<f64>()
        };
        let (mut best, mut most) = (high, gain(high));
        for bias in (1..=(high - low) / step).map(|k| high - k * step).chain([low]) {
            let gained = gain(bias);
            if gained > most {
                (best, most) = (bias, gained);
            }
        }
        best
    }
}
