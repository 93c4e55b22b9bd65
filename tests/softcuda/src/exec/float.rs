//! Float instructions with modifiers: roundings, `.ftz`, `.sat`, `.relu`, pairs of 16-bit floats (PTX ISA 9.0, sections 9.7.3 to
//! 9.7.5), and conversions with them (9.7.9.21). What has none of them goes through `alu`.

use super::alu;
use super::soft::{Format, TF32, Value};
use crate::program::{Conversion, Float, Function, Round, Test, Type};

/// Both halves of a pair, or the one value.
pub fn compute(op: &Float, a: u64, b: u64, c: u64) -> u64 {
    if !op.pair {
        return one(op, a, b, c);
    }
    let bits = op.t.bits();
    let mask = (1 << bits) - 1;
    [0, bits]
        .iter()
        .fold(0, |out, at| out | (one(op, a >> at & mask, b >> at & mask, c >> at & mask) & mask) << at)
}

fn one(op: &Float, a: u64, b: u64, c: u64) -> u64 {
    let format = Format::of(op.t);
    let flush = |x: u64| if op.ftz { format.flush(x) } else { x };
    let (a, b, c) = (flush(a), flush(b), flush(c));
    // `.xorsign.abs` compares magnitudes
    let sign = a ^ b;
    let magnitude = |x: u64| if op.xor_sign { x & !(1 << (op.t.bits() - 1)) } else { x };
    let (a, b) = (magnitude(a), magnitude(b));
    let out = match op.f {
        Function::Abs
        | Function::Neg
        | Function::Min
        | Function::Max
        | Function::MinNan
        | Function::MaxNan => alu::compute(op.f, op.t, op.t, a, b, c),
        Function::Div if op.approx && matches!(op.t, Type::F32) => divide_roughly(a, b),
        Function::Add | Function::Sub | Function::Mul | Function::Fma | Function::Div | Function::Sqrt
            if op.round != Round::Nearest || matches!(op.t, Type::F16 | Type::Bf16) =>
        {
            exact(op, format, a, b, c)
        }
        Function::Reciprocal if op.round != Round::Nearest => exact(op, format, a, b, c),
        f => alu::compute(f, op.t, op.t, a, b, c),
    };
    let out = if op.xor_sign { exchange_sign(op.t, out, sign) } else { out };
    let out = flush(out);
    if op.sat {
        clamp(op.t, out, true)
    } else if op.relu {
        clamp(op.t, out, false)
    } else {
        out
    }
}

fn exact(op: &Float, format: Format, a: u64, b: u64, c: u64) -> u64 {
    let [a, b, c] = [a, b, c].map(|x| format.unpack(x));
    let x = match op.f {
        Function::Add => a.plus(b, op.round),
        Function::Sub => a.plus(b.negate(), op.round),
        Function::Mul => a.times(b),
        Function::Fma => a.times(b).plus(c, op.round),
        Function::Div => a.over(b),
        Function::Reciprocal => Value::integer(1).over(a),
        _ => a.root(),
    };
    format.round(x, op.round, false)
}

/// `div.approx`: from 2^126 on a divisor's reciprocal is zero (section 9.7.3.8).
fn divide_roughly(a: u64, b: u64) -> u64 {
    let (x, y) = (alu::f32_of(a), alu::f32_of(b));
    let zero = x.is_finite() && y.is_finite() && y.abs() > 2f32.powi(126);
    let quotient = if zero {
        0f32.copysign(x) * y.signum()
    } else if y.is_finite() && y.abs() > 2f32.powi(126) {
        f32::NAN
    } else {
        x / y
    };
    if quotient.is_nan() { 0x7fff_ffff } else { quotient.to_bits().into() }
}

/// `.xorsign.abs`: the magnitude, with the product's sign.
fn exchange_sign(t: Type, out: u64, signs: u64) -> u64 {
    let sign = 1 << (t.bits() - 1);
    if alu::is_nan(t, out) { out } else { out & !sign | signs & sign }
}

/// Into [0, 1], NaN to zero; or (`.relu`) only above zero, NaN to NaN.
fn clamp(t: Type, x: u64, sat: bool) -> u64 {
    let value = alu::to_f64(t, x);
    if value.is_nan() {
        return if sat { 0 } else { Format::of(t).nan() };
    }
    if value <= 0.0 {
        0
    } else if sat && value > 1.0 {
        alu::from_f64(t, 1.0)
    } else {
        x
    }
}

pub fn flushed(t: Type, x: u64) -> u64 {
    if matches!(t, Type::F32 | Type::F16 | Type::Bf16) { Format::of(t).flush(x) } else { x }
}

#[inline(never)]
pub fn test(what: Test, t: Type, x: u64) -> bool {
    let value = alu::to_f64(t, x);
    let below = !value.is_nan() && value != 0.0 && Format::of(t).flush(x) != x;
    match what {
        Test::Finite => value.is_finite(),
        Test::Infinite => value.is_infinite(),
        Test::Number => !value.is_nan(),
        Test::NotANumber => value.is_nan(),
        Test::Normal => value.is_finite() && value != 0.0 && !below,
        Test::Subnormal => below,
    }
}

/// `cvt` of one source, or of two into a pair (a the upper half).
pub fn convert(how: &Conversion, a: u64, b: u64) -> u64 {
    if how.pair {
        return convert_one(how, a) << 16 | convert_one(how, b) & 0xffff;
    }
    convert_one(how, a)
}

fn convert_one(how: &Conversion, x: u64) -> u64 {
    let x = if how.ftz { flushed(how.from, x) } else { x };
    if !how.to.float() {
        return if how.from.float() {
            alu::compute(Function::Convert(how.round), how.to, how.from, x, 0, 0)
        } else {
            stop(how.to, alu::integer(how.from, x))
        };
    }
    let format = if how.tf32 { TF32 } else { Format::of(how.to) };
    let out = if how.integral {
        let whole = alu::compute(Function::Convert(how.round), how.from, how.from, x, 0, 0);
        format.round(Format::of(how.from).unpack(whole), Round::Nearest, how.finite)
    } else if how.from.float() {
        format.round(Format::of(how.from).unpack(x), how.round, how.finite)
    } else {
        format.round(Value::integer(alu::integer(how.from, x)), how.round, how.finite)
    };
    let out = if how.ftz { flushed(how.to, out) } else { out };
    match (how.sat, how.relu) {
        (true, _) => clamp(how.to, out, true),
        (_, true) if how.tf32 && alu::is_nan(Type::F32, out) => TF32.nan(),
        (_, true) => clamp(how.to, out, false),
        _ => out,
    }
}

/// `cvt.sat` between integers: the nearest there is.
fn stop(t: Type, x: i128) -> u64 {
    let bits = t.bits();
    let (low, high) = if t.signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    };
    x.clamp(low, high) as u64
}
