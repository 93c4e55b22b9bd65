//! A strip of queries against a block of packed keys: S of some keys, P of these, then of the next; and what P of the block adds to O.

use super::super::super::isa::Simd;
use super::super::super::matmul::kernel::{Kernel, Rows};
use super::super::mask::{Cover, Mask};
use super::super::softmax::{PADDED, Scores, Update};
use super::super::{KEYS, Shape};
use super::plan::Space;
use std::ops::Range;

/// Bytes of scores that are weighed before the next are computed. With the weights of a block they are to stay in the first-level cache: of 32
/// rows 8 KB of 64 keys, beside 16 KB of weights.
const UNIT_BYTES: usize = 14 << 10;

/// Keys of so many scores: of all rows that a kernel takes at once.
pub(super) fn unit(kernel: &Kernel) -> usize {
    let keys = UNIT_BYTES / (4 * kernel.mr);
    (1 << keys.ilog2()).min(KEYS)
}

/// As many rows as the kernel takes, against the n packed keys from j0 on.
pub(super) struct Strip<'a> {
    pub shape: &'a Shape,
    pub simd: Simd,
    pub kernel: &'static Kernel,
    pub mask: Mask<'a>,
    /// The index of the task's first query, and the rows of it that this strip has.
    pub first: usize,
    pub rows: Range<usize>,
    pub j0: usize,
    pub n: usize,
}

impl Strip<'_> {
    pub(super) fn attend(&self, space: &mut Space<'_>) {
        let (s, rows) = (self.shape, self.rows.clone());
        let queries = self.index(rows.start)..self.index(rows.end - 1) + 1;
        let n = self.n.min(queries.end.saturating_sub(self.j0));
        let cover = if n > 0 { self.mask.cover(queries, self.j0..self.j0 + n) } else { Cover::Nothing };
        if cover == Cover::Nothing {
            return;
        }
        let (padded, unit) = (n.next_multiple_of(PADDED), unit(self.kernel));
        for at in (0..padded).step_by(unit) {
            let (seen, end) = (n.min(at + unit), padded.min(at + unit));
            self.score(at..seen, space);
            if cover == Cover::Part || padded != n {
                self.hide(at..seen, end, space.scores);
            }
            let acc = &mut space.acc[rows.start * s.columns..rows.end * s.columns];
            let states = &mut space.states[rows.clone()];
            let (weights, sums) = (&mut *space.weights, &mut *space.sums);
            let scores = Scores { rows: space.scores, ld: unit, keys: at..end, last: end == padded };
            let mut update = Update { states, acc, weights, ld: KEYS, sums, scale: s.scale };
            update.take(self.simd, self.kernel, &scores);
        }
        self.add_values(n, space);
    }

    /// The index of a row's query.
    fn index(&self, row: usize) -> usize {
        self.first + row / self.shape.group
    }

    /// scores[r·unit ..] = q_r·k of these keys of the block.
    fn score(&self, keys: Range<usize>, space: &mut Space<'_>) {
        let (words, kernel) = (self.shape.words, self.kernel);
        let q = Rows::of_words(&space.q[self.rows.start * words..], words);
        let panels = space.k_panels[keys.start * words..].chunks_exact(kernel.nr * words);
        for (p, panel) in panels.take(keys.len().div_ceil(kernel.nr)).enumerate() {
            let scores = &mut space.scores[p * kernel.nr..];
            kernel.tile(self.rows.len(), words, q, panel, scores, unit(kernel), false);
        }
    }

    /// Scores of hidden keys, and all up to `end`, are −inf.
    fn hide(&self, keys: Range<usize>, end: usize, scores: &mut [f32]) {
        for (r, scores) in self.rows.clone().zip(scores.chunks_exact_mut(unit(self.kernel))) {
            let (scores, behind) = scores[..end - keys.start].split_at_mut(keys.len());
            let (index, keys) = (self.index(r), self.j0 + keys.start..self.j0 + keys.end);
            self.mask.apply(scores, index, self.mask.keys_of(index), keys);
            behind.fill(f32::NEG_INFINITY);
        }
    }

    /// acc[r] += Σ_j weights[r][j]·v_j of the block's first n keys.
    fn add_values(&self, n: usize, space: &mut Space<'_>) {
        let (s, kernel) = (self.shape, self.kernel);
        let weights = Rows::of_words(space.weights, kernel.words(KEYS));
        let acc = &mut space.acc[self.rows.start * s.columns..self.rows.end * s.columns];
        let panels = space.v_panels.chunks_exact(kernel.nr * kernel.words(self.n));
        for (p, panel) in panels.take(s.columns / kernel.nr).enumerate() {
            let acc = &mut acc[p * kernel.nr..];
            kernel.tile(self.rows.len(), kernel.words(n), weights, panel, acc, s.columns, true);
        }
    }
}
