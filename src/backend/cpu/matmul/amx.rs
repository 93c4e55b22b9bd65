//! AMX: tiles of up to 32 x 32 from pairs of bf16, in the eight tile registers of 16 rows of 64 bytes.
//!
//! `tdpbf16ps` adds A[16 rows][16 words]·B[16 words][16 columns] to 16 x 16 floats. A's tile is read where rows of words lie, B's is half the
//! width of 16 words of a panel: the layouts of [`kernel`](super::kernel) as they are. Four accumulators, two tiles of A and two of B, so
//! a step loads 4 tiles for 4 products, which take twice as long as the loads when these come from L1.
//!
//! The processor rounds each sum to nearest and takes subnormal numbers for zero (Intel's Software Developer's Manual, volume 2,
//! TDPBF16PS), as it does in `vdpbf16ps`.
//!
//! The instructions are written in assembly: the standard library's functions for them are not stable. A process must ask the system for
//! the registers' state before it touches them ([`permitted`]).

use super::super::isa::cpuid;
use super::kernel::Tile;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::sync::OnceLock;

/// Words along k of a tile register, and rows of it.
const WORDS: usize = 16;
pub(in crate::backend::cpu) const ROWS: usize = 16;
/// Columns of B's panel.
const NR: usize = 32;

/// Whether this machine multiplies tiles of bf16 and the system lets this process do so; asked once. From then on a signal's stack must
/// hold 8 KB more, as those that the standard library makes do.
pub(in crate::backend::cpu) fn permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| has_tiles() && ask_the_system())
}

/// CPUID leaf 7: tiles, and their products of bf16.
fn has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    cpuid(0).eax >= 7 && cpuid(7).edx & (BF16 | TILE) == BF16 | TILE
}

/// Linux gives a process the registers' 8 KB only when it is asked (arch_prctl, ARCH_REQ_XCOMP_PERM); for all of its threads.
#[cfg(target_os = "linux")]
fn ask_the_system() -> bool {
    const REQUEST: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: it takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn ask_the_system() -> bool {
    false
}

/// What `ldtilecfg` reads: palette 1, and bytes of a row and rows of each register.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Registers 0 to 3 are C, 4 and 5 A, 6 and 7 B, for tiles of R rows; what R does not reach is left out.
    const fn of(r: usize) -> Config {
        let (upper, lower) = if r > ROWS { (ROWS, r - ROWS) } else { (r, 0) };
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let rows = [upper, upper, lower, lower, upper, lower, WORDS, WORDS];
        let mut t = 0;
        while t < rows.len() {
            config.rows[t] = rows[t] as u8;
            config.row_bytes[t] = if rows[t] > 0 { 64 } else { 0 };
            t += 1;
        }
        config
    }
}

thread_local! {
    /// The rows that this thread's registers are configured for; 0 where that is not known.
    static CONFIGURED: Cell<usize> = const { Cell::new(0) };
}

/// To be called on a thread before a job's first tile: the registers are whoever's ran there last, and a library that the program uses
/// beside this one may have left them with another configuration, or none.
pub(in crate::backend::cpu) fn forget_configuration() {
    CONFIGURED.set(0);
}

/// Loading a configuration costs as much as a product, and nearly every tile has the rows of the one before.
///
/// # Safety
/// [`permitted`], which a Simd of this ISA proves.
#[inline(always)]
pub(in crate::backend::cpu) unsafe fn configure<const R: usize>() {
    if CONFIGURED.get() != R {
        let config = const { &Config::of(R) };
        // SAFETY: 64 bytes that are a valid configuration; the rest is the caller's.
        unsafe { asm!("ldtilecfg [{0}]", in(reg) config, options(nostack, readonly, preserves_flags)) };
        CONFIGURED.set(R);
    }
}

/// Words are pairs of bf16: C = (or +=) A·B.
///
/// # Safety
/// [`permitted`]; `t` keeps to the bounds that `Kernel::tile` asserts for R rows, and A's words lie side by side.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile_amx<const R: usize>(t: &Tile) {
    // SAFETY: the caller's.
    unsafe { configure::<R>() };
    let (steps, rest) = (t.words / WORDS, t.words % WORDS);
    if rest > 0 {
        // SAFETY: the caller's.
        return unsafe { with_rest::<R>(t, steps, rest) };
    }
    // SAFETY: C has R rows of 32 floats, A R rows of 16·steps words, B's panel as many vectors of 32. No call lies between the first use of
    // a tile register and the last, and the compiler has none of its own for them.
    unsafe {
        begin::<R>(t);
        multiply::<R>((t.a, t.row), t.b, steps);
        finish::<R>(t);
    }
}

