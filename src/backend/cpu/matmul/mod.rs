//! Products of matrices: C[m,n] = A[m,k]·B[k,n], after BLIS.
//!
//! The output is cut into *slabs*. All threads pack a slab's part of B into panels (and of A, where A cannot be read in
//! place), then all of them draw tasks of it: some *strips* of rows of A against some panels of B, tile by tile. A task's
//! strips stay in the L2 cache while the panels pass, or the slab's panels while the strips pass ([`kernel::Stays`]), so each operand is packed
//! once and read from far away once.
//!
//! k is cut the same way whatever the slabs and tasks are, and each sum runs along k in an order that the micro-kernel alone decides: the
//! result has the same bits for any number of threads.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod kernel;
pub(super) mod pack;
mod plan;
pub(super) mod portable;
pub(super) mod skinny;

use super::math::CpuFloat;
use super::pool::{Disjoint, Workers};
use super::prefetch::prefetch_piece;
use super::scratch::Carver;
use kernel::{MAX_MR, MAX_NR, Rows, Stays};
use pack::{Packer, row_words};
pub(super) use plan::Plan;

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

/// What becomes of the finished tiles of C.
pub(super) trait Sink: Sync {
    /// Asks for the memory that `store` will read and write for such a tile.
    fn prefetch(&self, _row: usize, _col: usize, _rows: usize, _cols: usize) {}
    fn store(&self, tile: Tile<'_>);
}

/// What is done of a product: all of it; or, for a benchmark that asks what the most is that a product can reach, one part alone, of
/// which no result is any good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    #[default]
    Whole,
    /// Operands become panels.
    Packing,
    /// As many tiles as the product has, of a task's strips and one panel, which stay in the caches next to the core: what the last product
    /// left in the scratch memory.
    Tiles,
    /// Finished tiles go where they go, one and the same for all.
    Stores,
    /// What an operation does beside its products.
    Nothing,
}

/// What a product is computed with.
pub(super) struct Means<'a> {
    pub packer: Packer,
    pub workers: &'a Workers,
    pub part: Part,
}

/// Computes A·B and hands every finished tile of it to `sink`, each element exactly once.
pub(super) fn product<E: CpuFloat>(
    Means { packer, workers, part: only }: Means<'_>, scratch: &mut [u32], a: Operand<'_, E>,
    b: Operand<'_, E>, size: Size, sink: &dyn Sink,
) {
    if size.m == 0 || size.n == 0 {
        return;
    }
    if size.k == 0 {
        return (0..size.m).for_each(|row| empty_row(row, size.n, sink));
    }
    let plan = Plan::new(packer, workers.threads(), size, &a);
    let mut carver = Carver(scratch);
    let [panels, packed, sums] = plan.pieces().map(|words| carver.words(words));
    let job = Job { packer, workers, plan, a, b, sink, only };
    for j0 in (0..size.n).step_by(plan.cols) {
        for i0 in (0..size.m).step_by(plan.rows) {
            let (rows, cols) = ((size.m - i0).min(plan.rows), (size.n - j0).min(plan.cols));
            let slab = Slab { i0, j0, rows, cols };
            for part in 0..plan.k_blocks {
                if job.does(Part::Packing) && (i0 == 0 || plan.k_blocks > 1) {
                    job.pack_b(&slab, part, panels);
                }
                if job.does(Part::Packing) {
                    job.pack_a(&slab, part, packed);
                }
                if job.does(Part::Tiles) || job.does(Part::Stores) {
                    job.multiply(&slab, part, panels, packed, bytemuck::cast_slice_mut(sums));
                }
            }
        }
    }
}

/// A row of C when k is 0: sums of nothing.
fn empty_row(row: usize, n: usize, sink: &dyn Sink) {
    for col in (0..n).step_by(MAX_NR) {
        let cols = (n - col).min(MAX_NR);
        sink.store(Tile { row, col, rows: 1, cols, data: &[0.0; MAX_NR], ld: MAX_NR });
    }
}

/// A part of C, and with it of A and B, that is packed and multiplied at once.
struct Slab {
    i0: usize,
    j0: usize,
    rows: usize,
    cols: usize,
}

