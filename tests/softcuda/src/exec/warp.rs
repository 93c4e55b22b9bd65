//! A warp: its registers, which of its lanes are where, and what it does next.

use super::access;
use super::alu;
use super::block::Block;
use super::calls::Caller;
use super::mma::{self, Lanes};
use super::shared::Who;
use super::tensor;
use super::{common, exchange, float, integer};
use crate::counters::Class;
use crate::fault::{Fault, FaultKind, Result};
use crate::program::{Code, Function, Instruction, Into, Poll, Special, Src};
use std::collections::VecDeque;

/// Lanes that run together: where they are, and where they meet the rest of their warp again.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub pc: usize,
    pub meet: usize,
    pub mask: u32,
}

/// One 16-byte (or shorter) copy that was started.
pub struct Copy {
    pub lane: usize,
    pub to: u64,
    pub bytes: Vec<u8>,
}

pub struct Warp {
    pub id: u32,
    pub registers: Vec<Lanes>,
    pub paths: Vec<Path>,
    /// Lanes that have not exited, nor returned from the function that runs.
    pub live: u32,
    /// Lanes that have not exited.
    pub alive: u32,
    /// The function that runs, where it is not the kernel, and the place of its frame in local memory.
    pub routine: Option<usize>,
    pub frame: u64,
    pub callers: Vec<Caller>,
    /// How many times lanes of it waited for each other: what they did before is known after.
    phase: u32,
    /// The carry of each lane.
    carry: u32,
    /// What it said at the barrier where it stands, if that is one with a vote.
    pub ballot: Option<Ballot>,
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub open_copies: Vec<Copy>,
    pub copy_groups: VecDeque<Vec<Copy>>,
}

/// What a warp says at `bar.red`: how many of its lanes `mask` have the predicate; the result goes to `d`.
#[derive(Clone, Copy, Debug)]
pub struct Ballot {
    pub how: Poll,
    pub d: u32,
    pub mask: u32,
    pub yes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    AtBarrier,
    Done,
}

/// What comes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    On,
    /// Another function's code runs.
    Called,
    Barrier,
}

/// Calls `f` for each lane of `mask`.
pub fn each(mask: u32, mut f: impl FnMut(usize)) {
    for lane in 0..32 {
        if mask >> lane & 1 == 1 {
            f(lane);
        }
    }
}

impl Warp {
    pub fn new(id: u32, lanes: u32, registers: u32, local: u32, end: usize) -> Self {
        let live = if lanes >= 32 { u32::MAX } else { (1 << lanes) - 1 };
        Warp {
            id,
            registers: vec![[0; 32]; registers as usize],
            paths: vec![Path { pc: 0, meet: end + 1, mask: live }],
            live,
            alive: live,
            routine: None,
            frame: 0,
            callers: Vec::new(),
            phase: 0,
            carry: 0,
            ballot: None,
            local: vec![0; 32 * local as usize],
            local_written: vec![false; 32 * local as usize],
            open_copies: Vec::new(),
            copy_groups: VecDeque::new(),
        }
    }

    /// A lane as shared memory knows it.
    pub fn who(&self, lane: usize) -> Who {
        Who { warp: self.id, lane: lane as u8, phase: self.phase }
    }

    pub fn value(&self, s: Src) -> Lanes {
        match s {
            Src::Reg(r) => self.registers[r as usize],
            Src::Num(n) => [n; 32],
        }
    }

    pub fn set(&mut self, d: u32, mask: u32, x: &Lanes) {
        let to = &mut self.registers[d as usize];
        if mask == u32::MAX {
            *to = *x;
        } else {
            each(mask, |lane| to[lane] = x[lane]);
        }
    }

