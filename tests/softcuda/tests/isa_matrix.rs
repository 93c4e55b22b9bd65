//! `mma`, `wmma`, `ldmatrix`, `stmatrix`: which element each lane holds by the ISA's formulas, the sums by plain loops.

// indices as the ISA writes them
#![allow(clippy::needless_range_loop, clippy::manual_is_multiple_of)]

mod common;

use common::isa::{Bits, Lanes, try_warp, warp};
use half::{bf16, f16};
use softcuda::FaultKind;

/// A small integer as an element of a type, and back.
fn encode(kind: &str, x: i32) -> u64 {
    match kind {
        "f16" => f16::from_f32(x as f32).to_bits().into(),
        "bf16" => bf16::from_f32(x as f32).to_bits().into(),
        // what is beyond the 19 bits of tf32 is not looked at
        "tf32" => u64::from((x as f32).to_bits() | 0x1555),
        "f32" => (x as f32).to_bits().into(),
        "f64" => f64::from(x).to_bits(),
        "s8" | "u8" => (x as u8).into(),
        "s4" | "u4" => (x as u64) & 15,
        _ => (x as u32).into(),
    }
}

fn decode(kind: &str, x: u64) -> i32 {
    match kind {
        "f16" => f16::from_bits(x as u16).to_f32() as i32,
        "f32" => f32::from_bits(x as u32) as i32,
        "f64" => f64::from_bits(x) as i32,
        _ => x as i32,
    }
}

fn bits(kind: &str) -> usize {
    match kind {
        "s4" | "u4" => 4,
        "s8" | "u8" => 8,
        "f16" | "bf16" => 16,
        "f64" => 64,
        _ => 32,
    }
}

/// Small enough for every sum to be exact in f16.
fn small(kind: &str, bits: &mut Bits) -> i32 {
    let x = bits.below(8) as i32;
    if kind.starts_with('u') { x } else { x - 4 }
}

