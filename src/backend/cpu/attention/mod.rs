//! Attention in blocks, forward and backward, over the micro-kernels of the products: nothing of size T x T exists.

pub(super) mod backward;
pub(super) mod decode;
pub(super) mod forward;
mod mask;
mod softmax;
pub(super) mod source;

use super::math::CpuFloat;
use super::matmul::kernel::Kernel;
use super::matmul::pack::Packer;
use super::pool::Workers;
use crate::backend::AttentionShape;
use crate::index::DocumentId;
pub(super) use forward::Forward;
use mask::Mask;

/// How a forward pass goes: one query a row straight from the cache, more of them in packed blocks.
pub(super) enum ForwardPlan {
    Decode(decode::Plan),
    Blocks(forward::Plan),
}

impl ForwardPlan {
    pub(super) fn new<E: CpuFloat>(packer: Packer, threads: usize, s: AttentionShape) -> Self {
        decode::Plan::new(Packer::for_reading::<E>(packer.simd), threads, s)
            .map_or_else(|| ForwardPlan::Blocks(forward::Plan::new(packer, threads, s)), ForwardPlan::Decode)
    }

    /// With the room that a [`Source::Int8`](source::Source) takes.
    pub(super) fn with_room<E>(self) -> Self {
        match self {
            ForwardPlan::Decode(plan) => ForwardPlan::Decode(plan.with_room::<E>()),
            ForwardPlan::Blocks(plan) => ForwardPlan::Blocks(plan.with_room::<E>()),
        }
    }

    pub(super) fn scratch_words(&self) -> usize {
        match self {
            ForwardPlan::Decode(plan) => plan.scratch_words(),
            ForwardPlan::Blocks(plan) => plan.scratch_words(),
        }
    }

    pub(super) fn run<E: CpuFloat>(&self, workers: &Workers, scratch: &mut [u32], x: Forward<'_, E>) {
        match self {
            ForwardPlan::Decode(plan) => decode::forward(plan, workers, scratch, x),
            ForwardPlan::Blocks(plan) => forward::forward(plan, workers, scratch, x),
        }
    }
}

/// Keys that are packed at once. Fixed: the online softmax takes its steps at multiples of it.
const KEYS: usize = 256;

/// An [`AttentionShape`] as the blocks see it.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    kv_heads: usize,
    /// Query heads that share a key/value head.
    group: usize,
    head_dim: usize,
    /// Words of a head along k, and its columns in whole panels.
    words: usize,
    columns: usize,
    scale: f32,
    window: usize,
}

impl Shape {
    fn new(s: AttentionShape, kernel: &Kernel) -> Self {
        Shape {
            rows: s.rows,
            queries: s.queries,
            keys: s.keys,
            heads: s.heads,
            kv_heads: s.kv_heads,
            group: s.heads / s.kv_heads,
            head_dim: s.head_dim,
            words: kernel.words(s.head_dim),
            columns: s.head_dim.next_multiple_of(kernel.nr),
            scale: s.scale as f32,
            window: s.window.unwrap_or(usize::MAX),
        }
    }

    /// Sequence index of query 0.
    fn past(&self) -> usize {
        self.keys - self.queries
    }

    /// Elements from one key (or value) to the next.
    fn kv_stride(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Where key j of a head begins in k and v.
    fn key_at(&self, row: usize, kv: usize, j: usize) -> usize {
        ((row * self.keys + j) * self.kv_heads + kv) * self.head_dim
    }

    /// Where query i of a head begins in q and o.
    fn query_at(&self, row: usize, head: usize, i: usize) -> usize {
        ((row * self.queries + i) * self.heads + head) * self.head_dim
    }

    fn row_head(&self, row: usize, head: usize) -> usize {
        row * self.heads + head
    }

    fn mask<'a>(&self, documents: Option<&'a [DocumentId]>, row: usize) -> Mask<'a> {
        let documents = documents.map(|ids| &ids[row * self.keys..][..self.keys]);
        Mask { window: self.window, documents }
    }

    /// About how long one thread takes for `pairs` visible pairs of a query and a key, in ns.
    fn ns(&self, pairs: f64, products: f64) -> f64 {
        pairs * (products * self.head_dim as f64 * 0.01 + 0.5)
    }

    fn pairs(&self) -> f64 {
        let seen = self.keys.min(self.window) as f64;
        self.rows as f64 * self.heads as f64 * self.queries as f64 * seen
    }
}

/// Words of `n` rows of a head, packed as panels (whichever way).
fn panel_words(packer: Packer, rows: usize, columns: usize) -> usize {
    packer.kernel.words(rows) * columns
}
