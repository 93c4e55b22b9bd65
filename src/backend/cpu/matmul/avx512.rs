//! AVX-512: tiles of up to 14 x 32, and the 16 x 16 transpose that packing is made of.
//!
//! Registers of the full tile: 28 accumulators (14 rows of two vectors), two vectors of B, and a word of A broadcast into
//! a third. A step loads 2 vectors and 14 words for 28 multiply-adds.

use super::super::prefetch::{STREAM_AHEAD, prefetch, prefetch_l2};
use super::kernel::{Dots, PairRows, Tile, Turn};
use super::pack::ROWS_AT_ONCE;
use std::arch::x86_64::*;

/// How far ahead of its reading a panel of B is asked for: it comes from the second-level cache once for every strip, and there
/// is room for it among the multiply-adds.
const STEPS_AHEAD: usize = 16;

macro_rules! tile {
    ($(#[$doc:meta])* $name:ident, $features:literal, |$acc:ident, $a:ident, $b:ident| $mul_add:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The CPU has the features; `t` keeps to the bounds that `Kernel::tile` asserts for R rows.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const R: usize>(t: &Tile) {
            let mul_add = |$acc: __m512, $a: __m512, $b: __m512| $mul_add;
            // Every fourth row of A has a pointer of its own: one that went from row to row (the compiler's choice) needs an addition
            // for each, and these wait for each other as long as the multiply-adds take (Zen 5, pairs). Two steps a round: 1% of short
            // tiles.
            let fourth = |r: usize| opaque(t.a.wrapping_byte_add(r * t.row));
            let [mut a0, mut a4, mut a8, mut a12] = [fourth(0), fourth(4), fourth(8), fourth(12)];
            let mut b = t.b;
            let mut acc = [[_mm512_setzero_ps(); 2]; R];
            let mut step = |acc: &mut [[__m512; 2]; R]| {
                prefetch(b.wrapping_add(32 * STEPS_AHEAD));
                prefetch(b.wrapping_add(32 * STEPS_AHEAD + 16));
                // SAFETY: the caller's bounds cover words·32 floats of B and R·words words of A; neither need be aligned.
                unsafe {
                    let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                    for (r, [c0, c1]) in acc.iter_mut().enumerate() {
                        let x = _mm512_set1_ps([a0, a4, a8, a12][r / 4].byte_add(r % 4 * t.row).read_unaligned());
                        *c0 = mul_add(*c0, x, b0);
                        *c1 = mul_add(*c1, x, b1);
                    }
                    b = b.add(32);
                }
                for a in [&mut a0, &mut a4, &mut a8, &mut a12] {
                    *a = opaque(a.wrapping_byte_add(t.step));
                }
            };
            for _ in 0..t.words / 2 {
                step(&mut acc);
                step(&mut acc);
            }
            if !t.words.is_multiple_of(2) {
                step(&mut acc);
            }
            for (r, [c0, c1]) in acc.into_iter().enumerate() {
                // SAFETY: the caller's bounds cover R rows of C, 32 floats each, ldc apart.
                unsafe {
                    let c = t.c.add(r * t.ldc);
                    let (mut c0, mut c1) = (c0, c1);
                    if t.add {
                        c0 = _mm512_add_ps(c0, _mm512_loadu_ps(c));
                        c1 = _mm512_add_ps(c1, _mm512_loadu_ps(c.add(16)));
                    }
                    _mm512_storeu_ps(c, c0);
                    _mm512_storeu_ps(c.add(16), c1);
                }
            }
        }
    };
}

/// Dot products of pairs along k.
///
/// # Safety
/// The CPU has the features; `d` keeps to the bounds that `Kernel::dots` asserts for M rows of x.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn dots_bf16<const M: usize>(d: &Dots) {
    // Row after row of w, so that reading it is one stream: a core gets twice the bandwidth from it that four rows side
    // by side would get. Two sums along the row hide the latency of the additions.
    for j in 0..d.n {
        let line = d.w.wrapping_byte_add(j * d.row);
        let mut acc = [[_mm512_setzero_ps(); 2]; M];
        for at in (0..d.words).step_by(32) {
            for half in 0..2 {
                let at = (at + 16 * half).min(d.words);
                let mask = if d.words - at >= 16 { 0xffff } else { (1u16 << (d.words - at)) - 1 };
                prefetch_l2(line.wrapping_add(at).wrapping_byte_add(STREAM_AHEAD));
                // SAFETY: the mask keeps loads within the d.words words of row j < n, which the caller's bounds cover.
                let w = unsafe { _mm512_maskz_loadu_ps(mask, line.wrapping_add(at)) };
                for (i, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: as above, for row i < M of x.
                    let x = unsafe {
                        _mm512_maskz_loadu_ps(mask, d.x.wrapping_byte_add(i * d.row).wrapping_add(at))
                    };
                    acc[half] = _mm512_dpbf16_ps(acc[half], as_pairs(x), as_pairs(w));
                }
            }
        }
        for (i, [a, b]) in acc.into_iter().enumerate() {
            // SAFETY: out has 4 floats for each of the n rows of w, and i < M <= 4.
            unsafe { *d.out.add(4 * j + i) = _mm512_reduce_add_ps(_mm512_add_ps(a, b)) };
        }
    }
}

