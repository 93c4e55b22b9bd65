//! One instruction on one warp: every lane loads its operands, the instruction runs, every lane stores the results.

use super::Gpu;
use softcuda::{Fault, Launch, Options, launch};

pub type Lanes = [u64; 32];

/// Registers of the modules: inputs are in %r0.., %d0.., %h0.. and %q0.. (b32, b64, b16, predicates) of the same number.
const REGISTERS: &str = ".reg .pred %q<40>; .reg .b16 %h<40>; .reg .b32 %r<40>; .reg .b64 %d<40>; .reg .b64 %at<4>; .reg .b32 %lane<2>; .reg .pred %none;\n\
     .shared .align 128 .b8 s[4096];\n";

/// The text of a module whose kernel `k` loads `inputs` words, runs `body`, and stores the registers in `outputs`.
pub fn module(body: &str, inputs: usize, outputs: &[&str]) -> String {
    let mut text = format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n{REGISTERS}\
         ld.param.u64 %at0, [p]; mov.u32 %lane0, %tid.x; mul.wide.u32 %at1, %lane0, 8; add.u64 %at0, %at0, %at1;\n\
         setp.ne.u32 %none, %lane0, %lane0;\n"
    );
    for i in 0..inputs {
        text += &format!(
            "ld.global.u64 %d{i}, [%at0+{}]; cvt.u32.u64 %r{i}, %d{i}; cvt.u16.u64 %h{i}, %d{i}; setp.ne.u32 %q{i}, %r{i}, 0;\n",
            256 * i
        );
    }
    text += body;
    for (i, name) in outputs.iter().enumerate() {
        let word = match &name[..2] {
            "%r" | "%l" => format!("cvt.u64.u32 %at2, {name};"),
            "%h" => format!("cvt.u64.u16 %at2, {name};"),
            "%q" => format!("selp.u64 %at2, 1, 0, {name};"),
            _ => format!("mov.u64 %at2, {name};"),
        };
        text += &format!("\n{word} st.global.u64 [%at0+{}], %at2;", 256 * (inputs + i));
    }
    text + "\nret;\n}\n"
}

/// The results by output and lane.
pub fn try_warp(body: &str, inputs: &[Lanes], outputs: &[&str]) -> Result<Vec<Lanes>, Fault> {
    try_functions("", body, inputs, outputs)
}

/// With functions that the body may call.
pub fn try_functions(
    functions: &str, body: &str, inputs: &[Lanes], outputs: &[&str],
) -> Result<Vec<Lanes>, Fault> {
    let text = module(body, inputs.len(), outputs);
    let gpu = Gpu::new(&text.replace(".visible", &format!("{functions}\n.visible")));
    let mut words: Vec<u64> = inputs.concat();
    words.resize(32 * (inputs.len() + outputs.len()), 0);
    let there = gpu.bytes(&words.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    let params = there.to_le_bytes();
    let kernel = &gpu.module.kernels["k"];
    let l = Launch { kernel, grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, params: &params };
    launch(&gpu.memory, &l, &Options::default())?;
    let mut bytes = vec![0; 256 * outputs.len()];
    gpu.memory.read(there + 256 * inputs.len() as u64, &mut bytes).unwrap();
    let words: Vec<u64> = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
    Ok(words.chunks_exact(32).map(|lanes| lanes.try_into().unwrap()).collect())
}

pub fn warp(body: &str, inputs: &[Lanes], outputs: &[&str]) -> Vec<Lanes> {
    try_warp(body, inputs, outputs).unwrap_or_else(|fault| panic!("{body}: {fault}"))
}

/// `body` on every row of operands, as many lanes at a time as there are; one result each.
pub fn table<const N: usize>(body: &str, rows: &[[u64; N]], output: &str) -> Vec<u64> {
    let mut out = Vec::new();
    for rows in rows.chunks(32) {
        let inputs: Vec<Lanes> =
            (0..N).map(|i| std::array::from_fn(|lane| rows[lane.min(rows.len() - 1)][i])).collect();
        out.extend(&warp(body, &inputs, &[output])[0][..rows.len()]);
    }
    out
}

/// Holds `body` against `want` on every row.
#[track_caller]
pub fn hold<const N: usize>(body: &str, output: &str, rows: &[[u64; N]], want: impl Fn([u64; N]) -> u64) {
    for (row, got) in rows.iter().zip(table(body, rows, output)) {
        let want = want(*row);
        assert_eq!(got, want, "{body} of {row:#x?}: {got:#x} instead of {want:#x}");
    }
}

/// All pairs, triples of values.
pub fn pairs(a: &[u64], b: &[u64]) -> Vec<[u64; 2]> {
    a.iter().flat_map(|x| b.iter().map(move |y| [*x, *y])).collect()
}

pub fn triples(a: &[u64], b: &[u64], c: &[u64]) -> Vec<[u64; 3]> {
    pairs(a, b).into_iter().flat_map(|[x, y]| c.iter().map(move |z| [x, y, *z])).collect()
}

/// A sequence of bits that is the same every time.
pub struct Bits(pub u64);

impl Bits {
    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub const NAN: u64 = 0x7fff_ffff;

pub fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

pub fn b(x: f32) -> u64 {
    if x.is_nan() { NAN } else { x.to_bits().into() }
}

pub fn edges() -> Vec<u64> {
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

/// x·2^scale, which is a whole number.
pub fn fixed(x: f64, scale: i32) -> i128 {
    let y = x * 2f64.powi(scale);
    assert_eq!(y, y.trunc());
    y as i128
}
