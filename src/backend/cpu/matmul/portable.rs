//! Any machine: tiles of up to 4 x 16 in plain Rust, which the compiler vectorises with what the target guarantees.

use super::kernel::{Tile, Turn};

/// Words are f32.
///
/// # Safety
/// `t` keeps to the bounds that `Kernel::tile` asserts for R rows.
pub(super) unsafe fn tile_portable<const R: usize>(t: &Tile) {
    let (mut a, mut b) = (t.a, t.b);
    let mut acc = [[0f32; 16]; R];
    for _ in 0..t.words {
        // SAFETY: the caller's bounds cover words·16 floats of B and R·words words of A; neither need be aligned.
        unsafe {
            let vector = b.cast::<[f32; 16]>().read_unaligned();
            for (r, row) in acc.iter_mut().enumerate() {
                let x = a.byte_add(r * t.row).read_unaligned();
                for (c, v) in row.iter_mut().zip(vector) {
                    *c += x * v;
                }
            }
            b = b.add(16);
            a = a.wrapping_byte_add(t.step);
        }
    }
    for (r, row) in acc.into_iter().enumerate() {
        // SAFETY: the caller's bounds cover R rows of C, 16 floats each, ldc apart; C is aligned as a slice of f32.
        let out = unsafe { std::slice::from_raw_parts_mut(t.c.add(r * t.ldc), 16) };
        for (c, v) in out.iter_mut().zip(row) {
            *c = if t.add { *c + v } else { v };
        }
    }
}

/// dst[k][n] = src[n][k].
///
/// # Safety
/// `t` keeps to the bounds that `Kernel::transpose16` asserts.
pub(super) unsafe fn transpose16(t: &Turn) {
    for k in 0..16 {
        for n in 0..16 {
            // SAFETY: rows and words 0..16 of both sides are inside the caller's bounds.
            unsafe { *t.dst.add(k * t.ld + n) = t.src.byte_add(n * t.row).add(k).read_unaligned() };
        }
    }
}

/// `rounds` x 128 multiply-adds: the yardstick of [`peak`](super::super::peak).
pub(in crate::backend::cpu) fn spin_f32(rounds: usize) -> f32 {
    let (x, y) = (0.5f32, std::hint::black_box(0.25f32));
    let mut acc = [y; 128];
    for _ in 0..rounds {
        for a in &mut acc {
            *a = *a * x + y;
        }
    }
    acc.iter().sum()
}
