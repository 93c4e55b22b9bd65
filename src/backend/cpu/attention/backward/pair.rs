//! One block of queries against one block of keys, strip by strip of keys: Pᵀ and dSᵀ, and what they add to dV, dK and dQ.

use super::super::super::isa::Simd;
use super::super::super::math::CpuFloat;
use super::super::super::matmul::kernel::{Kernel, Rows};
use super::super::super::prefetch::prefetch_piece;
use super::super::super::vectors::{Vectors, per_width};
use super::super::mask::Mask;
use super::super::softmax::PADDED;
use super::dq;
use super::plan::{Plan, Space};
use super::queries::{QUERIES, QueryBlock};
use half::bf16;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// A block of n queries of one head, from i0 on, against a block of keys, from j0 on.
pub(super) struct Pair<'a> {
    pub queries: QueryBlock<'a>,
    /// Its number in the sum of dQ.
    pub block: usize,
    pub i0: usize,
    pub n: usize,
    pub j0: usize,
    pub keys: usize,
    /// Where some of it is hidden.
    pub mask: Option<Mask<'a>>,
    /// The queries that come next, and their number in the sum.
    pub next: Option<(&'a [u32], usize)>,
}

/// What works on pairs of blocks.
pub(super) struct Pairs<'a> {
    pub plan: &'a Plan,
    pub simd: Simd,
}

impl Pairs<'_> {
    /// While it works on a block of queries it asks for the next one, piece by piece: L2 does not hold them all.
    pub(super) fn run(&self, p: &Pair<'_>, space: &mut Space<'_>, sum: &mut dq::Sum<'_>) {
        let strips = self.plan.packer.kernel.strips(p.keys);
        let count = strips.len();
        for (i, keys) in strips.enumerate() {
            if let Some((queries, block)) = p.next {
                prefetch_piece(queries, (i, count));
                prefetch_piece(sum.block(&self.plan.sums(), block), (i, count));
            }
            self.strip(p, keys, space);
        }
        self.add_dq(p, space, sum);
    }

    /// Pᵀ and dSᵀ of the keys j0 + `keys`, and what they add to dV and dK.
    fn strip(&self, p: &Pair<'_>, keys: Range<usize>, space: &mut Space<'_>) {
        let (s, kernel) = (&self.plan.shape, self.plan.packer.kernel);
        let all = kernel.words(QUERIES);
        // Panels of queries that all lie before the strip's first key see none of it.
        let skipped = (p.j0 + keys.start).saturating_sub(p.i0) / kernel.nr * kernel.nr;
        if skipped >= p.n {
            return space.ds[keys.start * all..keys.end * all].fill(0);
        }
        self.scores_and_slopes(p, keys.clone(), skipped, space);
        let strip = Strip {
            scores: space.scores,
            slopes: space.slopes,
            offsets: p.queries.offsets,
            delta: p.queries.delta,
            columns: skipped..p.n.next_multiple_of(PADDED),
            scale: s.scale,
        };
        let ds = &mut space.ds[keys.start * all..keys.end * all];
        let (weights, slopes) = weights_and_slopes(self.simd, kernel, strip, keys.len(), ds);
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
    fn scores_and_slopes(&self, p: &Pair<'_>, keys: Range<usize>, skipped: usize, space: &mut Space<'_>) {
        let (s, kernel, rows) = (&self.plan.shape, self.plan.packer.kernel, keys.len());
        let k = Rows::of_words(&space.k_rows[keys.start * s.words..], s.words);
        let v = Rows::of_words(&space.v_rows[keys.start * s.words..], s.words);
        for at in (skipped..p.n).step_by(kernel.nr) {
            let (scores, slopes) = (&mut space.scores[at..], &mut space.slopes[at..]);
            kernel.tile(rows, s.words, k, &p.queries.q_turned[at * s.words..], scores, QUERIES, false);
            kernel.tile(rows, s.words, v, &p.queries.do_turned[at * s.words..], slopes, QUERIES, false);
        }
        if let Some(mask) = &p.mask {
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
        sums.add(sum, p.block, (p.keys, p.n), operands, p.i0 - p.j0);
    }
}

per_width! {
    /// Pᵀ and dSᵀ, [rows][QUERIES], from scores and slopes of the strip.
    fn strip_of[W: CpuFloat](strip: &mut Strip<'_>, rows: usize, ds: &mut [W]) => strip_body;
}

/// What Pᵀ and dSᵀ are computed from.
struct Strip<'a> {
    /// [rows][QUERIES]: Sᵀ (hidden pairs −inf), which Pᵀ replaces from its beginning on, and dPᵀ.
    scores: &'a mut [f32],
    slopes: &'a [f32],
    /// For each query: see [`QueryBlock`].
    offsets: &'a [f32],
    delta: &'a [f32],
    /// The queries in question, both ends multiples of the kernel's width.
    columns: Range<usize>,
    scale: f32,
}

/// [`strip_of`] in the precision of the products; both results as rows of A.
fn weights_and_slopes<'a>(
    simd: Simd, kernel: &Kernel, mut strip: Strip<'a>, rows: usize, ds: &'a mut [u32],
) -> (Rows<'a>, Rows<'a>) {
    if kernel.paired {
        strip_of::<bf16>(simd, &mut strip, rows, bytemuck::cast_slice_mut(ds));
    } else {
        strip_of::<f32>(simd, &mut strip, rows, bytemuck::cast_slice_mut(ds));
    }
    let words = kernel.words(QUERIES);
    (Rows::of_words(bytemuck::cast_slice(strip.scores), words), Rows::of_words(ds, words))
}