/// [`tile_amx`] where the last `rest` words do not fill a register: these go through copies that end in zeros.
///
/// # Safety
/// As [`tile_amx`], which has configured the registers.
#[target_feature(enable = "avx512f")]
unsafe fn with_rest<const R: usize>(t: &Tile, steps: usize, rest: usize) {
    let (mut a, mut b) = ([[0f32; WORDS]; 2 * ROWS], [[0f32; NR]; WORDS]);
    let kept = (1u16 << rest) - 1;
    // SAFETY: as there, of 16·steps + rest words; the mask keeps to the last `rest` words of each of A's R rows.
    unsafe {
        for (r, row) in a.iter_mut().take(R).enumerate() {
            let from = t.a.add(steps * WORDS).byte_add(r * t.row);
            _mm512_storeu_ps(row.as_mut_ptr(), _mm512_maskz_loadu_ps(kept, from));
        }
        std::ptr::copy_nonoverlapping(t.b.add(steps * WORDS * NR), b.as_mut_ptr().cast(), rest * NR);
        begin::<R>(t);
        if steps > 0 {
            multiply::<R>((t.a, t.row), t.b, steps);
        }
        multiply::<R>((a.as_ptr().cast(), 4 * WORDS), b.as_ptr().cast(), 1);
        finish::<R>(t);
    }
}

/// The accumulators: zero, or C where it is added to.
///
/// # Safety
/// The registers are configured for R rows, which C has.
#[inline(always)]
unsafe fn begin<const R: usize>(t: &Tile) {
    // SAFETY: the caller's.
    unsafe {
        if !t.add {
            asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem, preserves_flags));
            if R > ROWS {
                asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem, preserves_flags));
            }
            return;
        }
        asm!(
            "tileloadd tmm0, [{c} + {ld}]",
            "tileloadd tmm1, [{c} + {ld} + 64]",
            c = in(reg) t.c, ld = in(reg) 4 * t.ldc, options(nostack, readonly, preserves_flags)
        );
        if R > ROWS {
            asm!(
                "tileloadd tmm2, [{c} + {ld}]",
                "tileloadd tmm3, [{c} + {ld} + 64]",
                c = in(reg) t.c.add(ROWS * t.ldc), ld = in(reg) 4 * t.ldc,
                options(nostack, readonly, preserves_flags)
            );
        }
    }
}

/// The accumulators += A·B over `steps` times 16 words, for rows of A the given bytes apart.
///
/// B is loaded with a hint that it is not needed in L1 again: with all panels passing each strip, it is A's strip that should stay there (up
/// to 384 words of it do, of 48 KB).
///
/// # Safety
/// The registers are configured for R rows, which A has; B has 16·steps vectors of 32 words.
#[inline(always)]
unsafe fn multiply<const R: usize>((a, row): (*const f32, usize), b: *const f32, steps: usize) {
    const PANEL: usize = 4 * NR;
    // SAFETY: the caller's; the loops end after `steps` > 0 rounds.
    unsafe {
        if R > ROWS {
            asm!(
                "2:",
                "tileloaddt1 tmm6, [{b} + {panel}]",
                "tileloadd tmm4, [{a} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b} + {panel} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{lower} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 64",
                "add {lower}, 64",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 2b",
                a = inout(reg) a => _, lower = inout(reg) a.byte_add(ROWS * row) => _, b = inout(reg) b => _,
                steps = inout(reg) steps => _, row = in(reg) row, panel = in(reg) PANEL,
                options(nostack, readonly)
            );
        } else {
            asm!(
                "2:",
                "tileloaddt1 tmm6, [{b} + {panel}]",
                "tileloadd tmm4, [{a} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b} + {panel} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {a}, 64",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 2b",
                a = inout(reg) a => _, b = inout(reg) b => _, steps = inout(reg) steps => _,
                row = in(reg) row, panel = in(reg) PANEL,
                options(nostack, readonly)
            );
        }
    }
}

/// C = the accumulators.
///
/// # Safety
/// The registers are configured for R rows, which C has.
#[inline(always)]
unsafe fn finish<const R: usize>(t: &Tile) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilestored [{c} + {ld}], tmm0",
            "tilestored [{c} + {ld} + 64], tmm1",
            c = in(reg) t.c, ld = in(reg) 4 * t.ldc, options(nostack, preserves_flags)
        );
        if R > ROWS {
            asm!(
                "tilestored [{c} + {ld}], tmm2",
                "tilestored [{c} + {ld} + 64], tmm3",
                c = in(reg) t.c.add(ROWS * t.ldc), ld = in(reg) 4 * t.ldc, options(nostack, preserves_flags)
            );
        }
    }
}

/// Products of whole tiles on registers alone, `rounds` times four: the yardstick of [`peak`](super::super::peak). Returns the multiply-adds.
///
/// # Safety
/// [`permitted`].
pub(in crate::backend::cpu) unsafe fn spin_amx(rounds: usize) -> usize {
    // SAFETY: the caller's; the registers are configured, and no memory is touched.
    unsafe {
        configure::<{ 2 * ROWS }>();
        asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {0}", "jnz 2b", inout(reg) rounds.max(1) => _, options(nostack, nomem));
    }
    rounds.max(1) * 4 * ROWS * 16 * 2 * WORDS
}
