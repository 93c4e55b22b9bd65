//! Backward: over blocks of keys, and for each over blocks of the queries that see them, on transposed tiles
//!
//! ```text
//!   Sᵀ  = K·Qᵀ           Pᵀ  = exp(scale·Sᵀ − lse)
//!   dPᵀ = V·dOᵀ          dSᵀ = Pᵀ·(dPᵀ − δ),  δ = dO·O
//!   dV += Pᵀ·dO          dK += dSᵀ·Q          dQ += dS·K
//! ```
//!
//! so that Pᵀ and dSᵀ are rows of A where they lie; dQ is summed transposed ([`dq`](super::dq)), for which dSᵀ becomes panels of B. One task has a
//! row's key/value head, with all query heads that share it, and every n-th block of keys: dK and dV are finished in it.
//! Queries are packed before, once. When n > 1 (few rows and heads) dQ is a sum over the n tasks, taken in order at the end. n depends
//! on the shape alone.

use super::super::isa::{Simd, per_isa, prefetch_piece};
use super::super::math::{CpuFloat, exp};
use super::super::matmul::kernel::{Kernel, Rows};
use super::super::matmul::pack::Packer;
use super::super::pool::{Disjoint, Workers};
use super::super::scratch::{Carver, grain};
use super::dq;
use super::mask::{Cover, Mask};
use super::queries::{self, QUERIES, Queries, QueryBlock};
use super::softmax::PADDED;
use super::{KEYS, Shape};
use crate::backend::AttentionShape;
use crate::index::DocumentId;
use half::bf16;
use std::ops::Range;

/// Tasks that are enough, and bytes that their sums of dQ may take: each writes one of its own, and all are read again at the end.
const TASKS: usize = 12;
const PARTS_BYTES: usize = 128 << 20;

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

/// How the work is cut.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Plan {
    shape: Shape,
    packer: Packer,
    threads: usize,
    /// Tasks that share the key blocks of a key/value head.
    parts: usize,
}

impl Plan {
    pub(in crate::backend::cpu) fn new(packer: Packer, threads: usize, s: AttentionShape) -> Self {
        let shape = Shape::new(s, packer.kernel);
        let units = (shape.rows * shape.kv_heads).max(1);
        let mut plan = Plan { shape, packer, threads, parts: 1 };
        let room = PARTS_BYTES / (4 * units * plan.sums().words()).max(1);
        plan.parts = TASKS.div_ceil(units).min(shape.keys.div_ceil(KEYS)).min(room).max(1);
        plan
    }

    fn sums(&self) -> dq::Layout {
        dq::Layout::new(self.shape, self.packer.kernel)
    }

    fn worker_words(&self) -> usize {
        let (s, kernel) = (&self.shape, self.packer.kernel);
        2 * grain(KEYS * s.words)
            + grain(self.sums().k_words())
            + 2 * grain(KEYS * s.columns)
            + 3 * grain(kernel.mr * QUERIES)
            + grain(KEYS * kernel.words(QUERIES))
            + grain(self.sums().ds_words())
            + if self.parts == 1 { self.sums().words() } else { 0 }
    }

    fn parts_words(&self) -> usize {
        let units = self.shape.rows * self.shape.kv_heads;
        if self.parts == 1 { 0 } else { units * self.parts * self.sums().words() }
    }

    fn queries(&self) -> queries::Layout {
        queries::Layout::new(self.shape, self.packer)
    }

    pub(in crate::backend::cpu) fn scratch_words(&self) -> usize {
        self.threads * self.worker_words() + self.parts_words() + self.queries().words()
    }
}

/// One worker's memory.
struct Space<'a> {
    /// Rows of K and V, [KEYS][words of a head], and Kᵀ as A of dQᵀ.
    k_rows: &'a mut [u32],
    v_rows: &'a mut [u32],
    k_turned: &'a mut [u32],
    /// [KEYS][columns].
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// [mr][QUERIES]: Sᵀ, dPᵀ and Pᵀ of a strip of keys.
    scores: &'a mut [f32],
    slopes: &'a mut [f32],
    weights: &'a mut [u32],
    /// dSᵀ, [KEYS][QUERIES], and as B of dQᵀ.
    ds: &'a mut [u32],
    ds_panels: &'a mut [u32],
}

