//! How a product is cut into slabs and tasks, and what memory that takes.

use super::super::math::CpuFloat;
use super::super::scratch::grain;
use super::kernel::{Pace, Stays};
use super::pack::{Packer, row_words};
use super::{Operand, Size};

/// Words along k up to which it is not cut, and that are multiplied at once when it is.
const KC: Depth = Depth { whole: 1024, part: 768 };
/// The same where panels of B stay in L2 and A is packed too: so short that panels of up to 960 columns fit in one slab, for A is packed
/// anew for each.
const KC_BOTH_PACKED: Depth = Depth { whole: 300, part: 272 };
/// Bytes of a slab's packed operands, and of its sums while k is in parts: a few of them fit into a shared L3 cache.
const SLAB_BYTES: usize = 4 << 20;
/// Bytes of A that stay in L2 while panels of B pass, and bytes of B that stay there while strips of A pass.
const STRIPS_BYTES: usize = 320 << 10;
const PANELS_BYTES: usize = 1 << 20;
/// ns that a task is worth.
const TASK_NS: f64 = 12_000.0;

/// How k is cut.
struct Depth {
    whole: usize,
    part: usize,
}

impl Depth {
    /// Words of a part of `all`, in parts of about even size and a multiple of `unit`.
    fn words(&self, all: usize, unit: usize) -> usize {
        if all <= self.whole { all } else { all.div_ceil(all.div_ceil(self.part)).next_multiple_of(unit) }
    }
}

/// The cut of one product. It depends on the shape and the number of threads; how k is cut depends on the shape alone.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cpu) struct Plan {
    pub(super) size: Size,
    pub(super) packs_a: bool,
    /// Elements along k at a time, and how often.
    pub(super) kc: usize,
    pub(super) k_blocks: usize,
    /// Rows and columns of C in a slab, whole strips and panels.
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Strips and panels of a task.
    pub(super) strips: usize,
    pub(super) panels: usize,
    words: usize,
    vector_ns: f64,
}

impl Plan {
    pub(in crate::backend::cpu) fn new<E: CpuFloat>(
        packer: Packer, threads: usize, size: Size, a: &Operand<'_, E>,
    ) -> Self {
        let kernel = packer.kernel;
        let (mr, nr, per_word) = (kernel.mr, kernel.nr, if kernel.paired { 2 } else { 1 });
        let all_words = kernel.words(size.k).max(1);
        let Pace { vector_ns, stays, tasks } = kernel.pace;
        let depth = if stays == Stays::Panels && !a.along_k { KC_BOTH_PACKED } else { KC };
        let words = depth.words(all_words, if kernel.a_in_rows { 16 } else { 1 });
        let k_blocks = all_words.div_ceil(words);
        let packs_a = !reads_in_place(packer, size, a);
        let fit = SLAB_BYTES / 4 / words;
        // While k is in parts, the slab's sums must fit as well.
        let square = if k_blocks > 1 { SLAB_BYTES / 4 / 1024 } else { usize::MAX };
        let near = if stays == Stays::Panels { PANELS_BYTES / 4 / words } else { usize::MAX };
        let cols = even(size.n, fit.min(square).min(near), nr);
        let rows = if packs_a { fit } else { usize::MAX };
        let rows = even(size.m, if k_blocks > 1 { rows.min(SLAB_BYTES / 4 / cols) } else { rows }, mr);
        let (strips, panels) = (rows / mr, cols / nr);
        let tile_ns = (words * mr * nr) as f64 / 16.0 * vector_ns;
        let share = (strips * panels) as f64 / (tasks * threads) as f64;
        let tiles = share.max(TASK_NS / tile_ns).ceil().max(1.0) as usize;
        let (task_strips, task_panels) = match stays {
            Stays::Strips => {
                let strips = (STRIPS_BYTES / 4 / (mr * words)).clamp(1, strips).min(tiles);
                (strips, (tiles / strips).clamp(1, panels))
            }
            Stays::Panels => ((tiles / panels).clamp(1, strips), panels),
        };
        Plan {
            size,
            packs_a,
            kc: words * per_word,
            k_blocks,
            rows,
            cols,
            strips: task_strips,
            panels: task_panels,
            words,
            vector_ns,
        }
    }

    /// About how long one thread takes to multiply `rows` x `cols` for one part of k, in ns.
    pub(super) fn multiply_ns(&self, rows: usize, cols: usize) -> f64 {
        (rows * cols * self.words) as f64 / 16.0 * self.vector_ns
    }

    /// Words of the slab's packed B, packed A and sums.
    pub(super) fn pieces(&self) -> [usize; 3] {
        let a = if self.packs_a { self.rows * row_words(self.words) } else { 0 };
        let sums = if self.k_blocks > 1 { self.rows * self.cols } else { 0 };
        [self.cols * self.words, a, sums]
    }

    /// Words of scratch memory for the product.
    pub(in crate::backend::cpu) fn scratch_words(&self) -> usize {
        self.pieces().into_iter().map(grain).sum()
    }
}

/// `whole` in as few parts as keep each within `most`, of even size: that size, a multiple of `unit`.
fn even(whole: usize, most: usize, unit: usize) -> usize {
    let whole = whole.max(1);
    let parts = whole.div_ceil((most / unit * unit).max(unit));
    whole.div_ceil(parts).next_multiple_of(unit)
}

/// Whether the micro-kernel can read A where it lies: rows along k, whole words, and, unless a whole line is read at once, no more of a
/// strip's rows in the same set of a cache than it has ways (rows a power of two apart all meet in one set).
fn reads_in_place<E: CpuFloat>(packer: Packer, size: Size, a: &Operand<'_, E>) -> bool {
    const SETS: usize = 64;
    const LINE: usize = 64;
    const WAYS: usize = 4;
    let (kernel, bytes) = (packer.kernel, std::mem::size_of::<E>());
    let exact = bytes == if kernel.paired { 2 } else { 4 };
    let whole = !kernel.paired || size.k.is_multiple_of(2);
    let mut taken = [0usize; SETS];
    (0..kernel.mr.min(size.m)).for_each(|i| taken[i * a.stride * bytes / LINE % SETS] += 1);
    let apart = kernel.a_in_rows || taken.iter().all(|n| *n <= WAYS);
    a.along_k && exact && whole && apart
}
