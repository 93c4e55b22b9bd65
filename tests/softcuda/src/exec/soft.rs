//! Floats computed exactly and rounded once, in any of the ISA's modes, to any of its formats.
//!
//! A finite number is a mantissa of 128 bits times a power of two. Operands have at most 53 bits, so products are exact; what a sum,
//! a quotient or a root leaves below its last bit sets that bit ("sticky"), which no rounding two bits higher can tell from the truth.

use crate::program::{Round, Type};

#[derive(Clone, Copy, Debug)]
pub enum Value {
    Nan,
    Infinite {
        negative: bool,
    },
    /// mantissa·2^exponent
    Finite {
        negative: bool,
        mantissa: u128,
        exponent: i32,
    },
}

/// An IEEE format: bits of the exponent and of the fraction, and zeros below the fraction in its register.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    exponent: u32,
    fraction: u32,
    below: u32,
}

pub const TF32: Format = Format { exponent: 8, fraction: 10, below: 13 };

impl Format {
    pub fn of(t: Type) -> Format {
        let (exponent, fraction) = match t {
            Type::F16 => (5, 10),
            Type::Bf16 => (8, 7),
            Type::F32 => (8, 23),
            _ => (11, 52),
        };
        Format { exponent, fraction, below: 0 }
    }

    fn bits(self) -> u32 {
        1 + self.exponent + self.fraction
    }

    fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    /// The exponent of the lowest bit of the smallest number.
    fn lowest(self) -> i32 {
        2 - (1 << (self.exponent - 1)) - self.fraction as i32
    }

    /// The one form that results have (PTX ISA 9.0, section 9.7.3).
    pub fn nan(self) -> u64 {
        let all = (1u64 << (self.bits() - 1)) - 1;
        if self.fraction == 52 { 0x7ff8 << 48 } else { all << self.below | ((1 << self.below) - 1) }
    }

    fn signed(self, negative: bool, magnitude: u64) -> u64 {
        (u64::from(negative) << (self.bits() - 1) | magnitude) << self.below
    }

    pub fn unpack(self, x: u64) -> Value {
        let x = x >> self.below;
        let negative = x >> (self.bits() - 1) & 1 == 1;
        let magnitude = x & ((1 << (self.bits() - 1)) - 1);
        if magnitude >= self.infinity() {
            return if magnitude > self.infinity() { Value::Nan } else { Value::Infinite { negative } };
        }
        let (field, fraction) = (magnitude >> self.fraction, magnitude & ((1 << self.fraction) - 1));
        let hidden = u64::from(field > 0) << self.fraction;
        let exponent = self.lowest() + (field.max(1) - 1) as i32;
        Value::Finite { negative, mantissa: (hidden | fraction).into(), exponent }
    }

    /// Beyond the largest number lies infinity, for nearest and for outward modes, or where `finite` the largest number.
    pub fn round(self, x: Value, mode: Round, finite: bool) -> u64 {
        let (negative, mantissa, exponent) = match x {
            Value::Nan => return self.nan(),
            Value::Infinite { negative } => {
                return self.signed(negative, self.infinity() - u64::from(finite));
            }
            Value::Finite { negative, mantissa, exponent } => (negative, mantissa, exponent),
        };
        if mantissa == 0 {
            return self.signed(negative, 0);
        }
        let top = exponent + 127 - mantissa.leading_zeros() as i32;
        let last = self.lowest().max(top - self.fraction as i32);
        let m = cut(mantissa, last - exponent, mode, negative);
        // the hidden bit counts the exponent up by one; so does a carry out of the fraction
        let magnitude = (u128::from((last - self.lowest()) as u32) << self.fraction) + m;
        let outward = match mode {
            Round::Nearest | Round::Away => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        let most = self.infinity() - u64::from(finite || !outward);
        self.signed(negative, magnitude.min(most.into()) as u64)
    }

    /// Zero of the same sign where the number is below the smallest with a full mantissa.
    pub fn flush(self, x: u64) -> u64 {
        let magnitude = (x >> self.below) & ((1 << (self.bits() - 1)) - 1);
        if magnitude >> self.fraction == 0 { x & self.signed(true, 0) } else { x }
    }
}

/// Without the low `n` bits.
fn cut(mantissa: u128, n: i32, mode: Round, negative: bool) -> u128 {
    if n <= 0 {
        return mantissa << -n;
    }
    let (kept, rest, half) = match n {
        128.. => (0, 1, 2),
        _ => (mantissa >> n, mantissa & ((1 << n) - 1), 1u128 << (n - 1)),
    };
    let up = match mode {
        Round::Nearest => rest > half || rest == half && kept & 1 == 1,
        Round::Away => rest >= half,
        Round::Zero => false,
        Round::Down => negative && rest != 0,
        Round::Up => !negative && rest != 0,
    };
    kept + u128::from(up)
}

fn zero(negative: bool) -> Value {
    Value::Finite { negative, mantissa: 0, exponent: 0 }
}

impl Value {
    pub fn integer(x: i128) -> Value {
        Value::Finite { negative: x < 0, mantissa: x.unsigned_abs(), exponent: 0 }
    }

