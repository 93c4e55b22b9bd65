//! What this machine can do at most, measured: the yardstick that benches are held against.

use super::buffer::Buf;
use super::isa::{Isa, Simd, per_isa};
use super::matmul::portable;
use super::pool::Workers;
use super::prefetch::{STREAM_AHEAD, prefetch_l2};
use crate::backend::Peaks;
use std::time::{Duration, Instant};

/// Rates of all threads together.
pub(super) fn measure(simd: Simd, workers: &Workers) -> Peaks {
    let f32_gflops = multiply_adds(simd, workers, false);
    // Products of bf16 may be computed in f32 as well, whichever is the faster.
    let bf16_gflops =
        if simd.isa().has_pairs() { multiply_adds(simd, workers, true).max(f32_gflops) } else { f32_gflops };
    Peaks { bf16_gflops, f32_gflops, bandwidth_gbs: bandwidth(simd, workers) }
}

/// GFLOP/s of multiply-adds on registers: of f32, or of pairs of bf16 where the ISA has them.
pub(super) fn multiply_adds(simd: Simd, workers: &Workers, pairs: bool) -> f64 {
    if pairs {
        spin(workers, |rounds| spin_bf16(simd, rounds))
    } else {
        spin(workers, |rounds| spin_f32(simd, rounds))
    }
}

/// Best of several rounds of about 20 ms. `f` returns FLOPs done.
fn spin(workers: &Workers, f: impl Fn(usize) -> f64 + Sync) -> f64 {
    const ROUNDS: usize = 200_000;
    let best = (0..7).map(|_| {
        let start = Instant::now();
        let flops = std::sync::Mutex::new(0.0);
        workers.each(f64::INFINITY, 0..8 * workers.threads(), |_| {
            let done = f(ROUNDS);
            *flops.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += done;
        });
        flops.into_inner().unwrap_or_default()
            / start.elapsed().max(Duration::from_nanos(1)).as_nanos() as f64
    });
    best.fold(0.0, f64::max)
}

fn spin_f32(simd: Simd, rounds: usize) -> f64 {
    let (sum, elements) = match simd.isa() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a Simd of this ISA exists only where the CPU has it.
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Avx512Bf16Wide | Isa::Amx => unsafe {
            (super::matmul::avx512::spin_f32(rounds), super::matmul::avx512::SPUN * 16)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { (super::matmul::avx2::spin_f32(rounds), 12 * 8) },
        _ => (portable::spin_f32(rounds), 128),
    };
    std::hint::black_box(sum);
    2.0 * rounds as f64 * elements as f64
}

fn spin_bf16(simd: Simd, rounds: usize) -> f64 {
    let (sum, elements) = match simd.isa() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a Simd of this ISA exists only where the CPU has it.
        Isa::Amx => return 2.0 * unsafe { super::matmul::amx::spin_amx(rounds) } as f64,
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512Bf16 | Isa::Avx512Bf16Wide => unsafe {
            (super::matmul::avx512::spin_bf16(rounds), super::matmul::avx512::SPUN * 32)
        },
        isa => unreachable!("{isa} has no bf16 dot products"),
    };
    std::hint::black_box(sum);
    2.0 * rounds as f64 * elements as f64
}

/// Best of several passes over 256 MB.
pub(super) fn bandwidth(simd: Simd, workers: &Workers) -> f64 {
    const BYTES: usize = 256 << 20;
    let mut memory = Buf::<f32>::zeroed(BYTES / 4);
    memory.as_mut_slice().fill(1.0);
    let best = (0..5).map(|_| {
        let start = Instant::now();
        workers.each(f64::INFINITY, memory.as_slice().chunks(1 << 20), |part| {
            std::hint::black_box(sum(simd, part));
        });
        BYTES as f64 / start.elapsed().as_nanos() as f64
    });
    best.fold(0.0, f64::max)
}

per_isa! {
    fn sum(x: &[f32]) -> f32 => sum_body;
}

#[inline(always)]
fn sum_body<const FMA: bool>(x: &[f32]) -> f32 {
    let mut acc = [0f32; 64];
    let (chunks, _) = x.as_chunks::<64>();
    for chunk in chunks {
        for line in chunk.chunks(16) {
            prefetch_l2(line.as_ptr().wrapping_byte_add(STREAM_AHEAD));
        }
        for (acc, x) in acc.iter_mut().zip(chunk) {
            *acc += x;
        }
    }
    acc.iter().sum()
}
