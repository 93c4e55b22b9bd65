//! One block: its shared memory, its warps in turn from barrier to barrier.

use super::shared::Shared;
use super::warp::{Ballot, State, Warp};
use crate::counters::Counters;
use crate::fault::{Fault, FaultKind, Result};
use crate::memory::Memory;
use crate::program::{Instruction, Kernel, Poll};

/// Instructions that a warp runs before another gets its turn, so that one that waits for another's store is not alone.
const TURN: usize = 1 << 16;

pub struct Block<'a> {
    pub kernel: &'a Kernel,
    pub memory: &'a Memory,
    pub params: &'a [u8],
    pub grid: [u32; 3],
    pub threads: [u32; 3],
    pub index: [u32; 3],
    pub dynamic_shared: u32,
    pub shared: &'a mut Shared,
    pub checks: bool,
    pub counting: bool,
    pub counters: Counters,
    /// Instructions a block may take; beyond it is taken for endless.
    pub limit: u64,
}

/// Gives every warp at a barrier what the threads there said, if they were asked.
fn count_votes(warps: &mut [Warp], states: &[State]) -> Result<()> {
    let at_barrier = warps.iter().zip(states).filter(|(_, state)| **state == State::AtBarrier);
    let said: Vec<Option<Ballot>> = at_barrier.map(|(warp, _)| warp.ballot).collect();
    if said.iter().all(Option::is_none) {
        return Ok(());
    }
    let ballots: Vec<Ballot> = said.iter().flatten().copied().collect();
    if ballots.len() != said.len() || ballots.iter().any(|b| b.how != ballots[0].how) {
        let problem = "warps of a block meet at barriers of different kinds: bar.sync, bar.red";
        return Err(Fault::new(FaultKind::DivergentBarrier, problem));
    }
    let yes: u32 = ballots.iter().map(|b| b.yes).sum();
    let threads: u32 = ballots.iter().map(|b| b.mask.count_ones()).sum();
    let answer = match ballots[0].how {
        Poll::Count => yes,
        Poll::All => u32::from(yes == threads),
        Poll::Any => u32::from(yes > 0),
    };
    for warp in warps {
        if let Some(ballot) = warp.ballot.take() {
            warp.set(ballot.d, ballot.mask, &[answer.into(); 32]);
        }
    }
    Ok(())
}

impl Block<'_> {
    pub fn run(&mut self) -> Result<()> {
        let threads = self.threads.iter().product::<u32>();
        let kernel = self.kernel;
        let mut warps: Vec<Warp> = (0..threads.div_ceil(32))
            .map(|id| {
                Warp::new(id, threads - 32 * id, kernel.registers, kernel.local_bytes, kernel.code.len())
            })
            .collect();
        let mut states = vec![State::Running; warps.len()];
        loop {
            for (warp, state) in warps.iter_mut().zip(&mut states) {
                if *state == State::Running {
                    *state = warp.run(self, TURN)?;
                }
            }
            if self.counters.warp_instructions > self.limit {
                return Err(Fault::new(
                    FaultKind::TooLong,
                    format!("kernel {}: still running after {} instructions", kernel.name, self.limit),
                ));
            }
            if states.contains(&State::Running) {
                continue;
            }
            if !states.contains(&State::AtBarrier) {
                return Ok(());
            }
            count_votes(&mut warps, &states)?;
            self.shared.barrier();
            states.iter_mut().filter(|s| **s == State::AtBarrier).for_each(|s| *s = State::Running);
        }
    }

    /// Says where a fault happened.
    pub fn located(&self, mut fault: Fault, warp: u32, mask: u32, i: &Instruction) -> Fault {
        let thread = warp * 32 + mask.trailing_zeros().min(31);
        let [x, y, _] = self.threads;
        fault.place = format!(
            "kernel {}, block {:?}, from thread {:?} on, PTX line {} (source line {}): ",
            self.kernel.name,
            self.index,
            [thread % x, thread / x % y, thread / x / y],
            i.line,
            i.source
        );
        fault
    }
}
