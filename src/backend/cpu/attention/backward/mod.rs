//! Backward: over blocks of keys, and for each over blocks of the queries that see them, on transposed tiles
//!
//! ```text
//!   Sᵀ  = K·Qᵀ           Pᵀ  = exp(scale·Sᵀ − lse)
//!   dPᵀ = V·dOᵀ          dSᵀ = Pᵀ·(dPᵀ − δ),  δ = dO·O
//!   dV += Pᵀ·dO          dK += dSᵀ·Q          dQ += dS·K
//! ```
//!
//! so that Pᵀ and dSᵀ are rows of A where they lie; dQ is summed transposed ([`dq`]), for which dSᵀ becomes panels of B. One task has a
//! row's key/value head, with all query heads that share it, and every n-th block of keys: dK and dV are finished in it.
//! Queries are packed before, once. When n > 1 (few rows and heads) dQ is a sum over the n tasks, taken in order at the end. n depends
//! on the shape alone.

mod dq;
mod pair;
mod plan;
mod queries;

use super::super::math::CpuFloat;
use super::super::pool::{Disjoint, Workers};
use super::super::vectors::{Vectors, per_width, scaled};
use super::mask::Cover;
use super::{KEYS, Shape};
use crate::index::DocumentId;
use pair::{Pair, Pairs};
pub(in crate::backend::cpu) use plan::Plan;
use plan::Space;
use queries::{QUERIES, Queries};
use std::ops::Range;

/// The operands.
pub(in crate::backend::cpu) struct Backward<'a, E> {
    pub dq: &'a mut [E],
    pub dk: &'a mut [E],
    pub dv: &'a mut [E],
    pub d_o: &'a [E],
    pub o: &'a [E],
    pub lse: &'a [f32],
    pub q: &'a [E],
    pub k: &'a [E],
    pub v: &'a [E],
    pub documents: Option<&'a [DocumentId]>,
}

pub(in crate::backend::cpu) fn backward<E: CpuFloat>(
    plan: &Plan, workers: &Workers, scratch: &mut [u32], x: Backward<'_, E>,
) {
    let s = &plan.shape;
    let (all_sums, scratch) = scratch.split_at_mut(plan.parts_words());
    let Backward { dq, dk, dv, d_o, o, lse, q, k, v, documents } = x;
    let out = Out { dq: Disjoint::new(dq), dk: Disjoint::new(dk), dv: Disjoint::new(dv) };
    let (queries, scratch) = scratch.split_at_mut(plan.queries().words());
    plan.queries().pack(workers, queries, &Queries { q, d_o, o, lse });
    let job = Job { pairs: Pairs { plan, simd: plan.packer.simd }, queries, k, v, documents, out };
    let per_worker = plan.worker_words();
    let states = scratch[..plan.threads * per_worker].chunks_exact_mut(per_worker);
    let units = s.rows * s.kv_heads;
    let task = |t: usize| Task {
        row: t / plan.parts / s.kv_heads,
        kv: t / plan.parts % s.kv_heads,
        part: t % plan.parts,
    };
    let ns = s.ns(0.5 * s.pairs(), 5.0);
    let (layout, blocks) = (plan.sums(), plan.sums().blocks());
    let write = |task: Task, blocks: Range<usize>, sums: &[u32]| {
        dq::write(job.pairs.simd, layout, &job.out.dq, sums, (task.row, task.kv), blocks);
    };
    if plan.parts == 1 {
        workers.each_with(ns, states, 0..units, |scratch, t| {
            let (mut space, sum) = Space::carve(plan, scratch);
            job.run(task(t), &mut space, &mut layout.carve(sum));
            write(task(t), 0..blocks, sum);
        });
        return;
    }
    let sums = all_sums.chunks_exact_mut(layout.words()).enumerate();
    workers.each_with(ns, states, sums, |scratch, (t, sum)| {
        job.run(task(t), &mut Space::carve(plan, scratch).0, &mut layout.carve(sum));
    });
    let ns = 0.3 * (QUERIES * s.head_dim * plan.parts) as f64;
    let run = workers.run_length(units * blocks, ns).min(blocks);
    let runs = blocks.div_ceil(run);
    workers.each(ns * (units * blocks) as f64, 0..units * runs, |t| {
        let (unit, first) = (t / runs, t % runs * run);
        let of_unit = plan.parts * layout.words();
        let sums = &all_sums[unit * of_unit..][..of_unit];
        write(task(unit * plan.parts), first..blocks.min(first + run), sums);
    });
}

