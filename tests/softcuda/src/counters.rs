//! What is counted while a kernel runs.

/// Accesses of one kind to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Global {
    /// Warp-wide requests.
    pub requests: u64,
    /// 32-byte sectors that they touch.
    pub sectors: u64,
    /// The least number of sectors that could hold the bytes asked for.
    pub ideal_sectors: u64,
    /// Different bytes asked for in a request.
    pub bytes: u64,
}

impl Global {
    fn add(&mut self, other: &Global) {
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.ideal_sectors += other.ideal_sectors;
        self.bytes += other.bytes;
    }
}

/// Of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub warp_instructions: u64,
    pub thread_instructions: u64,
    pub loads: Global,
    pub stores: Global,
    pub atomics: Global,
    pub async_copies: Global,
    /// Passes over the banks that shared accesses took, and the fewest they could have taken.
    pub shared_wavefronts: u64,
    pub shared_ideal_wavefronts: u64,
    /// Multiply-adds of `mma` times two.
    pub tensor_ops: u64,
    /// Warp-wide `mma` instructions.
    pub mma: u64,
}

impl Counters {
    pub fn add(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        self.loads.add(&other.loads);
        self.stores.add(&other.stores);
        self.atomics.add(&other.atomics);
        self.async_copies.add(&other.async_copies);
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal_wavefronts += other.shared_ideal_wavefronts;
        self.tensor_ops += other.tensor_ops;
        self.mma += other.mma;
    }

    /// Passes over the banks beyond the fewest possible.
    pub fn bank_conflicts(&self) -> u64 {
        self.shared_wavefronts - self.shared_ideal_wavefronts
    }
}
