//! Packing: operands into the order in which the micro-kernel reads them, in words of 4 bytes along k (see
//! [`kernel`](super::kernel)). What lies beyond the operand's edge is zero.
//!
//! - [`Packer::rows`]: k-contiguous rows stay rows, [rows][words] or farther apart: for A when it cannot be read in place.
//! - [`Packer::panels_of_rows`]: k-contiguous rows become panels [n/width][words][width]: B of an nt product.
//! - [`Packer::panels_of_columns`]: rows along k, contiguous in n, become panels: B of nn and tn.
//! - [`Packer::a_of_columns`]: the same as A of tn, panels or, turned, rows, as the micro-kernel reads A.

use super::super::isa::{Simd, per_isa};
use super::super::math::CpuFloat;
use super::super::prefetch::prefetch;
use super::kernel::{Kernel, MAX_NR};

/// How far ahead of the row that is transposed the next ones are asked for: strides defeat the hardware's own guesses.
const ROWS_AHEAD: usize = 16;

/// All panels of columns are packed for this many rows before the next rows begin, which are asked for meanwhile: neighbouring panels of 14
/// columns share cache lines, and so few rows are still near when the next panel reads them.
pub(super) const ROWS_AT_ONCE: usize = 32;

/// Words from row to row of packed rows: an odd number of cache lines, so that the rows of a strip spread over the sets.
pub(super) fn row_words(words: usize) -> usize {
    (words.div_ceil(16) | 1) * 16
}

/// Packs for one micro-kernel.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cpu) struct Packer {
    pub simd: Simd,
    pub kernel: &'static Kernel,
}

impl Packer {
    pub fn of<E: CpuFloat>(simd: Simd) -> Self {
        Packer { simd, kernel: E::kernel(simd) }
    }

    /// For operands that are read once, where they lie: a token's products, attention of one query.
    pub fn for_reading<E: CpuFloat>(simd: Simd) -> Self {
        Packer { simd, kernel: E::reading_kernel(simd) }
    }

    /// out[i·line + word] from src[i·stride + k]: `rows` rows of k elements, `line` words from row to row.
    pub fn rows<E: CpuFloat>(
        self, src: &[E], stride: usize, rows: usize, k: usize, line: usize, out: &mut [u32],
    ) {
        if self.kernel.paired {
            rows_paired(self.simd, src, stride, rows, k, line, out);
        } else {
            rows_single(self.simd, src, stride, rows, k, line, out);
        }
    }

    /// Panels of nr columns from src[j·stride + k]: n rows of k elements.
    pub fn panels_of_rows<E: CpuFloat>(self, src: &[E], stride: usize, n: usize, k: usize, out: &mut [u32]) {
        if self.kernel.paired {
            panels_of_rows_paired(self.simd, self.kernel, src, stride, n, k, out);
        } else {
            panels_of_rows_single(self.simd, self.kernel, src, stride, n, k, out);
        }
    }

    /// A from src[k·stride + j], k rows of n elements: panels of mr columns [strip][words][mr], or rows [n][words], for strips as
    /// [`Kernel::strip_of_columns`] gives them.
    pub fn a_of_columns<E: CpuFloat>(self, src: &[E], stride: usize, k: usize, n: usize, out: &mut [u32]) {
        if self.kernel.a_in_rows {
            self.rows_of_columns(bytemuck::cast_slice(src), stride, k, n, out);
        } else {
            self.panels_of_columns(src, stride, k, n, self.kernel.mr, out);
        }
    }

