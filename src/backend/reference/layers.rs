//! Embedding, RMSNorm, rotation and SwiGLU, each beside the operation that undoes it.

use super::*;
use std::f64::consts::TAU;

fn ids_below<'a>(op: &str, ids: &'a HostBuf<TokenId>, s: HeadShape) -> Result<&'a [TokenId]> {
    let ids = part(op, "ids", ids, s.tokens)?;
    match ids.iter().find(|id| id.0 as usize >= s.vocab) {
        Some(id) => Err(refused(format!("{op}: token id {} is outside the vocabulary of {}", id.0, s.vocab))),
        None => Ok(ids),
    }
}

pub fn embed(y: &mut Buf, table: &Buf, ids: &HostBuf<TokenId>, s: HeadShape) -> Result<()> {
    let (ids, d) = (ids_below("embed", ids, s)?, s.width);
    let table = part("embed", "table", table, s.vocab * d)?;
    let y = part_mut("embed", "y", y, s.tokens * d)?;
    for (t, id) in ids.iter().enumerate() {
        y[t * d..][..d].copy_from_slice(&table[id.0 as usize * d..][..d]);
    }
    Ok(())
}

pub fn embed_backward(d_table: &mut Buf, dy: &Buf, ids: &HostBuf<TokenId>, s: HeadShape) -> Result<()> {
    let (ids, d) = (ids_below("embed_backward", ids, s)?, s.width);
    let dy = part("embed_backward", "dy", dy, s.tokens * d)?;
    let d_table = part_mut("embed_backward", "d_table", d_table, s.vocab * d)?;
    for (t, id) in ids.iter().enumerate() {
        for i in 0..d {
            d_table[id.0 as usize * d + i] += dy[t * d + i];
        }
    }
    Ok(())
}

pub fn rmsnorm(y: &mut Buf, rstd: &mut Buf, x: &Buf, w: &Buf, s: NormShape) -> Result<()> {
    let d = s.width;
    let (x, w) = (part("rmsnorm", "x", x, s.tokens * d)?, part("rmsnorm", "w", w, d)?);
    let y = part_mut("rmsnorm", "y", y, s.tokens * d)?;
    let rstd = part_mut("rmsnorm", "rstd", rstd, s.tokens)?;
    for t in 0..s.tokens {
        let x = &x[t * d..][..d];
        rstd[t] = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / d as f64 + s.eps).sqrt();
        for i in 0..d {
            y[t * d + i] = x[i] * rstd[t] * w[i];
        }
    }
    Ok(())
}

pub fn rmsnorm_backward(
    dx: &mut Buf, dw: Option<&mut Buf>, dy: &Buf, x: &Buf, rstd: &Buf, w: &Buf, s: NormShape,
) -> Result<()> {
    const OP: &str = "rmsnorm_backward";
    let d = s.width;
    let (dy, x) = (part(OP, "dy", dy, s.tokens * d)?, part(OP, "x", x, s.tokens * d)?);
    let (rstd, w) = (part(OP, "rstd", rstd, s.tokens)?, part(OP, "w", w, d)?);
    let dx = part_mut(OP, "dx", dx, s.tokens * d)?;
    let mut dw = dw.map(|dw| part_mut(OP, "dw", dw, d)).transpose()?;
    for t in 0..s.tokens {
        let (dy, x, r) = (&dy[t * d..][..d], &x[t * d..][..d], rstd[t]);
        let mean = (0..d).map(|j| dy[j] * w[j] * x[j] * r).sum::<f64>() / d as f64;
        for i in 0..d {
            dx[t * d + i] += r * (dy[i] * w[i] - x[i] * r * mean);
            if let Some(dw) = &mut dw {
                dw[i] += dy[i] * x[i] * r;
            }
        }
    }
    Ok(())
}

/// The rope position of every token, [rows, tokens].
fn positions(places: &Places<'_, Reference>, s: &RopeShape) -> Result<Vec<u64>> {
    match places {
        Places::List(list) => {
            Ok(part("rope", "positions", list, s.rows * s.tokens)?.iter().map(|p| p.0 as u64).collect())
        }
        Places::Spans { spans, per_row } => {
            let spans = part("rope", "spans", spans, s.rows * per_row)?;
            let of_token = |row: &[ChunkSpan], t: usize| {
                let span =
                    row.iter().rev().find(|span| span.start.0 as usize <= t).copied().unwrap_or_default();
                t as u64 + span.bias as u64
            };
            Ok(spans
                .chunks_exact(*per_row)
                .flat_map(|row| (0..s.tokens).map(move |t| of_token(row, t)))
                .collect())
        }
    }
}

pub fn rope(
    q: &mut Buf, k: &mut Buf, places: Places<'_, Reference>, turns: &HostBuf<u64>, direction: Direction,
    s: RopeShape,
) -> Result<()> {
    let positions = positions(&places, &s)?;
    let turns = part("rope", "turns", turns, s.rotary_dim / 2)?;
    let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
    for (name, x, heads) in [("q", q, s.heads), ("k", k, s.kv_heads)] {
        let x = part_mut("rope", name, x, s.rows * s.tokens * heads * s.head_dim)?;
        for (i, head) in x.chunks_exact_mut(s.head_dim).enumerate() {
            for (pair, &turn) in turns.iter().enumerate() {
                let fraction = positions[i / heads].wrapping_mul(turn) as f64 / 2f64.powi(64);
                let (sin, cos) = (sign * fraction * TAU).sin_cos();
                let (ia, ib) = match s.pairs {
                    PairLayout::HalfSplit => (pair, pair + s.rotary_dim / 2),
                    PairLayout::Interleaved => (2 * pair, 2 * pair + 1),
                };
                let (a, b) = (head[ia], head[ib]);
                head[ia] = s.attention_factor * (a * cos - b * sin);
                head[ib] = s.attention_factor * (b * cos + a * sin);
            }
        }
    }
    Ok(())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn swiglu(y: &mut Buf, gate: &Buf, up: &Buf, len: usize) -> Result<()> {
    let (gate, up) = (part("swiglu", "gate", gate, len)?, part("swiglu", "up", up, len)?);
    let y = part_mut("swiglu", "y", y, len)?;
    (0..len).for_each(|i| y[i] = gate[i] * sigmoid(gate[i]) * up[i]);
    Ok(())
}

pub fn swiglu_backward(
    d_gate: &mut Buf, d_up: &mut Buf, dy: &Buf, gate: &Buf, up: &Buf, len: usize,
) -> Result<()> {
    const OP: &str = "swiglu_backward";
    let (dy, gate, up) = (part(OP, "dy", dy, len)?, part(OP, "gate", gate, len)?, part(OP, "up", up, len)?);
    let d_gate = part_mut(OP, "d_gate", d_gate, len)?;
    let d_up = part_mut(OP, "d_up", d_up, len)?;
    for i in 0..len {
        let sigma = sigmoid(gate[i]);
        d_gate[i] = dy[i] * up[i] * sigma * (1.0 + gate[i] * (1.0 - sigma));
        d_up[i] = dy[i] * gate[i] * sigma;
    }
    Ok(())
}
