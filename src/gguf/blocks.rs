//! The block formats, and what numbers they stand for.
//!
//! A row is whole blocks. With d, m, e halves, q whole numbers of 4 to 8 bits and s whole numbers of 6 or 8:
//!
//! | format | numbers | bytes | a block | a number |
//! |---|---|---|---|---|
//! | Q4_0 | 32 | 18 | d, q 4 bits | d·(q-8) |
//! | Q4_1 | 32 | 20 | d, m, q 4 bits | d·q + m |
//! | Q5_0 | 32 | 22 | d, fifth bits, q 4 bits | d·(q-16) |
//! | Q5_1 | 32 | 24 | d, m, fifth bits, q 4 bits | d·q + m |
//! | Q8_0 | 32 | 34 | d, q 8 bits with sign | d·q |
//! | Q4_K | 256 | 144 | d, e, 8 pairs of s, q 4 bits | (d·s)·q - e·s' |
//! | Q5_K | 256 | 176 | d, e, 8 pairs of s, fifth bits, q 4 bits | (d·s)·q - e·s' |
//! | Q6_K | 256 | 210 | q low 4 bits, q high 2 bits, 16 s with sign, d | (d·s)·(q-32) |
//!
//! Products and sums are in f32, in this order, each rounded: the bits of ggml's own reference and of the Python package gguf.

use half::{bf16, f16};

/// What a tensor is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)] // the names that everybody knows
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Numbers in a block of the K formats.
const K: usize = 256;

impl Format {
    const ALL: [(u32, Format); 11] = [
        (0, Format::F32),
        (1, Format::F16),
        (30, Format::BF16),
        (2, Format::Q4_0),
        (3, Format::Q4_1),
        (6, Format::Q5_0),
        (7, Format::Q5_1),
        (8, Format::Q8_0),
        (12, Format::Q4_K),
        (13, Format::Q5_K),
        (14, Format::Q6_K),
    ];

    /// From a tensor table's number; the error is the end of a sentence about the tensor.
    pub fn from_code(code: u32) -> Result<Format, String> {
        if let Some((_, format)) = Format::ALL.iter().find(|(c, _)| *c == code) {
            return Ok(*format);
        }
        let known: Vec<String> = Format::ALL.iter().map(|(_, f)| format!("{f:?}")).collect();
        let name = other_name(code).map_or(format!("type {code}"), |name| format!("type {name}"));
        Err(format!("is stored in {name}, which is not read; read are {}", known.join(", ")))
    }

    /// Numbers and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Format::F32 => (1, 4),
            Format::F16 | Format::BF16 => (1, 2),
            Format::Q4_0 => (32, 18),
            Format::Q4_1 => (32, 20),
            Format::Q5_0 => (32, 22),
            Format::Q5_1 => (32, 24),
            Format::Q8_0 => (32, 34),
            Format::Q4_K => (K, 144),
            Format::Q5_K => (K, 176),
            Format::Q6_K => (K, 210),
        }
    }

    /// Bytes of a tensor; None where its rows are not whole blocks, or it is larger than can be counted.
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let (numbers, bytes) = self.block();
        let columns = *shape.last()?;
        let blocks = columns.is_multiple_of(numbers).then_some(columns / numbers)?;
        let rows = &shape[..shape.len() - 1];
        rows.iter().try_fold(blocks, |all, &size| all.checked_mul(size))?.checked_mul(bytes)
    }

    /// Appends the numbers of whole blocks to `out`.
    pub fn read(self, bytes: &[u8], out: &mut Vec<f32>) {
        let (_, size) = self.block();
        let blocks = bytes.chunks_exact(size);
        match self {
            Format::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Format::F16 => out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Format::BF16 => out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Format::Q4_0 => {
                blocks.for_each(|b| scaled(out, half(b, 0), nibbles(&b[2..]).map(|q| q as i32 - 8)))
            }
            Format::Q4_1 => blocks.for_each(|b| shifted(out, half(b, 0), half(b, 2), nibbles(&b[4..]))),
            Format::Q5_0 => {
                blocks.for_each(|b| scaled(out, half(b, 0), fives(&b[2..6], &b[6..]).map(|q| q as i32 - 16)));
            }
            Format::Q5_1 => {
                blocks.for_each(|b| shifted(out, half(b, 0), half(b, 2), fives(&b[4..8], &b[8..])))
            }
            Format::Q8_0 => {
                blocks.for_each(|b| scaled(out, half(b, 0), b[2..].iter().map(|&q| i32::from(q as i8))))
            }
            Format::Q4_K => blocks.for_each(|b| four_k(b, out)),
            Format::Q5_K => blocks.for_each(|b| five_k(b, out)),
            Format::Q6_K => blocks.for_each(|b| six_k(b, out)),
        }
    }
}