    /// Rows [n][words] of pairs, by blocks of 32 x 32 that are paired and then turned.
    fn rows_of_columns(self, src: &[u16], stride: usize, k: usize, n: usize, out: &mut [u32]) {
        const WIDTH: usize = 32;
        let line = self.kernel.column_words(self.kernel.words(k));
        let mut pairs = [0u32; ROWS_AT_ONCE / 2 * WIDTH];
        for k0 in (0..k).step_by(ROWS_AT_ONCE) {
            if k - k0 < ROWS_AT_ONCE {
                pairs.fill(0);
            }
            for j0 in (0..n).step_by(WIDTH) {
                let size = (ROWS_AT_ONCE.min(k - k0), WIDTH.min(n - j0));
                let paired = self.kernel.pair_rows(&src[k0 * stride + j0..], stride, size, &mut pairs, WIDTH);
                debug_assert!(paired, "a kernel that wants rows has the shuffles");
                for half in (0..size.1).step_by(16) {
                    let (from, to) = (&pairs[half..], &mut out[(j0 + half) * line + k0 / 2..]);
                    self.kernel.transpose16(bytemuck::cast_slice(from), 4 * WIDTH, to, line);
                }
            }
        }
    }

    /// Panels of `width` columns (nr for B, mr for A) from src[k·stride + j]: k rows of n elements.
    pub fn panels_of_columns<E: CpuFloat>(
        self, src: &[E], stride: usize, k: usize, n: usize, width: usize, out: &mut [u32],
    ) {
        if !self.kernel.paired {
            return panels_of_columns_single(self.simd, src, stride, k, n, width, out);
        }
        let words = self.kernel.words(k);
        if std::mem::size_of::<E>() == 2 && words > 0 {
            let src: &[u16] = bytemuck::cast_slice(src);
            let panels = &mut out[..n.next_multiple_of(width) * words];
            let paired = (0..k).step_by(ROWS_AT_ONCE).all(|k0| {
                panels.chunks_exact_mut(width * words).enumerate().all(|(p, panel)| {
                    let size = (ROWS_AT_ONCE.min(k - k0), width.min(n - p * width));
                    let (from, to) = (&src[k0 * stride + p * width..], &mut panel[k0 / 2 * width..]);
                    self.kernel.pair_rows(from, stride, size, to, width)
                })
            });
            if paired {
                return;
            }
        }
        panels_of_columns_paired(self.simd, src, stride, k, n, width, out);
    }
}

per_isa! {
    fn rows_paired[E: CpuFloat](
        src: &[E], stride: usize, rows: usize, k: usize, line: usize, out: &mut [u32],
    ) => rows_paired_body;
    fn rows_single[E: CpuFloat](
        src: &[E], stride: usize, rows: usize, k: usize, line: usize, out: &mut [u32],
    ) => rows_single_body;
    fn panels_of_rows_paired[E: CpuFloat](
        kernel: &Kernel, src: &[E], stride: usize, n: usize, k: usize, out: &mut [u32],
    ) => panels_of_rows_paired_body;
    fn panels_of_rows_single[E: CpuFloat](
        kernel: &Kernel, src: &[E], stride: usize, n: usize, k: usize, out: &mut [u32],
    ) => panels_of_rows_single_body;
    fn panels_of_columns_paired[E: CpuFloat](
        src: &[E], stride: usize, k: usize, n: usize, width: usize, out: &mut [u32],
    ) => panels_of_columns_paired_body;
    fn panels_of_columns_single[E: CpuFloat](
        src: &[E], stride: usize, k: usize, n: usize, width: usize, out: &mut [u32],
    ) => panels_of_columns_single_body;
}

/// Two bf16 as a word, the first in the low half.
#[inline(always)]
fn pair<E: CpuFloat>(low: E, high: E) -> u32 {
    // Exact: E is bf16 wherever words are pairs, and widening keeps its bits in the upper half.
    low.widen().to_bits() >> 16 | high.widen().to_bits() & 0xffff_0000
}

#[inline(always)]
fn single<E: CpuFloat>(x: E) -> u32 {
    x.widen().to_bits()
}

/// How many E fill a word.
const fn per_word<E>() -> usize {
    4 / std::mem::size_of::<E>()
}