impl<'a> Space<'a> {
    /// The pieces, and the words of dQ where the worker keeps it.
    fn carve(plan: &Plan, scratch: &'a mut [u32]) -> (Self, &'a mut [u32]) {
        let (s, kernel, sums) = (&plan.shape, plan.packer.kernel, plan.sums());
        let mut carver = Carver(scratch);
        let space = Space {
            k_rows: carver.words(KEYS * s.words),
            v_rows: carver.words(KEYS * s.words),
            k_turned: carver.words(sums.k_words()),
            dk: carver.floats(KEYS * s.columns),
            dv: carver.floats(KEYS * s.columns),
            scores: carver.floats(kernel.mr * QUERIES),
            slopes: carver.floats(kernel.mr * QUERIES),
            weights: carver.words(kernel.mr * QUERIES),
            ds: carver.words(KEYS * kernel.words(QUERIES)),
            ds_panels: carver.words(sums.ds_words()),
        };
        (space, carver.words(if plan.parts == 1 { sums.words() } else { 0 }))
    }
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
    let job = Job { plan, simd: plan.packer.simd, queries, k, v, documents, out };
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
        dq::write(job.simd, layout, &job.out.dq, sums, (task.row, task.kv), blocks);
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

/// A block of n queries of one head against a block of keys.
struct Pair<'a> {
    queries: QueryBlock<'a>,
    /// Which head of the group it is.
    g: usize,
    i0: usize,
    n: usize,
    j0: usize,
    keys: usize,
    masked: bool,
    /// Head and first query of the block that comes after it.
    next: Option<(usize, usize)>,
}

/// Where gradients go: a task writes dK and dV of its blocks, and dQ of lines that no other task has.
struct Out<'a, E> {
    dq: Disjoint<'a, E>,
    dk: Disjoint<'a, E>,
    dv: Disjoint<'a, E>,
}

