//! Rotation of queries and keys by position: exact phases, then polynomials of a small angle. No table.

use super::Cpu;
use super::buffer::Buf;
use super::check;
use super::isa::per_isa;
use super::math::{CpuFloat, cos_sin_turns};
use crate::backend::{Direction, PairLayout, Places, RopeShape, operands};
use crate::error::Result;
use crate::index::ChunkSpan;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn rope(
        &self, q: &mut Buf<E>, k: &mut Buf<E>, places: Places<'_, Self>, turns: &Buf<u64>,
        direction: Direction, s: RopeShape,
    ) -> Result<()> {
        let (tokens, pairs) = (s.rows * s.tokens, s.rotary_dim / 2);
        let (q_width, k_width) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        operands::rope::<Self>(check::DEVICE, [q, k], &places, turns, s)?;
        let position = |t: usize| match &places {
            Places::List(list) => list.as_slice()[t].0,
            Places::Spans { spans, per_row } => {
                position_in(&spans.as_slice()[t / s.tokens * per_row..][..*per_row], t % s.tokens)
            }
        };
        let turns = &turns.as_slice()[..pairs];
        let cost = 0.4 * (q_width + k_width) as f64 + pairs as f64;
        let run = self.workers.run_length(tokens, cost);
        let q = q.as_mut_slice()[..tokens * q_width].chunks_mut((run * q_width).max(1));
        let k = k.as_mut_slice()[..tokens * k_width].chunks_mut((run * k_width).max(1));
        self.workers.each(cost * tokens as f64, q.zip(k).enumerate(), |(r, (q, k))| {
            for (t, (q, k)) in q.chunks_exact_mut(q_width).zip(k.chunks_exact_mut(k_width)).enumerate() {
                let turn = Turn {
                    position: position(r * run + t),
                    head_dim: s.head_dim,
                    pairs: s.pairs,
                    factor: s.attention_factor as f32,
                    back: direction == Direction::Backward,
                };
                rotate(self.simd, q, k, turns, turn);
            }
        });
        Ok(())
    }
}

/// Pairs whose cosines and sines are held at once.
const PAIRS: usize = 64;

/// How one token is rotated.
#[derive(Clone, Copy)]
struct Turn {
    pub position: u32,
    pub head_dim: usize,
    pub pairs: PairLayout,
    /// Multiplies cosine and sine.
    pub factor: f32,
    /// Rotates by -angle.
    pub back: bool,
}

per_isa! {
    /// Rotates all heads of one token of q and of k in place; `turns` has a frequency for each pair.
    fn rotate[E: CpuFloat](q: &mut [E], k: &mut [E], turns: &[u64], turn: Turn) => rotate_body;
}

#[inline(always)]
fn rotate_body<E: CpuFloat, const FMA: bool>(q: &mut [E], k: &mut [E], turns: &[u64], turn: Turn) {
    let sign = if turn.back { -turn.factor } else { turn.factor };
    let position = u64::from(turn.position);
    for (c, chunk) in turns.chunks(PAIRS).enumerate() {
        let n = chunk.len();
        // The wrapping product is the exact fraction of a turn in 64 bits; its upper 32 fix the angle within 1.5e-9.
        let mut phase = [0u32; PAIRS];
        for (phase, turns) in phase.iter_mut().zip(chunk) {
            *phase = (position.wrapping_mul(*turns) >> 32) as u32;
        }
        let (mut cos, mut sin) = ([0f32; PAIRS], [0f32; PAIRS]);
        for i in 0..PAIRS {
            let (c, s) = cos_sin_turns::<FMA>(phase[i]);
            (cos[i], sin[i]) = (c * turn.factor, s * sign);
        }
        let (cos, sin) = (&cos[..n], &sin[..n]);
        for heads in [&mut *q, &mut *k] {
            for head in heads.chunks_exact_mut(turn.head_dim) {
                match turn.pairs {
                    PairLayout::HalfSplit => {
                        let (low, high) = head.split_at_mut(turns.len());
                        rotate_halves(&mut low[c * PAIRS..][..n], &mut high[c * PAIRS..][..n], cos, sin);
                    }
                    PairLayout::Interleaved => {
                        rotate_neighbours(&mut head[2 * c * PAIRS..][..2 * n], cos, sin);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn rotate_halves<E: CpuFloat>(low: &mut [E], high: &mut [E], cos: &[f32], sin: &[f32]) {
    let n = low.len();
    let (high, cos, sin) = (&mut high[..n], &cos[..n], &sin[..n]);
    for i in 0..n {
        let (a, b) = (low[i].widen(), high[i].widen());
        low[i] = E::narrow(a * cos[i] - b * sin[i]);
        high[i] = E::narrow(b * cos[i] + a * sin[i]);
    }
}

#[inline(always)]
fn rotate_neighbours<E: CpuFloat>(pairs: &mut [E], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = pairs.as_chunks_mut::<2>();
    for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
        let (a, b) = (pair[0].widen(), pair[1].widen());
        *pair = [E::narrow(a * cos - b * sin), E::narrow(b * cos + a * sin)];
    }
}

/// The position of token t under the spans of its row, starts ascending from 0.
fn position_in(spans: &[ChunkSpan], t: usize) -> u32 {
    let chunk = spans.partition_point(|span| span.start.0 as usize <= t);
    (t as u32).wrapping_add(spans[chunk.saturating_sub(1)].bias)
}
