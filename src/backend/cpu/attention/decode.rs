//! Forward for a single query a row, as in decoding: keys and values are read once, where they lie, in the order they lie in.
//!
//! A task has a part of a row's keys and all heads. It goes over blocks of keys, each small enough that the next one is on
//! its way while this one is used: scores of all heads, online softmax, weighted values. Parts begin at places that the
//! shape alone decides and are merged in order.

use super::super::isa::{Simd, per_isa, prefetch};
use super::super::math::{CpuFloat, LANES, fma, sum_products};
use super::super::matmul::pack::Packer;
use super::super::pool::{Disjoint, Workers};
use super::super::scratch::{Carver, grain};
use super::forward::{Out, Task};
use super::mask::Cover;
use super::softmax::{State, Update, merge};
use super::{Operands, Shape};
use crate::backend::AttentionShape;
use half::bf16;

/// Keys of a part, and of a block.
const PART: usize = 1024;
pub(super) const KEYS: usize = 64;

/// How the work is cut.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Plan {
    shape: Shape,
    packer: Packer,
    threads: usize,
    parts: usize,
}

impl Plan {
    /// None where there is more than one query a row.
    pub(in crate::backend::cpu) fn new(packer: Packer, threads: usize, s: AttentionShape) -> Option<Self> {
        let shape = Shape { columns: s.head_dim, ..Shape::new(s, packer.kernel) };
        let parts = shape.keys.div_ceil(PART).max(1);
        (s.queries == 1).then_some(Plan { shape, packer, threads, parts })
    }

    fn worker_words(&self) -> usize {
        2 * grain(self.shape.heads * KEYS)
    }

    /// Weighted sums and states of all heads.
    fn part_words(&self) -> usize {
        grain(self.shape.heads * (self.shape.head_dim + 2))
    }

    pub(in crate::backend::cpu) fn scratch_words(&self) -> usize {
        self.threads * self.worker_words() + self.shape.rows * self.parts * self.part_words()
    }
}

