//! The micro-kernel: a tile of C from rows of A and one packed panel of B, all of it in registers.
//!
//! Operands are counted in *words* of 4 bytes along k: one f32, or two neighbouring bf16 where the ISA multiplies pairs.
//! That makes the loop the same for both: load a vector of B, broadcast a word of A, multiply-add.
//!
//! - A: word (i, k) at byte `i·row + k·step`, any alignment. So a row-major matrix is read where it lies.
//! - B: a panel [words][nr], packed by [`pack`](super::pack).
//! - C: f32, `ldc` floats from row to row, nr columns; written or added to.

use super::super::isa::{Isa, Simd};
#[cfg(target_arch = "x86_64")]
use super::amx::tile_amx;
#[cfg(target_arch = "x86_64")]
use super::avx2::{self, tile_avx2};
#[cfg(target_arch = "x86_64")]
use super::avx512::{self, dots_bf16, tile_bf16, tile_f32};
use super::pack::row_words;
use super::portable::{self, tile_portable};
use crate::backend::Element;
use std::ops::Range;

/// Most rows and columns of any micro-kernel's tile.
pub(in crate::backend::cpu) const MAX_MR: usize = 32;
pub(in crate::backend::cpu) const MAX_NR: usize = 32;

/// The micro-kernel of one ISA and one kind of word.
#[derive(Debug)]
pub struct Kernel {
    /// Rows of a full tile.
    pub mr: usize,
    /// Columns of a tile, 16 or 32.
    pub nr: usize,
    /// Whether a word is two bf16 instead of one f32.
    pub paired: bool,
    /// Whether A must be rows whose words lie side by side; otherwise they may be any distance apart.
    pub a_in_rows: bool,
    pub(super) pace: Pace,
    /// For 1, 2, .. mr rows.
    tiles: &'static [unsafe fn(&Tile)],
    transpose16: unsafe fn(&Turn),
    /// Two rows of bf16 at a time into words, where the ISA has the shuffles for it.
    pair_rows: Option<unsafe fn(&PairRows)>,
    /// Dot products of pairs for 1, 2, 3, 4 rows of x, where the ISA has them.
    dots: Option<[unsafe fn(&Dots); MAX_ROWS]>,
}

/// How fast a micro-kernel is, and so how much it should find in the caches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// ns of a multiply-add of 16 words with 16 words.
    pub vector_ns: f64,
    /// What stays in the second-level cache while the other operand passes.
    pub stays: Stays,
    /// Tasks a thread should find in a slab, so that the last ones end at about the same time.
    pub tasks: usize,
}

/// What a task goes over again and again: a part of L2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stays {
    /// Some strips of A, while the panels of B pass one after the other.
    Strips,
    /// All panels of B, while the strips of A pass: each is read from far away once for a slab.
    Panels,
}

/// 512 bits with 512 bits, once a cycle.
const VECTORS: Pace = Pace { vector_ns: 0.28, stays: Stays::Strips, tasks: 24 };
/// 16 x 16 words with 16 x 16, every 16 cycles: more than the third-level cache feeds, unless each strip meets all panels at once.
#[cfg(target_arch = "x86_64")]
const TILES: Pace = Pace { vector_ns: 0.018, stays: Stays::Panels, tasks: 12 };

/// Most rows of x in [`Kernel::dots`].
pub(in crate::backend::cpu) const MAX_ROWS: usize = 4;

/// What dot products along k are called with; the pointers are good for all rows (see [`Kernel::dots`]).
pub(super) struct Dots {
    pub words: usize,
    /// Bytes from row to row of x and of w.
    pub row: usize,
    pub x: *const f32,
    pub w: *const f32,
    /// Rows of w.
    pub n: usize,
    /// [n][MAX_ROWS].
    pub out: *mut f32,
}

/// What a transpose of 16 rows of 16 words is called with (see [`Kernel::transpose16`]).
pub(super) struct Turn {
    /// `row` bytes from row to row, any alignment.
    pub src: *const u32,
    pub row: usize,
    /// `ld` words from row to row.
    pub dst: *mut u32,
    pub ld: usize,
}

