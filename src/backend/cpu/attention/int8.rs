//! A few queries (decoding) over keys and values that are 8-bit codes: each is read once, where it lies.
//!
//! ```text
//!   S[r,j] = scale_k[j]·Σ_c q[r,c]·code_k[j,c]       16 keys at a time: their codes are transposed, so that a lane is a key
//!   P      = exp(S − max)                            online softmax, in f32
//!   O[r,c] += Σ_j (P[r,j]·scale_v[j])·code_v[j,c]    a lane is a column
//! ```
//!
//! Codes are exact in f32 and scales are factors of whole sums, so nothing is rounded that plain f32 would not round. Keys are
//! cut into parts, always in the same places; parts are merged in order.

use super::super::isa::{per_isa, prefetch};
use super::super::math::{CpuFloat, LANES, fma};
use super::super::matmul::kernel::Kernel;
use super::super::matmul::pack::Packer;
use super::super::pool::Workers;
use super::super::scratch::{Carver, grain};
use super::mask::Cover;
use super::softmax::{PADDED, State, Update, merge};
use super::source::Codes;
use super::{KEYS, Shape};
use crate::backend::AttentionShape;
use crate::index::DocumentId;

/// Rows (a query of one head each) of a key/value head, at most; beyond, packing pays.
const ROWS: usize = 16;
/// Rows that go through the keys together: their sums fit the registers.
const TOGETHER: usize = 4;
/// Keys of one part.
const PART: usize = 2048;
/// How far ahead of the key that is read the next ones are asked for.
const AHEAD: usize = 24;

/// The operands.
pub(in crate::backend::cpu) struct Decode<'a, E> {
    pub o: &'a mut [E],
    pub lse: &'a mut [f32],
    pub q: &'a [E],
    pub k: Codes<'a>,
    pub v: Codes<'a>,
    pub documents: Option<&'a [DocumentId]>,
}

/// How the work is cut.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Plan {
    shape: Shape,
    packer: Packer,
    threads: usize,
    rows: usize,
    parts: usize,
}

impl Plan {
    /// None where this way does not pay (many rows) or a head is not made of whole vectors.
    pub(in crate::backend::cpu) fn new(packer: Packer, threads: usize, s: AttentionShape) -> Option<Plan> {
        let shape = Shape::new(s, packer.kernel);
        let rows = shape.queries * shape.group;
        let fits = rows <= ROWS && shape.head_dim.is_multiple_of(LANES);
        fits.then(|| Plan { shape, packer, threads, rows, parts: shape.keys.div_ceil(PART) })
    }

    fn worker_words(&self) -> usize {
        2 * grain(self.rows * KEYS) + grain(self.rows * self.shape.head_dim)
    }

    /// One part's result: the weighted sum and the state of every row.
    fn part_words(&self) -> usize {
        grain(self.rows * (self.shape.head_dim + 2))
    }

    fn parts_words(&self) -> usize {
        self.shape.rows * self.shape.kv_heads * self.parts * self.part_words()
    }

    pub(in crate::backend::cpu) fn scratch_words(&self) -> usize {
        self.threads * self.worker_words() + self.parts_words()
    }
}

/// One worker's memory.
struct Space<'a> {
    /// [rows][KEYS].
    scores: &'a mut [f32],
    weights: &'a mut [f32],
    /// [rows][head_dim].
    q: &'a mut [f32],
}

impl<'a> Space<'a> {
    fn carve(plan: &Plan, scratch: &'a mut [u32]) -> Self {
        let mut carver = Carver(scratch);
        Space {
            scores: carver.floats(plan.rows * KEYS),
            weights: carver.floats(plan.rows * KEYS),
            q: carver.floats(plan.rows * plan.shape.head_dim),
        }
    }
}

pub(in crate::backend::cpu) fn decode<E: CpuFloat>(
    plan: &Plan, workers: &Workers, scratch: &mut [u32], x: Decode<'_, E>,
) {
    let (s, width) = (&plan.shape, plan.shape.head_dim);
    let job = Job { plan, q: x.q, k: x.k, v: x.v, documents: x.documents };
    let (parts, scratch) = scratch.split_at_mut(plan.parts_words());
    let per_worker = plan.worker_words();
    let states = scratch[..plan.threads * per_worker].chunks_exact_mut(per_worker);
    let pieces = parts.chunks_exact_mut(plan.part_words()).enumerate();
    workers.each_with(s.ns(s.pairs(), 2.0), states, pieces, |scratch, (t, piece)| {
        job.part(t / plan.parts, t % plan.parts, piece, Space::carve(plan, scratch));
    });
    for (unit, pieces) in parts.chunks_exact_mut(plan.parts * plan.part_words()).enumerate() {
        let (row, kv) = (unit / s.kv_heads, unit % s.kv_heads);
        let (acc, states) = merge(pieces, plan.part_words(), plan.rows, width);
        for (r, (state, acc)) in states.iter().zip(acc.chunks_exact(width)).enumerate() {
            let (i, head) = (r / s.group, kv * s.group + r % s.group);
            let o = &mut x.o[s.query_at(row, head, i)..][..width];
            o.iter_mut().zip(acc).for_each(|(o, x)| *o = E::narrow(x * state.normalizer()));
            x.lse[s.row_head(row, head) * s.queries + i] = state.log_sum_exp();
        }
    }
}

