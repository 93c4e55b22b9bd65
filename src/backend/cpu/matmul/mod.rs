//! Products of matrices: C[m,n] = A[m,k]·B[k,n], after BLIS.
//!
//! The output is cut into blocks of `mc` rows x `nc` columns, the tasks. A task packs its part of B into panels (and of A,
//! where A cannot be read in place), `kc` words of k at a time, and runs the micro-kernel over strips of rows within each
//! panel: the panel stays in the L1 cache, the strips stream from L2. Nothing is shared between tasks, so they need no
//! barrier; that B is packed by several tasks costs about 1/mc of the arithmetic.
//!
//! k is cut the same way whatever the blocks are, and each sum runs along k in order: the result has the same bits for
//! any number of threads.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod kernel;
pub(super) mod pack;
pub(super) mod portable;
pub(super) mod skinny;

use super::math::CpuFloat;
use super::pool::Workers;
use super::scratch::{Carver, grain};
use kernel::{MAX_MR, MAX_NR, Rows};
use pack::Packer;

/// One operand, seen as n (or m) lines of k elements.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a, E> {
    pub data: &'a [E],
    pub stride: usize,
    /// Element (line, k) is data[line·stride + k]; otherwise data[k·stride + line].
    pub along_k: bool,
}

/// C[m,n] = A[m,k]·B[k,n].
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// A finished tile of C: `rows` x `cols` from (row, col), in `data` with `ld` floats from row to row.
pub(super) struct Tile<'a> {
    pub row: usize,
    pub col: usize,
    pub rows: usize,
    pub cols: usize,
    pub data: &'a [f32],
    pub ld: usize,
}

/// Words along k that are packed at once when k is cut.
const KC: usize = 512;
/// Words along k up to which k is not cut.
const KC_WHOLE: usize = 800;
/// Largest block of C that a task computes.
const MC_MAX: usize = 560;
const NC_MAX: usize = 256;

/// How one product is cut into tasks, and what memory a task needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    size: Size,
    packs_a: bool,
    /// Elements along k at a time, and how often.
    kc: usize,
    k_blocks: usize,
    mc: usize,
    nc: usize,
    threads: usize,
    /// About how long one thread takes for the product.
    ns: f64,
}

impl Plan {
    /// `a_along_k`: whether A's rows are contiguous.
    pub(super) fn new<E: CpuFloat>(packer: Packer, threads: usize, size: Size, a_along_k: bool) -> Self {
        let kernel = packer.kernel;
        let exact = std::mem::size_of::<E>() == if kernel.paired { 2 } else { 4 };
        let packs_a = !(a_along_k && exact && (!kernel.paired || size.k.is_multiple_of(2)));
        let words = kernel.words(size.k).max(1);
        let k_blocks = if words <= KC_WHOLE { 1 } else { words.div_ceil(KC) };
        let words_at_once = words.div_ceil(k_blocks);
        let kc = words_at_once * if kernel.paired { 2 } else { 1 };
        let mut best = Plan { size, packs_a, kc, k_blocks, mc: 0, nc: 0, threads, ns: f64::INFINITY };
        for mc in (1..=MC_MAX / kernel.mr).map(|strips| strips * kernel.mr) {
            for nc in (1..=NC_MAX / kernel.nr).map(|panels| panels * kernel.nr) {
                let ns = best.estimate(mc, nc, words as f64, (kernel.mr * kernel.nr) as f64);
                if ns < best.ns {
                    best = Plan { mc, nc, ns, ..best };
                }
                if nc >= size.n {
                    break;
                }
            }
            if mc >= size.m {
                break;
            }
        }
        best.ns *= threads as f64;
        best
    }

