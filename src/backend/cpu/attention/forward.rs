//! Forward: for a block of queries of all heads that share a key/value head, over blocks of keys,
//!
//! ```text
//!   S = Q·Kᵀ          panels of K, transposed as they are packed; S of a strip of queries stays in L1
//!   P = exp(S - max)  online softmax; P is stored in the precision of the products
//!   O = O·factor + P·V
//! ```
//!
//! K and V are packed by every task that needs them, some hundreds of queries share that work. Few queries with many keys
//! (decoding) are also cut along the keys, always in the same places; the parts are merged in order.

use super::super::isa::Simd;
use super::super::math::CpuFloat;
use super::super::matmul::kernel::Rows;
use super::super::matmul::pack::Packer;
use super::super::pool::{Disjoint, Workers};
use super::super::scratch::{Carver, grain};
use super::super::vectors::{Vectors, per_width, scaled};
use super::mask::Cover;
use super::softmax::{PADDED, ROOM, State, Update, merge, weights};
use super::source::{Source, room_words};
use super::{KEYS, Shape, panel_words};
use crate::backend::AttentionShape;
use crate::index::DocumentId;

/// Rows (a query of one head each) that a task aims at, and the least.
const ROWS: usize = 1024;
const ROWS_LEAST: usize = 64;
/// Keys of one part when few queries meet many keys.
const PART: usize = 2048;

/// The operands.
pub(in crate::backend::cpu) struct Forward<'a, E> {
    pub o: &'a mut [E],
    pub lse: &'a mut [f32],
    pub q: &'a [E],
    pub k: Source<'a, E>,
    pub v: Source<'a, E>,
    pub documents: Option<&'a [DocumentId]>,
}

/// How the work is cut.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Plan {
    shape: Shape,
    packer: Packer,
    threads: usize,
    /// Queries a task, and parts that the keys are cut into (1 unless there are few queries).
    queries: usize,
    parts: usize,
    /// Words of a block of keys that is multiplied out before it is packed.
    room: usize,
}

impl Plan {
    pub(in crate::backend::cpu) fn new(packer: Packer, threads: usize, s: AttentionShape) -> Self {
        let shape = Shape::new(s, packer.kernel);
        let rows = shape.queries * shape.group;
        let parts = if rows <= ROWS_LEAST && shape.keys > 2 * PART { shape.keys.div_ceil(PART) } else { 1 };
        let units = shape.rows * shape.kv_heads;
        // Parts of the keys are merged for all queries of a unit at once.
        let mut queries = if parts > 1 { shape.queries } else { ROWS.div_ceil(shape.group) };
        while parts == 1
            && units * shape.queries.div_ceil(queries) < 6 * threads
            && queries * shape.group > ROWS_LEAST
        {
            queries = queries.div_ceil(2);
        }
        if packer.kernel.a_in_rows && parts == 1 {
            // As many as the last strip has room for.
            queries = (queries * shape.group).next_multiple_of(packer.kernel.mr) / shape.group;
        }
        Plan { shape, packer, threads, queries: queries.min(shape.queries.max(1)), parts, room: 0 }
    }

    /// With the room that codes take which become elements of E.
    pub(in crate::backend::cpu) fn with_room<E>(self) -> Self {
        Plan { room: room_words::<E>(KEYS, self.shape.head_dim), ..self }
    }

    fn task_rows(&self) -> usize {
        self.queries * self.shape.group
    }

    fn worker_words(&self) -> usize {
        let (s, kernel) = (&self.shape, self.packer.kernel);
        let rows = self.task_rows();
        grain(KEYS * s.words)
            + grain(panel_words(self.packer, KEYS, s.columns))
            + grain(rows * s.words)
            + grain(rows * s.columns)
            + grain(2 * rows)
            + grain((ROOM + kernel.mr) * KEYS)
            + grain(self.room)
    }

    /// Words of one part's result: the weighted sum and the state of every row.
    fn part_words(&self) -> usize {
        grain(self.task_rows() * (self.shape.columns + 2))
    }

    fn parts_words(&self) -> usize {
        let units = self.shape.rows * self.shape.kv_heads;
        if self.parts > 1 { units * self.parts * self.part_words() } else { 0 }
    }

    pub(in crate::backend::cpu) fn scratch_words(&self) -> usize {
        self.threads * self.worker_words() + self.parts_words()
    }
}

/// One worker's memory.
struct Space<'a> {
    /// [KEYS/nr][words of a head][nr] and [columns/nr][words of KEYS][nr].
    k_panels: &'a mut [u32],
    v_panels: &'a mut [u32],
    /// [rows][words of a head].
    q: &'a mut [u32],
    /// [rows][columns].
    acc: &'a mut [f32],
    states: &'a mut [State],
    /// [ROOM + mr][KEYS]: scores of some rows, and then their weights.
    strip: &'a mut [f32],
    /// A block of keys or values that is multiplied out.
    room: &'a mut [u32],
}

