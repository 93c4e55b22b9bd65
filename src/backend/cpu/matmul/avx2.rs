//! AVX2 and FMA: tiles of up to 6 x 16.
//!
//! Registers of the full tile: 12 accumulators (6 rows of two vectors), two vectors of B, one word of A broadcast.

use super::kernel::{Tile, Turn};
use std::arch::x86_64::*;

/// Words are f32.
///
/// # Safety
/// The CPU has the features; `t` keeps to the bounds that `Kernel::tile` asserts for R rows.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile_avx2<const R: usize>(t: &Tile) {
    let (mut a, mut b) = (t.a, t.b);
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    for _ in 0..t.words {
        // SAFETY: the caller's bounds cover words·16 floats of B and R·words words of A; neither need be aligned.
        unsafe {
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (r, [c0, c1]) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_ps(a.byte_add(r * t.row).read_unaligned());
                *c0 = _mm256_fmadd_ps(x, b0, *c0);
                *c1 = _mm256_fmadd_ps(x, b1, *c1);
            }
            b = b.add(16);
            a = a.wrapping_byte_add(t.step);
        }
    }
    for (r, [c0, c1]) in acc.into_iter().enumerate() {
        // SAFETY: the caller's bounds cover R rows of C, 16 floats each, ldc apart.
        unsafe {
            let c = t.c.add(r * t.ldc);
            let (mut c0, mut c1) = (c0, c1);
            if t.add {
                c0 = _mm256_add_ps(c0, _mm256_loadu_ps(c));
                c1 = _mm256_add_ps(c1, _mm256_loadu_ps(c.add(8)));
            }
            _mm256_storeu_ps(c, c0);
            _mm256_storeu_ps(c.add(8), c1);
        }
    }
}

/// dst[k][n] = src[n][k], as four 8 x 8 transposes: words, pairs of words, then halves of the registers.
///
/// # Safety
/// The CPU has AVX2; `t` keeps to the bounds that `Kernel::transpose16` asserts.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose16(t: &Turn) {
    for (n, k) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
        let mut words = [_mm256_setzero_ps(); 8];
        for i in 0..4 {
            // SAFETY: k is 0 or 8 and each of the 16 rows has 16 words: 32 bytes from word k on.
            let load = |row: usize| unsafe { _mm256_loadu_ps(t.src.byte_add(row * t.row).add(k).cast()) };
            let (a, b) = (load(n + 2 * i), load(n + 2 * i + 1));
            words[2 * i] = _mm256_unpacklo_ps(a, b);
            words[2 * i + 1] = _mm256_unpackhi_ps(a, b);
        }
        // Column i (and i + 4 in the upper half) of rows 0..4 and of rows 4..8.
        let quads = |half: usize| -> [__m256; 4] {
            let w = &words[4 * half..];
            [
                _mm256_shuffle_ps::<0x44>(w[0], w[2]),
                _mm256_shuffle_ps::<0xee>(w[0], w[2]),
                _mm256_shuffle_ps::<0x44>(w[1], w[3]),
                _mm256_shuffle_ps::<0xee>(w[1], w[3]),
            ]
        };
        let (upper, lower) = (quads(0), quads(1));
        for i in 0..4 {
            let first = _mm256_permute2f128_ps::<0x20>(upper[i], lower[i]);
            let second = _mm256_permute2f128_ps::<0x31>(upper[i], lower[i]);
            // SAFETY: n is 0 or 8 and each of the 16 rows has 16 words: 32 bytes from word n on.
            unsafe {
                _mm256_storeu_ps(t.dst.add((k + i) * t.ld + n).cast(), first);
                _mm256_storeu_ps(t.dst.add((k + i + 4) * t.ld + n).cast(), second);
            }
        }
    }
}

/// Multiply-adds on registers alone, `rounds` x 12 of them: the yardstick of [`peak`](super::super::peak).
#[target_feature(enable = "avx2,fma")]
pub(in crate::backend::cpu) fn spin_f32(rounds: usize) -> f32 {
    let (x, y) = (_mm256_set1_ps(0.5), _mm256_set1_ps(std::hint::black_box(0.25)));
    let mut acc = [y; 12];
    for _ in 0..rounds {
        for a in &mut acc {
            *a = _mm256_fmadd_ps(*a, x, y);
        }
    }
    acc.into_iter().map(|a| _mm256_cvtss_f32(a)).sum()
}