    /// About how long the product takes on all threads, in ns: its arithmetic and packing, shared, and half a task of
    /// waiting for the last one.
    fn estimate(&self, mc: usize, nc: usize, words: f64, tile: f64) -> f64 {
        let Size { m, n, .. } = self.size;
        let (rows, cols) = (m.min(mc) as f64, n.next_multiple_of(MAX_NR).min(nc) as f64);
        let packing = cols * words * 0.2 + if self.packs_a { rows * words * 0.15 } else { 0.0 };
        let task = rows * cols * words * (8.0 / tile.max(64.0)).max(0.018) + packing + 200.0;
        let tasks = (m.div_ceil(mc) * n.div_ceil(nc)) as f64;
        let shared = tasks / self.threads as f64;
        task * (shared.max(1.0) + if shared > 1.0 { 0.5 } else { 0.0 })
    }

    fn words_at_once(&self, packer: Packer) -> usize {
        packer.kernel.words(self.kc)
    }

    /// Words that one worker's pieces take: B's panels, A's, and C while k is in parts.
    fn worker_words(&self, packer: Packer) -> usize {
        let words = self.words_at_once(packer);
        let a = if self.packs_a { self.mc * words } else { 0 };
        let c = if self.k_blocks > 1 { self.c_floats(packer) } else { 0 };
        grain(self.nc * words) + grain(a) + grain(c)
    }

    fn c_floats(&self, packer: Packer) -> usize {
        self.mc.div_ceil(packer.kernel.mr) * self.nc.div_ceil(packer.kernel.nr) * MAX_MR * MAX_NR
    }

    /// Words of scratch memory for the product.
    pub(super) fn scratch_words(&self, packer: Packer) -> usize {
        self.threads * self.worker_words(packer)
    }
}

