//! Functions that are called (PTX ISA 9.0, section 9.7.12.5 and 7.1): registers of their own, a frame on the stack for parameters and
//! local variables. The lanes that call run the function to its end before the rest of their warp goes on.

use super::mma::Lanes;
use super::warp::{Path, Warp, each};
use crate::fault::{Fault, FaultKind, Result};
use crate::program::{FUNCTION_WINDOW, Instruction, Kernel, Src};

/// Bytes of stack that a thread may take below its kernel's frame.
const STACK: usize = 1 << 16;

/// What a caller finds again when the function has returned.
pub struct Caller {
    registers: Vec<Lanes>,
    paths: Vec<Path>,
    live: u32,
    routine: Option<usize>,
    frame: u64,
    /// Bytes to copy: from the function's frame, to the caller's, how many.
    results: Vec<(u32, u32, u32)>,
    lanes: u32,
}

impl Warp {
    pub fn code<'a>(&self, kernel: &'a Kernel) -> &'a [Instruction] {
        self.routine.map_or(&kernel.code, |r| &kernel.routines[r].code)
    }

    /// `args` and `results`: places and sizes in the caller's frame.
    pub fn call(
        &mut self, kernel: &Kernel, target: Src, args: &[(u32, u32)], results: &[(u32, u32)], at: usize,
        mask: u32,
    ) -> Result<()> {
        let (routine, lanes) = self.callee(kernel, target, mask)?;
        if lanes != mask {
            // the lanes that call something else come to the same instruction once more
            self.paths.push(Path { pc: at, meet: at + 1, mask: mask & !lanes });
        }
        let callee = &kernel.routines[routine];
        let matches = |a: &[(u32, u32)], b: &[(u32, u32)]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.1 == b.1)
        };
        if !matches(args, &callee.params) || !matches(results, &callee.returns) {
            let problem = format!("call of {} with other parameters than it has", callee.name);
            return Err(Fault::new(FaultKind::UnknownInstruction, problem));
        }
        let size = self.routine.map_or(kernel.local_bytes, |r| kernel.routines[r].frame_bytes);
        let frame = (self.frame + u64::from(size)).next_multiple_of(16);
        self.reserve(frame, callee.frame_bytes as usize, kernel.local_bytes as usize + STACK, lanes)?;
        for (from, to) in args.iter().zip(&callee.params) {
            self.copy_frames(self.frame + u64::from(from.0), frame + u64::from(to.0), from.1, lanes);
        }
        let path = Path { pc: 0, meet: callee.code.len() + 1, mask: lanes };
        self.callers.push(Caller {
            registers: std::mem::replace(&mut self.registers, vec![[0; 32]; callee.registers as usize]),
            paths: std::mem::replace(&mut self.paths, vec![path]),
            live: std::mem::replace(&mut self.live, lanes),
            routine: self.routine.replace(routine),
            frame: std::mem::replace(&mut self.frame, frame),
            results: callee.returns.iter().zip(results).map(|(from, to)| (from.0, to.0, from.1)).collect(),
            lanes,
        });
        Ok(())
    }

    /// Back to the caller, when all lanes have returned or exited; false in a kernel.
    pub fn leave(&mut self) -> bool {
        let Some(caller) = self.callers.pop() else { return false };
        for (from, to, bytes) in &caller.results {
            self.copy_frames(
                self.frame + u64::from(*from),
                caller.frame + u64::from(*to),
                *bytes,
                caller.lanes,
            );
        }
        self.registers = caller.registers;
        self.paths = caller.paths;
        self.live = caller.live & self.alive;
        self.routine = caller.routine;
        self.frame = caller.frame;
        true
    }

    /// The function that the first lane calls, and all lanes that call it.
    fn callee(&self, kernel: &Kernel, target: Src, mask: u32) -> Result<(usize, u32)> {
        let target = self.value(target);
        let first = target[mask.trailing_zeros() as usize];
        let mut lanes = 0;
        each(mask, |lane| lanes |= u32::from(target[lane] == first) << lane);
        let index = first.wrapping_sub(FUNCTION_WINDOW) / 16;
        if index >= kernel.routines.len() as u64 {
            let problem = format!("call of {first:#x}, where there is no function");
            return Err(Fault::new(FaultKind::OutOfBounds, problem));
        }
        Ok((index as usize, lanes))
    }

    /// Makes room for a frame, which holds nothing yet.
    fn reserve(&mut self, frame: u64, bytes: usize, limit: usize, lanes: u32) -> Result<()> {
        let (old, need) = (self.local.len() / 32, frame as usize + bytes);
        if need > limit {
            let problem = format!("{need} bytes of stack in a thread; {limit} are there");
            return Err(Fault::new(FaultKind::OutOfBounds, problem));
        }
        if need > old {
            let new = need.next_power_of_two().max(1024);
            self.local = stretch(&self.local, old, new);
            self.local_written = stretch(&self.local_written, old, new);
        }
        let size = self.local.len() / 32;
        each(lanes, |lane| self.local_written[lane * size + frame as usize..][..bytes].fill(false));
        Ok(())
    }

    fn copy_frames(&mut self, from: u64, to: u64, bytes: u32, lanes: u32) {
        let size = self.local.len() / 32;
        each(lanes, |lane| {
            let from = lane * size + from as usize;
            self.local.copy_within(from..from + bytes as usize, lane * size + to as usize);
        });
    }
}

/// Each lane's part lies in one piece.
fn stretch<T: Copy + Default>(x: &[T], old: usize, new: usize) -> Vec<T> {
    let mut out = vec![T::default(); 32 * new];
    for lane in 0..32 {
        out[lane * new..][..old].copy_from_slice(&x[lane * old..][..old]);
    }
    out
}