tile! {
    /// Words are f32.
    tile_f32, "avx512f", |acc, a, b| _mm512_fmadd_ps(a, b, acc)
}
tile! {
    /// Words are pairs of bf16: acc += a.0·b.0 + a.1·b.1.
    tile_bf16, "avx512f,avx512bf16", |acc, a, b| _mm512_dpbf16_ps(acc, as_pairs(a), as_pairs(b))
}

/// The same pointer, of which the compiler does not know that it is near another.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // no instruction reads or writes through it
fn opaque(mut pointer: *const f32) -> *const f32 {
    // SAFETY: there is no instruction in it at all.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags))
    };
    pointer
}

/// The same 512 bits, as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn as_pairs(x: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes of plain bits, for which every pattern is valid.
    unsafe { std::mem::transmute(x) }
}

/// dst[k][n] = src[n][k], in four rounds: each interleaves row i with row i + 8, a perfect shuffle of all 256 words.
///
/// # Safety
/// The CPU has AVX-512 F; `t` keeps to the bounds that `Kernel::transpose16` asserts.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose16(t: &Turn) {
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    let mut rows = [_mm512_setzero_si512(); 16];
    for (n, row) in rows.iter_mut().enumerate() {
        // SAFETY: each of the 16 rows has 64 bytes.
        *row = unsafe { _mm512_loadu_si512(t.src.byte_add(n * t.row).cast()) };
    }
    for _ in 0..4 {
        let before = rows;
        for i in 0..8 {
            rows[2 * i] = _mm512_permutex2var_epi32(before[i], low, before[i + 8]);
            rows[2 * i + 1] = _mm512_permutex2var_epi32(before[i], high, before[i + 8]);
        }
    }
    for (k, row) in rows.into_iter().enumerate() {
        // SAFETY: each of the 16 rows has 16 words.
        unsafe { _mm512_storeu_si512(t.dst.add(k * t.ld).cast(), row) }
    }
}

/// Row 2w in the low halves of the words, row 2w + 1 in the high ones.
///
/// # Safety
/// The CPU has AVX-512 F and BW; `p` keeps to the bounds that `Kernel::pair_rows` asserts.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pair_rows(p: &PairRows) {
    // Word j of the first 16, and of the last: element j of the first operand, element j of the second (numbered from 32).
    let words: [u32; 32] = std::array::from_fn(|j| j as u32 | (j as u32 + 32) << 16);
    // SAFETY: 32 words are two vectors.
    let (low, high) = unsafe {
        (_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(words.as_ptr().add(16).cast()))
    };
    let columns = (1u64 << p.columns) as u32;
    let columns = columns.wrapping_sub(1);
    let kept = ((1u32 << p.width.min(16)) - 1) as u16;
    for w in 0..p.rows.div_ceil(2) {
        // SAFETY: the mask keeps loads within the `columns` elements of a row below `rows`; a store of `width` words stays
        // within row w of dst.
        unsafe {
            let row = p.src.byte_add(2 * w * p.row);
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_byte_add(ROWS_AT_ONCE * p.row).cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_byte_add((ROWS_AT_ONCE + 1) * p.row).cast());
            let first = _mm512_maskz_loadu_epi16(columns, row.cast());
            let second = if 2 * w + 1 < p.rows { columns } else { 0 };
            let second = _mm512_maskz_loadu_epi16(second, row.wrapping_byte_add(p.row).cast());
            let to = p.dst.add(w * p.width);
            _mm512_mask_storeu_epi32(to.cast(), kept, _mm512_permutex2var_epi16(first, low, second));
            if p.width > 16 {
                _mm512_storeu_si512(to.add(16).cast(), _mm512_permutex2var_epi16(first, high, second));
            }
        }
    }
}

/// Accumulators of the loops below: two instructions a cycle that each take six need twelve and a few more, and the
/// compiler keeps no more than sixteen of these in registers.
pub(in crate::backend::cpu) const SPUN: usize = 14;

macro_rules! spin {
    ($(#[$doc:meta])* $name:ident, $features:literal, |$acc:ident, $x:ident| $mul_add:expr) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(in crate::backend::cpu) fn $name(rounds: usize) -> f32 {
            let $x = _mm512_set1_ps(std::hint::black_box(0.25));
            // Each accumulator starts elsewhere: equal ones the compiler would compute once.
            let starts: [[f32; 16]; SPUN] = std::hint::black_box(std::array::from_fn(|i| [i as f32; 16]));
            let mut acc = [_mm512_setzero_ps(); SPUN];
            for (acc, start) in acc.iter_mut().zip(&starts) {
                // SAFETY: 16 floats are a vector.
                *acc = unsafe { _mm512_loadu_ps(start.as_ptr()) };
            }
            for _ in 0..rounds {
                for acc in &mut acc {
                    let $acc = *acc;
                    *acc = $mul_add;
                }
            }
            acc.into_iter().map(|a| _mm512_reduce_add_ps(a)).sum()
        }
    };
}

spin! {
    /// Multiply-adds on registers alone, `rounds` x [`SPUN`] of them: the yardstick of [`peak`](super::super::peak).
    spin_f32, "avx512f", |acc, x| _mm512_fmadd_ps(acc, x, x)
}
spin! {
    /// The same with pairs of bf16.
    spin_bf16, "avx512f,avx512bf16", |acc, x| _mm512_dpbf16_ps(acc, as_pairs(x), as_pairs(x))
}
