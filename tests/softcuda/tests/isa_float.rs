//! Float instructions against the host's IEEE arithmetic, exact integers for directed roundings, and the ISA's bounds.

// comparisons as the ISA writes them
#![allow(clippy::double_comparisons, clippy::neg_cmp_op_on_partial_ord, clippy::type_complexity)]

mod common;

use common::isa::{Bits, hold, pairs, table, triples};
use half::{bf16, f16};
use std::cmp::Ordering;

const NAN: u64 = 0x7fff_ffff;

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn b(x: f32) -> u64 {
    if x.is_nan() { NAN } else { x.to_bits().into() }
}

fn edges() -> Vec<u64> {
    let values = [
        0.0f32,
        1.0,
        1.5,
        3.0,
        0.1,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::EPSILON,
        1e-38,
        3e38,
        16777216.0,
    ];
    let mut out: Vec<u64> = values.iter().flat_map(|x| [b(*x), b(-*x)]).collect();
    // denormals, and NaN with a payload
    out.extend([1, 0x8000_0001, 0x007f_ffff, 0x807f_ffff, 0x0040_0000, 0x7fc0_0001, 0xffc1_2345]);
    out
}

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

/// x·2^scale, which is a whole number.
fn fixed(x: f64, scale: i32) -> i128 {
    let y = x * 2f64.powi(scale);
    assert_eq!(y, y.trunc());
    y as i128
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

#[test]
fn signs() {
    let rows = pairs(&edges()[..14], &edges()[..14]);
    hold("copysign.f32 %r30, %r0, %r1;", "%r30", &rows, |[x, y]| b(f(y).copysign(f(x))));
    let one: Vec<[u64; 1]> = edges()[..20].iter().map(|x| [*x]).collect();
    hold("neg.f32 %r30, %r0;", "%r30", &one, |[x]| x ^ 1 << 31);
    hold("abs.f32 %r30, %r0;", "%r30", &one, |[x]| x & 0x7fff_ffff);
}