/// What is the same for all slabs of a product.
struct Job<'a, E> {
    packer: Packer,
    workers: &'a Workers,
    plan: Plan,
    a: Operand<'a, E>,
    b: Operand<'a, E>,
    sink: &'a dyn Sink,
    only: Part,
}

const TILE: usize = MAX_MR * MAX_NR;
/// About how long packing takes, in ns a word, and tasks of it for each thread: few, so that of a row that is far from the next one
/// each reads a long piece.
const PACK_NS: f64 = 0.2;
const PACK_TASKS: usize = 4;

impl<E: CpuFloat> Job<'_, E> {
    fn does(&self, part: Part) -> bool {
        self.only == Part::Whole || self.only == part
    }

    /// Where the part of k begins, and how many elements it has.
    fn part(&self, part: usize) -> (usize, usize) {
        let k0 = part * self.plan.kc;
        (k0, self.plan.kc.min(self.plan.size.k - k0))
    }

    /// B's panels of the slab, [panel][words][nr].
    fn pack_b(&self, slab: &Slab, part: usize, panels: &mut [u32]) {
        let (kernel, (k0, k)) = (self.packer.kernel, self.part(part));
        let Operand { data, stride, along_k } = self.b;
        self.pack(slab.cols, kernel.nr, kernel.nr * kernel.words(k), panels, |first, cols, out| {
            let j0 = slab.j0 + first;
            if along_k {
                self.packer.panels_of_rows(&data[j0 * stride + k0..], stride, cols, k, out);
            } else {
                let data = &data[k0 * stride + j0..];
                self.packer.panels_of_columns(data, stride, k, cols, kernel.nr, out);
            }
        });
    }

    /// The slab's rows of A, where they are not read in place: rows that run along k stay rows, others become panels
    /// [strip][words][mr].
    fn pack_a(&self, slab: &Slab, part: usize, packed: &mut [u32]) {
        if !self.plan.packs_a {
            return;
        }
        let (kernel, (k0, k)) = (self.packer.kernel, self.part(part));
        let Operand { data, stride, along_k } = self.a;
        let words = kernel.words(k);
        let line = if along_k { row_words(words) } else { kernel.column_words(words) };
        self.pack(slab.rows, kernel.mr, kernel.mr * line, packed, |first, rows, out| {
            let i0 = slab.i0 + first;
            if along_k {
                self.packer.rows(&data[i0 * stride + k0..], stride, rows, k, line, out);
            } else {
                let data = &data[k0 * stride + i0..];
                self.packer.a_of_columns(data, stride, k, rows, out);
            }
        });
    }

    /// Shares out `lines`, in units that take `unit_words` each, among the threads: `pack(first line, lines, memory)`.
    fn pack(
        &self, lines: usize, unit: usize, unit_words: usize, out: &mut [u32],
        pack: impl Fn(usize, usize, &mut [u32]) + Sync,
    ) {
        let units = lines.div_ceil(unit);
        let run = units.div_ceil(PACK_TASKS * self.workers.threads());
        let pieces = out[..units * unit_words].chunks_mut(run * unit_words).enumerate();
        self.workers.each(PACK_NS * (units * unit_words) as f64, pieces, |(i, out)| {
            let first = i * run * unit;
            pack(first, (lines - first).min(run * unit), out);
        });
    }

    /// All strips of the slab against all its panels, for one part of k.
    fn multiply(&self, slab: &Slab, part: usize, panels: &[u32], packed: &[u32], sums: &mut [f32]) {
        let (plan, kernel) = (&self.plan, self.packer.kernel);
        let (strips, columns) = (slab.rows.div_ceil(kernel.mr), slab.cols.div_ceil(kernel.nr));
        let (across, down) = (columns.div_ceil(plan.panels), strips.div_ceil(plan.strips));
        let sums = Disjoint::new(sums);
        self.workers.each(plan.multiply_ns(slab.rows, slab.cols), 0..down * across, |task| {
            let mut tile = [0f32; TILE];
            let (s0, p0) = (task / across * plan.strips, task % across * plan.panels);
            let (of_a, of_b) = (s0..strips.min(s0 + plan.strips), p0..columns.min(p0 + plan.panels));
            match kernel.pace.stays {
                Stays::Strips => of_b.for_each(|p| {
                    for s in of_a.clone() {
                        self.tile(slab, part, (s, p), panels, packed, (&mut tile, &sums));
                    }
                }),
                Stays::Panels => of_a.clone().for_each(|s| {
                    for p in of_b.clone() {
                        if s + 1 < of_a.end {
                            self.ask_for_strip(slab, part, s + 1, (p - p0, of_b.len()), packed);
                        }
                        self.tile(slab, part, (s, p), panels, packed, (&mut tile, &sums));
                    }
                }),
            }
        });
    }

    /// Asks for one of several shares of strip s, by which all of it is near when its turn comes.
    fn ask_for_strip(
        &self, slab: &Slab, part: usize, s: usize, (share, shares): (usize, usize), packed: &[u32],
    ) {
        let kernel = self.packer.kernel;
        let (row, words) = (s * kernel.mr, kernel.words(self.part(part).1));
        let lines = self.strip(slab, part, row, words, packed);
        let rows = kernel.mr.min(slab.rows - row);
        for i in share * rows / shares..(share + 1) * rows / shares {
            prefetch_piece(&lines.bytes[i * lines.row..][..4 * words], (0, 1));
        }
    }

    /// The tile of strip s and panel p, in `one_tile`, or in `sums` while k is in parts.
    fn tile(
        &self, slab: &Slab, part: usize, (s, p): (usize, usize), panels: &[u32], packed: &[u32],
        (one_tile, sums): (&mut [f32; TILE], &Disjoint<'_, f32>),
    ) {
        let (plan, kernel) = (&self.plan, self.packer.kernel);
        let words = kernel.words(self.part(part).1);
        let (row, col) = (s * kernel.mr, p * kernel.nr);
        let (rows, cols) = ((slab.rows - row).min(kernel.mr), (slab.cols - col).min(kernel.nr));
        let (i, j) = (slab.i0 + row, slab.j0 + col);
        let last = part + 1 == plan.k_blocks && self.does(Part::Stores);
        if last {
            self.sink.prefetch(i, j, rows, cols);
        }
        let data = if plan.k_blocks > 1 {
            let (at, len) = (row * plan.cols + col * kernel.mr, kernel.mr * kernel.nr);
            // SAFETY: strips are mr·cols apart and panels mr·nr within: each tile of the slab has a range of its own, and
            // a task has tiles that no other has.
            unsafe { sums.range(at, len) }
        } else {
            &mut one_tile[..]
        };
        if self.does(Part::Tiles) {
            let near = self.only == Part::Tiles;
            let (p, row) = if near { (0, s % plan.strips * kernel.mr) } else { (p, row) };
            let panel = &panels[p * kernel.nr * words..][..kernel.nr * words];
            let lines = self.strip(slab, part, row, words, packed);
            kernel.tile(rows, words, lines, panel, data, kernel.nr, part > 0);
        }
        if last {
            self.sink.store(Tile { row: i, col: j, rows, cols, data, ld: kernel.nr });
        }
    }

    /// The rows of A of the strip that begins at `row` of the slab.
    fn strip<'p>(
        &'p self, slab: &Slab, part: usize, row: usize, words: usize, packed: &'p [u32],
    ) -> Rows<'p> {
        let kernel = self.packer.kernel;
        let Operand { data, stride, along_k } = self.a;
        if !self.plan.packs_a {
            let (k0, _) = self.part(part);
            let bytes = std::mem::size_of::<E>();
            let step = if kernel.paired { 2 * bytes } else { bytes };
            let data = &data[(slab.i0 + row) * stride + k0..];
            return Rows { bytes: bytemuck::cast_slice(data), row: stride * bytes, step };
        }
        if along_k {
            return Rows::of_words(&packed[row * row_words(words)..], row_words(words));
        }
        kernel.strip_of_columns(packed, row, words)
    }
}