struct Case {
    m: usize,
    n: usize,
    k: usize,
    /// Of d, a, b, c.
    kinds: [&'static str; 4],
    /// Row and column of element i of a lane's group (lane / 4) and thread in it (lane % 4), as the ISA has them.
    a: fn(i: usize, group: usize, thread: usize) -> (usize, usize),
    b: fn(i: usize, group: usize, thread: usize) -> (usize, usize),
}

/// Section 9.7.14.5: c and d of 16 rows (or 8) and 8 columns.
fn sum_place(i: usize, group: usize, thread: usize) -> (usize, usize) {
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

type Place = dyn Fn(usize, usize, usize) -> (usize, usize);

/// The registers that hold a matrix.
fn fragment(kind: &str, matrix: &[Vec<i32>], place: &Place, values: impl Fn(i32) -> u64) -> Vec<Lanes> {
    let elements = matrix.len() * matrix[0].len() / 32;
    let packed = (32 / bits(kind)).max(1);
    let mut out = vec![[0; 32]; elements.div_ceil(packed)];
    for lane in 0..32 {
        for i in 0..elements {
            let (row, column) = place(i, lane / 4, lane % 4);
            out[i / packed][lane] |= values(matrix[row][column]) << (i % packed * bits(kind));
        }
    }
    out
}

fn list(kind: &str, from: usize, n: usize) -> String {
    let prefix = if kind == "f64" { "d" } else { "r" };
    let names: Vec<String> = (from..from + n).map(|i| format!("%{prefix}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

fn random(rows: usize, columns: usize, kind: &str, bits: &mut Bits) -> Vec<Vec<i32>> {
    (0..rows).map(|_| (0..columns).map(|_| small(kind, bits)).collect()).collect()
}

fn product(a: &[Vec<i32>], b: &[Vec<i32>], c: &[Vec<i32>]) -> Vec<Vec<i32>> {
    let cell = |i: usize, j: usize| (0..b.len()).fold(c[i][j], |sum, l| sum + a[i][l] * b[l][j]);
    (0..a.len()).map(|i| (0..b[0].len()).map(|j| cell(i, j)).collect()).collect()
}

fn check(case: &Case) {
    let Case { m, n, k, kinds, .. } = *case;
    let mut source = Bits((m * n * k) as u64);
    let [kd, ka, kb, kc] = kinds;
    let (a, b, c) =
        (random(m, k, ka, &mut source), random(k, n, kb, &mut source), random(m, n, "s32", &mut source));
    let inputs = [
        fragment(ka, &a, &case.a, |x| encode(ka, x)),
        fragment(kb, &b, &case.b, |x| encode(kb, x)),
        fragment(kc, &c, &sum_place, |x| encode(kc, x)),
    ];
    let [na, nb, nc] = inputs.each_ref().map(Vec::len);
    let packed = (32 / bits(kd)).max(1);
    let nd = m * n / 32 / packed;
    let rounding = if ka == "f64" { ".rn" } else { "" };
    let op = format!("mma.sync.aligned.m{m}n{n}k{k}.row.col{rounding}.{kd}.{ka}.{kb}.{kc}");
    let body = format!(
        "{op} {}, {}, {}, {};",
        list(kd, 30, nd),
        list(ka, 0, na),
        list(kb, na, nb),
        list(kc, na + nb, nc)
    );
    let outputs: Vec<String> =
        (30..30 + nd).map(|i| format!("%{}{i}", if kd == "f64" { "d" } else { "r" })).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let got = warp(&body, &inputs.concat(), &outputs);
    let want = product(&a, &b, &c);
    for lane in 0..32 {
        for i in 0..m * n / 32 {
            let (row, column) = sum_place(i, lane / 4, lane % 4);
            let word = got[i / packed][lane] >> (i % packed * bits(kd));
            assert_eq!(decode(kd, word), want[row][column], "{op}: row {row}, column {column}");
        }
    }
}

#[test]
fn mma_of_f16_and_bf16() {
    // figures of sections 9.7.14.5.7 and 9.7.14.5.8
    let (a8, b8) =
        (|i: usize, g, t| (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1)), |i, g, t| (t * 2 + i, g));
    let a16 = |i: usize, g, t| {
        let row = if i < 2 || (4..6).contains(&i) { g } else { g + 8 };
        (row, t * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
    };
    let b16 = |i: usize, g, t| (t * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, g);
    for kinds in [["f32", "f16", "f16", "f32"], ["f16", "f16", "f16", "f16"], ["f32", "bf16", "bf16", "f32"]]
    {
        check(&Case { m: 16, n: 8, k: 16, kinds, a: a16, b: b16 });
        check(&Case { m: 16, n: 8, k: 8, kinds, a: a8, b: b8 });
    }
}

#[test]
fn mma_of_tf32_and_f64() {
    let kinds = ["f32", "tf32", "tf32", "f32"];
    let half = |i, g: usize, t| (if i == 0 { g } else { g + 8 }, t);
    let whole = |i: usize, g, t: usize| (if i % 2 == 0 { g } else { g + 8 }, t + if i >= 2 { 4 } else { 0 });
    check(&Case { m: 16, n: 8, k: 4, kinds, a: half, b: |_, g, t| (t, g) });
    check(&Case { m: 16, n: 8, k: 8, kinds, a: whole, b: |i, g, t| (t + 4 * i, g) });
    let kinds = ["f64"; 4];
    check(&Case { m: 8, n: 8, k: 4, kinds, a: |_, g, t| (g, t), b: |_, g, t| (t, g) });
    check(&Case { m: 16, n: 8, k: 4, kinds, a: half, b: |_, g, t| (t, g) });
    check(&Case { m: 16, n: 8, k: 8, kinds, a: whole, b: |i, g, t| (t + 4 * i, g) });
}

#[test]
fn mma_of_bytes() {
    for (ka, kb) in [("s8", "s8"), ("u8", "u8"), ("s8", "u8"), ("u8", "s8")] {
        let kinds = ["s32", ka, kb, "s32"];
        check(&Case { m: 8, n: 8, k: 16, kinds, a: |i, g, t| (g, t * 4 + i), b: |i, g, t| (t * 4 + i, g) });
        let a = |i: usize, g, t| (if i < 4 { g } else { g + 8 }, t * 4 + (i & 3));
        check(&Case { m: 16, n: 8, k: 16, kinds, a, b: |i, g, t| (t * 4 + i, g) });
        let a = |i: usize, g, t| {
            let row = if i < 4 || (8..12).contains(&i) { g } else { g + 8 };
            (row, t * 4 + (i & 3) + if i >= 8 { 16 } else { 0 })
        };
        let b = |i: usize, g, t| (t * 4 + (i & 3) + if i >= 4 { 16 } else { 0 }, g);
        check(&Case { m: 16, n: 8, k: 32, kinds, a, b });
    }
}

#[test]
fn mma_of_half_bytes() {
    for (ka, kb) in [("s4", "s4"), ("u4", "u4"), ("s4", "u4")] {
        let kinds = ["s32", ka, kb, "s32"];
        check(&Case { m: 8, n: 8, k: 32, kinds, a: |i, g, t| (g, t * 8 + i), b: |i, g, t| (t * 8 + i, g) });
        let a = |i: usize, g, t| (if i < 8 { g } else { g + 8 }, t * 8 + (i & 7));
        check(&Case { m: 16, n: 8, k: 32, kinds, a, b: |i, g, t| (t * 8 + i, g) });
        let a = |i: usize, g, t| {
            let row = if i < 8 || (16..24).contains(&i) { g } else { g + 8 };
            (row, t * 8 + (i & 7) + if i >= 16 { 32 } else { 0 })
        };
        let b = |i: usize, g, t| (t * 8 + (i & 7) + if i >= 8 { 32 } else { 0 }, g);
        check(&Case { m: 16, n: 8, k: 64, kinds, a, b });
    }
}

#[test]
fn integer_sums_wrap_or_stop() {
    let (ones, most) = ([0x7f7f_7f7f; 32], [u64::from(i32::MAX as u32); 32]);
    for (word, want) in [("", i32::MAX.wrapping_add(16 * 127 * 127)), (".satfinite", i32::MAX)] {
        let body = format!(
            "mma.sync.aligned.m8n8k16.row.col{word}.s32.s8.s8.s32 {{%r30, %r31}}, {{%r0}}, {{%r1}}, {{%r2, %r3}};"
        );
        let got = warp(&body, &[ones, ones, most, most], &["%r30", "%r31"]);
        assert!(got.iter().flatten().all(|x| *x as i32 == want), "{word}: {got:x?}");
    }
}

#[test]
fn a_matrix_instruction_needs_the_whole_warp() {
    let body =
        "@%q0 mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r30, %r31}, {%r0, %r0}, {%r0}, {%r0, %r0};";
    let lanes: Lanes = std::array::from_fn(|lane| (lane as u64) % 2);
    let fault = try_warp(body, &[lanes], &["%r30"]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::DivergentBarrier);
}

/// Matrices go through memory: a fragment is opaque.
fn check_wmma(shape: &str, [m, n, k]: [usize; 3], kinds: [&str; 4], layouts: [&str; 3]) {
    let mut source = Bits((m + 2 * n) as u64);
    let [kd, ka, kb, _] = kinds;
    let (a, b, c) =
        (random(m, k, ka, &mut source), random(k, n, kb, &mut source), random(m, n, "s32", &mut source));
    // rows (or columns) lie 8 elements further apart than they are long
    let words = |x: &[Vec<i32>], kind: &str, layout: &str| -> (Vec<u8>, usize) {
        let (rows, columns) = (x.len(), x[0].len());
        let (outer, inner) = if layout == "row" { (rows, columns) } else { (columns, rows) };
        let mut bytes = Vec::new();
        for o in 0..outer {
            for i in 0..inner + 8 {
                let value = match (i < inner, layout) {
                    (false, _) => 99,
                    (_, "row") => x[o][i],
                    _ => x[i][o],
                };
                bytes.extend(&encode(kind, value).to_le_bytes()[..bits(kind) / 8]);
            }
        }
        (bytes, inner + 8)
    };
    let [la, lb, lc] = layouts;
    let ((a_bytes, a_stride), (b_bytes, b_stride), (c_bytes, c_stride)) =
        (words(&a, ka, la), words(&b, kb, lb), words(&c, kd, lc));
    let count = |kind: &str, elements: usize| elements * bits(kind) / 32 / 32;
    // f16 has 8 registers whatever the shape
    let (na, nb) = if ka == "f16" { (8, 8) } else { (count(ka, m * k), count(kb, k * n)) };
    let nd = count(kd, m * n);
    let types = if ka == "f16" { format!("{kd}.{kd}") } else { format!("{kd}.{ka}.{kb}.{kd}") };
    let list = |prefix: &str, n: usize| -> String {
        (0..n).map(|i| format!("%{prefix}{i}")).collect::<Vec<_>>().join(", ")
    };
    let (fa, fb, fc, fd) = (list("fa", na), list("fb", nb), list("fc", nd), list("fd", nd));
    let text = format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)\n{{\n\
         .reg .b32 %fa<8>, %fb<8>, %fc<8>, %fd<8>; .reg .b64 %x<4>;\n\
         ld.param.u64 %x0, [a]; ld.param.u64 %x1, [b]; ld.param.u64 %x2, [c];\n\
         wmma.load.a.sync.aligned.{la}.{shape}.global.{ka} {{{fa}}}, [%x0], {a_stride};\n\
         wmma.load.b.sync.aligned.{lb}.{shape}.{kb} {{{fb}}}, [%x1], {b_stride};\n\
         wmma.load.c.sync.aligned.{lc}.{shape}.global.{kd} {{{fc}}}, [%x2], {c_stride};\n\
         wmma.mma.sync.aligned.{la}.{lb}.{shape}.{types} {{{fd}}}, {{{fa}}}, {{{fb}}}, {{{fc}}};\n\
         wmma.store.d.sync.aligned.{lc}.{shape}.global.{kd} [%x2], {{{fd}}}, {c_stride};\nret;\n}}\n"
    );
    let gpu = common::Gpu::new(&text);
    let [pa, pb, pc] = [&a_bytes, &b_bytes, &c_bytes].map(|bytes| gpu.bytes(bytes));
    let args = [pa, pb, pc].map(common::Arg::Ptr);
    let counters = gpu.launch("k", [1, 1, 1], 32, 0, &args).unwrap_or_else(|f| panic!("{shape}: {f}"));
    assert_eq!((counters.mma, counters.tensor_ops), (1, (2 * m * n * k) as u64));
    let mut got = vec![0; c_bytes.len()];
    gpu.memory.read(pc, &mut got).unwrap();
    let (want, _) = words(&product(&a, &b, &c), kd, lc);
    assert_eq!(got, want, "{shape} {kinds:?} {layouts:?}");
}

#[test]
fn wmma_of_every_shape_and_layout() {
    let shapes = [("m16n16k16", [16, 16, 16]), ("m32n8k16", [32, 8, 16]), ("m8n32k16", [8, 32, 16])];
    let kinds = [
        ["f32", "f16", "f16", "f32"],
        ["f16", "f16", "f16", "f16"],
        ["f32", "bf16", "bf16", "f32"],
        ["s32", "s8", "s8", "s32"],
        ["s32", "u8", "u8", "s32"],
    ];
    for (name, shape) in shapes {
        for kinds in kinds {
            for layouts in
                [["row", "col", "row"], ["col", "row", "col"], ["row", "row", "col"], ["col", "col", "row"]]
            {
                check_wmma(name, shape, kinds, layouts);
            }
        }
    }
    check_wmma("m16n16k8", [16, 16, 8], ["f32", "tf32", "tf32", "f32"], ["row", "col", "row"]);
}

#[test]
fn ldmatrix_and_stmatrix() {
    // matrix j, row i, column c holds 64·j + 8·i + c; row i of matrix j lies at a place of its own
    let place = |row: usize| 16 * ((row * 5) % 32);
    let element = |j: usize, row: usize, column: usize| (64 * j + 8 * row + column) as u64;
    for count in [1, 2, 4] {
        for trans in ["", ".trans"] {
            let rows: Lanes = std::array::from_fn(|lane| place(lane) as u64);
            let held: Vec<Lanes> = (0..4)
                .map(|j| {
                    std::array::from_fn(|lane| {
                        // section 9.7.14.5.15: a row to four lanes, two elements each; columns when transposed
                        let (along, across) = (lane / 4, lane % 4 * 2);
                        let at = |e| {
                            if trans.is_empty() {
                                element(j, along, across + e)
                            } else {
                                element(j, across + e, along)
                            }
                        };
                        at(0) | at(1) << 16
                    })
                })
                .collect();
            let registers: Vec<String> = (1..=count).map(|i| format!("%r{i}")).collect();
            let list = registers.join(", ");
            let zero = "mov.u32 %r20, s; add.u32 %r0, %r0, %r20; mul.lo.u32 %r21, %lane0, 16; add.u32 %r21, %r21, %r20;\n";
            // what stmatrix wrote, read plainly: each lane one row of 16 bytes
            let write = format!(
                "{zero} stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r0], {{{list}}}; bar.warp.sync -1;\n\
                 setp.lt.u32 %q30, %lane0, {}; @%q30 ld.shared.v2.u64 {{%d30, %d31}}, [%r0];",
                8 * count
            );
            let inputs = [&[rows], &held[..]].concat();
            let got = warp(&write, &inputs, &["%d30", "%d31"]);
            for lane in 0..8 * count {
                for column in 0..8 {
                    let word = got[column / 4][lane] >> (16 * (column % 4)) & 0xffff;
                    assert_eq!(word, element(lane / 8, lane % 8, column), "stmatrix x{count}{trans}");
                }
            }
            let plain: Vec<Lanes> = (0..2)
                .map(|half| {
                    std::array::from_fn(|row| {
                        (0..4).map(|e| element(row / 8, row % 8, 4 * half + e) << (16 * e)).sum()
                    })
                })
                .collect();
            let read = format!(
                "{zero} st.shared.v2.u64 [%r0], {{%d1, %d2}}; bar.warp.sync -1;\n\
                 ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{list}}}, [%r0];"
            );
            let outputs: Vec<&str> = registers.iter().map(String::as_str).collect();
            let got = warp(&read, &[&[rows], &plain[..]].concat(), &outputs);
            assert_eq!(got, held[..count], "ldmatrix x{count}{trans}");
        }
    }
}
