//! What the GPU can do at most, measured, and times by the device's own clock: the yardsticks of the benchmarks.

use super::driver::Grid;
use super::images::tiles;
use super::{Cuda, CudaFloat};
use crate::backend::{Backend, Peaks};
use crate::error::Result;

/// Bytes that are copied to measure the bandwidth: more than any cache holds.
const COPIED: usize = 256 << 20;
/// Tries, of which the best counts.
const TRIES: usize = 7;

impl<E: CudaFloat> Cuda<E> {
    /// Seconds that what `work` starts takes on the device, by events before and after it.
    pub fn seconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.gpu.seconds(work)
    }

    /// The rates of `cuda/peak.cu` with this many `rounds` (4096 take a millisecond or so), and of a copy.
    pub fn measure_peak(&self, rounds: usize) -> Result<Peaks> {
        let out = self.alloc::<f32>(1)?;
        let args = [out.arg(), self.int("peak", rounds)?];
        let blocks = [tiles::PEAK_BLOCKS, 1, 1];
        let grid = Grid { blocks, threads: tiles::PEAK_THREADS, shared: 0 };
        let rate = |kernel: &str, flops: f64| -> Result<f64> {
            Ok(flops / self.best(|| self.gpu.launch(kernel, grid, &args))? / 1e9)
        };
        let turns = (tiles::PEAK_BLOCKS * tiles::PEAK_THREADS * tiles::PEAK_CHAINS * rounds) as f64;
        let (bf16_gflops, f32_gflops) =
            (rate("peak_mma_bf16", turns / 32.0 * 4096.0)?, rate("peak_fma_f32", turns * 2.0)?);
        let (mut to, from) = (self.alloc::<u8>(COPIED)?, self.alloc::<u8>(COPIED)?);
        let seconds = self.best(|| self.copy(&mut to, 0, &from, 0, COPIED))?;
        Ok(Peaks { bf16_gflops, f32_gflops, bandwidth_gbs: 2.0 * COPIED as f64 / seconds / 1e9 })
    }

    fn best(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..TRIES {
            best = best.min(self.seconds(&mut work)?);
        }
        Ok(best)
    }
}
