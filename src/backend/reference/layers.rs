//! Embedding, the norms, rotation, SwiGLU and GELU, each beside the operation that undoes it.

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

pub fn layernorm(y: &mut Buf, stats: &mut Buf, x: &Buf, w: &Buf, bias: &Buf, s: NormShape) -> Result<()> {
    const OP: &str = "layernorm";
    let d = s.width;
    let x = part(OP, "x", x, s.tokens * d)?;
    let (w, bias) = (part(OP, "w", w, d)?, part(OP, "bias", bias, d)?);
    let y = part_mut(OP, "y", y, s.tokens * d)?;
    let stats = part_mut(OP, "stats", stats, 2 * s.tokens)?;
    for t in 0..s.tokens {
        let x = &x[t * d..][..d];
        let mean = x.iter().sum::<f64>() / d as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
        let rstd = 1.0 / (variance + s.eps).sqrt();
        (stats[2 * t], stats[2 * t + 1]) = (mean, rstd);
        for i in 0..d {
            y[t * d + i] = (x[i] - mean) * rstd * w[i] + bias[i];
        }
    }
    Ok(())
}

pub fn layernorm_backward(
    dx: &mut Buf, dw: Option<&mut Buf>, dy: &Buf, x: &Buf, stats: &Buf, w: &Buf, s: NormShape,
) -> Result<()> {
    const OP: &str = "layernorm_backward";
    let d = s.width;
    let (dy, x) = (part(OP, "dy", dy, s.tokens * d)?, part(OP, "x", x, s.tokens * d)?);
    let (stats, w) = (part(OP, "stats", stats, 2 * s.tokens)?, part(OP, "w", w, d)?);
    let dx = part_mut(OP, "dx", dx, s.tokens * d)?;
    let mut dw = dw.map(|dw| part_mut(OP, "dw", dw, d)).transpose()?;
    for t in 0..s.tokens {
        let (dy, x, mean, rstd) = (&dy[t * d..][..d], &x[t * d..][..d], stats[2 * t], stats[2 * t + 1]);
        let normed: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f64> = dy.iter().zip(w).map(|(dy, w)| dy * w).collect();
        let mean_g = g.iter().sum::<f64>() / d as f64;
        let mean_gx = g.iter().zip(&normed).map(|(g, x)| g * x).sum::<f64>() / d as f64;
        for i in 0..d {
            dx[t * d + i] += rstd * (g[i] - mean_g - normed[i] * mean_gx);
            if let Some(dw) = &mut dw {
                dw[i] += dy[i] * normed[i];
            }
        }
    }
    Ok(())
}

pub fn unit_rows(y: &mut Buf, scale: &mut Buf, x: &Buf, rows: usize, width: usize) -> Result<()> {
    let x = part("unit_rows", "x", x, rows * width)?;
    let y = part_mut("unit_rows", "y", y, rows * width)?;
    let scale = part_mut("unit_rows", "scale", scale, rows)?;
    for r in 0..rows {
        let x = &x[r * width..][..width];
        scale[r] = 1.0 / x.iter().map(|x| x * x).sum::<f64>().sqrt().max(UNIT_LEAST);
        for i in 0..width {
            y[r * width + i] = x[i] * scale[r];
        }
    }
    Ok(())
}

pub fn unit_rows_backward(d: &mut Buf, y: &Buf, scale: &Buf, rows: usize, width: usize) -> Result<()> {
    const OP: &str = "unit_rows_backward";
    let (y, scale) = (part(OP, "y", y, rows * width)?, part(OP, "scale", scale, rows)?);
    let d = part_mut(OP, "d", d, rows * width)?;
    for r in 0..rows {
        let (d, y) = (&mut d[r * width..][..width], &y[r * width..][..width]);
        let along: f64 = d.iter().zip(y).map(|(d, y)| d * y).sum();
        for i in 0..width {
            d[i] = scale[r] * (d[i] - y[i] * along);
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

/// σ(2u) of GELU.
fn gelu_gate(x: f64) -> f64 {
    sigmoid(2.0 * GELU_SCALE * (x + GELU_CUBE * x.powi(3)))
}

pub fn gelu(y: &mut Buf, x: &Buf, len: usize) -> Result<()> {
    let x = part("gelu", "x", x, len)?;
    let y = part_mut("gelu", "y", y, len)?;
    (0..len).for_each(|i| y[i] = x[i] * gelu_gate(x[i]));
    Ok(())
}

pub fn gelu_backward(dx: &mut Buf, dy: &Buf, x: &Buf, len: usize) -> Result<()> {
    const OP: &str = "gelu_backward";
    let (dy, x) = (part(OP, "dy", dy, len)?, part(OP, "x", x, len)?);
    let dx = part_mut(OP, "dx", dx, len)?;
    for i in 0..len {
        let (x, gate) = (x[i], gelu_gate(x[i]));
        let slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x);
        dx[i] = dy[i] * gate * (1.0 + 2.0 * x * (1.0 - gate) * slope);
    }
    Ok(())
}
