//! What is counted while a kernel runs.

use crate::program::{Area, Code};

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
    /// Warp instructions by [`Class`].
    pub classes: [u64; Class::COUNT],
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
        self.classes.iter_mut().zip(&other.classes).for_each(|(sum, n)| *sum += n);
    }

    /// Passes over the banks beyond the fewest possible.
    pub fn bank_conflicts(&self) -> u64 {
        self.shared_wavefronts - self.shared_ideal_wavefronts
    }
}

/// What kind of work an instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Arithmetic,
    Compare,
    Move,
    Global,
    Shared,
    Local,
    Param,
    Atomic,
    AsyncCopy,
    Matrix,
    Tensor,
    Exchange,
    Barrier,
    Branch,
}

impl Class {
    pub const COUNT: usize = Class::Branch as usize + 1;
    pub const ALL: [Class; Class::COUNT] = [
        Class::Arithmetic,
        Class::Compare,
        Class::Move,
        Class::Global,
        Class::Shared,
        Class::Local,
        Class::Param,
        Class::Atomic,
        Class::AsyncCopy,
        Class::Matrix,
        Class::Tensor,
        Class::Exchange,
        Class::Barrier,
        Class::Branch,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Class::Arithmetic => "arithmetic",
            Class::Compare => "compare",
            Class::Move => "move",
            Class::Global => "global",
            Class::Shared => "shared",
            Class::Local => "local",
            Class::Param => "param",
            Class::Atomic => "atomic",
            Class::AsyncCopy => "async_copy",
            Class::Matrix => "ldmatrix",
            Class::Tensor => "mma",
            Class::Exchange => "shuffle_vote",
            Class::Barrier => "barrier",
            Class::Branch => "branch",
        }
    }

    /// By the instruction alone; generic accesses count as global.
    pub fn of(code: &Code) -> Class {
        match code {
            Code::Alu { .. }
            | Code::Insert { .. }
            | Code::Float { .. }
            | Code::Convert { .. }
            | Code::Carry { .. } => Class::Arithmetic,
            Code::Compare { .. } | Code::CompareInto { .. } => Class::Compare,
            Code::Nothing
            | Code::FrameAddress { .. }
            | Code::Special { .. }
            | Code::Pack { .. }
            | Code::Unpack { .. } => Class::Move,
            Code::Load { place, .. } | Code::Store { place, .. } => match place.area {
                Area::Global | Area::Generic => Class::Global,
                Area::Shared => Class::Shared,
                Area::Local => Class::Local,
                Area::Param | Area::Frame => Class::Param,
            },
            Code::Atomic { .. } => Class::Atomic,
            Code::AsyncCopy { .. } | Code::AsyncCommit | Code::AsyncWait(_) | Code::AsyncWaitAll => {
                Class::AsyncCopy
            }
            Code::LoadMatrix { .. }
            | Code::StoreMatrix { .. }
            | Code::LoadFragment { .. }
            | Code::StoreFragment { .. } => Class::Matrix,
            Code::Mma { .. } | Code::Product { .. } => Class::Tensor,
            Code::Shuffle { .. }
            | Code::Vote { .. }
            | Code::Match { .. }
            | Code::Reduce { .. }
            | Code::ActiveMask { .. } => Class::Exchange,
            Code::Barrier | Code::BarrierVote { .. } | Code::WarpBarrier => Class::Barrier,
            Code::Branch { .. }
            | Code::BranchTable { .. }
            | Code::Call { .. }
            | Code::Return
            | Code::Exit
            | Code::Trap
            | Code::Unknown(_) => Class::Branch,
        }
    }
}