struct Job<'a, E> {
    plan: &'a Plan,
    simd: Simd,
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
        let s = &self.plan.shape;
        sum.clear();
        for j0 in (0..s.keys).step_by(KEYS).skip(t.part).step_by(self.plan.parts) {
            let keys = KEYS.min(s.keys - j0);
            self.pack_keys(t, j0, keys, space);
            space.dk[..keys * s.columns].fill(0.0);
            space.dv[..keys * s.columns].fill(0.0);
            self.queries_of(t, j0, keys, space, sum);
            let first = s.key_at(t.row, t.kv, j0);
            write_kv(self.simd, &self.out.dk, &space.dk[..keys * s.columns], s.scale, s, first);
            write_kv(self.simd, &self.out.dv, &space.dv[..keys * s.columns], 1.0, s, first);
        }
    }

    /// All blocks of queries of the group's heads that see some of the keys j0...
    fn queries_of(&self, t: Task, j0: usize, keys: usize, space: &mut Space<'_>, sum: &mut dq::Sum<'_>) {
        let s = &self.plan.shape;
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
            let queries = self.plan.queries().block(self.queries, t.row, t.kv * s.group + g, i0);
            let (masked, next) = (cover == Cover::Part, blocks.peek().copied());
            self.pair(t, &mask, &Pair { queries, g, i0, n, j0, keys, masked, next }, space, sum);
        }
    }

    fn pack_keys(&self, t: Task, j0: usize, keys: usize, space: &mut Space<'_>) {
        let (s, packer) = (&self.plan.shape, self.plan.packer);
        let (first, stride, width) = (s.key_at(t.row, t.kv, j0), s.kv_stride(), s.head_dim);
        packer.rows(&self.k[first..], stride, keys, width, s.words, space.k_rows);
        packer.rows(&self.v[first..], stride, keys, width, s.words, space.v_rows);
        packer.panels_of_columns(&self.k[first..], stride, keys, width, packer.kernel.mr, space.k_turned);
    }

    /// While it works on a block of queries it asks for the next one, piece by piece: L2 does not hold them all.
    fn pair(&self, t: Task, mask: &Mask<'_>, p: &Pair<'_>, space: &mut Space<'_>, sum: &mut dq::Sum<'_>) {
        let (s, sums, queries) = (&self.plan.shape, self.plan.sums(), self.plan.queries());
        let strips = p.keys.div_ceil(self.plan.packer.kernel.mr);
        for strip in 0..strips {
            if let Some((g, i0)) = p.next {
                let words = queries.words_of(self.queries, t.row, t.kv * s.group + g, i0);
                prefetch_piece(words, (strip, strips));
                prefetch_piece(sum.block(&sums, sums.block(g, i0)), (strip, strips));
            }
            let keys = strip * p.keys / strips..(strip + 1) * p.keys / strips;
            self.strip(mask, p, keys, space);
        }
        self.add_dq(p, space, sum);
    }

    /// Pᵀ and dSᵀ of the keys j0 + `keys`, and what they add to dV and dK.
    fn strip(&self, mask: &Mask<'_>, p: &Pair<'_>, keys: Range<usize>, space: &mut Space<'_>) {
        let (s, kernel) = (&self.plan.shape, self.plan.packer.kernel);
        let all = kernel.words(QUERIES);
        // Panels of queries that all lie before the strip's first key see none of it.
        let skipped = (p.j0 + keys.start).saturating_sub(p.i0) / kernel.nr * kernel.nr;
        if skipped >= p.n {
            return space.ds[keys.start * all..keys.end * all].fill(0);
        }
        self.scores_and_slopes(mask, p, keys.clone(), skipped, space);
        let strip = Strip {
            scores: space.scores,
            slopes: space.slopes,
            lse: p.queries.lse,
            delta: p.queries.delta,
            columns: skipped..p.n.next_multiple_of(PADDED),
            scale: s.scale,
        };
        let ds = &mut space.ds[keys.start * all..keys.end * all];
        let (weights, slopes) = weights_and_slopes(self.simd, kernel, strip, keys.len(), space.weights, ds);
        let (first, words) = (kernel.words(skipped), kernel.words(p.n) - kernel.words(skipped));
        let block = kernel.words(p.n) * kernel.nr;
        let (weights, slopes) = (weights.from(0, first), slopes.from(0, first));
        for c in (0..s.columns).step_by(kernel.nr) {
            let (panel, at) = (c / kernel.nr * block + first * kernel.nr, keys.start * s.columns + c);
            let products = [
                (weights, &p.queries.do_panels[panel..], &mut space.dv[at..]),
                (slopes, &p.queries.q_panels[panel..], &mut space.dk[at..]),
            ];
            for (a, b, sum) in products {
                kernel.tile(keys.len(), words, a, b, sum, s.columns, true);
            }
        }
    }

    /// Sᵀ, hidden pairs -inf, and dPᵀ of the keys j0 + `keys` and the queries from `skipped` on.
    fn scores_and_slopes(
        &self, mask: &Mask<'_>, p: &Pair<'_>, keys: Range<usize>, skipped: usize, space: &mut Space<'_>,
    ) {
        let (s, kernel, rows) = (&self.plan.shape, self.plan.packer.kernel, keys.len());
        let k = Rows::of_words(&space.k_rows[keys.start * s.words..], s.words);
        let v = Rows::of_words(&space.v_rows[keys.start * s.words..], s.words);
        for at in (skipped..p.n).step_by(kernel.nr) {
            let (scores, slopes) = (&mut space.scores[at..], &mut space.slopes[at..]);
            kernel.tile(rows, s.words, k, &p.queries.q_turned[at * s.words..], scores, QUERIES, false);
            kernel.tile(rows, s.words, v, &p.queries.do_turned[at * s.words..], slopes, QUERIES, false);
        }
        if p.masked {
            for (j, scores) in keys.zip(space.scores.chunks_exact_mut(QUERIES)) {
                let j = p.j0 + j;
                let (from, to) = (p.i0 + skipped, p.i0 + p.n);
                mask.apply(&mut scores[skipped..p.n], j, mask.queries_of(j), from..to);
            }
        }
    }

    /// dQᵀ += Kᵀ·dSᵀ for the pair.
    fn add_dq(&self, p: &Pair<'_>, space: &mut Space<'_>, sum: &mut dq::Sum<'_>) {
        let (packer, nr) = (self.plan.packer, self.plan.packer.kernel.nr);
        if packer.kernel.paired {
            let ds: &[bf16] = bytemuck::cast_slice(space.ds);
            packer.panels_of_columns(ds, QUERIES, p.keys, p.n, nr, space.ds_panels);
        } else {
            let ds: &[f32] = bytemuck::cast_slice(space.ds);
            packer.panels_of_columns(ds, QUERIES, p.keys, p.n, nr, space.ds_panels);
        }
        let sums = self.plan.sums();
        let operands = (&*space.k_turned, &*space.ds_panels);
        sums.add(sum, sums.block(p.g, p.i0), (p.keys, p.n), operands, p.i0 - p.j0);
    }
}