impl<'a> Space<'a> {
    fn carve(plan: &Plan, scratch: &'a mut [u32]) -> Self {
        let (s, kernel, rows) = (&plan.shape, plan.packer.kernel, plan.task_rows());
        let mut carver = Carver(scratch);
        Space {
            k_panels: carver.words(KEYS * s.words),
            v_panels: carver.words(panel_words(plan.packer, KEYS, s.columns)),
            q: carver.words(rows * s.words),
            acc: carver.floats(rows * s.columns),
            states: bytemuck::cast_slice_mut(carver.words(2 * rows)),
            strip: carver.floats((ROOM + kernel.mr) * KEYS),
            room: carver.words(plan.room),
        }
    }
}

/// The queries i0..i1 of all heads of the group of `kv`, and the part of the keys.
#[derive(Clone, Copy)]
pub(super) struct Task {
    pub row: usize,
    pub kv: usize,
    pub i0: usize,
    pub i1: usize,
    pub part: usize,
}

pub(in crate::backend::cpu) fn forward<E: CpuFloat>(
    plan: &Plan, workers: &Workers, scratch: &mut [u32], x: Forward<'_, E>,
) {
    let s = &plan.shape;
    let (parts, scratch) = scratch.split_at_mut(plan.parts_words());
    let job = Job { plan, q: x.q, k: x.k, v: x.v, documents: x.documents, simd: plan.packer.simd };
    let out = Out { o: Disjoint::new(x.o), lse: Disjoint::new(x.lse) };
    let ns = s.ns(s.pairs(), 2.0);
    let per_worker = plan.worker_words();
    let states = scratch[..plan.threads * per_worker].chunks_exact_mut(per_worker);
    let units = s.rows * s.kv_heads;
    let task = |unit: usize, block: usize, part: usize| Task {
        row: unit / s.kv_heads,
        kv: unit % s.kv_heads,
        i0: block * plan.queries,
        i1: ((block + 1) * plan.queries).min(s.queries),
        part,
    };
    if plan.parts == 1 {
        // The last queries see the most keys: longest tasks first.
        let blocks = s.queries.div_ceil(plan.queries);
        let tasks = (0..units * blocks).map(|t| task(t % units, blocks - 1 - t / units, 0));
        workers.each_with(ns, states, tasks, |scratch, task| {
            let space = job.run(task, scratch);
            out.finish(job.simd, s, task, space.acc, space.states);
        });
        return;
    }
    let part_words = plan.part_words();
    let pieces = parts.chunks_exact_mut(part_words).enumerate();
    workers.each_with(ns, states, pieces, |scratch, (t, piece)| {
        let space = job.run(task(t / plan.parts, 0, t % plan.parts), scratch);
        let (acc, states) = piece.split_at_mut(space.acc.len());
        acc.copy_from_slice(bytemuck::cast_slice(space.acc));
        bytemuck::cast_slice_mut(&mut states[..2 * space.states.len()]).copy_from_slice(space.states);
    });
    for (unit, pieces) in parts.chunks_exact_mut(plan.parts * part_words).enumerate() {
        let (acc, states) = merge(pieces, part_words, plan.task_rows(), s.columns);
        out.finish(job.simd, s, task(unit, 0, 0), acc, states);
    }
}

/// Where results go; tasks write disjoint queries and heads of it.
pub(super) struct Out<'a, E> {
    pub o: Disjoint<'a, E>,
    pub lse: Disjoint<'a, f32>,
}

struct Job<'a, E> {
    plan: &'a Plan,
    simd: Simd,
    q: &'a [E],
    k: Source<'a, E>,
    v: Source<'a, E>,
    documents: Option<&'a [DocumentId]>,
}

