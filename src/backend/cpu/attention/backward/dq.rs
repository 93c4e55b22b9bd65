//! dQ of the queries that share a key/value head, summed over blocks of keys, transposed:
//!
//! ```text
//!   dQᵀ += Kᵀ·dSᵀ
//! ```
//!
//! so that dSᵀ becomes panels of B, whole cache lines of it, where dS as A would be cut into narrow strips; Kᵀ, which is A, is packed once
//! for a block of keys. Several tasks may each have such a sum, of their blocks of keys; they are added in order at the end.

use super::super::super::isa::per_isa;
use super::super::super::math::CpuFloat;
use super::super::super::matmul::kernel::Kernel;
use super::super::super::pool::Disjoint;
use super::super::super::scratch::grain;
use super::super::{KEYS, Shape};
use super::queries::QUERIES;
use std::ops::Range;

// A block of keys begins where a block of queries does: each query of a block that sees any of these keys sees the first.
const _: () = assert!(KEYS.is_multiple_of(QUERIES));

/// Where a sum lies: [blocks][head_dim][`QUERIES`] floats, blocks of queries of all heads of the group, then [blocks] words: whether
/// there is anything yet.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    shape: Shape,
    kernel: &'static Kernel,
}

impl Layout {
    pub(super) fn new(shape: Shape, kernel: &'static Kernel) -> Self {
        Layout { shape, kernel }
    }

    fn blocks_of_head(&self) -> usize {
        self.shape.queries.div_ceil(QUERIES)
    }

    /// Blocks of queries of all heads of the group.
    pub(super) fn blocks(&self) -> usize {
        self.shape.group * self.blocks_of_head()
    }

    /// The block of the group's head g whose first query is i0.
    pub(super) fn block(&self, g: usize, i0: usize) -> usize {
        g * self.blocks_of_head() + i0 / QUERIES
    }

    /// Of a block.
    fn floats(&self) -> usize {
        self.shape.head_dim * QUERIES
    }

    /// Where the words begin.
    fn flags(&self) -> usize {
        grain(self.blocks() * self.floats())
    }

    pub(super) fn words(&self) -> usize {
        self.flags() + grain(self.blocks())
    }

    pub(super) fn carve<'a>(&self, words: &'a mut [u32]) -> Sum<'a> {
        let (floats, begun) = words.split_at_mut(self.flags());
        Sum { floats: bytemuck::cast_slice_mut(floats), begun: &mut begun[..self.blocks()] }
    }

    /// Words of Kᵀ of a block of keys, as A.
    pub(super) fn k_words(&self) -> usize {
        self.shape.head_dim.next_multiple_of(self.kernel.mr)
            * self.kernel.column_words(self.kernel.words(KEYS))
    }

    /// Words of dSᵀ of a block of keys and one of queries, as B.
    pub(super) fn ds_words(&self) -> usize {
        QUERIES * self.kernel.words(KEYS)
    }

    /// Adds what `keys` keys give to `queries` queries, the first of which is `ahead` keys behind the first key: packed Kᵀ and dSᵀ. Keys
    /// after a panel's last query give it nothing.
    pub(super) fn add(
        &self, sum: &mut Sum<'_>, block: usize, (keys, queries): (usize, usize), (k, ds): (&[u32], &[u32]),
        ahead: usize,
    ) {
        let (kernel, head_dim, words) = (self.kernel, self.shape.head_dim, self.kernel.words(keys));
        let begun = std::mem::replace(&mut sum.begun[block], 1) != 0;
        let out = &mut sum.floats[block * self.floats()..][..self.floats()];
        for (i, panel) in (0..queries).step_by(kernel.nr).zip(ds.chunks_exact(kernel.nr * words)) {
            let seen = kernel.words(keys.min(ahead + queries.min(i + kernel.nr)));
            for c in (0..head_dim).step_by(kernel.mr) {
                let strip = kernel.strip_of_columns(k, c, words);
                let (rows, tile) = (kernel.mr.min(head_dim - c), &mut out[c * QUERIES + i..]);
                kernel.tile(rows, seen, strip, panel, tile, QUERIES, begun);
            }
        }
    }
}

/// dQᵀ of a group's queries; a block that has not begun has anything in it.
pub(super) struct Sum<'a> {
    floats: &'a mut [f32],
    begun: &'a mut [u32],
}

impl Sum<'_> {
    pub(super) fn clear(&mut self) {
        self.begun.fill(0);
    }

    /// To ask for, before it is added to.
    pub(super) fn block(&self, layout: &Layout, block: usize) -> &[f32] {
        &self.floats[block * layout.floats()..][..layout.floats()]
    }
}

per_isa! {
    /// dq = scale·Σ sums for some blocks of queries of a unit, (row, key/value head). `sums` are the words of all sums, one after the other.
    pub(super) fn write[E: CpuFloat](
        layout: Layout, out: &Disjoint<'_, E>, sums: &[u32], unit: (usize, usize), blocks: Range<usize>,
    ) => write_body;
}

#[inline(always)]
fn write_body<E: CpuFloat, const FMA: bool>(
    layout: Layout, out: &Disjoint<'_, E>, sums: &[u32], unit: (usize, usize), blocks: Range<usize>,
) {
    let (s, (row, kv)) = (&layout.shape, unit);
    let (floats, flags) = (layout.floats(), layout.flags());
    for block in blocks {
        let (head, i0) =
            (kv * s.group + block / layout.blocks_of_head(), block % layout.blocks_of_head() * QUERIES);
        let begun = sums.chunks_exact(layout.words()).filter(|sum| sum[flags + block] != 0);
        let parts = begun.map(|sum| -> &[f32] { bytemuck::cast_slice(&sum[block * floats..][..floats]) });
        for c in (0..s.head_dim).step_by(16) {
            let columns = 16.min(s.head_dim - c);
            for i in (0..QUERIES.min(s.queries - i0)).step_by(16) {
                let mut square = [[0f32; 16]; 16];
                for part in parts.clone() {
                    for (to, from) in square.iter_mut().zip(part[c * QUERIES..].chunks(QUERIES)).take(columns)
                    {
                        for (x, y) in to.iter_mut().zip(&from[i..i + 16]) {
                            *x += y;
                        }
                    }
                }
                let mut turned = [0u32; 256];
                layout.kernel.transpose16(bytemuck::cast_slice(&square), 64, &mut turned, 16);
                for (n, line) in turned.chunks_exact(16).take(s.queries - i0 - i).enumerate() {
                    // SAFETY: these columns of a query of a head are written by one task, once.
                    let out = unsafe { out.range(s.query_at(row, head, i0 + i + n) + c, columns) };
                    for (out, x) in out.iter_mut().zip(line) {
                        *out = E::narrow(f32::from_bits(*x) * s.scale);
                    }
                }
            }
        }
    }
}