#[inline(always)]
fn words_of_row<E: CpuFloat, const PAIRED: bool>(row: &[E], out: &mut [u32]) {
    if std::mem::size_of_val(row) == std::mem::size_of_val(out)
        && per_word::<E>() == if PAIRED { 2 } else { 1 }
    {
        // The bits as they lie: two bf16 or one f32.
        bytemuck::cast_slice_mut::<u32, u8>(out).copy_from_slice(bytemuck::cast_slice(row));
    } else if PAIRED {
        let (pairs, last) = row.as_chunks::<2>();
        let (whole, rest) = out.split_at_mut(pairs.len());
        for (word, p) in whole.iter_mut().zip(pairs) {
            *word = pair(p[0], p[1]);
        }
        if let Some(&last) = last.first() {
            rest[0] = pair(last, E::default());
        }
    } else {
        for (word, x) in out.iter_mut().zip(row) {
            *word = single(*x);
        }
    }
}

#[inline(always)]
fn rows_paired_body<E: CpuFloat, const FMA: bool>(
    src: &[E], stride: usize, rows: usize, k: usize, line: usize, out: &mut [u32],
) {
    for i in 0..rows {
        words_of_row::<E, true>(&src[i * stride..][..k], &mut out[i * line..][..k.div_ceil(2)]);
    }
}

#[inline(always)]
fn rows_single_body<E: CpuFloat, const FMA: bool>(
    src: &[E], stride: usize, rows: usize, k: usize, line: usize, out: &mut [u32],
) {
    for i in 0..rows {
        words_of_row::<E, false>(&src[i * stride..][..k], &mut out[i * line..][..k]);
    }
}

#[inline(always)]
fn panels_of_rows_paired_body<E: CpuFloat, const FMA: bool>(
    kernel: &Kernel, src: &[E], stride: usize, n: usize, k: usize, out: &mut [u32],
) {
    panels_of_rows::<E, true>(kernel, src, stride, n, k, out);
}

#[inline(always)]
fn panels_of_rows_single_body<E: CpuFloat, const FMA: bool>(
    kernel: &Kernel, src: &[E], stride: usize, n: usize, k: usize, out: &mut [u32],
) {
    panels_of_rows::<E, false>(kernel, src, stride, n, k, out);
}

/// Blocks of 16 rows x 16 words are transposed into 16 columns of a panel: from where they lie, or from a copy where they
/// are cut off by an edge or must be converted.
#[inline(always)]
fn panels_of_rows<E: CpuFloat, const PAIRED: bool>(
    kernel: &Kernel, src: &[E], stride: usize, n: usize, k: usize, out: &mut [u32],
) {
    let (nr, words) = (kernel.nr, kernel.words(k));
    let in_block = 16 * if PAIRED { 2 } else { 1 };
    let exact = in_block * std::mem::size_of::<E>() == 64;
    let row_bytes = stride * std::mem::size_of::<E>();
    let mut turned = [0u32; 256];
    for (p, panel) in out[..n.next_multiple_of(nr) * words].chunks_exact_mut(nr * words).enumerate() {
        for half in (0..nr).step_by(16) {
            let j0 = p * nr + half;
            let rows = n.saturating_sub(j0).min(16);
            for w0 in (0..words).step_by(16) {
                let k0 = w0 * in_block / 16;
                for i in ROWS_AHEAD..ROWS_AHEAD + 16 {
                    prefetch(src.as_ptr().wrapping_add((j0 + i) * stride + k0));
                }
                let to = &mut panel[w0 * nr + half..];
                if exact && rows == 16 && k0 + in_block <= k {
                    kernel.transpose16(bytemuck::cast_slice(&src[j0 * stride + k0..]), row_bytes, to, nr);
                    continue;
                }
                let block = block_of::<E, PAIRED>(src, stride, (j0, rows), (k0, k.min(k0 + in_block)));
                kernel.transpose16(bytemuck::cast_slice(&block), 64, &mut turned, 16);
                for (to, row) in to.chunks_mut(nr).zip(turned.chunks_exact(16)).take(words - w0) {
                    to[..16].copy_from_slice(row);
                }
            }
        }
    }
}

