//! A warp: its registers, which of its lanes are where, and what it does next.

use super::access;
use super::alu;
use super::block::Block;
use super::mma::{self, Lanes};
use super::tensor;
use crate::counters::Class;
use crate::fault::{Fault, FaultKind, Result};
use crate::program::{Code, Function, Instruction, Shuffle, Special, Src, Vote};
use std::collections::VecDeque;

/// Lanes that run together: where they are, and where they meet the rest of their warp again.
#[derive(Clone, Copy, Debug)]
struct Path {
    pc: usize,
    meet: usize,
    mask: u32,
}

/// One 16-byte (or shorter) copy that was started.
pub struct Copy {
    pub to: u64,
    pub bytes: Vec<u8>,
}

pub struct Warp {
    pub id: u32,
    pub registers: Vec<Lanes>,
    paths: Vec<Path>,
    /// Lanes that have not exited.
    live: u32,
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub open_copies: Vec<Copy>,
    pub copy_groups: VecDeque<Vec<Copy>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    AtBarrier,
    Done,
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
            local: vec![0; 32 * local as usize],
            local_written: vec![false; 32 * local as usize],
            open_copies: Vec::new(),
            copy_groups: VecDeque::new(),
        }
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
        for _ in 0..budget {
            let Some(path) = self.paths.last().copied() else { return Ok(State::Done) };
            if path.mask & self.live == 0 || path.pc == path.meet {
                self.paths.pop();
                continue;
            }
            let kernel = block.kernel;
            let Some(instruction) = kernel.code.get(path.pc) else {
                self.exit(path.mask);
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
            if step.map_err(|fault| block.located(fault, self.id, mask, instruction))? == State::AtBarrier {
                return Ok(State::AtBarrier);
            }
        }
        Ok(State::Running)
    }

    fn exit(&mut self, mask: u32) {
        self.live &= !mask;
    }

    fn step(&mut self, block: &mut Block<'_>, i: &Instruction, path: Path, mask: u32) -> Result<State> {
        match &i.code {
            Code::Branch { to } => self.branch(*to, i.meet, path, mask),
            Code::Exit => self.exit(mask),
            _ if mask == 0 => {}
            Code::Trap => return Err(Fault::new(FaultKind::Trap, "trap")),
            Code::Unknown(op) => {
                return Err(Fault::new(
                    FaultKind::UnknownInstruction,
                    format!("instruction {op} is not known"),
                ));
            }
            Code::Barrier => {
                if mask != self.live {
                    let problem = format!(
                        "lanes {mask:#010x} are at a barrier, lanes {:#010x} of their warp are not",
                        self.live & !mask
                    );
                    return Err(Fault::new(FaultKind::DivergentBarrier, problem));
                }
                return Ok(State::AtBarrier);
            }
            Code::Nothing | Code::WarpBarrier => {}
            Code::Load { .. }
            | Code::Store { .. }
            | Code::Atomic { .. }
            | Code::AsyncCopy { .. }
            | Code::LoadMatrix { .. }
            | Code::StoreMatrix { .. }
            | Code::LoadFragment { .. }
            | Code::StoreFragment { .. } => access::run(self, block, &i.code, mask)?,
            Code::AsyncCommit => {
                let group = std::mem::take(&mut self.open_copies);
                self.copy_groups.push_back(group);
            }
            Code::AsyncWait(left) => access::land(self, block, *left as usize)?,
            other => self.compute(block, other, mask)?,
        }
        Ok(State::Running)
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

    fn compute(&mut self, block: &mut Block<'_>, code: &Code, mask: u32) -> Result<()> {
        match code {
            Code::Alu { f, t, from, d, a, b, c } => {
                let (a, b, c) = (self.value(*a), self.value(*b), self.value(*c));
                let mut out = [0; 32];
                for lane in 0..32 {
                    out[lane] = alu::compute(*f, *t, *from, a[lane], b[lane], c[lane]);
                }
                self.set(*d, mask, &out);
            }
            Code::Insert { t, d, a, b, from, len } => {
                let (a, b, from, len) = (self.value(*a), self.value(*b), self.value(*from), self.value(*len));
                let out =
                    std::array::from_fn(|lane| alu::insert(*t, a[lane], b[lane], from[lane], len[lane]));
                self.set(*d, mask, &out);
            }
            Code::Compare { f, t, p, q, a, b, with } => {
                let (a, b) = (self.value(*a), self.value(*b));
                let with = with.map(|(how, c, negated)| (how, self.value(c), negated));
                let (mut yes, mut no) = ([0; 32], [0; 32]);
                for lane in 0..32 {
                    let found = alu::compare(*f, *t, a[lane], b[lane]);
                    let combine = |x: bool| match &with {
                        None => x,
                        Some((how, c, negated)) => {
                            let c = (c[lane] & 1 == 1) != *negated;
                            match how {
                                Function::And => x && c,
                                Function::Or => x || c,
                                _ => x != c,
                            }
                        }
                    };
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
            Code::Shuffle { how, d, p, a, b, c, mask: named } => {
                names_active(self.value(*named)[first(mask)] as u32, mask, "shfl")?;
                let (a, b, c) = (self.value(*a), self.value(*b), self.value(*c));
                let (mut out, mut inside) = (a, [0; 32]);
                each(mask, |lane| {
                    let (from, ok) = partner(*how, lane as i64, b[lane] as i64 & 31, c[lane]);
                    out[lane] = if ok { a[from] } else { a[lane] };
                    inside[lane] = ok.into();
                });
                self.set(*d, mask, &out);
                if let Some(p) = p {
                    self.set(*p, mask, &inside);
                }
            }
            Code::Vote { how, d, a, negated, mask: named } => {
                names_active(self.value(*named)[first(mask)] as u32, mask, "vote")?;
                let a = self.value(*a);
                let mut yes = 0u32;
                each(mask, |lane| yes |= u32::from((a[lane] & 1 == 1) != *negated) << lane);
                let out = match how {
                    Vote::All => u64::from(yes == mask),
                    Vote::Any => u64::from(yes != 0),
                    Vote::Uniform => u64::from(yes == mask || yes == 0),
                    Vote::Ballot => yes.into(),
                };
                self.set(*d, mask, &[out; 32]);
            }
            _ => unreachable!("handled by step"),
        }
        Ok(())
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

fn first(mask: u32) -> usize {
    mask.trailing_zeros() as usize
}

/// `.sync` instructions must be reached by exactly the lanes they name.
fn names_active(named: u32, mask: u32, what: &str) -> Result<()> {
    if named & mask == mask {
        return Ok(());
    }
    let problem = format!("{what}.sync names lanes {named:#010x}, but lanes {mask:#010x} are there");
    Err(Fault::new(FaultKind::DivergentBarrier, problem))
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

/// The lane that `shfl` reads, and whether it lies in the segment (PTX ISA 9.0, section 9.7.9.6).
fn partner(how: Shuffle, lane: i64, b: i64, c: u64) -> (usize, bool) {
    let (clamp, segment) = (c as i64 & 31, (c >> 8) as i64 & 31);
    let (low, high) = (lane & segment, (lane & segment) | (clamp & !segment & 31));
    let (at, ok) = match how {
        Shuffle::Up => (lane - b, lane - b >= high),
        Shuffle::Down => (lane + b, lane + b <= high),
        Shuffle::Butterfly => (lane ^ b, (lane ^ b) <= high),
        Shuffle::Index => (low | (b & !segment & 31), (low | (b & !segment & 31)) <= high),
    };
    (at.clamp(0, 31) as usize, ok)
}