    fn negative(self) -> bool {
        matches!(self, Value::Infinite { negative: true } | Value::Finite { negative: true, .. })
    }

    pub fn negate(self) -> Value {
        match self {
            Value::Nan => Value::Nan,
            Value::Infinite { negative } => Value::Infinite { negative: !negative },
            Value::Finite { negative, mantissa, exponent } => {
                Value::Finite { negative: !negative, mantissa, exponent }
            }
        }
    }

    fn is_zero(self) -> bool {
        matches!(self, Value::Finite { mantissa: 0, .. })
    }

    pub fn times(self, other: Value) -> Value {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
            (Value::Infinite { .. }, x) | (x, Value::Infinite { .. }) => {
                if x.is_zero() {
                    Value::Nan
                } else {
                    Value::Infinite { negative }
                }
            }
            (
                Value::Finite { mantissa: a, exponent: e, .. },
                Value::Finite { mantissa: b, exponent: f, .. },
            ) => Value::Finite { negative, mantissa: a * b, exponent: e + f },
        }
    }

    /// Zero that is a difference is negative only when rounding down.
    pub fn plus(self, other: Value, mode: Round) -> Value {
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
            (Value::Infinite { negative: a }, Value::Infinite { negative: b }) if a != b => Value::Nan,
            (x @ Value::Infinite { .. }, _) | (_, x @ Value::Infinite { .. }) => x,
            (x, y) if x.is_zero() && y.is_zero() => {
                zero(if x.negative() == y.negative() { x.negative() } else { mode == Round::Down })
            }
            (x, y) if x.is_zero() => y,
            (x, y) if y.is_zero() => x,
            (x, y) => {
                let (a, b) = (x.high(125), y.high(125));
                let ((m, e), (n, f)) = if a.1 >= b.1 { (a, b) } else { (b, a) };
                let n = sticky(n, (e - f) as u32);
                let (first, second) = if a.1 >= b.1 { (x, y) } else { (y, x) };
                if first.negative() == second.negative() {
                    Value::Finite { negative: first.negative(), mantissa: m + n, exponent: e }
                } else if m == n {
                    zero(mode == Round::Down)
                } else {
                    let negative = if m > n { first.negative() } else { second.negative() };
                    Value::Finite { negative, mantissa: m.abs_diff(n), exponent: e }
                }
            }
        }
    }

    pub fn over(self, other: Value) -> Value {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) | (Value::Infinite { .. }, Value::Infinite { .. }) => {
                Value::Nan
            }
            (Value::Infinite { .. }, _) => Value::Infinite { negative },
            (_, Value::Infinite { .. }) => zero(negative),
            (x, y) if y.is_zero() => {
                if x.is_zero() {
                    Value::Nan
                } else {
                    Value::Infinite { negative }
                }
            }
            (x, _) if x.is_zero() => zero(negative),
            (x, y) => {
                let ((m, e), (n, f)) = (x.high(127), y.high(60));
                let rest = u128::from(m % n != 0);
                Value::Finite { negative, mantissa: (m / n) | rest, exponent: e - f }
            }
        }
    }

    pub fn root(self) -> Value {
        match self {
            x if x.is_zero() => x,
            Value::Infinite { negative: false } => self,
            Value::Finite { negative: false, .. } => {
                let (mut m, mut e) = self.high(127);
                if e % 2 != 0 {
                    (m, e) = (m >> 1 | m & 1, e + 1);
                }
                let root = m.isqrt();
                let rest = u128::from(root * root != m);
                Value::Finite { negative: false, mantissa: root | rest, exponent: e / 2 }
            }
            _ => Value::Nan,
        }
    }

    /// Mantissa with its highest bit there, and exponent; of a number that is not zero.
    fn high(self, bit: u32) -> (u128, i32) {
        let Value::Finite { mantissa, exponent, .. } = self else { return (0, 0) };
        let shift = bit as i32 - (127 - mantissa.leading_zeros() as i32);
        if shift >= 0 {
            (mantissa << shift, exponent - shift)
        } else {
            (sticky(mantissa, -shift as u32), exponent - shift)
        }
    }
}

fn sticky(m: u128, n: u32) -> u128 {
    if n >= 128 { 1 } else { m >> n | u128::from(m & ((1 << n) - 1) != 0) }
}
