//! Float instructions against the host's IEEE arithmetic, exact integers for directed roundings, and the ISA's bounds.

// comparisons as the ISA writes them
#![allow(clippy::double_comparisons, clippy::neg_cmp_op_on_partial_ord, clippy::type_complexity)]

mod common;

use common::isa::{Bits, NAN, b, edges, f, fixed, hold, pairs, table, triples};
use std::cmp::Ordering;

fn below_normal(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

#[test]
fn f32_to_nearest() {
    let two = pairs(&edges(), &edges());
    hold("add.f32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| b(f(x) + f(y)));
    hold("sub.rn.f32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| b(f(x) - f(y)));
    hold("mul.rn.f32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| b(f(x) * f(y)));
    hold("div.rn.f32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| b(f(x) / f(y)));
    let one: Vec<[u64; 1]> = edges().iter().map(|x| [*x]).collect();
    hold("sqrt.rn.f32 %r30, %r0;", "%r30", &one, |[x]| b(f(x).sqrt()));
    hold("rcp.rn.f32 %r30, %r0;", "%r30", &one, |[x]| b(1.0 / f(x)));
    let few = edges()[..13].to_vec();
    let three = triples(&few, &edges(), &few);
    hold("fma.rn.f32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| b(f(x).mul_add(f(y), f(z))));
}

#[test]
fn ftz_and_sat() {
    let two = pairs(&edges(), &edges());
    let z = |x| below_normal(f(x));
    hold("add.ftz.f32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| b(below_normal(z(x) + z(y))));
    hold("mul.ftz.f32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| b(below_normal(z(x) * z(y))));
    let clamp = |x: f32| if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) };
    hold("add.sat.f32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| b(clamp(f(x) + f(y))));
    hold("mul.ftz.sat.f32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| b(clamp(below_normal(z(x) * z(y)))));
    hold("setp.eq.ftz.f32 %q30, %r0, %r1;", "%q30", &two, |[x, y]| (z(x) == z(y)).into());
    let one: Vec<[u64; 1]> = edges().iter().map(|x| [*x]).collect();
    hold("cvt.sat.f32.f32 %r30, %r0;", "%r30", &one, |[x]| b(clamp(f(x))));
    hold("cvt.ftz.f32.f32 %r30, %r0;", "%r30", &one, |[x]| b(z(x)));
    hold("cvt.rpi.ftz.s32.f32 %r30, %r0;", "%r30", &one, |[x]| u64::from(z(x).ceil() as i32 as u32));
}

/// The largest number not above what is sought, whose order to a candidate `compare` knows; and the smallest not below.
fn around(
    start: f64, down: fn(f64) -> f64, up: fn(f64) -> f64, compare: impl Fn(f64) -> Ordering,
) -> [f64; 2] {
    let mut low = start;
    while compare(low) == Ordering::Greater {
        low = down(low);
    }
    while compare(up(low)) != Ordering::Greater {
        low = up(low);
    }
    [low, if compare(low) == Ordering::Equal { low } else { up(low) }]
}

fn directed(mode: &str, [low, high]: [f64; 2]) -> f64 {
    match mode {
        "rm" => low,
        "rp" => high,
        _ if low >= 0.0 => low,
        _ => high,
    }
}

/// The order of a candidate, which may have bits below 2^-scale, to what is sought, scaled.
fn order(candidate: f64, scale: i32, sought: i128) -> Ordering {
    let y = candidate * 2f64.powi(scale);
    (y.floor() as i128).cmp(&sought).then(if y > y.floor() { Ordering::Greater } else { Ordering::Equal })
}

struct Width {
    suffix: &'static str,
    register: &'static str,
    /// The lowest bit of the operands is 2^-scale.
    scale: i32,
    down: fn(f64) -> f64,
    up: fn(f64) -> f64,
    value: fn(u64) -> f64,
    bits: fn(f64) -> u64,
    draw: fn(&mut Bits) -> u64,
}

const WIDTHS: [Width; 2] = [
    Width {
        suffix: "f32",
        register: "r",
        scale: 31,
        down: |x| (x as f32).next_down().into(),
        up: |x| (x as f32).next_up().into(),
        value: |x| f(x).into(),
        bits: |x| b(x as f32),
        draw: |s| (s.next() & 0x807f_ffff) | (119 + s.below(16)) << 23,
    },
    Width {
        suffix: "f64",
        register: "d",
        scale: 55,
        down: f64::next_down,
        up: f64::next_up,
        value: f64::from_bits,
        bits: f64::to_bits,
        draw: |s| (s.next() & 0x800f_ffff_ffff_ffff) | (1020 + s.below(5)) << 52,
    },
];

#[test]
fn directed_roundings() {
    for w in WIDTHS {
        let mut source = Bits(5);
        let rows: Vec<[u64; 3]> = (0..400).map(|_| std::array::from_fn(|_| (w.draw)(&mut source))).collect();
        let n = w.scale;
        let (t, r) = (w.suffix, w.register);
        for mode in ["rz", "rm", "rp"] {
            let find = |start: f64, compare: &dyn Fn(f64) -> Ordering| {
                (w.bits)(directed(mode, around((w.value)((w.bits)(start)), w.down, w.up, compare)))
            };
            let value = |x: u64| ((w.value)(x), fixed((w.value)(x), n));
            let out = format!("%{r}30");
            hold(&format!("add.{mode}.{t} {out}, %{r}0, %{r}1;"), &out, &rows, |[x, y, _]| {
                let ((x, i), (y, j)) = (value(x), value(y));
                find(x + y, &|c| order(c, n, i + j))
            });
            hold(&format!("mul.{mode}.{t} {out}, %{r}0, %{r}1;"), &out, &rows, |[x, y, _]| {
                let ((x, i), (y, j)) = (value(x), value(y));
                find(x * y, &|c| order(c, 2 * n, i * j))
            });
            hold(&format!("fma.{mode}.{t} {out}, %{r}0, %{r}1, %{r}2;"), &out, &rows, |[x, y, z]| {
                let ((x, i), (y, j), (z, k)) = (value(x), value(y), value(z));
                find(x * y + z, &|c| order(c, 2 * n, i * j + (k << n)))
            });
        }
    }
}

#[test]
fn directed_quotients_and_roots() {
    let mut source = Bits(6);
    let draw = WIDTHS[0].draw;
    let rows: Vec<[u64; 2]> =
        (0..400).map(|_| [draw(&mut source), draw(&mut source) & 0x7fff_ffff]).collect();
    for mode in ["rz", "rm", "rp"] {
        let find = |start: f64, compare: &dyn Fn(f64) -> Ordering| {
            b(directed(mode, around(start, WIDTHS[0].down, WIDTHS[0].up, compare)) as f32)
        };
        // products of two f32 are exact in f64
        hold(&format!("div.{mode}.f32 %r30, %r0, %r1;"), "%r30", &rows, |[x, y]| {
            let (x, y) = (f64::from(f(x)), f64::from(f(y)));
            find(f64::from((x / y) as f32), &|c| (c * y).total_cmp(&x))
        });
        hold(&format!("sqrt.{mode}.f32 %r30, %r1;"), "%r30", &rows, |[_, y]| {
            let y = f64::from(f(y));
            find(f64::from(y.sqrt() as f32), &|c| (c * c).total_cmp(&y))
        });
        hold(&format!("rcp.{mode}.f32 %r30, %r1;"), "%r30", &rows, |[_, y]| {
            let y = f64::from(f(y));
            find(f64::from((1.0 / y) as f32), &|c| (c * y).total_cmp(&1.0))
        });
    }
}

#[test]
fn overflow_denormals_and_zeros_by_mode() {
    let (max, inf, minus) = (b(f32::MAX), b(f32::INFINITY), |x: u64| x | 1 << 31);
    for (mode, up, down) in
        [("rn", inf, minus(inf)), ("rz", max, minus(max)), ("rm", max, minus(inf)), ("rp", inf, minus(max))]
    {
        assert_eq!(
            table(&format!("mul.{mode}.f32 %r30, %r0, %r1;"), &[[max, max], [max, minus(max)]], "%r30"),
            [up, down]
        );
        // a difference that is zero
        let zero = if mode == "rm" { 1 << 31 } else { 0 };
        assert_eq!(table(&format!("sub.{mode}.f32 %r30, %r0, %r0;"), &[[max]], "%r30"), [zero]);
        // half the smallest number
        let want = match mode {
            "rp" => 1,
            _ => 0,
        };
        assert_eq!(table(&format!("mul.{mode}.f32 %r30, %r0, %r1;"), &[[1, b(0.5)]], "%r30"), [want]);
    }
}

#[test]
fn minima_and_maxima() {
    let rows = pairs(&edges(), &edges());
    let less = |x: f32, y: f32| x < y || x == y && x.is_sign_negative();
    let pick = |x: u64, y: u64, min: bool| {
        if less(f(x), f(y)) == min { x } else { y }
    };
    for (word, min) in [("min", true), ("max", false)] {
        hold(&format!("{word}.f32 %r30, %r0, %r1;"), "%r30", &rows, |[x, y]| {
            match (f(x).is_nan(), f(y).is_nan()) {
                (true, true) => NAN,
                (true, false) => y,
                (false, true) => x,
                _ => pick(x, y, min),
            }
        });
        hold(&format!("{word}.NaN.f32 %r30, %r0, %r1;"), "%r30", &rows, |[x, y]| {
            if f(x).is_nan() || f(y).is_nan() { NAN } else { pick(x, y, min) }
        });
    }
    let sign = 1 << 31;
    hold("min.xorsign.abs.f32 %r30, %r0, %r1;", "%r30", &rows, |[x, y]| {
        match (f(x).is_nan(), f(y).is_nan()) {
            (true, true) => NAN,
            (true, false) => y & !sign | (x ^ y) & sign,
            (false, true) => x & !sign | (x ^ y) & sign,
            _ => (x & !sign).min(y & !sign) | (x ^ y) & sign,
        }
    });
}

#[test]
fn comparisons() {
    let rows = pairs(&edges(), &edges());
    let nan = |x: u64, y: u64| f(x).is_nan() || f(y).is_nan();
    type Compare = fn(f32, f32) -> bool;
    let plain: [(&str, Compare); 6] = [
        ("eq", |x, y| x == y),
        ("ne", |x, y| x < y || x > y),
        ("lt", |x, y| x < y),
        ("le", |x, y| x <= y),
        ("gt", |x, y| x > y),
        ("ge", |x, y| x >= y),
    ];
    for (name, compare) in plain {
        hold(&format!("setp.{name}.f32 %q30, %r0, %r1;"), "%q30", &rows, |[x, y]| compare(f(x), f(y)).into());
        hold(&format!("setp.{name}u.f32 %q30, %r0, %r1;"), "%q30", &rows, |[x, y]| {
            (nan(x, y) || compare(f(x), f(y))).into()
        });
        hold(&format!("set.{name}.u32.f32 %r30, %r0, %r1;"), "%r30", &rows, |[x, y]| {
            if compare(f(x), f(y)) { 0xffff_ffff } else { 0 }
        });
        hold(&format!("set.{name}.f32.f32 %r30, %r0, %r1;"), "%r30", &rows, |[x, y]| {
            if compare(f(x), f(y)) { b(1.0) } else { 0 }
        });
    }
    hold("setp.num.f32 %q30, %r0, %r1;", "%q30", &rows, |[x, y]| (!nan(x, y)).into());
    hold("setp.nan.f32 %q30, %r0, %r1;", "%q30", &rows, |[x, y]| nan(x, y).into());
    let body = "setp.lt.and.f32 %q30|%q31, %r0, %r1, !%q2;";
    let rows = triples(&edges()[..6], &edges()[..6], &[0, 1]);
    hold(body, "%q30", &rows, |[x, y, c]| (f(x) < f(y) && c == 0).into());
    hold(body, "%q31", &rows, |[x, y, c]| (!(f(x) < f(y)) && c == 0).into());
}

#[test]
fn classes_of_numbers() {
    let rows: Vec<[u64; 1]> = edges().iter().map(|x| [*x]).collect();
    type Class = fn(f32) -> bool;
    let classes: [(&str, Class); 6] = [
        ("finite", |x| x.is_finite()),
        ("infinite", |x| x.is_infinite()),
        ("number", |x| !x.is_nan()),
        ("notanumber", |x| x.is_nan()),
        ("normal", |x| x.is_normal()),
        ("subnormal", |x| x.is_subnormal()),
    ];
    for (name, class) in classes {
        hold(&format!("testp.{name}.f32 %q30, %r0;"), "%q30", &rows, |[x]| class(f(x)).into());
    }
}

#[test]
fn floats_to_integers() {
    let values = [
        0.0f64,
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.5,
        0.49,
        -0.51,
        126.6,
        127.5,
        128.0,
        -128.5,
        -129.0,
        255.4,
        256.0,
        32767.5,
        65535.9,
        -32768.9,
        2147483647.0,
        2147483648.0,
        -2147483649.0,
        4294967295.9,
        4294967296.0,
        9.3e18,
        -9.3e18,
        1.9e19,
        1e30,
        -1e30,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    let round: [(&str, fn(f64) -> f64); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    // type, register, low, high, NaN of f32, NaN of f64 (section 9.7.9.21)
    let types: [(&str, &str, i128, i128, u64, u64); 6] = [
        ("s32", "r", i32::MIN.into(), i32::MAX.into(), 0, 1 << 31),
        ("u32", "r", 0, u32::MAX.into(), 0, 1 << 31),
        ("s64", "d", i64::MIN.into(), i64::MAX.into(), 1 << 63, 1 << 63),
        ("u64", "d", 0, u64::MAX.into(), 1 << 63, 1 << 63),
        ("s16", "h", i16::MIN.into(), i16::MAX.into(), 0, 1 << 15),
        ("u16", "h", 0, u16::MAX.into(), 0, 1 << 15),
    ];
    for (to, register, low, high, nan_single, nan_double) in types {
        let mask = if register == "d" {
            u64::MAX
        } else if register == "r" {
            0xffff_ffff
        } else {
            0xffff
        };
        for (mode, rounded) in round {
            for (from, source, nan) in [("f32", "%r0", nan_single), ("f64", "%d0", nan_double)] {
                let bits = |x: f64| if from == "f32" { b(x as f32) } else { x.to_bits() };
                let rows: Vec<[u64; 1]> = values.iter().map(|x| [bits(*x)]).collect();
                let (body, out) =
                    (format!("cvt.{mode}.{to}.{from} %{register}30, {source};"), format!("%{register}30"));
                hold(&body, &out, &rows, |[x]| {
                    let x = if from == "f32" { f(x).into() } else { f64::from_bits(x) };
                    if x.is_nan() { nan } else { (rounded(x) as i128).clamp(low, high) as u64 & mask }
                });
            }
        }
    }
    // a byte is extended to its register
    let rows = [[b(-3.0)], [b(200.0)], [b(-300.0)]];
    assert_eq!(table("cvt.rzi.s8.f32 %r30, %r0;", &rows, "%r30"), [0xffff_fffd, 127, 0xffff_ff80]);
}

#[test]
fn integers_to_floats() {
    let values: Vec<u64> = vec![0, 1, 16777217, 16777219, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 33554431];
    let rows: Vec<[u64; 1]> = values.iter().map(|x| [*x]).collect();
    hold("cvt.rn.f32.u32 %r30, %r0;", "%r30", &rows, |[x]| b(x as u32 as f32));
    hold("cvt.rn.f32.s32 %r30, %r0;", "%r30", &rows, |[x]| b(x as u32 as i32 as f32));
    let wide: Vec<[u64; 1]> = [u64::MAX, 1 << 63, (1 << 63) + 1, (1 << 53) + 1, 0xffff_ff80_0000_0001]
        .iter()
        .map(|x| [*x])
        .collect();
    hold("cvt.rn.f32.u64 %r30, %d0;", "%r30", &wide, |[x]| b(x as f32));
    hold("cvt.rn.f64.s64 %d30, %d0;", "%d30", &wide, |[x]| (x as i64 as f64).to_bits());
    for (mode, towards_zero, up) in [("rz", true, false), ("rm", false, false), ("rp", false, true)] {
        hold(&format!("cvt.{mode}.f32.s32 %r30, %r0;"), "%r30", &rows, |[x]| {
            let x = x as u32 as i32;
            let near = x as f32;
            let over = i64::from(near as i128 as i64 as i128 as i64 > i64::from(x)) == 1;
            let exact = f64::from(near) == f64::from(x);
            let upwards = if towards_zero { x < 0 } else { up };
            b(match (exact, over, upwards) {
                (true, ..) | (_, true, true) | (_, false, false) => near,
                (_, true, false) => near.next_down(),
                (_, false, true) => near.next_up(),
            })
        });
    }
    // an f16 beyond whose range the largest of 16 bits lies
    let rows = [[65504], [65519], [65520], [2049], [2051]];
    let want = [0x7bff, 0x7bff, 0x7c00, 0x6800, 0x6802];
    assert_eq!(table("cvt.rn.f16.u32 %h30, %r0;", &rows, "%h30"), want);
}

#[test]
fn approximations_keep_the_bounds_of_the_isa() {
    let mut source = Bits(20);
    let mut spread = |low: f32, high: f32| -> Vec<[u64; 1]> {
        (0..500).map(|_| [b(low + (high - low) * source.below(1 << 24) as f32 / (1 << 24) as f32)]).collect()
    };
    // section 9.7.3: the largest relative error, or where said absolute
    type Real = fn(f64) -> f64;
    let cases: [(&str, Real, f32, f32, f64, bool); 10] = [
        ("ex2.approx.ftz.f32", f64::exp2, -20.0, 20.0, 2f64.powi(-22), false),
        ("lg2.approx.f32", f64::log2, 2.0, 1e6, 2f64.powi(-22), false),
        ("lg2.approx.f32", f64::log2, 0.5, 2.0, 2f64.powi(-22), true),
        ("rcp.approx.f32", |x| 1.0 / x, 0.1, 100.0, 2f64.powi(-23), false),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), 0.1, 100.0, 2f64.powf(-22.9), false),
        ("sqrt.approx.f32", f64::sqrt, 0.1, 100.0, 2f64.powi(-23), false),
        ("sin.approx.f32", f64::sin, -3.0, 3.0, 2f64.powf(-20.5), true),
        ("cos.approx.f32", f64::cos, -3.0, 3.0, 2f64.powf(-20.5), true),
        ("tanh.approx.f32", f64::tanh, -5.0, 5.0, 2f64.powi(-11), false),
        ("rcp.approx.ftz.f32", |x| 1.0 / x, -9.0, -0.1, 2f64.powi(-23), false),
    ];
    for (op, real, low, high, bound, absolute) in cases {
        let rows = spread(low, high);
        for ([x], got) in rows.iter().zip(table(&format!("{op} %r30, %r0;"), &rows, "%r30")) {
            let want = real(f(*x).into());
            let error = (f64::from(f(got)) - want).abs();
            assert!(
                error <= bound * if absolute { 1.0 } else { want.abs() },
                "{op} of {}: {}",
                f(*x),
                f(got)
            );
        }
    }
    // at the ends
    let (inf, minus) = (b(f32::INFINITY), b(f32::NEG_INFINITY));
    let rows = [[0], [1 << 31], [inf], [minus], [1], [b(-1.0)]];
    assert_eq!(table("rcp.approx.ftz.f32 %r30, %r0;", &rows, "%r30"), [inf, minus, 0, 1 << 31, inf, b(-1.0)]);
    assert_eq!(table("lg2.approx.ftz.f32 %r30, %r0;", &rows, "%r30"), [minus, minus, inf, NAN, minus, NAN]);
    assert_eq!(
        table("ex2.approx.ftz.f32 %r30, %r0;", &rows, "%r30"),
        [b(1.0), b(1.0), inf, 0, b(1.0), b(0.5)]
    );
    assert_eq!(table("rsqrt.approx.ftz.f32 %r30, %r0;", &rows, "%r30"), [inf, minus, 0, NAN, inf, NAN]);
    assert_eq!(table("ex2.approx.ftz.f32 %r30, %r0;", &[[b(-127.0)]], "%r30"), [0]);
    // a divisor beyond 2^126
    let rows = [[b(1e10), b(2e38)], [inf, b(2e38)], [b(6.0), b(3.0)]];
    assert_eq!(table("div.approx.f32 %r30, %r0, %r1;", &rows, "%r30"), [0, NAN, b(2.0)]);
    assert_eq!(
        table("div.full.f32 %r30, %r0, %r1;", &rows, "%r30"),
        [b((1e10f64 / f64::from(2e38f32)) as f32), inf, b(2.0)]
    );
}

#[test]
fn signs() {
    let rows = pairs(&edges()[..14], &edges()[..14]);
    hold("copysign.f32 %r30, %r0, %r1;", "%r30", &rows, |[x, y]| b(f(y).copysign(f(x))));
    let one: Vec<[u64; 1]> = edges()[..20].iter().map(|x| [*x]).collect();
    hold("neg.f32 %r30, %r0;", "%r30", &one, |[x]| x ^ 1 << 31);
    hold("abs.f32 %r30, %r0;", "%r30", &one, |[x]| x & 0x7fff_ffff);
}