struct Job<'a, E> {
    plan: &'a Plan,
    q: &'a [E],
    k: Codes<'a>,
    v: Codes<'a>,
    documents: Option<&'a [DocumentId]>,
}

impl<E: CpuFloat> Job<'_, E> {
    /// The weighted sums and states of a key/value head's rows over one part of the keys.
    fn part(&self, unit: usize, part: usize, piece: &mut [u32], space: Space<'_>) {
        let (s, width, Packer { simd, kernel }) =
            (&self.plan.shape, self.plan.shape.head_dim, self.plan.packer);
        let (row, kv) = (unit / s.kv_heads, unit % s.kv_heads);
        let (acc, states) = piece.split_at_mut(self.plan.rows * width);
        let acc: &mut [f32] = bytemuck::cast_slice_mut(acc);
        let states: &mut [State] = bytemuck::cast_slice_mut(&mut states[..2 * self.plan.rows]);
        acc.fill(0.0);
        states.fill(State::EMPTY);
        for (i, q) in space.q.chunks_exact_mut(s.group * width).enumerate() {
            let from = &self.q[s.query_at(row, kv * s.group, i)..];
            q.iter_mut().zip(from).for_each(|(q, x)| *q = x.widen());
        }
        let mask = s.mask(self.documents, row);
        let queries = s.past()..s.keys;
        let seen = mask.keys_of(queries.start).start.max(part * PART)..s.keys.min((part + 1) * PART);
        for j0 in (seen.start / KEYS * KEYS..seen.end).step_by(KEYS) {
            let n = KEYS.min(seen.end - j0);
            if mask.cover(queries.clone(), j0..j0 + n) == Cover::Nothing {
                continue;
            }
            let at = At { first: s.key_at(row, kv, j0), stride: s.kv_stride(), n, width };
            scores(simd, kernel, space.scores, space.q, self.k, at);
            let padded = n.next_multiple_of(PADDED);
            for (r, scores) in space.scores.chunks_exact_mut(KEYS).enumerate() {
                let index = s.past() + r / s.group;
                mask.apply(&mut scores[..n], index, mask.keys_of(index), j0..j0 + n);
                scores[n..padded].fill(f32::NEG_INFINITY);
            }
            let update = Update { states, scores: space.scores, acc, ld: KEYS, n: padded, scale: s.scale };
            update.run_exact(simd, space.weights);
            add_values(simd, acc, space.weights, self.v, at);
        }
    }
}

/// n keys (or values) of one head.
#[derive(Clone, Copy)]
struct At {
    /// The first one's element in the codes, and elements from one to the next.
    first: usize,
    stride: usize,
    n: usize,
    /// Elements of a head.
    width: usize,
}

impl At {
    fn row(self, j: usize) -> usize {
        self.first + j * self.stride
    }
}

