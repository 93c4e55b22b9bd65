//! The commonest arithmetic over all lanes at once, in loops that the compiler makes vectors of. What it gives is what `alu` gives.

use super::mma::Lanes;
use crate::program::{Function, Type};

#[inline(always)]
fn lanes(f: impl Fn(usize) -> u64) -> Lanes {
    let mut out = [0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        *out = f(lane);
    }
    out
}

/// None for what is not common.
#[inline(always)]
pub fn compute(f: Function, t: Type, a: &Lanes, b: &Lanes, c: &Lanes) -> Option<Lanes> {
    if t.float() {
        return None;
    }
    // sums and products of the low bits are the low bits of sums and products, whatever the sign
    let mask = u64::MAX >> (64 - t.bits().min(64));
    Some(match f {
        Function::Add => lanes(|i| a[i].wrapping_add(b[i]) & mask),
        Function::Sub => lanes(|i| a[i].wrapping_sub(b[i]) & mask),
        Function::Mul => lanes(|i| a[i].wrapping_mul(b[i]) & mask),
        Function::Mad => lanes(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i]) & mask),
        Function::And => lanes(|i| a[i] & b[i] & mask),
        Function::Or => lanes(|i| (a[i] | b[i]) & mask),
        Function::Xor => lanes(|i| (a[i] ^ b[i]) & mask),
        Function::MulWide if t == Type::S32 => {
            lanes(|i| (i64::from(a[i] as i32) * i64::from(b[i] as i32)) as u64)
        }
        Function::MulWide if t == Type::U32 => lanes(|i| u64::from(a[i] as u32) * u64::from(b[i] as u32)),
        _ => return None,
    })
}