/// What packing rows of bf16 in pairs is called with (see [`Kernel::pair_rows`]).
pub(super) struct PairRows {
    /// Rows, `row` bytes apart, of `columns` (at most 32) bf16.
    pub src: *const u16,
    pub row: usize,
    pub rows: usize,
    pub columns: usize,
    /// [rows/2 rounded up][width]; width is 32, or at most 16.
    pub dst: *mut u32,
    pub width: usize,
}

/// What a micro-kernel is called with. The pointers are good for the whole tile (see [`Kernel::tile`]).
pub(super) struct Tile {
    pub words: usize,
    pub a: *const f32,
    /// Bytes from one row of A to the next.
    pub row: usize,
    /// Bytes from one word of a row to the next.
    pub step: usize,
    pub b: *const f32,
    pub c: *mut f32,
    pub ldc: usize,
    /// Add to C; otherwise C is never read.
    pub add: bool,
}

/// Rows of A: bytes, with the distances from row to row and from word to word.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Rows<'a> {
    pub bytes: &'a [u8],
    pub row: usize,
    pub step: usize,
}

impl<'a> Rows<'a> {
    /// Row-major words, `row` of them from row to row.
    pub fn of_words(words: &'a [u32], row: usize) -> Self {
        Rows { bytes: bytemuck::cast_slice(words), row: 4 * row, step: 4 }
    }

    /// From row i and word k on.
    pub fn from(&self, i: usize, k: usize) -> Self {
        Rows { bytes: &self.bytes[i * self.row + k * self.step..], ..*self }
    }
}

impl Kernel {
    /// dst[k·ld + n] = word k of row n of src, for 16 rows of 16 words, `row` bytes from one row of src to the next.
    #[inline]
    pub(in crate::backend::cpu) fn transpose16(&self, src: &[u8], row: usize, dst: &mut [u32], ld: usize) {
        assert!(15 * row + 64 <= src.len() && 15 * ld + 16 <= dst.len() && ld >= 16);
        // SAFETY: all rows lie inside the slices (asserted); the CPU has the kernel's features, see `tile`.
        unsafe { (self.transpose16)(&Turn { src: src.as_ptr().cast(), row, dst: dst.as_mut_ptr(), ld }) }
    }

    /// dst[w·width + j] = the pair (src[2w·stride + j], src[(2w+1)·stride + j]) for `rows` rows of `columns`, zero beyond
    /// them; where the ISA can. False where it cannot.
    #[inline]
    pub(super) fn pair_rows(
        &self, src: &[u16], stride: usize, (rows, columns): (usize, usize), dst: &mut [u32], width: usize,
    ) -> bool {
        let Some(pair_rows) = self.pair_rows else { return false };
        assert!(rows >= 1 && columns <= width && (width <= 16 || width == 32));
        assert!((rows - 1) * stride + columns <= src.len() && rows.div_ceil(2) * width <= dst.len());
        let (src, dst) = (src.as_ptr(), dst.as_mut_ptr());
        // SAFETY: all rows lie inside the slices (asserted); the CPU has the kernel's features, see `tile`.
        unsafe { pair_rows(&PairRows { src, row: 2 * stride, rows, columns, dst, width }) }
        true
    }

    /// Words from one column to the next of what [`Packer::a_of_columns`](super::pack::Packer::a_of_columns) packs, for `words` along k.
    pub(in crate::backend::cpu) fn column_words(&self, words: usize) -> usize {
        if self.a_in_rows { row_words(words) } else { words }
    }