/// Up to 16 rows, from `first` on, of the words of elements k0..k1; zero beyond them.
#[inline(always)]
fn block_of<E: CpuFloat, const PAIRED: bool>(
    src: &[E], stride: usize, (first, rows): (usize, usize), (k0, k1): (usize, usize),
) -> [[u32; 16]; 16] {
    let mut block = [[0u32; 16]; 16];
    for (i, words) in block.iter_mut().take(rows).enumerate() {
        words_of_row::<E, PAIRED>(&src[(first + i) * stride..][k0..k1], words);
    }
    block
}

#[inline(always)]
fn panels_of_columns_paired_body<E: CpuFloat, const FMA: bool>(
    src: &[E], stride: usize, k: usize, n: usize, width: usize, out: &mut [u32],
) {
    panels_of_columns::<E, true>(src, stride, k, n, width, out);
}

#[inline(always)]
fn panels_of_columns_single_body<E: CpuFloat, const FMA: bool>(
    src: &[E], stride: usize, k: usize, n: usize, width: usize, out: &mut [u32],
) {
    panels_of_columns::<E, false>(src, stride, k, n, width, out);
}

#[inline(always)]
fn panels_of_columns<E: CpuFloat, const PAIRED: bool>(
    src: &[E], stride: usize, k: usize, n: usize, width: usize, out: &mut [u32],
) {
    match width {
        32 => panels_of_width::<E, PAIRED, 32>(src, stride, k, n, out),
        16 => panels_of_width::<E, PAIRED, 16>(src, stride, k, n, out),
        14 => panels_of_width::<E, PAIRED, 14>(src, stride, k, n, out),
        6 => panels_of_width::<E, PAIRED, 6>(src, stride, k, n, out),
        4 => panels_of_width::<E, PAIRED, 4>(src, stride, k, n, out),
        _ => unreachable!("no micro-kernel has tiles of width {width} <= {MAX_NR}"),
    }
}

/// A word interleaves two rows (or converts one); the panel's columns are copied as they lie.
#[inline(always)]
fn panels_of_width<E: CpuFloat, const PAIRED: bool, const W: usize>(
    src: &[E], stride: usize, k: usize, n: usize, out: &mut [u32],
) {
    let per_word = if PAIRED { 2 } else { 1 };
    let words = k.div_ceil(per_word);
    for w0 in (0..words).step_by(ROWS_AT_ONCE / per_word) {
        let at_once = w0..words.min(w0 + ROWS_AT_ONCE / per_word);
        for (p, panel) in out[..n.next_multiple_of(W) * words].chunks_exact_mut(W * words).enumerate() {
            let columns = (n - p * W).min(W);
            let (vectors, _) = panel.as_chunks_mut::<W>();
            for w in at_once.clone() {
                let first = &src[w * per_word * stride + p * W..];
                for ahead in 0..per_word {
                    prefetch(first.as_ptr().wrapping_add((ROWS_AT_ONCE + ahead) * stride));
                }
                let second = (PAIRED && 2 * w + 1 < k).then(|| &first[stride..]);
                vectors[w] = vector_of::<E, PAIRED, W>(first, second, columns);
            }
        }
    }
}

/// A vector of words of `columns` elements of a row (or of two); zero beyond them and where there is no second row.
#[inline(always)]
fn vector_of<E: CpuFloat, const PAIRED: bool, const W: usize>(
    first: &[E], second: Option<&[E]>, columns: usize,
) -> [u32; W] {
    let mut vector = [0; W];
    if columns == W && (!PAIRED || second.is_some()) {
        let (a, b) = (&first[..W], &second.unwrap_or(first)[..W]);
        for j in 0..W {
            vector[j] = word::<E, PAIRED>(a[j], b[j]);
        }
    } else {
        for j in 0..columns {
            vector[j] = word::<E, PAIRED>(first[j], second.map_or(E::default(), |s| s[j]));
        }
    }
    vector
}

#[inline(always)]
fn word<E: CpuFloat, const PAIRED: bool>(a: E, b: E) -> u32 {
    if PAIRED { pair(a, b) } else { single(a) }
}
