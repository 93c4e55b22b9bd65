//! Loads, stores, atomics, asynchronous copies and `ldmatrix`: what is checked and counted on the way.

use super::alu;
use super::block::Block;
use super::float;
use super::matrix;
use super::warp::{Copy, Warp, each};
use crate::counters::Global;
use crate::fault::{Fault, FaultKind, Result};
use crate::memory::BASE;
use crate::program::{Area, Code, Function, LOCAL_WINDOW, Place, SHARED_WINDOW, Src, Type};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

pub type Addresses = [u64; 32];

pub fn run(warp: &mut Warp, block: &mut Block<'_>, code: &Code, mask: u32) -> Result<()> {
    match code {
        Code::Load { to, t, place } => load(warp, block, to, *t, *place, mask),
        Code::Store { from, t, place } => store(warp, block, from, *t, *place, mask),
        Code::Atomic { f, t, d, place, b, c } => atomic(warp, block, (*f, *t), *d, *place, (*b, *c), mask),
        Code::AsyncCopy { to, from, bytes, used } => start_copy(warp, block, *to, *from, *bytes, *used, mask),
        code => matrix::run(warp, block, code, mask),
    }
}

pub fn addresses(warp: &Warp, place: Place) -> Addresses {
    let frame = if place.area == Area::Frame { warp.frame } else { 0 };
    warp.value(place.base).map(|base| base.wrapping_add(place.offset as u64).wrapping_add(frame))
}

/// The area of a generic address, and the addresses in it.
pub fn resolve(area: Area, at: &mut Addresses, mask: u32) -> Area {
    if area != Area::Generic {
        if area == Area::Shared {
            // shared addresses are 32 bits wide in 32-bit registers
            at.iter_mut().for_each(|a| *a &= 0xffff_ffff);
        }
        return area;
    }
    let first = at[mask.trailing_zeros() as usize];
    let (area, window) = match first {
        a if a >= BASE => return Area::Global,
        a if a >= LOCAL_WINDOW => (Area::Local, LOCAL_WINDOW),
        a if a >= SHARED_WINDOW => (Area::Shared, SHARED_WINDOW),
        _ => return Area::Global,
    };
    at.iter_mut().for_each(|a| *a = a.wrapping_sub(window));
    area
}

pub fn aligned(block: &Block<'_>, at: u64, bytes: usize) -> Result<()> {
    if block.checks && !at.is_multiple_of(bytes as u64) {
        return Err(Fault::new(
            FaultKind::Misaligned,
            format!("{bytes} bytes at {at:#x}, which is not a multiple of that"),
        ));
    }
    Ok(())
}

/// A request to global memory: sectors of 32 bytes, and the fewest that could hold what was asked for.
pub fn count_global(count: &mut Global, at: &Addresses, bytes: usize, mask: u32) {
    let mut starts = [0u64; 32];
    let mut n = 0;
    each(mask, |lane| {
        starts[n] = at[lane];
        n += 1;
    });
    let starts = &mut starts[..n];
    starts.sort_unstable();
    let (mut last, mut distinct, mut covered) = (u64::MAX, 0, 0);
    for &start in starts.iter() {
        let (from, to) = (start / 32, (start + bytes as u64 - 1) / 32);
        let fresh = if last == u64::MAX { from } else { from.max(last + 1) };
        count.sectors += (to + 1).saturating_sub(fresh);
        last = if last == u64::MAX { to } else { last.max(to) };
        distinct += (start + bytes as u64).saturating_sub(start.max(covered));
        covered = covered.max(start + bytes as u64);
    }
    count.requests += 1;
    count.bytes += distinct;
    count.ideal_sectors += distinct.div_ceil(32);
}

/// A request to shared memory: lanes go by in groups of at most 128 bytes; in a group the words of one bank take turns.
pub fn count_shared(block: &mut Block<'_>, at: &Addresses, bytes: usize, mask: u32) {
    let lanes = (128 / bytes.max(4)).min(32);
    for first in (0..32).step_by(lanes) {
        let mut words = [[u64::MAX; 32]; 32];
        let mut turns = [0usize; 32];
        each(mask & (((1u64 << lanes) - 1) << first) as u32, |lane| {
            for word in at[lane] / 4..(at[lane] + bytes as u64).div_ceil(4) {
                let bank = (word % 32) as usize;
                if !words[bank][..turns[bank]].contains(&word) {
                    words[bank][turns[bank].min(31)] = word;
                    turns[bank] += 1;
                }
            }
        });
        let most = turns.iter().max().copied().unwrap_or(0) as u64;
        block.counters.shared_wavefronts += most;
        block.counters.shared_ideal_wavefronts += most.min(1);
    }
}

fn extend(t: Type, x: u64) -> u64 {
    match t {
        Type::S8 => x as u8 as i8 as i64 as u64,
        Type::S16 => x as u16 as i16 as i64 as u64,
        Type::S32 => x as u32 as i32 as i64 as u64,
        _ => x,
    }
}