#[inline(always)]
fn strip_body<V: Vectors, W: CpuFloat>(v: V, s: &mut Strip<'_>, rows: usize, ds: &mut [W]) {
    let (start, n) = (s.columns.start, s.columns.len());
    let (offsets, delta) = (&s.offsets[start..][..n], &s.delta[start..][..n]);
    assert!(n.is_multiple_of(2 * V::LANES) && size_of::<W>() <= 4);
    assert!(start + n <= QUERIES && rows * QUERIES <= s.scores.len());
    let all = s.scores.as_mut_ptr();
    for r in 0..rows {
        let at = r * QUERIES + start;
        ds[r * QUERIES..at].fill(W::default());
        let (scores, weights) = (all.wrapping_add(at), all.cast::<W>().wrapping_add(at));
        let row = Row {
            of_pairs: [scores.cast_const(), s.slopes[at..][..n].as_ptr()],
            of_queries: [offsets.as_ptr(), delta.as_ptr()],
            out: [weights, ds[at..][..n].as_mut_ptr()],
        };
        for i in (0..n).step_by(2 * V::LANES) {
            // SAFETY: n elements of each, n whole pairs of vectors (asserted). A weight is no longer than a score: it is written where one
            // was that has been read.
            unsafe { row.weights_and_slopes(v, v.splat(s.scale * LOG2_E), i) };
        }
    }
}

/// A key's scores and slopes, the queries' offsets and δ, and where the key's weights and dS go: of one length.
struct Row<W> {
    of_pairs: [*const f32; 2],
    of_queries: [*const f32; 2],
    out: [*mut W; 2],
}

impl<W: CpuFloat> Row<W> {
    /// p = 2^(slope·score + offset), dS = p·(dP − δ), for two vectors from i on.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn weights_and_slopes<V: Vectors>(&self, v: V, slope: V::Vector, i: usize) {
        let [scores, slopes] = self.of_pairs;
        let [offsets, deltas] = self.of_queries;
        let (mut p, mut ds) = ([v.splat(0.0); 2], [v.splat(0.0); 2]);
        // SAFETY: the caller's promise.
        unsafe {
            for j in 0..2 {
                let at = i + j * V::LANES;
                let x = v.multiply_add(v.load(scores.add(at)), slope, v.load(offsets.add(at)));
                p[j] = v.exp2::<W>(x);
                ds[j] = v.multiply(p[j], v.subtract(v.load(slopes.add(at)), v.load(deltas.add(at))));
            }
            v.store_two(self.out[0].add(i), p);
            v.store_two(self.out[1].add(i), ds);
        }
    }
}