/// Computes A·B and hands every finished tile of it to `epilogue`, each element exactly once.
pub(super) fn product<E: CpuFloat>(
    (packer, workers): (Packer, &Workers), scratch: &mut [u32], a: Operand<'_, E>, b: Operand<'_, E>,
    size: Size, epilogue: &(dyn Fn(Tile<'_>) + Sync),
) {
    if size.m == 0 || size.n == 0 {
        return;
    }
    if size.k == 0 {
        return (0..size.m).for_each(|row| empty_row(row, size.n, epilogue));
    }
    let plan = Plan::new::<E>(packer, workers.threads(), size, a.along_k);
    let per_worker = plan.worker_words(packer);
    let states = scratch[..plan.threads * per_worker].chunks_exact_mut(per_worker);
    let columns = size.n.div_ceil(plan.nc);
    let tasks = 0..size.m.div_ceil(plan.mc) * columns;
    let job = Job { packer, plan, a, b, epilogue };
    workers.each_with(plan.ns, states, tasks, |scratch, task| {
        let (i0, j0) = (task / columns * plan.mc, task % columns * plan.nc);
        let block = Block { i0, j0, rows: (size.m - i0).min(plan.mc), cols: (size.n - j0).min(plan.nc) };
        job.compute(&block, scratch);
    });
}

/// A row of C when k is 0: sums of nothing.
fn empty_row(row: usize, n: usize, epilogue: &(dyn Fn(Tile<'_>) + Sync)) {
    for col in (0..n).step_by(MAX_NR) {
        let cols = (n - col).min(MAX_NR);
        epilogue(Tile { row, col, rows: 1, cols, data: &[0.0; MAX_NR], ld: MAX_NR });
    }
}

/// The part of C that one task computes.
struct Block {
    i0: usize,
    j0: usize,
    rows: usize,
    cols: usize,
}

/// What is the same for all tasks of a product.
struct Job<'a, E> {
    packer: Packer,
    plan: Plan,
    a: Operand<'a, E>,
    b: Operand<'a, E>,
    epilogue: &'a (dyn Fn(Tile<'_>) + Sync),
}

const TILE: usize = MAX_MR * MAX_NR;

impl<E: CpuFloat> Job<'_, E> {
    fn compute(&self, block: &Block, scratch: &mut [u32]) {
        let (plan, packer) = (&self.plan, self.packer);
        let mut carver = Carver(scratch);
        let panels = carver.words(plan.nc * plan.words_at_once(packer));
        let packed = carver.words(if plan.packs_a { plan.mc * plan.words_at_once(packer) } else { 0 });
        let mut one_tile = [0f32; TILE];
        let tiles = if plan.k_blocks > 1 { carver.floats(plan.c_floats(packer)) } else { &mut one_tile[..] };
        for part in 0..plan.k_blocks {
            let k0 = part * plan.kc;
            let k = plan.kc.min(plan.size.k - k0);
            self.pack_b(block, k0, k, panels);
            let rows = self.rows_of_a(block, k0, k, packed);
            self.multiply(block, part, packer.kernel.words(k), &rows, panels, tiles);
        }
    }

    /// Every strip of the block against every panel, for one part of k.
    fn multiply(
        &self, block: &Block, part: usize, words: usize, a: &BlockRows<'_>, panels: &[u32], tiles: &mut [f32],
    ) {
        let kernel = self.packer.kernel;
        let strips = block.rows.div_ceil(kernel.mr);
        for (p, panel) in
            panels.chunks_exact(kernel.nr * words).take(block.cols.div_ceil(kernel.nr)).enumerate()
        {
            for s in 0..strips {
                let at = if self.plan.k_blocks > 1 { p * strips + s } else { 0 };
                let tile = &mut tiles[at * TILE..][..TILE];
                let (row, rows, lines) = a.strip(s, strips, block.rows, kernel.mr, words);
                kernel.tile(rows, words, lines, panel, tile, kernel.nr, part > 0);
                if part + 1 == self.plan.k_blocks {
                    let col = p * kernel.nr;
                    let cols = (block.cols - col).min(kernel.nr);
                    let (row, col) = (block.i0 + row, block.j0 + col);
                    (self.epilogue)(Tile { row, col, rows, cols, data: tile, ld: kernel.nr });
                }
            }
        }
    }

    fn pack_b(&self, block: &Block, k0: usize, k: usize, panels: &mut [u32]) {
        let Operand { data, stride, along_k } = self.b;
        if along_k {
            self.packer.panels_of_rows(&data[block.j0 * stride + k0..], stride, block.cols, k, panels);
        } else {
            let data = &data[k0 * stride + block.j0..];
            self.packer.panels_of_columns(data, stride, k, block.cols, self.packer.kernel.nr, panels);
        }
    }

    /// The block's rows of A: in place where they can be read so, packed otherwise.
    fn rows_of_a<'p>(&'p self, block: &Block, k0: usize, k: usize, packed: &'p mut [u32]) -> BlockRows<'p> {
        let Operand { data, stride, along_k } = self.a;
        let kernel = self.packer.kernel;
        if !along_k {
            let data = &data[k0 * stride + block.i0..];
            self.packer.panels_of_columns(data, stride, k, block.rows, kernel.mr, packed);
            return BlockRows::Panels(packed);
        }
        let data = &data[block.i0 * stride + k0..];
        if self.plan.packs_a {
            self.packer.rows(data, stride, block.rows, k, packed);
            return BlockRows::Rows(Rows::of_words(packed, kernel.words(k)));
        }
        let bytes = std::mem::size_of::<E>();
        let step = if kernel.paired { 2 * bytes } else { bytes };
        BlockRows::Rows(Rows { bytes: bytemuck::cast_slice(data), row: stride * bytes, step })
    }
}

/// The rows of A that a block needs.
enum BlockRows<'a> {
    /// Row-major.
    Rows(Rows<'a>),
    /// Panels of mr rows, [words][mr].
    Panels(&'a [u32]),
}

impl BlockRows<'_> {
    /// Strip `s` of `strips`: its first row, how many, and where they are. Rows are shared out evenly, panels are as packed.
    fn strip(
        &self, s: usize, strips: usize, rows: usize, mr: usize, words: usize,
    ) -> (usize, usize, Rows<'_>) {
        match self {
            BlockRows::Rows(all) => {
                let first = s * rows / strips;
                (first, (s + 1) * rows / strips - first, all.from(first, 0))
            }
            BlockRows::Panels(panels) => {
                let panel = &panels[s * mr * words..][..mr * words];
                let lines = Rows { bytes: bytemuck::cast_slice(panel), row: 4, step: 4 * mr };
                (s * mr, mr.min(rows - s * mr), lines)
            }
        }
    }
}
