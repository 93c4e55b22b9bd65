//! The rarer integer instructions (PTX ISA 9.0, sections 9.7.1, 9.7.2 and 9.7.8), one lane each.

use super::alu::integer;
use crate::program::{Carry, Integer, PairFunction, Type};

#[inline(never)]
pub fn compute(f: Integer, t: Type, a: u64, b: u64, c: u64) -> u64 {
    result(f, t, a, b, c) & (u64::MAX >> (64 - t.bits()))
}

fn result(f: Integer, t: Type, a: u64, b: u64, c: u64) -> u64 {
    let bits = t.bits();
    let (x, y, z) = (integer(t, a), integer(t, b), integer(t, c));
    match f {
        Integer::Sad => (z + (x - y).abs()) as u64,
        // bits 31..0 or 47..16 of the product; `mul24` has zero for c
        Integer::Low24 => ((of_24(t, a) * of_24(t, b)) as u64).wrapping_add(c),
        Integer::High24 => ((of_24(t, a) * of_24(t, b)) as u64 >> 16).wrapping_add(c),
        Integer::AddSat => stop(t, x + y),
        Integer::SubSat => stop(t, x - y),
        Integer::MadHighSat => stop(t, ((x * y) >> bits) + z),
        Integer::MinRelu => x.min(y).max(0) as u64,
        Integer::MaxRelu => x.max(y).max(0) as u64,
        Integer::FindHighest { shift } => find_highest(t, a, shift),
        Integer::FindNth => find_nth(a as u32, b as u32, c as i32).into(),
        Integer::Dot4 { signed } => dot4(signed, a, b, c),
        Integer::Dot2 { signed, high } => dot2(signed, high, a, b, c),
        Integer::Extend { wrap } => extend(t, a, width(b, wrap)),
        Integer::Mask { wrap } => {
            let (start, len) = (width(a, wrap), width(b, wrap));
            ((1u64 << len) - 1) << start
        }
        Integer::IsZero => u64::from(x == 0),
        Integer::PermuteMode(mode) => super::alu::permute(a, b, mode.selector(c as u32 & 3)),
        Integer::SelectBySign { float } => {
            let first = if float { f32::from_bits(c as u32) >= 0.0 } else { c as i32 >= 0 };
            if first { a } else { b }
        }
        Integer::Pair { f, signed, relu } => pair(f, signed, relu, a, b),
        Integer::InWindow { start, end } => u64::from((start..end).contains(&a)),
    }
}

fn of_24(t: Type, x: u64) -> i64 {
    if t.signed() { ((x as u32) << 8) as i32 as i64 >> 8 } else { (x & 0xff_ffff) as i64 }
}

fn stop(t: Type, x: i128) -> u64 {
    let half = 1i128 << (t.bits() - 1);
    x.clamp(-half, half - 1) as u64
}

/// Of a negative number the highest zero.
fn find_highest(t: Type, a: u64, shift: bool) -> u64 {
    let x = integer(t, a);
    let x = (if x < 0 { !x } else { x }) as u64;
    if x == 0 {
        return 0xffff_ffff;
    }
    let at = 63 - u64::from(x.leading_zeros());
    if shift { u64::from(t.bits()) - 1 - at } else { at }
}

/// Section 9.7.1.19: the offset-th set bit from base on, upwards or downwards.
fn find_nth(mask: u32, base: u32, offset: i32) -> u32 {
    let set = |at: i32| mask >> at & 1 == 1;
    let base = base as i32;
    let found = match offset {
        0 => (0..32).contains(&base).then_some(base).filter(|at| set(*at)),
        1.. => (base.max(0)..32).filter(|at| set(*at)).nth(offset as usize - 1),
        _ => (0..=base.min(31)).rev().filter(|at| set(*at)).nth(offset.unsigned_abs() as usize - 1),
    };
    found.map_or(u32::MAX, |at| at as u32)
}

fn part(x: u64, at: usize, bits: usize, signed: bool) -> i64 {
    let field = (x >> (at * bits)) as i64;
    let up = 64 - bits;
    if signed { field << up >> up } else { ((field as u64) << up >> up) as i64 }
}

fn dot4(signed: [bool; 2], a: u64, b: u64, c: u64) -> u64 {
    let sum: i64 = (0..4).map(|i| part(a, i, 8, signed[0]) * part(b, i, 8, signed[1])).sum();
    c.wrapping_add(sum as u64)
}

fn dot2(signed: [bool; 2], high: bool, a: u64, b: u64, c: u64) -> u64 {
    let from = if high { 2 } else { 0 };
    let sum: i64 = (0..2).map(|i| part(a, i, 16, signed[0]) * part(b, from + i, 8, signed[1])).sum();
    c.wrapping_add(sum as u64)
}

fn width(n: u64, wrap: bool) -> u32 {
    if wrap { n as u32 & 31 } else { (n as u32).min(32) }
}

fn extend(t: Type, a: u64, n: u32) -> u64 {
    if n == 0 {
        return 0;
    }
    let up = 64 - n;
    if t.signed() { ((a << up) as i64 >> up) as u64 } else { a << up >> up }
}

fn pair(f: PairFunction, signed: bool, relu: bool, a: u64, b: u64) -> u64 {
    (0..2).fold(0, |out, i| {
        let (x, y) = (part(a, i, 16, signed), part(b, i, 16, signed));
        let z = match f {
            PairFunction::Add => x + y,
            PairFunction::Min => x.min(y),
            PairFunction::Max => x.max(y),
        };
        let z = if relu { z.max(0) } else { z };
        out | (z as u64 & 0xffff) << (16 * i)
    })
}

/// `addc`, `subc`, `madc` and those that set the carry: the result and the carry out (section 9.7.2).
pub fn with_carry(f: Carry, t: Type, x: [u64; 3], carry: bool) -> (u64, bool) {
    let (bits, mask) = (t.bits(), u64::MAX >> (64 - t.bits()));
    let [a, b, c] = x.map(|x| u128::from(x & mask));
    let carry = u128::from(carry);
    let low = a.wrapping_mul(b) & u128::from(mask);
    let high = (integer(t, x[0]).wrapping_mul(integer(t, x[1])) >> bits) as u128 & u128::from(mask);
    let sum = match f {
        Carry::Add => a + b + carry,
        // the carry out of a subtraction is a borrow
        Carry::Sub => a.wrapping_sub(b).wrapping_sub(carry),
        Carry::MadLow => low + c + carry,
        Carry::MadHigh => high + c + carry,
    };
    (sum as u64 & mask, sum >> bits & 1 == 1)
}