/// Formats that exist and are not read.
fn other_name(code: u32) -> Option<&'static str> {
    Some(match code {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Low halves of all bytes, then high halves.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|b| b & 15).chain(bytes.iter().map(|b| b >> 4))
}

/// Nibbles with a fifth bit from a mask of 32.
fn fives<'a>(high: &'a [u8], low: &'a [u8]) -> impl Iterator<Item = u8> + 'a {
    nibbles(low).enumerate().map(|(i, q)| q | (high[i / 8] >> (i % 8) & 1) << 4)
}

fn scaled(out: &mut Vec<f32>, d: f32, q: impl Iterator<Item = i32>) {
    out.extend(q.map(|q| d * q as f32));
}

fn shifted(out: &mut Vec<f32>, d: f32, m: f32, q: impl Iterator<Item = u8>) {
    out.extend(q.map(|q| d * f32::from(q) + m));
}

/// Scale and minimum i of 8, of 6 bits each, packed in 12 bytes: the first four of each keep their low bits in bytes 0 to 3 and
/// 4 to 7; of the others bytes 8 to 11 have the low four bits, and the two free bits of bytes 0 to 7 the high ones.
fn scale_and_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (s, m) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    };
    (s.into(), m.into())
}

/// Eight runs of 32 numbers, each with a scale and a minimum; `q(i)` are those of run i.
fn runs<I: Iterator<Item = u8>>(block: &[u8], out: &mut Vec<f32>, q: impl Fn(usize) -> I) {
    let (d, e) = (half(block, 0), half(block, 2));
    for i in 0..8 {
        let (s, m) = scale_and_min(&block[4..16], i);
        let (d, m) = (d * s, e * m);
        out.extend(q(i).map(|q| d * f32::from(q) - m));
    }
}

/// Run i of the four low bits: 32 bytes hold two runs, the first in their low halves.
fn low_run(q: &[u8], i: usize) -> impl Iterator<Item = u8> {
    q[32 * (i / 2)..][..32].iter().map(move |b| b >> (4 * (i % 2)) & 15)
}

fn four_k(block: &[u8], out: &mut Vec<f32>) {
    runs(block, out, |i| low_run(&block[16..], i));
}

/// Bit i of the mask bytes is the fifth of run i.
fn five_k(block: &[u8], out: &mut Vec<f32>) {
    let (high, low) = (&block[16..48], &block[48..]);
    runs(block, out, |i| low_run(low, i).zip(high).map(move |(q, h)| q | (h >> i & 1) << 4));
}

/// Two halves of 128 numbers, each four runs of 32: of the low bits 64 bytes hold two runs and then, in their high halves, two
/// more; of the high bits 32 bytes hold all four. A scale for every 16 numbers.
fn six_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for n in 0..K {
        let (part, run, at) = (n / 128, n % 128 / 32, n % 32);
        let l = low[64 * part + 32 * (run % 2) + at] >> (4 * (run / 2)) & 15;
        let h = high[32 * part + at] >> (2 * run) & 3;
        let q = i32::from(l | h << 4) - 32;
        out.push(d * f32::from(scales[n / 16] as i8) * q as f32);
    }
}