fn load(
    warp: &mut Warp, block: &mut Block<'_>, to: &[Option<u32>], t: Type, place: Place, mask: u32,
) -> Result<()> {
    let (each_bytes, bytes) = (t.bytes() as usize, t.bytes() as usize * to.len());
    let mut at = addresses(warp, place);
    let area = resolve(place.area, &mut at, mask);
    if block.counting {
        match area {
            Area::Global => count_global(&mut block.counters.loads, &at, bytes, mask),
            Area::Shared => count_shared(block, &at, bytes, mask),
            _ => {}
        }
    }
    let mut buffer = [0u8; 64];
    for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
        aligned(block, at[lane], bytes)?;
        read(warp, block, area, lane, at[lane], &mut buffer[..bytes])?;
        for (part, d) in buffer[..bytes].chunks_exact(each_bytes).zip(to) {
            let mut word = [0u8; 8];
            word[..each_bytes.min(8)].copy_from_slice(&part[..each_bytes.min(8)]);
            if let Some(d) = d {
                warp.registers[*d as usize][lane] = extend(t, u64::from_le_bytes(word));
            }
        }
    }
    Ok(())
}

#[inline(always)]
pub fn read(
    warp: &Warp, block: &mut Block<'_>, area: Area, lane: usize, at: u64, to: &mut [u8],
) -> Result<()> {
    match area {
        Area::Shared => to.copy_from_slice(block.shared.read(warp.who(lane), at, to.len())?),
        Area::Param => match block.params.get(at as usize..at as usize + to.len()) {
            Some(from) => to.copy_from_slice(from),
            None => return Err(Fault::new(FaultKind::OutOfBounds, format!("parameter byte {at}"))),
        },
        Area::Local | Area::Frame => {
            let range = local(warp, lane, at, to.len())?;
            // of an argument that is a structure, what lies between its members is copied too
            if block.checks && area == Area::Local && warp.local_written[range.clone()].contains(&false) {
                let problem = format!("reads local byte {at}, which was never written");
                return Err(Fault::new(FaultKind::UninitialisedLocal, problem));
            }
            to.copy_from_slice(&warp.local[range]);
        }
        _ => {
            if block.checks {
                block.memory.check(at, to.len() as u64)?;
                if !block.memory.is_written(at, to.len()) {
                    let problem = format!("reads {} bytes at {at:#x}, which were never written", to.len());
                    return Err(Fault::new(FaultKind::UninitialisedGlobal, problem));
                }
            }
            // SAFETY: the address passed `check`; with checks off the caller vouches for the kernel.
            unsafe { std::ptr::copy_nonoverlapping(block.memory.host(at), to.as_mut_ptr(), to.len()) };
        }
    }
    Ok(())
}

fn local(warp: &Warp, lane: usize, at: u64, bytes: usize) -> Result<std::ops::Range<usize>> {
    let size = warp.local.len() / 32;
    if at as usize + bytes > size {
        let problem = format!("{bytes} bytes at byte {at} of {size} bytes of local memory");
        return Err(Fault::new(FaultKind::OutOfBounds, problem));
    }
    Ok(lane * size + at as usize..lane * size + at as usize + bytes)
}

fn store(
    warp: &mut Warp, block: &mut Block<'_>, from: &[Src], t: Type, place: Place, mask: u32,
) -> Result<()> {
    let (each_bytes, bytes) = (t.bytes() as usize, t.bytes() as usize * from.len());
    let mut at = addresses(warp, place);
    let area = resolve(place.area, &mut at, mask);
    if block.counting {
        match area {
            Area::Global => count_global(&mut block.counters.stores, &at, bytes, mask),
            Area::Shared => count_shared(block, &at, bytes, mask),
            _ => {}
        }
    }
    let mut buffer = [0u8; 64];
    for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
        aligned(block, at[lane], bytes)?;
        for (part, s) in buffer[..bytes].chunks_exact_mut(each_bytes).zip(from) {
            let word = match s {
                Src::Reg(r) => warp.registers[*r as usize][lane],
                Src::Num(n) => *n,
            };
            part.copy_from_slice(&word.to_le_bytes()[..each_bytes]);
        }
        let bytes = &buffer[..bytes];
        write(warp, block, area, lane, at[lane], bytes)?;
    }
    Ok(())
}

#[inline(always)]
pub fn write(
    warp: &mut Warp, block: &mut Block<'_>, area: Area, lane: usize, at: u64, bytes: &[u8],
) -> Result<()> {
    match area {
        Area::Shared => block.shared.write(warp.who(lane), at, bytes)?,
        Area::Local | Area::Frame => {
            let range = local(warp, lane, at, bytes.len())?;
            warp.local[range.clone()].copy_from_slice(bytes);
            warp.local_written[range].fill(true);
        }
        _ => {
            if block.checks {
                block.memory.check(at, bytes.len() as u64)?;
            }
            // SAFETY: the address passed `check`; with checks off the caller vouches for the kernel.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), block.memory.host(at), bytes.len()) };
            block.memory.mark_written(at, bytes.len());
        }
    }
    Ok(())
}

