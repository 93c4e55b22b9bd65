//! Floats of 16 bits and tf32, one and two at a time: rounded once, against exact integers and lists of all numbers of a format.

// types and comparisons as the ISA writes them
#![allow(clippy::type_complexity)]

mod common;

use common::isa::{Bits, NAN, b, edges, f, fixed, hold, table};
use half::{bf16, f16};
use std::cmp::Ordering;

/// All finite numbers of a 16-bit format, scaled to whole ones, in order.
fn all(value: fn(u16) -> f64, scale: i32) -> Vec<(i128, u16)> {
    let range = (2f64.powi(10 - scale), 2f64.powi(120 - scale));
    let inside = |x: f64| x == 0.0 || x.abs() >= range.0 && x.abs() < range.1;
    let numbers = (0..=u16::MAX).filter(|x| value(*x).is_finite() && inside(value(*x)) && *x != 0x8000);
    let mut all: Vec<(i128, u16)> = numbers.map(|x| (fixed(value(x), scale), x)).collect();
    all.sort();
    all
}

/// Nearest to an exact value, the even one of two; none for what is near zero or beyond the range.
fn nearest(all: &[(i128, u16)], exact: i128) -> Option<u16> {
    let at = all.partition_point(|x| x.0 <= exact);
    let (low, high) = (all[at.checked_sub(1)?], *all.get(at)?);
    let (below, above) = (exact - low.0, high.0 - exact);
    let pick = match below.cmp(&above) {
        Ordering::Less => low.1,
        Ordering::Greater => high.1,
        Ordering::Equal if low.1 & 1 == 0 => low.1,
        Ordering::Equal => high.1,
    };
    (pick & 0x7fff != 0).then_some(pick)
}

fn of_f16(x: u16) -> f64 {
    f16::from_bits(x).to_f64()
}

fn of_bf16(x: u16) -> f64 {
    bf16::from_bits(x).to_f64()
}