impl<E: CpuFloat> Job<'_, E> {
    /// Weighted sums and states of the task's rows, query by query, the group's heads within.
    fn run<'s>(&self, t: Task, scratch: &'s mut [u32]) -> Space<'s> {
        let s = &self.plan.shape;
        let mut space = Space::carve(self.plan, scratch);
        let rows = (t.i1 - t.i0) * s.group;
        space.acc = &mut space.acc[..rows * s.columns];
        space.states = &mut space.states[..rows];
        space.acc.fill(0.0);
        space.states.fill(State::EMPTY);
        for (i, words) in (t.i0..t.i1).zip(space.q.chunks_exact_mut(s.group * s.words)) {
            let first = s.query_at(t.row, t.kv * s.group, i);
            self.plan.packer.rows(&self.q[first..], s.head_dim, s.group, s.head_dim, s.words, words);
        }
        let mask = s.mask(self.documents, t.row);
        let (first, last) = (s.past() + t.i0, s.past() + t.i1 - 1);
        let mut seen = mask.keys_of(first).start..last + 1;
        if self.plan.parts > 1 {
            seen = seen.start.max(t.part * PART)..seen.end.min((t.part + 1) * PART);
        }
        let mut j0 = seen.start / KEYS * KEYS;
        while j0 < seen.end {
            let n = KEYS.min(seen.end - j0);
            if mask.cover(first..last + 1, j0..j0 + n) != Cover::Nothing {
                self.pack(t, j0, n, &mut space);
                self.attend(t, j0, n, &mut space);
            }
            j0 += KEYS;
        }
        space
    }

    fn pack(&self, t: Task, j0: usize, n: usize, space: &mut Space<'_>) {
        let (s, packer) = (&self.plan.shape, self.plan.packer);
        let (at, size) = ((s.key_at(t.row, t.kv, j0), s.kv_stride()), (n, s.head_dim));
        let (k, stride) = self.k.rows(self.simd, at, size, space.room);
        packer.panels_of_rows(k, stride, n, s.head_dim, space.k_panels);
        let (v, stride) = self.v.rows(self.simd, at, size, space.room);
        packer.panels_of_columns(v, stride, n, s.head_dim, packer.kernel.nr, space.v_panels);
    }

    /// All strips of the task's rows against the n packed keys from j0 on.
    fn attend(&self, t: Task, j0: usize, n: usize, space: &mut Space<'_>) {
        let rows = (t.i1 - t.i0) * self.plan.shape.group;
        for strip in self.plan.packer.kernel.strips(rows) {
            self.attend_strip(t, (strip.start, strip.end), j0, n, space);
        }
    }

    fn attend_strip(&self, t: Task, (r0, r1): (usize, usize), j0: usize, n: usize, space: &mut Space<'_>) {
        let (s, kernel) = (&self.plan.shape, self.plan.packer.kernel);
        let mask = s.mask(self.documents, t.row);
        let index = |r: usize| s.past() + t.i0 + r / s.group;
        let queries = index(r0)..index(r1 - 1) + 1;
        let block_words = kernel.words(n);
        let n = n.min(queries.end.saturating_sub(j0));
        if n == 0 {
            return;
        }
        let cover = mask.cover(queries, j0..j0 + n);
        if cover == Cover::Nothing {
            return;
        }
        let rows = r1 - r0;
        let scores = &mut space.strip[ROOM * KEYS..];
        let q = Rows::of_words(&space.q[r0 * s.words..], s.words);
        for (p, panel) in
            space.k_panels.chunks_exact(kernel.nr * s.words).take(n.div_ceil(kernel.nr)).enumerate()
        {
            kernel.tile(rows, s.words, q, panel, &mut scores[p * kernel.nr..], KEYS, false);
        }
        let padded = n.next_multiple_of(PADDED);
        if cover == Cover::Part || padded != n {
            for (r, scores) in (r0..r1).zip(scores.chunks_exact_mut(KEYS)) {
                mask.apply(&mut scores[..n], index(r), mask.keys_of(index(r)), j0..j0 + n);
                scores[n..padded].fill(f32::NEG_INFINITY);
            }
        }
        let acc = &mut space.acc[r0 * s.columns..r1 * s.columns];
        let states = &mut space.states[r0..r1];
        Update { states, strip: space.strip, acc, ld: KEYS, n: padded, scale: s.scale }
            .run(self.simd, kernel);
        let weights = weights(kernel, space.strip, KEYS);
        for (p, panel) in
            space.v_panels.chunks_exact(kernel.nr * block_words).take(s.columns / kernel.nr).enumerate()
        {
            kernel.tile(rows, kernel.words(n), weights, panel, &mut acc[p * kernel.nr..], s.columns, true);
        }
    }
}

impl<E: CpuFloat> Out<'_, E> {
    /// Writes o and lse of a task's rows.
    pub(super) fn finish(&self, simd: Simd, s: &Shape, t: Task, acc: &[f32], states: &[State]) {
        write(simd, &self.o, acc, states, s, t);
        for g in 0..s.group {
            let first = (s.row_head(t.row, t.kv * s.group + g)) * s.queries + t.i0;
            // SAFETY: only this task writes its queries of its heads.
            let lse = unsafe { self.lse.range(first, t.i1 - t.i0) };
            for (lse, state) in lse.iter_mut().zip(states[g..].iter().step_by(s.group)) {
                *lse = state.log_sum_exp();
            }
        }
    }
}

per_width! {
    /// o = acc/sum for the rows of a task.
    fn write[E: CpuFloat](o: &Disjoint<'_, E>, acc: &[f32], states: &[State], s: &Shape, t: Task) => write_body;
}

#[inline(always)]
fn write_body<V: Vectors, E: CpuFloat>(
    v: V, o: &Disjoint<'_, E>, acc: &[f32], states: &[State], s: &Shape, t: Task,
) {
    for (r, (state, acc)) in states.iter().zip(acc.chunks_exact(s.columns)).enumerate() {
        let first = s.query_at(t.row, t.kv * s.group + r % s.group, t.i0 + r / s.group);
        // SAFETY: only this task writes its queries of its heads.
        let out = unsafe { o.range(first, s.head_dim) };
        scaled(v, out, acc, state.normalizer());
    }
}
