//! One lane's arithmetic. Registers hold 64 bits; narrower values lie in the low ones (PTX ISA 9.0, sections 9.7.1 to 9.7.9).

use super::soft::{Format, Value};
use super::{float, integer};
use crate::program::{Function, Round, Type};
use half::{bf16, f16};

/// The value as its type has it, sign or zero extended.
#[inline(always)]
pub fn integer(t: Type, x: u64) -> i128 {
    match t {
        Type::U8 => (x as u8).into(),
        Type::U16 => (x as u16).into(),
        Type::U32 => (x as u32).into(),
        Type::S8 => (x as i8).into(),
        Type::S16 => (x as i16).into(),
        Type::S32 => (x as i32).into(),
        Type::S64 => (x as i64).into(),
        _ => x.into(),
    }
}

/// `bits` low ones.
#[inline(always)]
fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

pub fn f32_of(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

/// NaN has one form: 0x7fffffff (section 9.7.3).
fn bits_of(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}

pub fn to_f64(t: Type, x: u64) -> f64 {
    match t {
        Type::F16 => f16::from_bits(x as u16).to_f64(),
        Type::Bf16 => bf16::from_bits(x as u16).to_f64(),
        Type::F32 => f32_of(x).into(),
        _ => f64::from_bits(x),
    }
}

pub fn from_f64(t: Type, x: f64) -> u64 {
    match t {
        Type::F16 | Type::Bf16 => narrow(t, x),
        Type::F32 => bits_of(x as f32),
        _ => x.to_bits(),
    }
}

/// To 16 bits, rounded once: `half` cuts an f64 before it rounds.
#[inline(never)]
fn narrow(t: Type, x: f64) -> u64 {
    let short = x as f32;
    match t {
        _ if x.is_nan() => 0x7fff,
        Type::F16 if f64::from(short) == x => f16::from_f32(short).to_bits().into(),
        Type::Bf16 if f64::from(short) == x => bf16::from_f32(short).to_bits().into(),
        _ => Format::of(t).round(Format::of(Type::F64).unpack(x.to_bits()), Round::Nearest, false),
    }
}

pub fn is_nan(t: Type, x: u64) -> bool {
    to_f64(t, x).is_nan()
}

/// The one that is a number where one is not; -0 below +0.
fn least(a: f64, b: f64) -> f64 {
    if a == b { if a.is_sign_negative() { a } else { b } } else { a.min(b) }
}

fn most(a: f64, b: f64) -> f64 {
    if a == b { if a.is_sign_negative() { b } else { a } } else { a.max(b) }
}

#[inline(always)]
pub fn compute(f: Function, t: Type, from: Type, a: u64, b: u64, c: u64) -> u64 {
    match (f, t) {
        (Function::Move, _) => a & mask(t.bits()),
        (Function::Convert(round), _) => convert(round, t, from, a),
        (Function::Select, _) => {
            if c & 1 == 1 {
                a
            } else {
                b
            }
        }
        (Function::Test(what), _) => float::test(what, t, a).into(),
        (Function::Integer(f), _) => integer::compute(f, t, a, b, c),
        (Function::PackBf16, _) => {
            from_f64(Type::Bf16, f32_of(a).into()) << 16 | from_f64(Type::Bf16, f32_of(b).into())
        }
        (Function::PackF16, _) => {
            from_f64(Type::F16, f32_of(a).into()) << 16 | from_f64(Type::F16, f32_of(b).into())
        }
        (_, Type::F32) => single(f, f32_of(a), f32_of(b), f32_of(c)),
        _ if t.float() => double(f, t, to_f64(t, a), to_f64(t, b), to_f64(t, c)),
        _ => whole(f, t, a, b, c),
    }
}

fn single(f: Function, a: f32, b: f32, c: f32) -> u64 {
    bits_of(match f {
        Function::Add => a + b,
        Function::Sub => a - b,
        Function::Mul => a * b,
        Function::Fma => a.mul_add(b, c),
        Function::FmaDown => fma_down(a, b, c),
        Function::Saturate => {
            if a.is_nan() {
                0.0
            } else {
                a.clamp(0.0, 1.0)
            }
        }
        Function::Div => a / b,
        Function::Sqrt => a.sqrt(),
        Function::Abs => a.abs(),
        Function::Neg => -a,
        Function::Min if a != b => a.min(b),
        Function::Max if a != b => a.max(b),
        Function::CopySign => b.copysign(a),
        _ => return double(f, Type::F32, a.into(), b.into(), c.into()),
    })
}

/// a·b + c rounded towards minus infinity: the product is exact in f64, and what its sum with c loses is worked out by
/// Knuth's two-sum.
fn fma_down(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    let back = sum - p;
    let lost = (p - (sum - back)) + (c - back);
    let near = sum as f32;
    if f64::from(near) > sum || (f64::from(near) == sum && lost < 0.0) { near.next_down() } else { near }
}

/// Through f64: one rounding for everything but f64 itself.
fn double(f: Function, t: Type, a: f64, b: f64, c: f64) -> u64 {
    from_f64(
        t,
        match f {
            Function::Add => a + b,
            Function::Sub => a - b,
            Function::Mul => a * b,
            Function::Fma => a.mul_add(b, c),
            Function::Div => a / b,
            Function::Sqrt => a.sqrt(),
            Function::Rsqrt => 1.0 / a.sqrt(),
            Function::Reciprocal => 1.0 / a,
            Function::Exp2 => a.exp2(),
            Function::Log2 => a.log2(),
            Function::Sin => a.sin(),
            Function::Cos => a.cos(),
            Function::Tanh => a.tanh(),
            Function::Abs => a.abs(),
            Function::Neg => -a,
            Function::MinNan | Function::MaxNan if a.is_nan() || b.is_nan() => f64::NAN,
            Function::Min | Function::MinNan => least(a, b),
            Function::Max | Function::MaxNan => most(a, b),
            Function::CopySign => b.copysign(a),
            _ => f64::NAN,
        },
    )
}

fn whole(f: Function, t: Type, a: u64, b: u64, c: u64) -> u64 {
    let bits = t.bits();
    let (x, y, z) = (integer(t, a), integer(t, b), integer(t, c));
    let shift = (b as u32).min(bits);
    let out = match f {
        Function::Add => x + y,
        Function::Sub => x - y,
        Function::Mul => x.wrapping_mul(y),
        Function::MulHigh => x.wrapping_mul(y) >> bits,
        Function::MulWide => return x.wrapping_mul(y) as u64 & mask(2 * bits),
        Function::Mad => x.wrapping_mul(y).wrapping_add(z),
        Function::MadHigh => (x.wrapping_mul(y) >> bits) + z,
        Function::MadWide => return ((x * y) as u64).wrapping_add(c) & mask(2 * bits),
        Function::Div | Function::Rem if y == 0 => -1,
        Function::Div => x / y,
        Function::Rem => x % y,
        Function::Min => x.min(y),
        Function::Max => x.max(y),
        Function::Abs => x.abs(),
        Function::Neg => -x,
        Function::And => x & y,
        Function::Or => x | y,
        Function::Xor => x ^ y,
        Function::Not if t == Type::Pred => x ^ 1,
        Function::Not => !x,
        // amounts beyond the width shift everything out; an arithmetic shift leaves the sign
        Function::ShiftLeft => {
            if shift >= bits {
                0
            } else {
                x << shift
            }
        }
        Function::ShiftRight => x >> shift,
        Function::Lop3(table) => logic(table, a, b, c).into(),
        Function::FunnelLeft { wrap } => {
            let n = if wrap { c as u32 & 31 } else { (c as u32).min(32) };
            return (((b & mask(32)) << 32 | a & mask(32)) << n) >> 32 & mask(32);
        }
        Function::FunnelRight { wrap } => {
            let n = if wrap { c as u32 & 31 } else { (c as u32).min(32) };
            return ((b & mask(32)) << 32 | a & mask(32)) >> n & mask(32);
        }
        Function::ExtractBits => return extract(t, a, b as u32 & 255, c as u32 & 255),
        Function::Permute => return permute(a, b, c as u32),
        Function::CountBits => return (a & mask(bits)).count_ones().into(),
        Function::LeadingZeros => return ((a & mask(bits)).leading_zeros() - (64 - bits)).into(),
        Function::ReverseBits => return (a & mask(bits)).reverse_bits() >> (64 - bits),
        _ => return 0,
    };
    out as u64 & mask(bits)
}

fn logic(table: u8, a: u64, b: u64, c: u64) -> u64 {
    (0..8u64).filter(|i| table >> i & 1 == 1).fold(0, |out, i| {
        let pick = |x: u64, bit: u64| if i >> bit & 1 == 1 { x } else { !x };
        out | pick(a, 2) & pick(b, 1) & pick(c, 0)
    })
}

/// Bits [from, from + len), the sign taken from the last of them or of the value (section 9.7.1.15).
fn extract(t: Type, a: u64, from: u32, len: u32) -> u64 {
    let bits = t.bits();
    let last = (from + len).saturating_sub(1).min(bits - 1);
    let sign = t.signed() && len > 0 && a >> last & 1 == 1;
    let field = if from >= bits { 0 } else { (a & mask(bits)) >> from };
    let out = field & mask(len);
    if sign { (out | !mask(len.min(bits.saturating_sub(from)))) & mask(bits) } else { out & mask(bits) }
}

/// b with bits [from, from + len) from the low ones of a (section 9.7.1.16).
pub fn insert(t: Type, a: u64, b: u64, from: u64, len: u64) -> u64 {
    let (bits, from, len) = (t.bits(), from as u32 & 255, len as u32 & 255);
    if from >= bits {
        return b & mask(bits);
    }
    let field = (mask(len) << from) & mask(bits);
    (b & !field | a << from & field) & mask(bits)
}

pub fn permute(a: u64, b: u64, selector: u32) -> u64 {
    let bytes = (a & mask(32)) | b << 32;
    (0..4).fold(0, |out, i| {
        let pick = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        let byte = if pick & 8 == 8 { (byte as i8 >> 7) as u8 } else { byte };
        out | u64::from(byte) << (8 * i)
    })
}

fn convert(round: Round, t: Type, from: Type, a: u64) -> u64 {
    if !from.float() {
        let x = integer(from, a);
        return match t {
            Type::F32 => (x as f32).to_bits().into(),
            _ if t.float() => Format::of(t).round(Value::integer(x), Round::Nearest, false),
            Type::S8 | Type::S16 => integer(t, x as u64) as u64,
            _ => x as u64 & mask(t.bits()),
        };
    }
    let x = to_f64(from, a);
    let rounded = match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
        Round::Away => x.round(),
    };
    if t == from {
        return from_f64(t, rounded);
    }
    if t.float() {
        return from_f64(t, x);
    }
    // out of range: the nearest there is; NaN is 0, to and from 64 bits the sign alone (section 9.7.9.21)
    let bits = t.bits();
    let (low, high) = if t.signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    };
    if x.is_nan() {
        return if bits == 64 || from == Type::F64 { 1 << (bits - 1) } else { 0 };
    }
    (rounded as i128).clamp(low, high) as u64 & mask(bits.max(32))
}

#[inline(always)]
pub fn compare(f: Function, t: Type, a: u64, b: u64) -> bool {
    if !t.float() {
        let (x, y) = (integer(t, a), integer(t, b));
        return match f {
            Function::Equal => x == y,
            Function::NotEqual => x != y,
            Function::Less => x < y,
            Function::LessEqual => x <= y,
            Function::Greater => x > y,
            _ => x >= y,
        };
    }
    let (x, y) = (to_f64(t, a), to_f64(t, b));
    let nan = x.is_nan() || y.is_nan();
    match f {
        Function::Equal => x == y,
        Function::NotEqual => !nan && x != y,
        Function::Less => x < y,
        Function::LessEqual => x <= y,
        Function::Greater => x > y,
        Function::GreaterEqual => x >= y,
        Function::EqualOrNan => nan || x == y,
        Function::NotEqualOrNan => x != y,
        Function::LessOrNan => nan || x < y,
        Function::LessEqualOrNan => nan || x <= y,
        Function::GreaterOrNan => nan || x > y,
        Function::GreaterEqualOrNan => nan || x >= y,
        Function::IsNumber => !nan,
        _ => nan,
    }
}
