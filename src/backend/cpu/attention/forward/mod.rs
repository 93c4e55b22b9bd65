//! Forward: for a block of queries of all heads that share a key/value head, over blocks of keys,
//!
//! ```text
//!   S = Q·Kᵀ          panels of K, transposed as they are packed; S of a strip of queries and some keys stays in L1
//!   P = exp(S - max)  online softmax; P is stored in the precision of the products
//!   O = O·factor + P·V
//! ```
//!
//! K and V are packed by every task that needs them, some hundreds of queries share that work. Few queries with many keys
//! (decoding) are also cut along the keys, always in the same places; the parts are merged in order.

mod plan;
mod strip;

use super::super::isa::Simd;
use super::super::math::CpuFloat;
use super::super::pool::{Disjoint, Workers};
use super::super::vectors::{Vectors, per_width, scaled};
use super::mask::Cover;
use super::softmax::{State, merge};
use super::source::Source;
use super::{KEYS, Shape};
use crate::index::DocumentId;
pub(in crate::backend::cpu) use plan::Plan;
use plan::{PART, Space};
use strip::Strip;

/// The operands.
pub(in crate::backend::cpu) struct Forward<'a, E> {
    pub o: &'a mut [E],
    pub lse: &'a mut [f32],
    pub q: &'a [E],
    pub k: Source<'a, E>,
    pub v: Source<'a, E>,
    pub documents: Option<&'a [DocumentId]>,
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
        let (s, packer) = (&self.plan.shape, self.plan.packer);
        let (mask, first) = (s.mask(self.documents, t.row), s.past() + t.i0);
        for rows in packer.kernel.strips((t.i1 - t.i0) * s.group) {
            Strip { shape: s, simd: self.simd, kernel: packer.kernel, mask, first, rows, j0, n }
                .attend(space);
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