fn combine(f: Function, t: Type, old: u64, b: u64, c: u64) -> u64 {
    match f {
        Function::Exchange => b,
        Function::CompareSwap => {
            if old == b & (u64::MAX >> (64 - t.bits())) {
                c
            } else {
                old
            }
        }
        Function::Increment => {
            if old >= b & (u64::MAX >> (64 - t.bits())) {
                0
            } else {
                old + 1
            }
        }
        Function::Decrement => {
            let b = b & (u64::MAX >> (64 - t.bits()));
            if old == 0 || old > b { b } else { old - 1 }
        }
        Function::AddPair(half) => {
            let sum = |at: u32| alu::compute(Function::Add, half, half, old >> at, b >> at, 0);
            sum(0) | sum(16) << 16
        }
        Function::AddFlushed => {
            let [x, y] = [old, b].map(|x| float::flushed(t, x));
            float::flushed(t, alu::compute(Function::Add, t, t, x, y, 0))
        }
        f => alu::compute(f, t, t, old, b, 0),
    }
}

/// Lanes one after the other, in ascending order.
fn atomic(
    warp: &mut Warp, block: &mut Block<'_>, (f, t): (Function, Type), d: Option<u32>, place: Place,
    (b, c): (Src, Src), mask: u32,
) -> Result<()> {
    let bytes = t.bytes() as usize;
    let mut at = addresses(warp, place);
    let area = resolve(place.area, &mut at, mask);
    let f = if f == Function::AddFlushed && area == Area::Shared { Function::Add } else { f };
    let (b, c) = (warp.value(b), warp.value(c));
    if block.counting && area == Area::Global {
        count_global(&mut block.counters.atomics, &at, bytes, mask);
    }
    if !matches!(bytes, 2 | 4 | 8) {
        return Err(Fault::new(
            FaultKind::UnknownInstruction,
            format!("atomics of {bytes} bytes are not known"),
        ));
    }
    for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
        aligned(block, at[lane], bytes)?;
        let old = if area == Area::Shared {
            let place = block.shared.exclusive(at[lane], bytes)?;
            let mut word = [0u8; 8];
            word[..bytes].copy_from_slice(place);
            let old = u64::from_le_bytes(word);
            place.copy_from_slice(&combine(f, t, old, b[lane], c[lane]).to_le_bytes()[..bytes]);
            old
        } else {
            if block.checks {
                block.memory.check(at[lane], bytes as u64)?;
                if !block.memory.is_written(at[lane], bytes) {
                    let problem = format!("atomic on {:#x}, which was never written", at[lane]);
                    return Err(Fault::new(FaultKind::UninitialisedGlobal, problem));
                }
            }
            let host = block.memory.host(at[lane]);
            let next = |old: u64| Some(combine(f, t, old, b[lane], c[lane]));
            // SAFETY: checked and aligned; all concurrent updates of it are atomics of this width.
            unsafe {
                if bytes == 2 {
                    let word = AtomicU16::from_ptr(host.cast());
                    let old = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |x| {
                        next(x.into()).map(|x| x as u16)
                    });
                    old.unwrap_or_else(|x| x).into()
                } else if bytes == 4 {
                    let word = AtomicU32::from_ptr(host.cast());
                    let old = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |x| {
                        next(x.into()).map(|x| x as u32)
                    });
                    old.unwrap_or_else(|x| x).into()
                } else {
                    AtomicU64::from_ptr(host.cast())
                        .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
                        .unwrap_or_else(|x| x)
                }
            }
        };
        if let Some(d) = d {
            warp.registers[d as usize][lane] = old;
        }
    }
    Ok(())
}

/// The source is read at once; the bytes arrive when the group is waited for.
fn start_copy(
    warp: &mut Warp, block: &mut Block<'_>, to: Place, from: Place, bytes: u32, used: Option<Src>, mask: u32,
) -> Result<()> {
    let bytes = bytes as usize;
    let (mut to, from) = (addresses(warp, to), addresses(warp, from));
    resolve(Area::Shared, &mut to, mask);
    let used = used.map_or([bytes as u64; 32], |used| warp.value(used));
    let mut reading = 0u32;
    each(mask, |lane| reading |= u32::from(used[lane] as u32 > 0) << lane);
    if block.counting {
        if reading != 0 {
            count_global(&mut block.counters.async_copies, &from, bytes, reading);
        }
        count_shared(block, &to, bytes, mask);
    }
    for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
        aligned(block, to[lane], bytes)?;
        let mut copy = vec![0u8; bytes];
        let used = (used[lane] as u32 as usize).min(bytes);
        if used > 0 {
            aligned(block, from[lane], bytes)?;
            read(warp, block, Area::Global, lane, from[lane], &mut copy[..used])?;
        }
        block.shared.announce(warp.who(lane), to[lane], bytes)?;
        warp.open_copies.push(Copy { lane, to: to[lane], bytes: copy });
    }
    Ok(())
}

/// All groups but the latest `left` arrive.
pub fn land(warp: &mut Warp, block: &mut Block<'_>, left: usize) -> Result<()> {
    while warp.copy_groups.len() > left {
        for copy in warp.copy_groups.pop_front().unwrap_or_default() {
            block.shared.write(warp.who(copy.lane), copy.to, &copy.bytes)?;
        }
    }
    Ok(())
}