    /// Runs up to the next barrier, the end, or for `budget` instructions.
    pub fn run(&mut self, block: &mut Block<'_>, budget: usize) -> Result<State> {
        let kernel = block.kernel;
        let mut code = self.code(kernel);
        for _ in 0..budget {
            let Some(path) = self.paths.last().copied() else {
                if !self.leave() {
                    return Ok(State::Done);
                }
                code = self.code(kernel);
                continue;
            };
            if path.mask & self.live == 0 || path.pc == path.meet {
                self.paths.pop();
                continue;
            }
            let Some(instruction) = code.get(path.pc) else {
                self.live &= !path.mask;
                continue;
            };
            let mut mask = path.mask & self.live;
            if let Some((p, negated)) = instruction.guard {
                let p = &self.registers[p as usize];
                let mut taken = 0;
                each(mask, |lane| taken |= u32::from((p[lane] & 1 == 1) != negated) << lane);
                mask = taken;
            }
            block.counters.warp_instructions += 1;
            if block.counting {
                block.counters.classes[Class::of(&instruction.code) as usize] += 1;
            }
            block.counters.thread_instructions += u64::from(mask.count_ones());
            if let Some(top) = self.paths.last_mut() {
                top.pc += 1;
            }
            let step = self.step(block, instruction, path, mask);
            match step.map_err(|fault| block.located(fault, self.id, mask, instruction))? {
                Next::On => {}
                Next::Called => code = self.code(kernel),
                Next::Barrier => return Ok(State::AtBarrier),
            }
        }
        Ok(State::Running)
    }

    fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        self.alive &= !mask;
    }

    fn step(&mut self, block: &mut Block<'_>, i: &Instruction, path: Path, mask: u32) -> Result<Next> {
        match &i.code {
            Code::Branch { to } => self.branch(*to, i.meet, path, mask),
            Code::Exit => self.exit(mask),
            Code::Return => self.live &= !mask,
            _ if mask == 0 => {}
            Code::BranchTable { index, targets } => self.branch_table(*index, targets, i.meet, path, mask)?,
            Code::Call { target, args, results } => {
                self.call(block.kernel, *target, args, results, path.pc, mask)?;
                return Ok(Next::Called);
            }
            Code::FrameAddress { d, offset } => self.set(*d, mask, &[self.frame + offset; 32]),
            Code::Trap => return Err(Fault::new(FaultKind::Trap, "trap")),
            Code::Unknown(op) => {
                return Err(Fault::new(
                    FaultKind::UnknownInstruction,
                    format!("instruction {op} is not known"),
                ));
            }
            Code::Barrier | Code::BarrierVote { .. } => {
                if mask != self.alive {
                    let problem = format!(
                        "lanes {mask:#010x} are at a barrier, lanes {:#010x} of their warp are not",
                        self.alive & !mask
                    );
                    return Err(Fault::new(FaultKind::DivergentBarrier, problem));
                }
                if let Code::BarrierVote { how, d, a, negated } = &i.code {
                    let a = self.value(*a);
                    let mut yes = 0;
                    each(mask, |lane| yes += u32::from((a[lane] & 1 == 1) != *negated));
                    self.ballot = Some(Ballot { how: *how, d: *d, mask, yes });
                }
                return Ok(Next::Barrier);
            }
            Code::Nothing => {}
            Code::WarpBarrier => self.phase += 1,
            Code::Load { .. }
            | Code::Store { .. }
            | Code::Atomic { .. }
            | Code::AsyncCopy { .. }
            | Code::LoadMatrix { .. }
            | Code::StoreMatrix { .. }
            | Code::LoadFragment { .. }
            | Code::StoreFragment { .. } => access::run(self, block, &i.code, mask)?,
            Code::AsyncCommit => self.commit(),
            Code::AsyncWaitAll => {
                self.commit();
                access::land(self, block, 0)?;
            }
            Code::AsyncWait(left) => access::land(self, block, *left as usize)?,
            other => self.compute(block, other, mask)?,
        }
        Ok(Next::On)
    }

    /// Where lanes part, both sides run up to the meeting place, one after the other.
    fn branch(&mut self, to: usize, meet: usize, path: Path, taken: u32) {
        let stay = path.mask & self.live & !taken;
        let top = self.paths.len() - 1;
        if stay == 0 {
            self.paths[top].pc = to;
        } else if taken != 0 {
            let on = self.paths[top].pc;
            self.paths[top].pc = meet;
            self.paths.push(Path { pc: on, meet, mask: stay });
            self.paths.push(Path { pc: to, meet, mask: taken });
        }
    }

    fn commit(&mut self) {
        let group = std::mem::take(&mut self.open_copies);
        self.copy_groups.push_back(group);
    }

    /// As `branch`, with more than two ways.
    fn branch_table(
        &mut self, index: Src, targets: &[usize], meet: usize, path: Path, mask: u32,
    ) -> Result<()> {
        let index = self.value(index);
        let top = self.paths.len() - 1;
        let on = self.paths[top].pc;
        self.paths[top].pc = meet;
        let stay = path.mask & self.live & !mask;
        if stay != 0 {
            self.paths.push(Path { pc: on, meet, mask: stay });
        }
        let mut left = mask;
        while left != 0 {
            let pick = index[left.trailing_zeros() as usize] as u32;
            let Some(&to) = targets.get(pick as usize) else {
                let problem = format!("brx.idx takes label {pick} of {}", targets.len());
                return Err(Fault::new(FaultKind::OutOfBounds, problem));
            };
            let mut taken = 0;
            each(left, |lane| taken |= u32::from(index[lane] as u32 == pick) << lane);
            self.paths.push(Path { pc: to, meet, mask: taken });
            left &= !taken;
        }
        Ok(())
    }

    fn compute(&mut self, block: &mut Block<'_>, code: &Code, mask: u32) -> Result<()> {
        match code {
            Code::Alu { f, t, from, d, a, b, c } => {
                let (a, b, c) = (self.value(*a), self.value(*b), self.value(*c));
                let out = common::compute(*f, *t, &a, &b, &c).unwrap_or_else(|| {
                    std::array::from_fn(|lane| alu::compute(*f, *t, *from, a[lane], b[lane], c[lane]))
                });
                self.set(*d, mask, &out);
            }
            Code::Insert { t, d, a, b, from, len } => {
                let (a, b, from, len) = (self.value(*a), self.value(*b), self.value(*from), self.value(*len));
                let out =
                    std::array::from_fn(|lane| alu::insert(*t, a[lane], b[lane], from[lane], len[lane]));
                self.set(*d, mask, &out);
            }
            Code::Compare { f, t, p, q, ftz, a, b, with } => {
                let (mut a, mut b) = (self.value(*a), self.value(*b));
                if *ftz {
                    (a, b) = (a.map(|x| float::flushed(*t, x)), b.map(|x| float::flushed(*t, x)));
                }
                let with = with.map(|(how, c, negated)| (how, self.value(c), negated));
                let (mut yes, mut no) = ([0; 32], [0; 32]);
                for lane in 0..32 {
                    let found = alu::compare(*f, *t, a[lane], b[lane]);
                    let combine = |x: bool| combined(&with, x, lane);
                    (yes[lane], no[lane]) = (combine(found).into(), combine(!found).into());
                }
                self.set(*p, mask, &yes);
                if let Some(q) = q {
                    self.set(*q, mask, &no);
                }
            }
            Code::Special { d, what } => {
                let out = std::array::from_fn(|lane| self.special(block, *what, lane));
                self.set(*d, mask, &out);
            }
            Code::Pack { d, parts, bits } => {
                let mut out = [0; 32];
                for (i, part) in parts.iter().enumerate() {
                    let part = self.value(*part);
                    for lane in 0..32 {
                        out[lane] |= (part[lane] & ((1 << bits) - 1)) << (i as u32 * bits);
                    }
                }
                self.set(*d, mask, &out);
            }
            Code::Unpack { parts, bits, a } => {
                let a = self.value(*a);
                for (i, part) in parts.iter().enumerate() {
                    if let Some(d) = part {
                        self.set(*d, mask, &a.map(|a| a >> (i as u32 * bits) & ((1 << bits) - 1)));
                    }
                }
            }
            Code::Mma { half, d, a, b, c } => {
                whole_warp(mask, "mma")?;
                let (a, b, c) =
                    (a.map(|r| self.value(r)), b.map(|r| self.value(r)), c.map(|r| self.value(r)));
                for (d, out) in d.iter().zip(mma::m16n8k16(*half, &a, &b, &c)) {
                    self.set(*d, mask, &out);
                }
                block.counters.mma += 1;
                block.counters.tensor_ops += 2 * 16 * 8 * 16;
            }
            other => self.compute_rare(block, other, mask)?,
        }
        Ok(())
    }

    /// What is seldom met has a place of its own: the common instructions are faster for it.
    #[inline(never)]
    fn compute_rare(&mut self, block: &mut Block<'_>, code: &Code, mask: u32) -> Result<()> {
        match code {
            Code::Product { product, to, from } => {
                whole_warp(mask, "mma")?;
                let [a, b, c] =
                    from.each_ref().map(|list| list.iter().map(|r| self.value(*r)).collect::<Vec<_>>());
                let mut d = vec![[0; 32]; to.len()];
                tensor::multiply(product, &a, &b, &c, &mut d);
                to.iter().zip(&d).for_each(|(to, d)| self.set(*to, mask, d));
                let shape = product.shape;
                block.counters.mma += 1;
                block.counters.tensor_ops += (2 * shape.m * shape.n * shape.k) as u64;
            }
            Code::Float { op, d, a, b, c } => {
                let (a, b, c) = (self.value(*a), self.value(*b), self.value(*c));
                let out = std::array::from_fn(|lane| float::compute(op, a[lane], b[lane], c[lane]));
                self.set(*d, mask, &out);
            }
            Code::Convert { how, d, a, b } => {
                let (a, b) = (self.value(*a), self.value(*b));
                let out = std::array::from_fn(|lane| float::convert(how, a[lane], b[lane]));
                self.set(*d, mask, &out);
            }
            Code::Carry { f, t, d, x, reads, sets } => {
                let x = x.map(|x| self.value(x));
                let (carry, mut out, mut next) = (self.carry, [0; 32], 0);
                for lane in 0..32 {
                    let carry = *reads && carry >> lane & 1 == 1;
                    let (sum, over) = integer::with_carry(*f, *t, x.map(|x| x[lane]), carry);
                    out[lane] = sum;
                    next |= u32::from(over) << lane;
                }
                self.set(*d, mask, &out);
                if *sets {
                    self.carry = carry & !mask | next & mask;
                }
            }
            Code::CompareInto { .. } => self.compare_into(code, mask),
            Code::ActiveMask { d } => self.set(*d, mask, &[mask.into(); 32]),
            Code::Shuffle { .. } | Code::Vote { .. } | Code::Match { .. } | Code::Reduce { .. } => {
                exchange::run(self, code, mask)?;
            }
            _ => unreachable!("handled by step"),
        }
        Ok(())
    }

    fn compare_into(&mut self, code: &Code, mask: u32) {
        let Code::CompareInto { f, t, pair, ftz, into, a, b, with } = code else { return };
        let (a, b) = (self.value(*a), self.value(*b));
        let with = with.map(|(how, c, negated)| (how, self.value(c), negated));
        let found = |lane: usize, at: u32| {
            let [x, y] = [a[lane], b[lane]].map(|x| if *ftz { float::flushed(*t, x >> at) } else { x >> at });
            combined(&with, alu::compare(*f, *t, x, y), lane)
        };
        let halves: &[u32] = if *pair { &[0, 16] } else { &[0] };
        let word = |ones: u64| -> Lanes {
            std::array::from_fn(|lane| {
                halves.iter().fold(0, |w, at| w | (u64::from(found(lane, *at)) * ones) << at)
            })
        };
        match *into {
            Into::Mask(d) => {
                self.set(d, mask, &word(if *pair || t.bits() == 16 { 0xffff } else { 0xffff_ffff }))
            }
            Into::One(d, t) => self.set(d, mask, &word(alu::from_f64(t, 1.0))),
            Into::Predicates(p, q) => {
                let (low, high) = (
                    std::array::from_fn(|i| found(i, 0).into()),
                    std::array::from_fn(|i| found(i, 16).into()),
                );
                self.set(p, mask, &low);
                if let Some(q) = q {
                    self.set(q, mask, &high);
                }
            }
        }
    }

    fn special(&self, block: &Block<'_>, what: Special, lane: usize) -> u64 {
        let thread = self.id * 32 + lane as u32;
        let [x, y, _] = block.threads;
        u64::from(match what {
            Special::Tid(0) => thread % x,
            Special::Tid(1) => thread / x % y,
            Special::Tid(_) => thread / x / y,
            Special::Ntid(axis) => block.threads[axis],
            Special::Ctaid(axis) => block.index[axis],
            Special::Nctaid(axis) => block.grid[axis],
            Special::Lane => lane as u32,
            Special::Warp => self.id,
            Special::DynamicShared => block.dynamic_shared,
            Special::Zero => 0,
        })
    }
}

/// The result of a comparison with the predicate that is combined in.
fn combined(with: &Option<(Function, Lanes, bool)>, x: bool, lane: usize) -> bool {
    let Some((how, c, negated)) = with else { return x };
    let c = (c[lane] & 1 == 1) != *negated;
    match how {
        Function::And => x && c,
        Function::Or => x || c,
        _ => x != c,
    }
}

pub fn whole_warp(mask: u32, what: &str) -> Result<()> {
    if mask == u32::MAX {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::DivergentBarrier,
        format!("{what} needs all 32 lanes; lanes {mask:#010x} are there"),
    ))
}
