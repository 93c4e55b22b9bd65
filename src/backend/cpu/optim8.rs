//! AdamW with moments in 8 bits: a block of codes is decoded into the caches, advanced by the loop of [`super::optim`], and
//! encoded again.

use super::Cpu;
use super::isa::per_isa;
use super::math::{CpuFloat, LANES, ROUND, larger, largest};
use super::optim::{Coefficients, in_place_body, with_master_body};
use crate::backend::{
    Adam8Tensor, AdamStep, Buffer, M_CODE_MAX, MOMENT_BLOCK, MOMENT_SCALE_LEAST, MomentCodes, V_CODE_MAX,
};
use crate::random::{Purpose, Stream};

/// Codes of a piece and their scales.
struct Codes<'a, C> {
    codes: &'a mut [C],
    scales: &'a mut [f32],
}

/// One tensor's part of the step, of whole blocks but for the tensor's last.
pub(super) struct Piece<'a, E> {
    param: &'a mut [E],
    master: Option<&'a mut [f32]>,
    m: Codes<'a, i8>,
    v: Codes<'a, u8>,
    grad: &'a [f32],
    step: Coefficients,
    /// The tensor's random numbers, and the draw of the piece's first element.
    words: Stream,
    draw: u32,
}

/// Elements that one draw has random bits for.
const OF_A_DRAW: usize = 4;
/// Blocks of a piece.
const BLOCKS: usize = 128;
const PIECE: usize = BLOCKS * MOMENT_BLOCK;

/// The tensor in place `at` of the list, in pieces.
pub(super) fn pieces<'a, E: CpuFloat>(
    t: &'a mut Adam8Tensor<'_, Cpu<E>>, at: usize, step: AdamStep, seed: u64,
) -> impl Iterator<Item = Piece<'a, E>> + Send {
    let words = Stream::new(seed, Purpose::Rounding, step.step, at as u32);
    let step = Coefficients::new(step, t.decay);
    let n = t.param.len();
    let mut master = t.master.as_mut().map(|master| master.as_mut_slice()[..n].chunks_mut(PIECE));
    let moments = code_pieces(&mut t.m, n).zip(code_pieces(&mut t.v, n));
    let params = t.param.as_mut_slice().chunks_mut(PIECE).zip(t.grad.as_slice()[..n].chunks(PIECE));
    params.zip(moments).enumerate().map(move |(p, ((param, grad), (m, v)))| {
        let master = master.as_mut().and_then(|pieces| pieces.next());
        let draw = (p * (PIECE / OF_A_DRAW)) as u32;
        Piece { param, master, m, v, grad, step, words: words.clone(), draw }
    })
}

fn code_pieces<'a, E: CpuFloat, C: crate::backend::Element>(
    moment: &'a mut MomentCodes<'_, Cpu<E>, C>, n: usize,
) -> impl Iterator<Item = Codes<'a, C>> {
    let codes = moment.codes.as_mut_slice()[..n].chunks_mut(PIECE);
    let scales = moment.scales.as_mut_slice()[..n.div_ceil(MOMENT_BLOCK)].chunks_mut(BLOCKS);
    codes.zip(scales).map(|(codes, scales)| Codes { codes, scales })
}

