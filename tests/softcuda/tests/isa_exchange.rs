//! Shuffles, votes, `match`, `redux` and atomics, lane by lane as sections 9.7.9 and 9.7.13 of the ISA say.

mod common;

use common::isa::{Bits, Lanes, try_warp, warp};
use half::{bf16, f16};
use softcuda::FaultKind;

fn lanes(f: impl Fn(u64) -> u64) -> Lanes {
    std::array::from_fn(|lane| f(lane as u64))
}

#[test]
fn shuffles_with_every_width() {
    let a = lanes(|lane| 100 + lane);
    for width in [32i64, 16, 8, 4, 2, 1] {
        let segment = (32 - width) << 8;
        for b in [0i64, 1, 3, 7, 16, 31] {
            for (mode, clamp) in
                [("up", 0), ("down", 31), ("bfly", 31), ("idx", 31), ("down", 20), ("idx", 2)]
            {
                let c = segment | clamp;
                let got = warp(
                    &format!("shfl.sync.{mode}.b32 %r30|%q30, %r0, {b}, {c}, -1;"),
                    &[a],
                    &["%r30", "%q30"],
                );
                for lane in 0..32i64 {
                    // section 9.7.9.6
                    let mask = segment >> 8;
                    let (max, min) = ((lane & mask) | (clamp & !mask), lane & mask);
                    let (from, inside) = match mode {
                        "up" => (lane - b, lane - b >= max),
                        "down" => (lane + b, lane + b <= max),
                        "bfly" => (lane ^ b, (lane ^ b) <= max),
                        _ => (min | (b & !mask), (min | (b & !mask)) <= max),
                    };
                    let want = if inside { 100 + from } else { 100 + lane };
                    assert_eq!(
                        (got[0][lane as usize], got[1][lane as usize]),
                        (want as u64, inside.into()),
                        "{mode} {b} {c:#x} lane {lane}"
                    );
                }
            }
        }
    }
}

#[test]
fn lanes_that_name_different_lanes() {
    // groups of 8, each with its own mask
    let mask = lanes(|lane| 0xff << (lane & !7));
    let value = lanes(|lane| lane * lane);
    let body = "shfl.sync.bfly.b32 %r30, %r0, 1, 31, %r1; setp.gt.u32 %q30, %r0, 100;\n\
        vote.sync.ballot.b32 %r31, %q30, %r1; redux.sync.add.u32 %r32, %r0, %r1;";
    let got = warp(body, &[value, mask], &["%r30", "%r31", "%r32"]);
    for lane in 0..32usize {
        let group = lane & !7..(lane & !7) + 8;
        assert_eq!(got[0][lane], value[lane ^ 1]);
        assert_eq!(got[1][lane], group.clone().map(|l| u64::from(value[l] > 100) << l).sum::<u64>());
        assert_eq!(got[2][lane], group.map(|l| value[l]).sum::<u64>());
    }
    let fault = try_warp("redux.sync.add.u32 %r30, %r0, 0x7fffffff;", &[value], &["%r30"]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::DivergentBarrier);
}

#[test]
fn votes() {
    let (all, some, none) = (lanes(|_| 1), lanes(|lane| lane % 3 / 2), lanes(|_| 0));
    let bits: u64 = some.iter().enumerate().map(|(i, x)| x << i).sum();
    let cases = [(all, [1, 1, 1, 0xffff_ffff]), (some, [0, 1, 0, bits]), (none, [0, 0, 1, 0])];
    for (p, want) in cases {
        let body = "vote.sync.all.pred %q30, %q0, -1; vote.sync.any.pred %q31, %q0, -1; vote.sync.uni.pred %q32, %q0, -1;\n\
            vote.sync.ballot.b32 %r30, %q0, -1; vote.sync.any.pred %q33, !%q0, -1; activemask.b32 %r31;";
        let got = warp(body, &[p], &["%q30", "%q31", "%q32", "%r30", "%q33", "%r31"]);
        let want: Vec<Lanes> =
            want.iter().chain(&[u64::from(p.contains(&0)), 0xffff_ffff]).map(|x| [*x; 32]).collect();
        assert_eq!(got, want);
    }
    // half the warp alone
    let body = "setp.lt.u32 %q30, %lane0, 16; mov.u32 %r30, 0; mov.u32 %r31, 0;\n\
        @%q30 vote.sync.ballot.b32 %r30, %q0, 0xffff; @!%q30 activemask.b32 %r31;";
    let got = warp(body, &[some], &["%r30", "%r31"]);
    assert_eq!((got[0][3], got[0][20]), (bits & 0xffff, 0));
    assert_eq!((got[1][3], got[1][20]), (0, 0xffff_0000));
}