    /// The rows of A from column `first` on, a multiple of mr, of what was packed so.
    pub(in crate::backend::cpu) fn strip_of_columns<'p>(
        &self, packed: &'p [u32], first: usize, words: usize,
    ) -> Rows<'p> {
        let line = self.column_words(words);
        let strip = &packed[first * line..][..self.mr * line];
        if self.a_in_rows {
            return Rows::of_words(strip, line);
        }
        Rows { bytes: bytemuck::cast_slice(strip), row: 4, step: 4 * self.mr }
    }

    /// `rows` of A in strips of at most mr: even ones, as a short one takes nearly as long as a whole one; but whole ones and a rest where the
    /// number of rows is set up anew when it changes.
    pub(in crate::backend::cpu) fn strips(&self, rows: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
        let strips = rows.div_ceil(self.mr);
        let (mr, whole) = (self.mr, self.a_in_rows);
        (0..strips).map(move |i| {
            if whole { i * mr..rows.min((i + 1) * mr) } else { i * rows / strips..(i + 1) * rows / strips }
        })
    }

    /// Words that k elements take along k.
    pub fn words(&self, k: usize) -> usize {
        if self.paired { k.div_ceil(2) } else { k }
    }

    /// c[0..rows, 0..nr] = (or +=) a[0..rows, 0..words]·b[0..words, 0..nr].
    #[inline]
    pub(in crate::backend::cpu) fn tile(
        &self, rows: usize, words: usize, a: Rows<'_>, b: &[u32], c: &mut [f32], ldc: usize, add: bool,
    ) {
        assert!(1 <= rows && rows <= self.mr && words >= 1);
        assert!(!self.a_in_rows || a.step == 4, "A's words are apart");
        assert!((rows - 1) * a.row + (words - 1) * a.step + 4 <= a.bytes.len(), "A is too short");
        assert!(words * self.nr <= b.len(), "B is too short");
        assert!(ldc >= self.nr && (rows - 1) * ldc + self.nr <= c.len(), "C is too short");
        let tile = Tile {
            words,
            a: a.bytes.as_ptr().cast(),
            row: a.row,
            step: a.step,
            b: b.as_ptr().cast(),
            c: c.as_mut_ptr(),
            ldc,
            add,
        };
        // SAFETY: every access of the tile lies inside the slices (asserted above), and the CPU has the kernel's features
        // (a Kernel comes from `of_f32`, `of_bf16_products` or `of_bf16_pairs`, whose Simd proves them).
        unsafe { self.tiles[rows - 1](&tile) }
    }

    /// out[j][i] = Σ_k x[i,k]·w[j,k] for the m rows of x[m,k] and all rows of w[n,k], where this kernel can: in place, and
    /// in whole words. False where it cannot.
    pub(in crate::backend::cpu) fn dots<E: Element>(
        &self, out: &mut [[f32; MAX_ROWS]], (m, k): (usize, usize), x: &[E], w: &[E],
    ) -> bool {
        let bytes = k * std::mem::size_of::<E>();
        let Some(dots) = self.dots.filter(|_| bytes == 4 * self.words(k)) else { return false };
        assert!((1..=MAX_ROWS).contains(&m) && x.len() >= m * k && w.len() >= out.len() * k);
        let (x, w) = (x.as_ptr().cast(), w.as_ptr().cast());
        let dots_of =
            Dots { words: self.words(k), row: bytes, x, w, n: out.len(), out: out.as_mut_ptr().cast() };
        // SAFETY: all rows lie inside the slices (asserted); the CPU has the kernel's features, see `tile`.
        unsafe { dots[m - 1](&dots_of) }
        true
    }
}

macro_rules! tiles {
    ($tile:ident for $($rows:literal)*) => { &[$($tile::<$rows>),*] };
}

