//! Integer instructions against plain loops over bits and 128-bit sums, by the definitions of the ISA's section 9.7.1 and on.

mod common;

use common::isa::{Bits, hold, pairs, table, triples, warp};

fn words() -> Vec<u64> {
    let mut out = vec![
        0,
        1,
        2,
        3,
        31,
        0x7fff_ffff,
        0x8000_0000,
        0x8000_0001,
        0xffff_ffff,
        0xffff_fffe,
        0xdead_beef,
        0x0001_0000,
    ];
    let mut source = Bits(1);
    out.extend((0..8).map(|_| source.next() & 0xffff_ffff));
    out
}

fn doubles() -> Vec<u64> {
    let mut out = vec![0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 0xffff_ffff, 1 << 32];
    let mut source = Bits(2);
    out.extend((0..8).map(|_| source.next()));
    out
}

fn s(x: u64) -> i64 {
    x as u32 as i32 as i64
}

fn low(x: i128) -> u64 {
    x as u64 & 0xffff_ffff
}

#[test]
fn products() {
    let two = pairs(&words(), &words());
    let (u, i) = (|x: u64| i128::from(x as u32), |x: u64| i128::from(s(x)));
    hold("mul.lo.s32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| low(i(x) * i(y)));
    hold("mul.hi.s32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| low((i(x) * i(y)) >> 32));
    hold("mul.hi.u32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| low((u(x) * u(y)) >> 32));
    hold("mul.wide.s32 %d30, %r0, %r1;", "%d30", &two, |[x, y]| (i(x) * i(y)) as u64);
    hold("mul.wide.u32 %d30, %r0, %r1;", "%d30", &two, |[x, y]| (u(x) * u(y)) as u64);
    // a number as nvcc writes it
    hold("mul.wide.u32 %d30, %r0, -858993459;", "%d30", &two, |[x, _]| x * 0xcccc_cccd);
    let wide = pairs(&doubles(), &doubles());
    hold("mul.lo.u64 %d30, %d0, %d1;", "%d30", &wide, |[x, y]| x.wrapping_mul(y));
    hold("mul.hi.u64 %d30, %d0, %d1;", "%d30", &wide, |[x, y]| {
        ((u128::from(x) * u128::from(y)) >> 64) as u64
    });
    hold("mul.hi.s64 %d30, %d0, %d1;", "%d30", &wide, |[x, y]| {
        ((i128::from(x as i64) * i128::from(y as i64)) >> 64) as u64
    });
    let three = triples(&words(), &words()[..8], &words()[..9]);
    hold("mad.lo.u32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| low(u(x) * u(y) + u(z)));
    hold("mad.hi.s32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| low(((i(x) * i(y)) >> 32) + i(z)));
    hold("mad.hi.sat.s32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| {
        low((((i(x) * i(y)) >> 32) + i(z)).clamp(i32::MIN.into(), i32::MAX.into()))
    });
    hold("mad.wide.s32 %d30, %r0, %r1, %d2;", "%d30", &three, |[x, y, z]| {
        (i(x) * i(y) + i128::from(z)) as u64
    });
    let of_24 = |x: u64| i128::from((x as u32 as i32) << 8 >> 8);
    hold("mul24.lo.s32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| low(of_24(x) * of_24(y)));
    hold("mul24.hi.u32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| {
        low(((u(x) & 0xff_ffff) * (u(y) & 0xff_ffff)) >> 16)
    });
    hold("mad24.hi.s32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| {
        low(((of_24(x) * of_24(y)) >> 16) + i(z))
    });
}

#[test]
fn sums_that_stop_and_differences() {
    let two = pairs(&words(), &words());
    let clamp = |x: i64| x.clamp(i32::MIN.into(), i32::MAX.into()) as u32 as u64;
    hold("add.sat.s32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| clamp(s(x) + s(y)));
    hold("sub.sat.s32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| clamp(s(x) - s(y)));
    let three = triples(&words(), &words(), &[0, 5, 0xffff_ffff]);
    hold("sad.s32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| {
        low(i128::from((s(x) - s(y)).abs() + s(z)))
    });
    hold("sad.u32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| low(i128::from(x.abs_diff(y) + z)));
    hold("min.relu.s32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| s(x).min(s(y)).max(0) as u64);
    let half = |x: u64, i: usize| (x >> (16 * i)) as u16 as i16;
    hold("max.s16x2 %r30, %r0, %r1;", "%r30", &two, |[x, y]| {
        (0..2).map(|i| u64::from(half(x, i).max(half(y, i)) as u16) << (16 * i)).sum()
    });
    hold("add.u16x2 %r30, %r0, %r1;", "%r30", &two, |[x, y]| {
        (0..2).map(|i| u64::from(half(x, i).wrapping_add(half(y, i)) as u16) << (16 * i)).sum()
    });
}

#[test]
fn quotients() {
    let divisors: Vec<u64> = words().into_iter().filter(|x| *x != 0).collect();
    let two = pairs(&words(), &divisors);
    hold("div.s32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| low((s(x) / s(y)).into()));
    hold("rem.s32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| low((s(x) % s(y)).into()));
    hold("div.u32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| x / y);
    hold("rem.u32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| x % y);
}

#[test]
fn carries() {
    let four: Vec<[u64; 4]> =
        pairs(&doubles(), &doubles()).iter().map(|[x, y]| [*x, x >> 32, *y, y >> 32]).collect();
    let sum = "add.cc.u32 %r30, %r0, %r2; addc.cc.u32 %r31, %r1, %r3; addc.u32 %r32, 0, 0; mov.b64 %d30, {%r30, %r31};";
    let full = |[x, _, y, _]: [u64; 4]| (x, y);
    hold(sum, "%d30", &four, |row| full(row).0.wrapping_add(full(row).1));
    hold(sum, "%r32", &four, |row| full(row).0.overflowing_add(full(row).1).1.into());
    let difference = "sub.cc.u32 %r30, %r0, %r2; subc.cc.u32 %r31, %r1, %r3; subc.u32 %r32, 0, 0; mov.b64 %d30, {%r30, %r31};";
    hold(difference, "%d30", &four, |row| full(row).0.wrapping_sub(full(row).1));
    hold(difference, "%r32", &four, |row| if full(row).0 < full(row).1 { 0xffff_ffff } else { 0 });
    // a 64-bit product made of 32-bit parts, and a 128-bit sum of it
    let product = "mul.lo.u32 %r30, %r0, %r2; mul.hi.u32 %r31, %r0, %r2;\n\
        mad.lo.cc.u32 %r31, %r0, %r3, %r31; madc.hi.u32 %r32, %r0, %r3, 0;\n\
        mad.lo.cc.u32 %r31, %r1, %r2, %r31; madc.hi.cc.u32 %r32, %r1, %r2, %r32; addc.u32 %r33, 0, 0;\n\
        mad.lo.cc.u32 %r32, %r1, %r3, %r32; madc.hi.u32 %r33, %r1, %r3, %r33;\n\
        mov.b64 %d30, {%r30, %r31}; mov.b64 %d31, {%r32, %r33};";
    let exact = |row| u128::from(full(row).0) * u128::from(full(row).1);
    hold(product, "%d30", &four, |row| exact(row) as u64);
    hold(product, "%d31", &four, |row| (exact(row) >> 64) as u64);
    let long = "add.cc.u64 %d30, %d0, %d2; addc.u64 %d31, 0, 0;";
    hold(long, "%d31", &four, |row| full(row).0.overflowing_add(full(row).1).1.into());
}

#[test]
fn shifts() {
    let amounts = [0, 1, 15, 16, 31, 32, 33, 63, 64, 255, 0xffff_ffff];
    let two = pairs(&words(), &amounts);
    hold("shl.b32 %r30, %r0, %r1;", "%r30", &two, |[x, n]| if n > 31 { 0 } else { x << n & 0xffff_ffff });
    hold("shr.u32 %r30, %r0, %r1;", "%r30", &two, |[x, n]| if n > 31 { 0 } else { x >> n });
    hold("shr.s32 %r30, %r0, %r1;", "%r30", &two, |[x, n]| low((s(x) >> n.min(31)).into()));
    hold("shl.b16 %h30, %h0, %r1;", "%h30", &two, |[x, n]| if n > 15 { 0 } else { x << n & 0xffff });
    let wide = pairs(&doubles(), &amounts);
    hold("shl.b64 %d30, %d0, %r1;", "%d30", &wide, |[x, n]| if n > 63 { 0 } else { x << n });
    hold("shr.s64 %d30, %d0, %r1;", "%d30", &wide, |[x, n]| ((x as i64) >> n.min(63)) as u64);
    let three = triples(&words()[8..14], &words()[8..14], &amounts);
    let both = |x: u64, y: u64| y << 32 | x;
    hold("shf.l.clamp.b32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, n]| {
        low(((u128::from(both(x, y)) << n.min(32)) >> 32) as i128)
    });
    hold("shf.r.clamp.b32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, n]| {
        both(x, y) >> n.min(32) & 0xffff_ffff
    });
    hold("shf.l.wrap.b32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, n]| {
        low(((u128::from(both(x, y)) << (n & 31)) >> 32) as i128)
    });
    hold("shf.r.wrap.b32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, n]| {
        both(x, y) >> (n & 31) & 0xffff_ffff
    });
}

#[test]
fn bit_fields() {
    let places = [0, 1, 7, 31, 32, 63, 64, 255, 256 + 4];
    let three = triples(&words(), &places, &places);
    let field = |x: u64, from: u64, len: u64, bits: u64, signed: bool| {
        let (from, len) = (from & 255, len & 255);
        let sign = if signed && len > 0 { x >> (from + len - 1).min(bits - 1) & 1 } else { 0 };
        (0..bits)
            .map(|i| (if i < len && from + i < bits { x >> (from + i) & 1 } else { sign }) << i)
            .sum::<u64>()
    };
    hold("bfe.u32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| field(x, y, z, 32, false));
    hold("bfe.s32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| field(x, y, z, 32, true));
    let wide = triples(&doubles(), &places, &places);
    hold("bfe.u64 %d30, %d0, %r1, %r2;", "%d30", &wide, |[x, y, z]| field(x, y, z, 64, false));
    hold("bfe.s64 %d30, %d0, %r1, %r2;", "%d30", &wide, |[x, y, z]| field(x, y, z, 64, true));
    let insert = |a: u64, b: u64, from: u64, len: u64, bits: u64| {
        let (from, len) = (from & 255, len & 255);
        let bit = |i: u64| if i >= from && i < from + len { a >> (i - from) } else { b >> i };
        (0..bits).map(|i| (bit(i) & 1) << i).sum::<u64>()
    };
    hold("bfi.b32 %r30, %r0, 0x5a5aff00, %r1, %r2;", "%r30", &three, |[x, y, z]| {
        insert(x, 0x5a5a_ff00, y, z, 32)
    });
    hold("bfi.b64 %d30, %d0, %d1, %r1, %r2;", "%d30", &wide, |[x, y, z]| insert(x, y, y, z, 64));
}

#[test]
fn positions_and_counts() {
    let one: Vec<[u64; 1]> = words().iter().map(|x| [*x]).collect();
    let wide: Vec<[u64; 1]> = doubles().iter().map(|x| [*x]).collect();
    let none = 0xffff_ffff;
    let top = |x: u64, bits: u64| (0..bits).rev().find(|i| x >> i & 1 == 1);
    hold("bfind.u32 %r30, %r0;", "%r30", &one, |[x]| top(x, 32).unwrap_or(none));
    hold("bfind.s32 %r30, %r0;", "%r30", &one, |[x]| top(if s(x) < 0 { !x } else { x }, 32).unwrap_or(none));
    hold("bfind.shiftamt.u32 %r30, %r0;", "%r30", &one, |[x]| top(x, 32).map_or(none, |i| 31 - i));
    hold("bfind.u64 %r30, %d0;", "%r30", &wide, |[x]| top(x, 64).unwrap_or(none));
    hold("popc.b32 %r30, %r0;", "%r30", &one, |[x]| (0..32).map(|i| x >> i & 1).sum());
    hold("popc.b64 %r30, %d0;", "%r30", &wide, |[x]| (0..64).map(|i| x >> i & 1).sum());
    hold("clz.b32 %r30, %r0;", "%r30", &one, |[x]| top(x, 32).map_or(32, |i| 31 - i));
    hold("clz.b64 %r30, %d0;", "%r30", &wide, |[x]| top(x, 64).map_or(64, |i| 63 - i));
    hold("brev.b32 %r30, %r0;", "%r30", &one, |[x]| (0..32).map(|i| (x >> i & 1) << (31 - i)).sum());
    hold("brev.b64 %d30, %d0;", "%d30", &wide, |[x]| (0..64).map(|i| (x >> i & 1) << (63 - i)).sum());
    hold("cnot.b32 %r30, %r0;", "%r30", &one, |[x]| (x == 0).into());
    let offsets = [0, 1, 2, 5, 40, 0xffff_ffff, 0xffff_fffe, 0xffff_fff0];
    let three =
        triples(&[0, 0b1011_0100, 0xffff_ffff, 0x8000_0001, 0x0f0f_0f0f], &[0, 2, 4, 7, 31], &offsets);
    hold("fns.b32 %r30, %r0, %r1, %r2;", "%r30", &three, |[mask, base, offset]| {
        // as the ISA writes it, section 9.7.1.19
        let offset = offset as u32 as i32;
        if offset == 0 {
            return if mask >> base & 1 == 1 { base } else { none };
        }
        let (mut at, mut count) = (base as i32, offset.abs() - 1);
        while (0..32).contains(&at) {
            if mask >> at & 1 == 1 {
                if count == 0 {
                    return at as u64;
                }
                count -= 1;
            }
            at += offset.signum();
        }
        none
    });
}

#[test]
fn masks_and_extensions() {
    let sizes = [0, 1, 8, 16, 31, 32, 33, 200];
    let two = pairs(&sizes, &sizes);
    let bits =
        |from: u64, len: u64| (0..32).map(|i| u64::from(i >= from && i < from + len) << i).sum::<u64>();
    hold("bmsk.clamp.b32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| bits(x.min(32), y.min(32)));
    hold("bmsk.wrap.b32 %r30, %r0, %r1;", "%r30", &two, |[x, y]| bits(x & 31, y & 31));
    let two = pairs(&words(), &sizes);
    let extend = |x: u64, n: u64, signed: bool| {
        let sign = if signed && n > 0 { x >> (n - 1) & 1 } else { 0 };
        (0..32).map(|i| (if i < n { x >> i & 1 } else { sign }) << i).sum::<u64>()
    };
    hold("szext.clamp.s32 %r30, %r0, %r1;", "%r30", &two, |[x, n]| extend(x, n.min(32), true));
    hold("szext.wrap.u32 %r30, %r0, %r1;", "%r30", &two, |[x, n]| extend(x, n & 31, false));
}

#[test]
fn permuted_bytes() {
    let (a, b) = (0x8303_0201u64, 0x0706_8504u64);
    let bytes: Vec<u64> = (0..8).map(|i| (b << 32 | a) >> (8 * i) & 255).collect();
    let mut source = Bits(3);
    let rows: Vec<[u64; 3]> = (0..200).map(|_| [a, b, source.next() & 0xffff_ffff]).collect();
    let join = |x: [u64; 4]| x[0] | x[1] << 8 | x[2] << 16 | x[3] << 24;
    hold("prmt.b32 %r30, %r0, %r1, %r2;", "%r30", &rows, |[_, _, c]| {
        join(std::array::from_fn(|i| {
            let pick = c >> (4 * i) & 15;
            let byte = bytes[pick as usize & 7];
            if pick < 8 { byte } else { if byte > 127 { 255 } else { 0 } }
        }))
    });
    // section 9.7.9.7: bytes by mode and the low two bits of c, the highest first
    let modes: [(&str, [&str; 4]); 6] = [
        ("f4e", ["3210", "4321", "5432", "6543"]),
        ("b4e", ["5670", "6701", "7012", "0123"]),
        ("rc8", ["0000", "1111", "2222", "3333"]),
        ("ecl", ["3210", "3211", "3222", "3333"]),
        ("ecr", ["0000", "1110", "2210", "3210"]),
        ("rc16", ["1010", "3232", "1010", "3232"]),
    ];
    for (mode, picks) in modes {
        hold(&format!("prmt.b32.{mode} %r30, %r0, %r1, %r2;"), "%r30", &rows, |[_, _, c]| {
            let mut picks = picks[c as usize & 3].bytes().rev().map(|p| bytes[usize::from(p - b'0')]);
            join(std::array::from_fn(|_| picks.next().unwrap()))
        });
    }
}

#[test]
fn logic_by_table() {
    let three = triples(&words()[8..12], &words()[10..15], &words()[12..18]);
    for table in [0x80, 0xfe, 0x96, 0xca, 0x1b, 0x00, 0xff] {
        hold(&format!("lop3.b32 %r30, %r0, %r1, %r2, {table};"), "%r30", &three, |[x, y, z]| {
            (0..32).map(|i| (table >> ((x >> i & 1) << 2 | (y >> i & 1) << 1 | z >> i & 1) & 1) << i).sum()
        });
    }
}

#[test]
fn dot_products() {
    let three = triples(&words(), &words(), &[0, 77, 0xffff_fff0]);
    let byte = |x: u64, i: u64, signed: bool| {
        let byte = (x >> (8 * i)) as u8;
        if signed { i64::from(byte as i8) } else { i64::from(byte) }
    };
    let half = |x: u64, i: u64, signed: bool| {
        let half = (x >> (16 * i)) as u16;
        if signed { i64::from(half as i16) } else { i64::from(half) }
    };
    for (ta, sa) in [("u32", false), ("s32", true)] {
        for (tb, sb) in [("u32", false), ("s32", true)] {
            hold(&format!("dp4a.{ta}.{tb} %r30, %r0, %r1, %r2;"), "%r30", &three, |[x, y, z]| {
                low(((0..4).map(|i| byte(x, i, sa) * byte(y, i, sb)).sum::<i64>() + z as i64).into())
            });
            for (mode, from) in [("lo", 0), ("hi", 2)] {
                hold(&format!("dp2a.{mode}.{ta}.{tb} %r30, %r0, %r1, %r2;"), "%r30", &three, |[x, y, z]| {
                    low(((0..2).map(|i| half(x, i, sa) * byte(y, from + i, sb)).sum::<i64>() + z as i64)
                        .into())
                });
            }
        }
    }
}

#[test]
fn selections_and_conversions() {
    let three = triples(&words()[..4], &words()[4..8], &words());
    hold("slct.u32.s32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| if s(z) >= 0 { x } else { y });
    hold("slct.b32.f32 %r30, %r0, %r1, %r2;", "%r30", &three, |[x, y, z]| {
        if f32::from_bits(z as u32) >= 0.0 { x } else { y }
    });
    hold("selp.b32 %r30, %r0, %r1, %q2;", "%r30", &three, |[x, y, z]| if z != 0 { x } else { y });
    let one: Vec<[u64; 1]> = words().iter().map(|x| [*x]).collect();
    hold("cvt.s64.s32 %d30, %r0;", "%d30", &one, |[x]| s(x) as u64);
    hold("cvt.u64.u32 %d30, %r0;", "%d30", &one, |[x]| x);
    hold("cvt.s32.s8 %r30, %r0;", "%r30", &one, |[x]| low(i128::from(x as i8)));
    hold("cvt.sat.u8.s32 %r30, %r0;", "%r30", &one, |[x]| s(x).clamp(0, 255) as u64);
    hold("cvt.sat.s16.s32 %h30, %r0;", "%h30", &one, |[x]| s(x).clamp(-32768, 32767) as u16 as u64);
    hold("cvt.sat.s32.u32 %r30, %r0;", "%r30", &one, |[x]| x.min(0x7fff_ffff));
    for (name, compare) in [("lt", (|x: u64, y: u64| x < y) as fn(u64, u64) -> bool), ("hs", |x, y| x >= y)] {
        let t = "u32";
        hold(&format!("setp.{name}.{t} %q30, %r0, %r1;"), "%q30", &pairs(&words(), &words()), |[x, y]| {
            compare(x, y).into()
        });
    }
    hold("setp.gt.s32 %q30, %r0, %r1;", "%q30", &pairs(&words(), &words()), |[x, y]| (s(x) > s(y)).into());
    hold("set.le.u32.s32 %r30, %r0, %r1;", "%r30", &pairs(&words(), &words()), |[x, y]| {
        if s(x) <= s(y) { 0xffff_ffff } else { 0 }
    });
}

#[test]
fn which_space_an_address_is_in() {
    let shared = "mov.u64 %d10, s; cvta.shared.u64 %d10, %d10;";
    let both = format!(
        "{shared} isspacep.shared %q30, %d10; isspacep.global %q31, %d10; isspacep.global %q32, %at0;"
    );
    let got = warp(&both, &[], &["%q30", "%q31", "%q32"]);
    assert_eq!(got.iter().map(|lanes| lanes[5]).collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(table("neg.s32 %r30, %r0;", &[[5], [0x8000_0000]], "%r30"), [0xffff_fffb, 0x8000_0000]);
    assert_eq!(table("abs.s32 %r30, %r0;", &[[0xffff_fffb], [0x8000_0000]], "%r30"), [5, 0x8000_0000]);
}
