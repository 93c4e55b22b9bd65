//! What can be wrong with a launch, and where.

/// The kinds of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    OutOfBounds,
    Misaligned,
    UninitialisedGlobal,
    UninitialisedShared,
    UninitialisedLocal,
    SharedRace,
    DivergentBarrier,
    UseAfterFree,
    BadFree,
    Trap,
    UnknownInstruction,
    TooLong,
    BadLaunch,
}

/// A finding: its kind and one sentence; a launch stops at the first.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}{problem}")]
pub struct Fault {
    pub kind: FaultKind,
    pub problem: String,
    /// Kernel, block, thread and line; empty for what the host did.
    pub place: String,
}

impl Fault {
    pub fn new(kind: FaultKind, problem: impl Into<String>) -> Self {
        Fault { kind, problem: problem.into(), place: String::new() }
    }
}

pub type Result<T> = std::result::Result<T, Fault>;