#[test]
fn sixteen_bits_are_rounded_once() {
    // f16 of any size, bf16 of 2^-20 to 2^20
    let f16s: fn(&mut Bits) -> u16 = |s| (s.next() as u16 & 0x83ff) | (s.below(31) as u16) << 10;
    let bf16s: fn(&mut Bits) -> u16 = |s| (s.next() as u16 & 0x807f) | (107 + s.below(40) as u16) << 7;
    for (name, value, draw, scale) in
        [("f16", of_f16 as fn(u16) -> f64, f16s, 24), ("bf16", of_bf16, bf16s, 27)]
    {
        let mut source = Bits(9);
        let rows: Vec<[u64; 3]> =
            (0..3000).map(|_| std::array::from_fn(|_| u64::from(draw(&mut source)))).collect();
        let numbers = all(value, 2 * scale);
        let exact = |x: u64| fixed(value(x as u16), scale);
        type Exact<'a> = &'a dyn Fn([u64; 3]) -> i128;
        let one = |x: u64| exact(x) << scale;
        let cases: [(&str, Exact); 4] = [
            ("add %0, %1", &|[x, y, _]| one(x) + one(y)),
            ("sub %0, %1", &|[x, y, _]| one(x) - one(y)),
            ("mul %0, %1", &|[x, y, _]| exact(x) * exact(y)),
            ("fma.rn %0, %1, %2", &|[x, y, z]| exact(x) * exact(y) + one(z)),
        ];
        for (case, result) in cases {
            let (op, operands) = case.split_once(' ').unwrap();
            let single = format!("{op}.{name} %h30, {};", operands.replace('%', "%h"));
            let wanted = |row: [u64; 3]| nearest(&numbers, result(row));
            let mut told = 0;
            for (row, got) in rows.iter().zip(table(&single, &rows, "%h30")) {
                if let Some(want) = wanted(*row) {
                    told += 1;
                    assert_eq!(got, u64::from(want), "{single} of {row:x?}");
                }
            }
            assert!(told > rows.len() / 4, "{single}: {told} told");
            // two at once: this row below, the next above
            let packed: Vec<[u64; 3]> =
                rows.windows(2).map(|w| std::array::from_fn(|i| w[0][i] | w[1][i] << 16)).collect();
            let double = format!("{op}.{name}x2 %r30, {};", operands.replace('%', "%r"));
            for (pair, got) in rows.windows(2).zip(table(&double, &packed, "%r30")) {
                for (i, row) in pair.iter().enumerate() {
                    if let Some(want) = wanted(*row) {
                        assert_eq!(
                            got >> (16 * i) & 0xffff,
                            u64::from(want),
                            "{double} of {row:x?}, half {i}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn pairs_of_halves() {
    // 1, -2 | NaN, 0.5 and 3, -1 | 1, -0.5
    let h = |x: f32| u64::from(f16::from_f32(x).to_bits());
    let two = |low: u64, high: u64| low | high << 16;
    let nan = 0x7fff;
    let rows = [[two(h(1.0), h(-2.0)), two(h(3.0), h(-1.0))], [two(0x7e01, h(0.5)), two(h(1.0), h(-0.5))]];
    let cases = [
        ("min.f16x2 %r30, %r0, %r1;", [two(h(1.0), h(-2.0)), two(h(1.0), h(-0.5))]),
        ("max.NaN.f16x2 %r30, %r0, %r1;", [two(h(3.0), h(-1.0)), two(nan, h(0.5))]),
        ("neg.f16x2 %r30, %r1;", [two(h(-3.0), h(1.0)), two(h(-1.0), h(0.5))]),
        ("abs.f16x2 %r30, %r1;", [two(h(3.0), h(1.0)), two(h(1.0), h(0.5))]),
        ("add.sat.f16x2 %r30, %r0, %r1;", [two(h(1.0), 0), two(0, 0)]),
        ("fma.rn.relu.f16x2 %r30, %r0, %r1, %r1;", [two(h(6.0), h(1.0)), two(nan, 0)]),
        ("set.lt.f16x2.f16x2 %r30, %r0, %r1;", [two(h(1.0), h(1.0)), 0]),
        ("set.ltu.u32.f16x2 %r30, %r0, %r1;", [0xffff_ffff, 0xffff]),
    ];
    for (body, want) in cases {
        assert_eq!(table(body, &rows, "%r30"), want, "{body}");
    }
    let setp = "setp.gtu.f16x2 %q30|%q31, %r0, %r1;";
    assert_eq!(table(setp, &rows, "%q30"), [0, 1]);
    assert_eq!(table(setp, &rows, "%q31"), [0, 1]);
    assert_eq!(table("add.ftz.f16 %h30, %h0, %h1;", &[[1, 0x3ff]], "%h30"), [0]);
    assert_eq!(table("add.f16 %h30, %h0, %h1;", &[[1, 0x3fe]], "%h30"), [0x3ff]);
    assert_eq!(table("fma.rn.relu.bf16 %h30, %h0, %h1, %h1;", &[[0xc000, 0x3f80]], "%h30"), [0]);
}

#[test]
fn narrowing_in_every_mode() {
    let mut source = Bits(12);
    let mut rows: Vec<[u64; 1]> =
        (0..2000).map(|_| [(source.next() & 0x807f_ffff) | (100 + source.below(45)) << 23]).collect();
    rows.extend(edges().iter().map(|x| [*x]));
    // bf16 is the upper half of f32
    let truncated = |x: u64| if f(x).is_nan() { 0x7fff } else { x >> 16 };
    let away = |x: u64| {
        if f(x).is_nan() { 0x7fff } else { (x >> 16) + u64::from(x & 0xffff != 0 && f(x).is_finite()) }
    };
    let max = |x: u64| x & 0x8000 | (x & 0x7fff).min(0x7f7f);
    let even = |x: u64| if f(x).is_nan() { 0x7fff } else { (x + 0x7fff + (x >> 16 & 1)) >> 16 };
    hold("cvt.rn.bf16.f32 %h30, %r0;", "%h30", &rows, |[x]| even(x));
    hold("cvt.rz.bf16.f32 %h30, %r0;", "%h30", &rows, |[x]| truncated(x));
    hold(
        "cvt.rm.bf16.f32 %h30, %r0;",
        "%h30",
        &rows,
        |[x]| if x >> 31 == 1 { away(x) } else { truncated(x) },
    );
    hold(
        "cvt.rp.bf16.f32 %h30, %r0;",
        "%h30",
        &rows,
        |[x]| if x >> 31 == 1 { truncated(x) } else { away(x) },
    );
    hold("cvt.rn.relu.bf16.f32 %h30, %r0;", "%h30", &rows, |[x]| {
        if f(x).is_nan() {
            0x7fff
        } else if x >> 31 == 1 {
            0
        } else {
            even(x)
        }
    });
    hold("cvt.rn.satfinite.bf16.f32 %h30, %r0;", "%h30", &rows, |[x]| {
        if f(x).is_nan() { 0x7fff } else { max(even(x)) }
    });
    hold("cvt.rz.bf16x2.f32 %r30, %r0, 0f3F800000;", "%r30", &rows, |[x]| truncated(x) << 16 | 0x3f80);
    hold("cvt.rn.bf16x2.f32 %r30, 0fC0000000, %r0;", "%r30", &rows, |[x]| even(x) | 0xc000_0000);
    let tf32 = |x: u64, add: u64| {
        if f(x).is_nan() {
            NAN
        } else if f(x).is_infinite() {
            x
        } else {
            (x + add) & !0x1fff
        }
    };
    hold("cvt.rna.tf32.f32 %r30, %r0;", "%r30", &rows, |[x]| tf32(x, 0x1000));
    hold("cvt.rn.tf32.f32 %r30, %r0;", "%r30", &rows, |[x]| tf32(x, 0xfff + (x >> 13 & 1)));
    hold("cvt.rz.tf32.f32 %r30, %r0;", "%r30", &rows, |[x]| tf32(x, 0));
    let numbers = all(of_f16, 48);
    for (mode, upwards) in [("rn", None), ("rm", Some(false)), ("rp", Some(true))] {
        let rows: Vec<[u64; 1]> = rows[..2000].iter().copied().filter(|[x]| f(*x).abs() < 65000.0).collect();
        for ([x], got) in rows.iter().zip(table(&format!("cvt.{mode}.f16.f32 %h30, %r0;"), &rows, "%h30")) {
            let exact = fixed(f64::from(f(*x)), 55) >> 7;
            let at = numbers.partition_point(|n| n.0 <= exact);
            let want = match upwards {
                None => nearest(&numbers, exact),
                Some(true) if numbers[at - 1].0 < exact => Some(numbers[at].1),
                _ => Some(numbers[at - 1].1),
            };
            if let Some(want) = want.filter(|w| w & 0x7fff != 0) {
                assert_eq!(got, u64::from(want), "cvt.{mode}.f16.f32 of {x:x}");
            }
        }
    }
    // an f64 just beyond the middle of two f16, by less than f32 can tell
    let middle = (1.0 + 2f64.powi(-11) + 2f64.powi(-40)).to_bits();
    assert_eq!(table("cvt.rn.f16.f64 %h30, %d0;", &[[middle]], "%h30"), [0x3c01]);
    let wide: Vec<[u64; 1]> =
        [1.0f64 + 2f64.powi(-30), -1.0 - 2f64.powi(-30), 1e300, f64::NAN].map(|x| [x.to_bits()]).into();
    assert_eq!(
        table("cvt.rp.f32.f64 %r30, %d0;", &wide, "%r30"),
        [0x3f80_0001, 0xbf80_0000, 0x7f80_0000, NAN]
    );
    assert_eq!(
        table("cvt.rz.f32.f64 %r30, %d0;", &wide, "%r30"),
        [0x3f80_0000, 0xbf80_0000, 0x7f7f_ffff, NAN]
    );
}

#[test]
fn widening_is_exact() {
    let rows: Vec<[u64; 1]> = (0..0x1_0000).step_by(7).map(|x| [x]).collect();
    hold("cvt.f32.f16 %r30, %h0;", "%r30", &rows, |[x]| b(of_f16(x as u16) as f32));
    hold("cvt.f32.bf16 %r30, %h0;", "%r30", &rows, |[x]| b(f(x << 16)));
    hold("cvt.rmi.f16.f16 %h30, %h0;", "%h30", &rows, |[x]| {
        let y = of_f16(x as u16).floor();
        if y.is_nan() { 0x7fff } else { f16::from_f64(y).to_bits().into() }
    });
}

#[test]
fn approximations_of_sixteen_bits() {
    let rows: Vec<[u64; 1]> =
        (0..400).map(|i| [u64::from(f16::from_f32(i as f32 / 50.0 - 4.0).to_bits())]).collect();
    type Real = fn(f64) -> f64;
    let cases: [(&str, Real, f64); 2] =
        [("tanh", f64::tanh, 2f64.powf(-10.987)), ("ex2", f64::exp2, 2f64.powf(-9.9))];
    for (op, real, bound) in cases {
        for ([x], got) in rows.iter().zip(table(&format!("{op}.approx.f16 %h30, %h0;"), &rows, "%h30")) {
            let want = real(of_f16(*x as u16));
            let error = (of_f16(got as u16) - want).abs();
            let bound = if op == "tanh" { bound } else { bound * want };
            assert!(error <= bound, "{op} of {}: {}", of_f16(*x as u16), of_f16(got as u16));
        }
    }
    // 0 and 1, 2 and -1, as bf16
    let rows = [[0x3f80_0000], [0xbf80_4000]];
    assert_eq!(table("ex2.approx.ftz.bf16x2 %r30, %r0;", &rows, "%r30"), [0x4000_3f80, 0x3f00_4080]);
    assert_eq!(table("tanh.approx.bf16x2 %r30, %r0;", &[[0x0000_7f80]], "%r30"), [0x3f80]);
}