per_isa! {
    /// Advances the moments and the parameters of a piece.
    pub(super) fn step[E: CpuFloat](piece: Piece<'_, E>) => step_body;
}

#[inline(always)]
fn step_body<E: CpuFloat, const FMA: bool>(piece: Piece<'_, E>) {
    let Piece { param, mut master, m, v, grad, step, words, draw } = piece;
    // beyond the end of a short block they stay 0
    let (mut wide_m, mut wide_v) = ([0f32; MOMENT_BLOCK], [0f32; MOMENT_BLOCK]);
    for (b, grad) in grad.chunks(MOMENT_BLOCK).enumerate() {
        let (first, n) = (b * MOMENT_BLOCK, grad.len());
        let (param, m_codes, v_codes) =
            (&mut param[first..][..n], &mut m.codes[first..][..n], &mut v.codes[first..][..n]);
        if n < MOMENT_BLOCK {
            (wide_m, wide_v) = ([0.0; MOMENT_BLOCK], [0.0; MOMENT_BLOCK]);
        }
        decode(&mut wide_m[..n], &mut wide_v[..n], m_codes, v_codes, m.scales[b], v.scales[b]);
        match &mut master {
            Some(master) => {
                let master = &mut master[first..][..n];
                with_master_body::<E, FMA>(param, master, &mut wide_m[..n], &mut wide_v[..n], grad, step);
            }
            None => in_place_body::<E, FMA>(param, &mut wide_m[..n], &mut wide_v[..n], grad, step),
        }
        wide_v.iter_mut().for_each(|v| *v = v.sqrt());
        (m.scales[b], v.scales[b]) = (scale_of(&wide_m), scale_of(&wide_v));
        let units = units(&words, draw.wrapping_add((first / OF_A_DRAW) as u32));
        encode(m_codes, v_codes, &wide_m[..n], &wide_v[..n], m.scales[b], v.scales[b], &units);
    }
}

#[inline(always)]
fn decode(m: &mut [f32], v: &mut [f32], m_codes: &[i8], v_codes: &[u8], m_scale: f32, v_scale: f32) {
    const M_MOST: f32 = (M_CODE_MAX * M_CODE_MAX) as f32;
    const V_MOST: f32 = (V_CODE_MAX * V_CODE_MAX) as f32;
    let (m_unit, v_unit) = (m_scale / M_MOST, v_scale / V_MOST);
    for i in 0..m.len() {
        let (m_code, v_code) = (f32::from(m_codes[i]), f32::from(v_codes[i]));
        m[i] = m_code * m_code.abs() * m_unit;
        let root = v_code * v_code * v_unit;
        v[i] = root * root;
    }
}

/// max |x|, 0 where it is too small for a scale, NaN where an x is no finite number.
#[inline(always)]
fn scale_of(x: &[f32; MOMENT_BLOCK]) -> f32 {
    let top = largest(x);
    if top < MOMENT_SCALE_LEAST as f32 { 0.0 } else { top }
}

/// Numbers in (0, 1) for the m and for the v of a block.
#[inline(always)]
fn units(words: &Stream, draw: u32) -> [[f32; MOMENT_BLOCK]; 2] {
    let mut units = [[0f32; MOMENT_BLOCK]; 2];
    for first in (0..MOMENT_BLOCK).step_by(LANES * OF_A_DRAW) {
        let drawn = words.lanes::<LANES>(draw.wrapping_add((first / OF_A_DRAW) as u32));
        for l in 0..LANES {
            for w in 0..OF_A_DRAW {
                let (at, word) = (first + OF_A_DRAW * l + w, drawn[w][l]);
                units[0][at] = ((word & 0xffff) as f32 + 0.5) * (1.0 / 65536.0);
                units[1][at] = ((word >> 16) as f32 + 0.5) * (1.0 / 65536.0);
            }
        }
    }
    units
}

#[inline(always)]
fn encode(
    m_codes: &mut [i8], v_codes: &mut [u8], m: &[f32], roots: &[f32], m_scale: f32, v_scale: f32,
    units: &[[f32; MOMENT_BLOCK]; 2],
) {
    let inverse = |scale: f32| if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let (m_inverse, v_inverse) = (inverse(m_scale), inverse(v_scale));
    for i in 0..m_codes.len() {
        let (y, c) = share::<{ M_CODE_MAX as u32 }>(m[i].abs() * m_inverse);
        let up = units[0][i] * (2.0 * c + 1.0) < y - c * c;
        m_codes[i] = integer(rounded(c, up).copysign(m[i])) as i8;

        let (y, c) = share::<{ V_CODE_MAX as u32 }>(roots[i] * v_inverse);
        // (c+1)⁴ − c⁴ and y² − c⁴ as products, which are exact enough in f32
        let up = units[1][i] * ((2.0 * c + 1.0) * (2.0 * c * (c + 1.0) + 1.0)) < (y - c * c) * (y + c * c);
        let code = rounded(c, up);
        let least = if roots[i] > 0.0 { 1.0 } else { 0.0 };
        v_codes[i] = integer(larger(code, least)) as u8;
    }
}

/// (y, ⌊√y⌋) of y = most²·part. Where √y is an integer the second may be the one below, and is rounded up for certain.
#[inline(always)]
fn share<const MOST: u32>(part: f32) -> (f32, f32) {
    let most = (MOST * MOST) as f32;
    let y = part * most;
    let y = if y < most { y } else { most };
    (y, (y.sqrt() - 0.5 + ROUND) - ROUND)
}

#[inline(always)]
fn rounded(code: f32, up: bool) -> f32 {
    code + if up { 1.0 } else { 0.0 }
}

/// The low bits of a whole number, two's complement.
#[inline(always)]
fn integer(x: f32) -> u32 {
    (x + ROUND).to_bits()
}