per_isa! {
    /// out[r·KEYS + j] = scale[j]·Σ_c q[r,c]·code[j,c]; to the next multiple of LANES beyond n something finite.
    fn scores(kernel: &Kernel, out: &mut [f32], q: &[f32], k: Codes<'_>, at: At) => scores_body;
    /// acc[r,c] += Σ_j (weights[r·KEYS + j]·scale[j])·code[j,c]; the weights are left with their scales in them.
    fn add_values(acc: &mut [f32], weights: &mut [f32], v: Codes<'_>, at: At) => add_values_body;
}

#[inline(always)]
fn scores_body<const FMA: bool>(kernel: &Kernel, out: &mut [f32], q: &[f32], k: Codes<'_>, at: At) {
    let rows = q.chunks(TOGETHER * at.width).zip(out.chunks_mut(TOGETHER * KEYS));
    for (q, out) in rows {
        match q.len() / at.width {
            1 => scores_of::<FMA, 1>(kernel, out, q, k, at),
            2 => scores_of::<FMA, 2>(kernel, out, q, k, at),
            3 => scores_of::<FMA, 3>(kernel, out, q, k, at),
            _ => scores_of::<FMA, 4>(kernel, out, q, k, at),
        }
    }
}

#[inline(always)]
fn scores_of<const FMA: bool, const R: usize>(
    kernel: &Kernel, out: &mut [f32], q: &[f32], k: Codes<'_>, at: At,
) {
    let (mut lying, mut turned) = ([[0u32; 16]; 16], [[0u32; 16]; 16]);
    for j0 in (0..at.n).step_by(LANES) {
        let lanes = LANES.min(at.n - j0);
        let mut sums = [[0f32; LANES]; R];
        for c0 in (0..at.width).step_by(64) {
            let bytes = 64.min(at.width - c0);
            for l in 0..lanes {
                let from = at.row(j0 + l) + c0;
                prefetch(k.codes.as_ptr().wrapping_add(from + AHEAD * at.stride));
                let to: &mut [i8] = bytemuck::cast_slice_mut(&mut lying[l]);
                match k.codes[from..from + bytes].first_chunk::<64>() {
                    Some(line) => to.copy_from_slice(line),
                    None => to[..bytes].copy_from_slice(&k.codes[from..from + bytes]),
                }
            }
            kernel.transpose16(bytemuck::cast_slice(&lying), 64, turned.as_flattened_mut(), 16);
            for (w, word) in turned[..bytes / 4].iter().enumerate() {
                for b in 0..4 {
                    let mut code = [0f32; LANES];
                    for l in 0..LANES {
                        code[l] = ((word[l] << (24 - 8 * b)) as i32 >> 24) as f32;
                    }
                    for r in 0..R {
                        let x = q[r * at.width + c0 + 4 * w + b];
                        for l in 0..LANES {
                            sums[r][l] = fma::<FMA>(x, code[l], sums[r][l]);
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for l in 0..lanes {
                out[r * KEYS + j0 + l] = sums[r][l] * k.scales[at.row(j0 + l) / at.width];
            }
        }
    }
}

#[inline(always)]
fn add_values_body<const FMA: bool>(acc: &mut [f32], weights: &mut [f32], v: Codes<'_>, at: At) {
    for weights in weights.chunks_exact_mut(KEYS) {
        for (j, weight) in weights[..at.n].iter_mut().enumerate() {
            *weight *= v.scales[at.row(j) / at.width];
        }
    }
    let rows = acc.chunks_mut(TOGETHER * at.width).zip(weights.chunks(TOGETHER * KEYS));
    for (acc, weights) in rows {
        let mut c = 0;
        while c < at.width {
            let wide = at.width - c >= 2 * LANES;
            match (acc.len() / at.width, wide) {
                (1, true) => values_of::<FMA, 1, 32>(acc, weights, v, at, c),
                (2, true) => values_of::<FMA, 2, 32>(acc, weights, v, at, c),
                (3, true) => values_of::<FMA, 3, 32>(acc, weights, v, at, c),
                (_, true) => values_of::<FMA, 4, 32>(acc, weights, v, at, c),
                (1, false) => values_of::<FMA, 1, 16>(acc, weights, v, at, c),
                (2, false) => values_of::<FMA, 2, 16>(acc, weights, v, at, c),
                (3, false) => values_of::<FMA, 3, 16>(acc, weights, v, at, c),
                (_, false) => values_of::<FMA, 4, 16>(acc, weights, v, at, c),
            }
            c += if wide { 2 * LANES } else { LANES };
        }
    }
}

/// W columns from c on of R rows.
#[inline(always)]
fn values_of<const FMA: bool, const R: usize, const W: usize>(
    acc: &mut [f32], weights: &[f32], v: Codes<'_>, at: At, c: usize,
) {
    let mut sums = [[0f32; W]; R];
    for j in 0..at.n {
        let from = at.row(j) + c;
        prefetch(v.codes.as_ptr().wrapping_add(from + AHEAD * at.stride));
        let mut code = [0f32; W];
        for (x, code) in code.iter_mut().zip(&v.codes[from..from + W]) {
            *x = f32::from(*code);
        }
        for r in 0..R {
            let p = weights[r * KEYS + j];
            for l in 0..W {
                sums[r][l] = fma::<FMA>(p, code[l], sums[r][l]);
            }
        }
    }
    for r in 0..R {
        for l in 0..W {
            acc[r * at.width + c + l] += sums[r][l];
        }
    }
}
