//! `mma` and `wmma` of every shape but the commonest (PTX ISA 9.0, sections 9.7.14 and 9.7.15): operands are gathered into plain
//! matrices, multiplied, and scattered. Products are exact; sums are of f32 (f64, integers), k ascending. Sums of f16 are those of f32
//! rounded once at the end.

use super::mma::Lanes;
use crate::program::{Element, Fragment, Product};
use half::{bf16, f16};

/// d = a·b + c, each a list of registers.
pub fn multiply(p: &Product, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
    let of = |i: usize, registers: &[Lanes]| gather(&p.fragment(i), registers);
    let (a, b, mut sums) = (of(0, a), of(1, b), of(2, c));
    let (n, k) = (p.shape.n, p.shape.k);
    for (row, sums) in sums.chunks_exact_mut(n).enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            let pairs = (0..k).map(|i| (a[row * k + i], b[i * n + column]));
            *sum = dot(p, pairs, *sum);
        }
    }
    scatter(&p.fragment(3), &sums, d);
}

/// Integers of 32 bits and their products of 8 are exact in f64 too, so one path serves all.
fn dot(p: &Product, pairs: impl Iterator<Item = (f64, f64)>, sum: f64) -> f64 {
    match p.elements[0] {
        e if e.integer() => {
            let exact = sum + pairs.map(|(x, y)| x * y).sum::<f64>();
            let wrapped = exact as i64 as i32;
            if p.saturate { f64::from(exact as i32) } else { wrapped.into() }
        }
        Element::F64 => pairs.fold(sum, |sum, (x, y)| x.mul_add(y, sum)),
        _ => pairs.fold(sum as f32, |sum, (x, y)| (x as f32).mul_add(y as f32, sum)).into(),
    }
}

fn value(e: Element, x: u64) -> f64 {
    match e {
        Element::F16 => f16::from_bits(x as u16).into(),
        Element::Bf16 => bf16::from_bits(x as u16).into(),
        // the low 13 bits are not looked at
        Element::Tf32 => f32::from_bits(x as u32 & !0x1fff).into(),
        Element::F32 => f32::from_bits(x as u32).into(),
        Element::F64 => f64::from_bits(x),
        Element::S8 => (x as i8).into(),
        Element::U8 => (x as u8).into(),
        Element::S4 => ((x as i8) << 4 >> 4).into(),
        Element::U4 => ((x & 15) as u8).into(),
        Element::S32 => (x as i32).into(),
    }
}

fn bits(e: Element, x: f64) -> u64 {
    match e {
        Element::F16 if x.is_nan() => 0x7fff,
        Element::F16 => f16::from_f32(x as f32).to_bits().into(),
        Element::F32 if x.is_nan() => 0x7fff_ffff,
        Element::F32 => (x as f32).to_bits().into(),
        Element::F64 => x.to_bits(),
        _ => u64::from(x as i32 as u32),
    }
}

fn gather(f: &Fragment, registers: &[Lanes]) -> Vec<f64> {
    let (rows, columns) = f.size();
    let mut matrix = vec![0.0; rows * columns];
    for (r, lanes) in registers[..f.registers()].iter().enumerate() {
        for (lane, x) in lanes.iter().enumerate() {
            for e in 0..f.element.packed() {
                let (row, column) = f.place(lane, r, e);
                matrix[row * columns + column] = value(f.element, x >> (e * f.element.bits()));
            }
        }
    }
    matrix
}

fn scatter(f: &Fragment, matrix: &[f64], registers: &mut [Lanes]) {
    let columns = f.size().1;
    for (r, lanes) in registers.iter_mut().enumerate() {
        for (lane, x) in lanes.iter_mut().enumerate() {
            *x = (0..f.element.packed()).fold(0, |word, e| {
                let (row, column) = f.place(lane, r, e);
                word | bits(f.element, matrix[row * columns + column]) << (e * f.element.bits())
            });
        }
    }
}
