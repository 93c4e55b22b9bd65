//! What the backward pass needs of a block of queries of one head, packed once and shared by all blocks of keys.

use super::super::super::isa::per_isa;
use super::super::super::math::{CpuFloat, sum_products};
use super::super::super::matmul::pack::Packer;
use super::super::super::pool::Workers;
use super::super::super::scratch::{Carver, grain};
use super::super::{Shape, panel_words};
use std::f32::consts::LOG2_E;

/// Queries of a block.
pub(super) const QUERIES: usize = 128;

/// A block of queries, read by the products. Beyond the last query everything is zero but the offset, which is −inf.
pub(super) struct QueryBlock<'a> {
    /// Qᵀ and dOᵀ as B of Sᵀ and dPᵀ; Q and dO as B of dK and dV.
    pub q_turned: &'a [u32],
    pub do_turned: &'a [u32],
    pub q_panels: &'a [u32],
    pub do_panels: &'a [u32],
    /// What is added to scores in units of log 2, −log2(e)·lse, and δ = dO·O of each query, [`QUERIES`] of both.
    pub offsets: &'a [f32],
    pub delta: &'a [f32],
}

/// The queries' operands.
pub(super) struct Queries<'a, E> {
    pub q: &'a [E],
    pub d_o: &'a [E],
    pub o: &'a [E],
    pub lse: &'a [f32],
}

/// Where the blocks of all rows and heads lie: [rows][heads][blocks][words of a block].
#[derive(Clone, Copy)]
pub(super) struct Layout {
    shape: Shape,
    packer: Packer,
    /// Words of Qᵀ (or dOᵀ), and of Q (or dO).
    turned: usize,
    panels: usize,
}

impl Layout {
    pub(super) fn new(shape: Shape, packer: Packer) -> Self {
        let panels = panel_words(packer, QUERIES, shape.columns);
        Layout { shape, packer, turned: QUERIES * shape.words, panels }
    }

    fn block_words(&self) -> usize {
        2 * (grain(self.turned) + grain(self.panels) + grain(QUERIES))
    }

    fn blocks(&self) -> usize {
        self.shape.queries.div_ceil(QUERIES)
    }

    pub(super) fn words(&self) -> usize {
        self.shape.rows * self.shape.heads * self.blocks() * self.block_words()
    }

    /// All words of the block of `head` (of all heads) whose first query is i0.
    pub(super) fn words_of<'a>(&self, packed: &'a [u32], row: usize, head: usize, i0: usize) -> &'a [u32] {
        let at = self.shape.row_head(row, head) * self.blocks() + i0 / QUERIES;
        &packed[at * self.block_words()..][..self.block_words()]
    }

    /// A block's words, by what they are.
    pub(super) fn block<'a>(&self, words: &'a [u32]) -> QueryBlock<'a> {
        let mut rest = words;
        let mut next = |words: usize| {
            let (piece, others) = rest.split_at(grain(words));
            rest = others;
            &piece[..words]
        };
        QueryBlock {
            q_turned: next(self.turned),
            do_turned: next(self.turned),
            q_panels: next(self.panels),
            do_panels: next(self.panels),
            offsets: bytemuck::cast_slice(next(QUERIES)),
            delta: bytemuck::cast_slice(next(QUERIES)),
        }
    }

    /// Packs every block.
    pub(super) fn pack<E: CpuFloat>(&self, workers: &Workers, packed: &mut [u32], x: &Queries<'_, E>) {
        let ns = 0.5 * packed.len() as f64;
        let blocks = packed.chunks_exact_mut(self.block_words().max(1)).enumerate();
        workers.each(ns, blocks, |(at, out)| {
            let (line, block) = (at / self.blocks(), at % self.blocks());
            self.pack_block((line / self.shape.heads, line % self.shape.heads), block * QUERIES, out, x);
        });
    }

    fn pack_block<E: CpuFloat>(
        &self, (row, head): (usize, usize), i0: usize, out: &mut [u32], x: &Queries<'_, E>,
    ) {
        let (s, packer) = (&self.shape, self.packer);
        let n = QUERIES.min(s.queries - i0);
        let (first, stride, width, nr) =
            (s.query_at(row, head, i0), s.heads * s.head_dim, s.head_dim, packer.kernel.nr);
        let (q, d_o) = (&x.q[first..], &x.d_o[first..]);
        let mut carver = Carver(out);
        packer.panels_of_rows(q, stride, n, width, carver.words(self.turned));
        packer.panels_of_rows(d_o, stride, n, width, carver.words(self.turned));
        packer.panels_of_columns(q, stride, n, width, nr, carver.words(self.panels));
        packer.panels_of_columns(d_o, stride, n, width, nr, carver.words(self.panels));
        let (offsets, delta) = (carver.floats(QUERIES), carver.floats(QUERIES));
        // A query that sees nothing (lse −inf), and the places after the last one: with −inf every p is 0.
        offsets.fill(f32::NEG_INFINITY);
        for (to, lse) in offsets.iter_mut().zip(&x.lse[s.row_head(row, head) * s.queries + i0..][..n]) {
            *to = if *lse == f32::NEG_INFINITY { *lse } else { -LOG2_E * lse };
        }
        delta.fill(0.0);
        deltas(packer.simd, &mut delta[..n], d_o, &x.o[first..], stride, width);
    }
}

per_isa! {
    /// δ of consecutive queries of a head, `stride` elements apart.
    fn deltas[E: CpuFloat](
        deltas: &mut [f32], d_o: &[E], o: &[E], stride: usize, width: usize,
    ) => deltas_body;
}

#[inline(always)]
fn deltas_body<E: CpuFloat, const FMA: bool>(
    deltas: &mut [f32], d_o: &[E], o: &[E], stride: usize, width: usize,
) {
    for (i, delta) in deltas.iter_mut().enumerate() {
        let (d_o, o) = (&d_o[i * stride..][..width], &o[i * stride..][..width]);
        *delta = sum_products::<E, FMA, 2>([d_o, o]);
    }
}