/// Every `parts`-th block of keys, from `part` on, of one key/value head.
#[derive(Clone, Copy)]
struct Task {
    row: usize,
    kv: usize,
    part: usize,
}

/// Where gradients go: a task writes dK and dV of its blocks, and dQ of lines that no other task has.
struct Out<'a, E> {
    dq: Disjoint<'a, E>,
    dk: Disjoint<'a, E>,
    dv: Disjoint<'a, E>,
}

struct Job<'a, E> {
    pairs: Pairs<'a>,
    /// Packed blocks of queries.
    queries: &'a [u32],
    k: &'a [E],
    v: &'a [E],
    documents: Option<&'a [DocumentId]>,
    out: Out<'a, E>,
}

impl<E: CpuFloat> Job<'_, E> {
    /// dK and dV of the task's blocks; sum = what they add to dQ.
    fn run(&self, t: Task, space: &mut Space<'_>, sum: &mut dq::Sum<'_>) {
        let Pairs { plan, simd } = self.pairs;
        let s = &plan.shape;
        sum.clear();
        for j0 in (0..s.keys).step_by(KEYS).skip(t.part).step_by(plan.parts) {
            let keys = KEYS.min(s.keys - j0);
            self.pack_keys(t, j0, keys, space);
            space.dk[..keys * s.columns].fill(0.0);
            space.dv[..keys * s.columns].fill(0.0);
            self.queries_of(t, j0, keys, space, sum);
            let first = s.key_at(t.row, t.kv, j0);
            write_kv(simd, &self.out.dk, &space.dk[..keys * s.columns], s.scale, s, first);
            write_kv(simd, &self.out.dv, &space.dv[..keys * s.columns], 1.0, s, first);
        }
    }

    /// All blocks of queries of the group's heads that see some of the keys from j0 on.
    fn queries_of(&self, t: Task, j0: usize, keys: usize, space: &mut Space<'_>, sum: &mut dq::Sum<'_>) {
        let plan = self.pairs.plan;
        let (s, layout) = (&plan.shape, plan.queries());
        let mask = s.mask(self.documents, t.row);
        let last = mask.queries_of(j0 + keys - 1).end.min(s.queries);
        let of_head = |g| (j0..last).step_by(QUERIES).map(move |i0| (g, i0));
        let mut blocks = (0..s.group).flat_map(of_head).peekable();
        while let Some((g, i0)) = blocks.next() {
            let n = QUERIES.min(s.queries - i0);
            let cover = mask.cover(i0..i0 + n, j0..j0 + keys);
            if cover == Cover::Nothing {
                continue;
            }
            let words = |g, i0| layout.words_of(self.queries, t.row, t.kv * s.group + g, i0);
            let pair = Pair {
                queries: layout.block(words(g, i0)),
                block: plan.sums().block(g, i0),
                i0,
                n,
                j0,
                keys,
                mask: (cover == Cover::Part).then_some(mask),
                next: blocks.peek().map(|(g, i0)| (words(*g, *i0), plan.sums().block(*g, *i0))),
            };
            self.pairs.run(&pair, space, sum);
        }
    }

    fn pack_keys(&self, t: Task, j0: usize, keys: usize, space: &mut Space<'_>) {
        let (s, packer) = (&self.pairs.plan.shape, self.pairs.plan.packer);
        let (first, stride, width) = (s.key_at(t.row, t.kv, j0), s.kv_stride(), s.head_dim);
        packer.rows(&self.k[first..], stride, keys, width, s.words, space.k_rows);
        packer.rows(&self.v[first..], stride, keys, width, s.words, space.v_rows);
        packer.a_of_columns(&self.k[first..], stride, keys, width, space.k_turned);
    }
}

per_width! {
    /// out = factor·acc for the rows of a block of keys, the first of them at `first`.
    fn write_kv[E: CpuFloat](
        out: &Disjoint<'_, E>, acc: &[f32], factor: f32, s: &Shape, first: usize,
    ) => write_kv_body;
}

#[inline(always)]
fn write_kv_body<V: Vectors, E: CpuFloat>(
    v: V, out: &Disjoint<'_, E>, acc: &[f32], factor: f32, s: &Shape, first: usize,
) {
    for (j, acc) in acc.chunks_exact(s.columns).enumerate() {
        // SAFETY: only one task has this block of keys of this key/value head.
        let out = unsafe { out.range(first + j * s.kv_stride(), s.head_dim) };
        scaled(v, out, acc, factor);
    }
}