pub(in crate::backend::cpu) fn forward<E: CpuFloat>(
    plan: &Plan, workers: &Workers, scratch: &mut [u32], x: Operands<'_, E>,
) {
    let s = &plan.shape;
    let (parts, scratch) = scratch.split_at_mut(s.rows * plan.parts * plan.part_words());
    let states = scratch[..plan.threads * plan.worker_words()].chunks_exact_mut(plan.worker_words());
    let pieces = parts.chunks_exact_mut(plan.part_words()).enumerate();
    let bytes = 2 * std::mem::size_of_val(&x.k[..s.rows * s.keys * s.kv_stride()]);
    workers.each_with(0.05 * bytes as f64, states, pieces, |scratch, (t, piece)| {
        Part { plan, x: &x, row: t / plan.parts, part: t % plan.parts }.run(scratch, piece);
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

/// A part of a row's keys.
struct Part<'a, 'x, E> {
    plan: &'a Plan,
    x: &'a Operands<'x, E>,
    row: usize,
    part: usize,
}

impl<E: CpuFloat> Part<'_, '_, E> {
    /// Leaves weighted sums [heads][head_dim] and states [heads] in `piece`.
    fn run(&self, scratch: &mut [u32], piece: &mut [u32]) {
        let s = &self.plan.shape;
        let mut carver = Carver(scratch);
        let (scores, weights) = (carver.floats(s.heads * KEYS), carver.words(s.heads * KEYS));
        let (acc, states) = piece.split_at_mut(s.heads * s.head_dim);
        let acc: &mut [f32] = bytemuck::cast_slice_mut(acc);
        let states: &mut [State] = bytemuck::cast_slice_mut(&mut states[..2 * s.heads]);
        acc.fill(0.0);
        states.fill(State::EMPTY);
        let (mask, index) = (s.mask(self.x.documents, self.row), s.past());
        let seen = mask.keys_of(index);
        let first = (self.part * PART).max(seen.start / KEYS * KEYS);
        let end = ((self.part + 1) * PART).min(seen.end);
        for j0 in (first..end).step_by(KEYS) {
            let n = KEYS.min(end - j0);
            let cover = mask.cover(index..index + 1, j0..j0 + n);
            if cover == Cover::Nothing {
                continue;
            }
            self.score(scores, j0, n);
            if cover == Cover::Part || n < KEYS {
                for scores in scores.chunks_exact_mut(KEYS) {
                    mask.apply(&mut scores[..n], index, seen.clone(), j0..j0 + n);
                    scores[n..].fill(f32::NEG_INFINITY);
                }
            }
            let update = Update { states, scores, acc, ld: KEYS, n: KEYS, scale: s.scale };
            update.run(self.plan.packer.simd, self.plan.packer.kernel, weights);
            if self.plan.packer.kernel.paired {
                self.add_values::<bf16>(acc, bytemuck::cast_slice(weights), j0, n);
            } else {
                self.add_values::<f32>(acc, bytemuck::cast_slice(weights), j0, n);
            }
        }
    }

    /// Asks for a share of the next block of keys or values, one of as many as there are key/value heads: between the heads'
    /// work, so that memory is never idle.
    fn fetch(&self, operand: &[E], j0: usize, share: usize) {
        let s = &self.plan.shape;
        let first = s.key_at(self.row, 0, j0 + KEYS) + share * KEYS * s.head_dim;
        for at in (0..KEYS * s.head_dim).step_by(64 / std::mem::size_of::<E>()) {
            prefetch(operand.as_ptr().wrapping_add(first + at));
        }
    }

    /// scores[head][..n] = q·k for the keys from j0 on.
    fn score(&self, scores: &mut [f32], j0: usize, n: usize) {
        let s = &self.plan.shape;
        for (kv, scores) in scores.chunks_exact_mut(s.group * KEYS).enumerate() {
            self.fetch(self.x.k, j0, kv);
            let q = &self.x.q[s.query_at(self.row, kv * s.group, 0)..][..s.group * s.head_dim];
            let k = Lines { data: &self.x.k[s.key_at(self.row, kv, j0)..], stride: s.kv_stride(), n };
            dots(self.plan.packer.simd, scores, q, k, s.head_dim);
        }
    }

    /// acc[head] += Σ_j weights[head][j]·v_j.
    fn add_values<W: CpuFloat>(&self, acc: &mut [f32], weights: &[W], j0: usize, n: usize) {
        let s = &self.plan.shape;
        let groups = acc.chunks_exact_mut(s.group * s.head_dim).zip(weights.chunks_exact(s.group * KEYS));
        for (kv, (acc, weights)) in groups.enumerate() {
            self.fetch(self.x.v, j0, kv);
            let v = Lines { data: &self.x.v[s.key_at(self.row, kv, j0)..], stride: s.kv_stride(), n };
            sums(self.plan.packer.simd, acc, weights, v, s.head_dim);
        }
    }
}

/// Rows of one key/value head, `stride` elements apart.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a, E> {
    pub data: &'a [E],
    pub stride: usize,
    pub n: usize,
}

/// scores[g·KEYS + j] = q_g·k_j for the heads of a group.
fn dots<E: CpuFloat>(simd: Simd, scores: &mut [f32], q: &[E], k: Lines<'_, E>, dim: usize) {
    #[cfg(target_arch = "x86_64")]
    if super::decode_avx512::takes::<E, E>(simd, dim) {
        let (q, k) = (bytemuck::cast_slice(q), k.as_bf16());
        // SAFETY: `takes` has seen that the CPU has the features.
        return unsafe { super::decode_avx512::dots(scores, q, k, dim) };
    }
    plain_dots(simd, scores, q, k, dim);
}

/// acc_g += Σ_j weights[g·KEYS + j]·v_j for the heads of a group.
fn sums<E: CpuFloat, W: CpuFloat>(simd: Simd, acc: &mut [f32], weights: &[W], v: Lines<'_, E>, dim: usize) {
    #[cfg(target_arch = "x86_64")]
    if super::decode_avx512::takes::<E, W>(simd, dim) {
        let (weights, v) = (bytemuck::cast_slice(weights), v.as_bf16());
        // SAFETY: `takes` has seen that the CPU has the features.
        return unsafe { super::decode_avx512::sums(acc, weights, v, dim) };
    }
    plain_sums(simd, acc, weights, v, dim);
}

impl<'a, E: CpuFloat> Lines<'a, E> {
    fn as_bf16(self) -> Lines<'a, bf16> {
        Lines { data: bytemuck::cast_slice(self.data), stride: self.stride, n: self.n }
    }
}

per_isa! {
    fn plain_dots[E: CpuFloat](scores: &mut [f32], q: &[E], k: Lines<'_, E>, dim: usize) => dots_body;
    fn plain_sums[E: CpuFloat, W: CpuFloat](
        acc: &mut [f32], weights: &[W], v: Lines<'_, E>, dim: usize,
    ) => sums_body;
}

#[inline(always)]
fn dots_body<E: CpuFloat, const FMA: bool>(scores: &mut [f32], q: &[E], k: Lines<'_, E>, dim: usize) {
    for (q, scores) in q.chunks_exact(dim).zip(scores.chunks_exact_mut(KEYS)) {
        for (j, score) in scores.iter_mut().take(k.n).enumerate() {
            *score = sum_products::<E, FMA, 2>([q, &k.data[j * k.stride..][..dim]]);
        }
    }
}

#[inline(always)]
fn sums_body<E: CpuFloat, W: CpuFloat, const FMA: bool>(
    acc: &mut [f32], weights: &[W], v: Lines<'_, E>, dim: usize,
) {
    for (acc, weights) in acc.chunks_exact_mut(dim).zip(weights.chunks_exact(KEYS)) {
        for (c, acc) in acc.chunks_mut(2 * LANES).enumerate() {
            let mut sums = [0f32; 2 * LANES];
            for (j, weight) in weights.iter().take(v.n).enumerate() {
                let line = &v.data[j * v.stride + c * 2 * LANES..][..acc.len()];
                for (sum, x) in sums.iter_mut().zip(line) {
                    *sum = fma::<FMA>(weight.widen(), x.widen(), *sum);
                }
            }
            acc.iter_mut().zip(sums).for_each(|(acc, sum)| *acc += sum);
        }
    }
}