#[test]
fn matches() {
    let value = lanes(|lane| lane % 5);
    let got = warp("match.any.sync.b32 %r30, %r0, -1;", &[value], &["%r30"]);
    for lane in 0..32 {
        let same = (0..32).filter(|l| l % 5 == lane % 5).map(|l| 1u64 << l).sum::<u64>();
        assert_eq!(got[0][lane as usize], same);
    }
    let all = "match.all.sync.b64 %r30|%q30, %d0, -1;";
    let got = warp(all, &[lanes(|_| 1 << 40)], &["%r30", "%q30"]);
    assert_eq!(got, [[0xffff_ffff; 32], [1; 32]]);
    // told apart by the upper half alone
    let got = warp(all, &[lanes(|lane| u64::from(lane == 7) << 40)], &["%r30", "%q30"]);
    assert_eq!(got, [[0; 32], [0; 32]]);
}

#[test]
fn reductions_over_lanes() {
    let mut source = Bits(4);
    let value = lanes(|_| 0).map(|_| source.next() & 0xffff_ffff);
    let s = |x: u64| x as u32 as i32;
    let fold = |f: fn(u64, u64) -> u64| value.iter().copied().reduce(f).unwrap();
    let cases = [
        ("add.u32", value.iter().sum::<u64>() & 0xffff_ffff),
        ("add.s32", value.iter().sum::<u64>() & 0xffff_ffff),
        ("min.u32", *value.iter().min().unwrap()),
        ("max.u32", *value.iter().max().unwrap()),
        ("min.s32", value.iter().map(|x| s(*x)).min().unwrap() as u32 as u64),
        ("max.s32", value.iter().map(|x| s(*x)).max().unwrap() as u32 as u64),
        ("and.b32", fold(|x, y| x & y)),
        ("or.b32", fold(|x, y| x | y)),
        ("xor.b32", fold(|x, y| x ^ y)),
    ];
    for (op, want) in cases {
        assert_eq!(
            warp(&format!("redux.sync.{op} %r30, %r0, -1;"), &[value], &["%r30"]),
            [[want; 32]],
            "{op}"
        );
    }
}

/// Lanes come one after the other, in ascending order: old values and the final one of a word that all of them update.
fn atomics(op: &str, bits: usize, start: u64, operands: &[Lanes], next: impl Fn(u64, &[u64]) -> u64) {
    let prefix = match bits {
        16 => "h",
        32 => "r",
        _ => "d",
    };
    let list: String = (0..operands.len()).map(|i| format!(", %{prefix}{i}")).collect();
    for space in ["shared", "global"] {
        // global: the first input's place, which is read by then
        let (address, store) = if space == "shared" {
            (
                "[s]".into(),
                format!(
                    "mov.b{bits} %{prefix}20, {start}; st.shared.b{bits} [s], %{prefix}20; bar.warp.sync -1;"
                ),
            )
        } else {
            let own = format!(
                "ld.param.u64 %d21, [p]; mov.b{bits} %{prefix}20, {start}; st.global.b{bits} [%d21], %{prefix}20; bar.warp.sync -1;"
            );
            ("[%d21]".to_string(), own)
        };
        let body = format!(
            "{store} atom.{space}.{op} %{prefix}30, {address}{list}; bar.warp.sync -1; ld.{space}.b{bits} %{prefix}31, {address};"
        );
        let outputs = [format!("%{prefix}30"), format!("%{prefix}31")];
        let got = warp(&body, operands, &[&outputs[0], &outputs[1]]);
        let mut value = start;
        for lane in 0..32 {
            assert_eq!(got[0][lane], value, "atom.{space}.{op}, lane {lane}");
            value = next(value, &operands.iter().map(|x| x[lane]).collect::<Vec<_>>());
        }
        assert_eq!(got[1], [value; 32], "atom.{space}.{op} at the end");
        if !op.starts_with("exch") && !op.starts_with("cas") {
            let body = format!(
                "{store} red.{space}.{op} {address}{list}; bar.warp.sync -1; ld.{space}.b{bits} %{prefix}31, {address};"
            );
            assert_eq!(warp(&body, operands, &[&outputs[1]]), [[value; 32]], "red.{space}.{op}");
        }
    }
}