static PORTABLE: Kernel = Kernel {
    mr: 4,
    nr: 16,
    paired: false,
    a_in_rows: false,
    pace: VECTORS,
    tiles: tiles!(tile_portable for 1 2 3 4),
    transpose16: portable::transpose16,
    pair_rows: None,
    dots: None,
};
#[cfg(target_arch = "x86_64")]
static AVX2: Kernel = Kernel {
    mr: 6,
    nr: 16,
    paired: false,
    a_in_rows: false,
    pace: VECTORS,
    tiles: tiles!(tile_avx2 for 1 2 3 4 5 6),
    transpose16: avx2::transpose16,
    pair_rows: None,
    dots: None,
};
#[cfg(target_arch = "x86_64")]
static AVX512: Kernel = Kernel {
    mr: 14,
    nr: 32,
    paired: false,
    a_in_rows: false,
    pace: VECTORS,
    tiles: tiles!(tile_f32 for 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
    transpose16: avx512::transpose16,
    pair_rows: None,
    dots: None,
};
#[cfg(target_arch = "x86_64")]
static AVX512_BF16: Kernel = Kernel {
    mr: 14,
    nr: 32,
    paired: true,
    a_in_rows: false,
    pace: VECTORS,
    tiles: tiles!(tile_bf16 for 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
    transpose16: avx512::transpose16,
    pair_rows: Some(avx512::pair_rows),
    dots: Some([dots_bf16::<1>, dots_bf16::<2>, dots_bf16::<3>, dots_bf16::<4>]),
};

#[cfg(target_arch = "x86_64")]
static AMX: Kernel = Kernel {
    mr: 32,
    nr: 32,
    paired: true,
    a_in_rows: true,
    pace: TILES,
    tiles: tiles!(tile_amx for 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32),
    transpose16: avx512::transpose16,
    pair_rows: Some(avx512::pair_rows),
    dots: None,
};

/// The kernel whose words are f32.
pub(in crate::backend::cpu) fn of_f32(simd: Simd) -> &'static Kernel {
    match simd.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Avx512Bf16Wide | Isa::Amx => &AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &AVX2,
        _ => &PORTABLE,
    }
}

/// The kernel for large products of pairs of bf16; only for an ISA that has one.
pub(in crate::backend::cpu) fn of_bf16_products(simd: Simd) -> &'static Kernel {
    match simd.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => &AMX,
        _ => of_bf16_pairs(simd),
    }
}

/// The kernel whose words are pairs of bf16, for operands that are read once; only for an ISA that has one.
pub(in crate::backend::cpu) fn of_bf16_pairs(simd: Simd) -> &'static Kernel {
    match simd.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512Bf16Wide | Isa::Amx => &AVX512_BF16,
        isa => unreachable!("{isa} has no bf16 dot products"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a tile is made of: small whole numbers, so that every order of adding gives the same sums.
    fn number(i: usize) -> f32 {
        (i * 7 % 11) as f32 - 5.0
    }

    /// A word as the kernel reads it, both halves of a pair the same number.
    fn word(kernel: &Kernel, x: f32) -> u32 {
        let bits = x.to_bits();
        if kernel.paired { bits >> 16 | bits & 0xffff_0000 } else { bits }
    }

    /// Tiles of every number of rows, in an order in which it changes each time, and of depths around whole registers, with rows of A and C
    /// farther apart than they are long.
    fn check(kernel: &Kernel) {
        let products = if kernel.paired { 2.0 } else { 1.0 };
        for words in [1, 2, 15, 16, 17, 31, 32, 33, 47] {
            for turn in 0..kernel.mr {
                let rows = 1 + turn * 5 % kernel.mr;
                let (row, ldc) = (words + 3, kernel.nr + 5);
                let a: Vec<f32> = (0..rows * row).map(number).collect();
                let b: Vec<f32> = (0..words * kernel.nr).map(|i| number(i + 4)).collect();
                let packed = |x: &[f32]| x.iter().map(|x| word(kernel, *x)).collect::<Vec<_>>();
                let (a_words, b_words) = (packed(&a), packed(&b));
                for add in [false, true] {
                    let mut c = vec![100.0; (rows - 1) * ldc + kernel.nr];
                    kernel.tile(rows, words, Rows::of_words(&a_words, row), &b_words, &mut c, ldc, add);
                    for (i, j) in (0..rows).flat_map(|i| (0..ldc.min(c.len() - i * ldc)).map(move |j| (i, j)))
                    {
                        let sum: f32 =
                            (0..words).map(|k| a[i * row + k] * b[k * kernel.nr + j % kernel.nr]).sum();
                        let before = if add || j >= kernel.nr { 100.0 } else { 0.0 };
                        let expected = before + if j < kernel.nr { products * sum } else { 0.0 };
                        assert_eq!(c[i * ldc + j], expected, "{rows} x {words} words, add {add}: ({i}, {j})");
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_are_sums_of_products_at_every_number_of_rows() {
        for isa in Isa::available() {
            let simd = Simd::new(isa).unwrap();
            check(of_f32(simd));
            if isa.has_pairs() {
                check(of_bf16_pairs(simd));
                check(of_bf16_products(simd));
            }
        }
    }
}