per_isa! {
    /// Pᵀ and dSᵀ, [rows][QUERIES], from scores and slopes of the strip.
    fn strip_of[W: CpuFloat](strip: Strip<'_>, rows: usize, weights: &mut [W], ds: &mut [W]) => strip_body;
    /// out = factor·acc for the rows of a block of keys, the first of them at `first`.
    fn write_kv[E: CpuFloat](
        out: &Disjoint<'_, E>, acc: &[f32], factor: f32, s: &Shape, first: usize,
    ) => write_kv_body;
}

/// What Pᵀ and dSᵀ are computed from.
struct Strip<'a> {
    /// [rows][QUERIES]: Sᵀ (hidden pairs −inf) and dPᵀ.
    scores: &'a [f32],
    slopes: &'a [f32],
    /// For each query.
    lse: &'a [f32],
    delta: &'a [f32],
    /// The queries in question, both ends multiples of the kernel's width.
    columns: Range<usize>,
    scale: f32,
}

/// [`strip_of`] in the precision of the products; both results as rows of A.
fn weights_and_slopes<'a>(
    simd: Simd, kernel: &Kernel, strip: Strip<'_>, rows: usize, weights: &'a mut [u32], ds: &'a mut [u32],
) -> (Rows<'a>, Rows<'a>) {
    if kernel.paired {
        strip_of_pairs(simd, strip, rows, bytemuck::cast_slice_mut(weights), bytemuck::cast_slice_mut(ds));
    } else {
        strip_of::<f32>(simd, strip, rows, bytemuck::cast_slice_mut(weights), bytemuck::cast_slice_mut(ds));
    }
    (Rows::of_words(weights, kernel.words(QUERIES)), Rows::of_words(ds, kernel.words(QUERIES)))
}

fn strip_of_pairs(simd: Simd, s: Strip<'_>, rows: usize, weights: &mut [bf16], ds: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if simd.isa().has_pairs() {
        let (queries, n) = (s.columns.clone(), s.columns.len());
        let of_queries = (&s.lse[queries.clone()], &s.delta[queries.clone()]);
        for r in 0..rows {
            let at = r * QUERIES + queries.start;
            ds[r * QUERIES..at].fill(bf16::ZERO);
            let of_pairs = (&s.scores[at..][..n], &s.slopes[at..][..n]);
            let (weights, ds) = (&mut weights[at..][..n], &mut ds[at..][..n]);
            // SAFETY: a Simd of this ISA exists only where the CPU has its features.
            unsafe { super::avx512::weights_and_slopes(of_pairs, of_queries, s.scale, weights, ds) };
        }
        return;
    }
    strip_of(simd, s, rows, weights, ds);
}

#[inline(always)]
fn strip_body<W: CpuFloat, const FMA: bool>(s: Strip<'_>, rows: usize, weights: &mut [W], ds: &mut [W]) {
    let n = s.columns.len();
    let (lse, delta) = (&s.lse[s.columns.clone()][..n], &s.delta[s.columns.clone()][..n]);
    for r in 0..rows {
        let at = r * QUERIES + s.columns.start;
        ds[r * QUERIES..at].fill(W::default());
        let (scores, slopes) = (&s.scores[at..][..n], &s.slopes[at..][..n]);
        let (weights, ds) = (&mut weights[at..][..n], &mut ds[at..][..n]);
        for i in 0..n {
            let p = exp::<FMA>(scores[i] * s.scale - lse[i]);
            weights[i] = W::narrow(p);
            ds[i] = W::narrow(p * (slopes[i] - delta[i]));
        }
    }
}

#[inline(always)]
fn write_kv_body<E: CpuFloat, const FMA: bool>(
    out: &Disjoint<'_, E>, acc: &[f32], factor: f32, s: &Shape, first: usize,
) {
    for (j, acc) in acc.chunks_exact(s.columns).enumerate() {
        // SAFETY: only one task has this block of keys of this key/value head.
        let out = unsafe { out.range(first + j * s.kv_stride(), s.head_dim) };
        for (out, x) in out.iter_mut().zip(acc) {
            *out = E::narrow(x * factor);
        }
    }
}