#[test]
fn integer_atomics() {
    let mut source = Bits(8);
    let (word, wide) =
        (lanes(|_| 0).map(|_| source.next() & 0xffff_ffff), lanes(|_| 0).map(|_| source.next()));
    let s = |x: u64| x as u32 as i32;
    atomics("add.u32", 32, 5, &[word], |x, b| (x + b[0]) & 0xffff_ffff);
    atomics("add.u64", 64, 5, &[wide], |x, b| x.wrapping_add(b[0]));
    atomics("min.s32", 32, 0x7fff_ffff, &[word], |x, b| s(x).min(s(b[0])) as u32 as u64);
    atomics("max.u32", 32, 0, &[word], |x, b| x.max(b[0]));
    atomics("max.s64", 64, 1 << 63, &[wide], |x, b| (x as i64).max(b[0] as i64) as u64);
    atomics("and.b32", 32, 0xffff_ffff, &[word], |x, b| x & b[0]);
    atomics("or.b64", 64, 0, &[wide], |x, b| x | b[0]);
    atomics("xor.b32", 32, 0, &[word], |x, b| x ^ b[0]);
    atomics("exch.b32", 32, 1, &[word], |_, b| b[0]);
    atomics("exch.b64", 64, 1, &[wide], |_, b| b[0]);
    // wrap after the bound (section 9.7.13.5)
    atomics("inc.u32", 32, 3, &[lanes(|_| 6)], |x, b| if x >= b[0] { 0 } else { x + 1 });
    atomics("inc.u32", 32, 300, &[lanes(|lane| lane)], |x, b| if x >= b[0] { 0 } else { x + 1 });
    atomics("dec.u32", 32, 3, &[lanes(|_| 6)], |x, b| if x == 0 || x > b[0] { b[0] } else { x - 1 });
    atomics("dec.u32", 32, 300, &[lanes(|lane| lane)], |x, b| if x == 0 || x > b[0] { b[0] } else { x - 1 });
    // lane n swaps only when lane n - 1 did
    let (compare, swap) = (lanes(|lane| lane), lanes(|lane| if lane == 20 { 0 } else { lane + 1 }));
    let cas = |x: u64, b: &[u64]| if x == b[0] { b[1] } else { x };
    atomics("cas.b32", 32, 0, &[compare, swap], cas);
    atomics("cas.b64", 64, 0, &[compare, swap], cas);
    atomics("cas.b16", 16, 0, &[compare, swap], cas);
}

#[test]
fn float_atomics() {
    let f = |x: u64| f32::from_bits(x as u32);
    let value = lanes(|lane| (lane as f32 * 0.37 - 3.0).to_bits().into());
    atomics("add.f32", 32, 0, &[value], |x, b| (f(x) + f(b[0])).to_bits().into());
    let double = lanes(|lane| (lane as f64 * 0.37 - 3.0).to_bits());
    atomics("add.f64", 64, 0, &[double], |x, b| (f64::from_bits(x) + f64::from_bits(b[0])).to_bits());
    // sums of f16 are exact in f32; those of bf16 too, at this range
    let h = |x: u64| f16::from_bits(x as u16).to_f32();
    let half = |x: f32| u64::from(f16::from_f32(x).to_bits());
    let b16 = |x: u64| bf16::from_bits(x as u16).to_f32();
    let brain = |x: f32| u64::from(bf16::from_f32(x).to_bits());
    let halves = lanes(|lane| half(lane as f32 * 0.3 - 2.0) | half(lane as f32) << 16);
    let brains = lanes(|lane| brain(lane as f32 * 0.3 - 2.0) | brain(lane as f32) << 16);
    atomics("add.noftz.f16", 16, 0, &[halves.map(|x| x & 0xffff)], |x, b| half(h(x) + h(b[0])));
    atomics("add.noftz.bf16", 16, 0, &[brains.map(|x| x & 0xffff)], |x, b| brain(b16(x) + b16(b[0])));
    atomics("add.noftz.f16x2", 32, 0, &[halves], |x, b| {
        half(h(x) + h(b[0])) | half(h(x >> 16) + h(b[0] >> 16)) << 16
    });
    atomics("add.noftz.bf16x2", 32, 0, &[brains], |x, b| {
        brain(b16(x) + b16(b[0])) | brain(b16(x >> 16) + b16(b[0] >> 16)) << 16
    });
}

#[test]
fn denormals_of_f32_atomics() {
    // zero in global memory, kept in shared memory
    let one = "mov.b32 %r20, 1; setp.eq.u32 %q30, %lane0, 0;";
    let shared = format!(
        "{one} @%q30 st.shared.b32 [s], %r20; @%q30 red.shared.add.f32 [s], %r20; bar.warp.sync -1; ld.shared.b32 %r30, [s];"
    );
    assert_eq!(warp(&shared, &[], &["%r30"]), [[2; 32]]);
    let global = format!(
        "{one} ld.param.u64 %d21, [p]; @%q30 st.global.b32 [%d21], %r20; @%q30 red.global.add.f32 [%d21], %r20; ld.global.b32 %r30, [%d21];"
    );
    assert_eq!(warp(&global, &[[0; 32]], &["%r30"]), [[0; 32]]);
}
