//! Keys and values as 8-bit integers, by the definition.

use super::*;

pub fn quantise(codes: &mut HostBuf<i8>, scales: &mut Buf, at: usize, x: &Buf, s: KvShape) -> Result<()> {
    const OP: &str = "kv_quantise";
    let heads = s.tokens * s.kv_heads;
    let x = part(OP, "x", x, heads * s.head_dim)?;
    let first = at * s.kv_heads;
    let scales = &mut part_mut(OP, "scales", scales, first + heads)?[first..];
    let codes = &mut part_mut(OP, "codes", codes, (first + heads) * s.head_dim)?[first * s.head_dim..];
    for h in 0..heads {
        let head = &x[h * s.head_dim..][..s.head_dim];
        scales[h] = scale_of(head);
        for (code, x) in codes[h * s.head_dim..].iter_mut().zip(head) {
            *code = if scales[h] > 0.0 { (x / scales[h]).round_ties_even() as i8 } else { 0 };
        }
    }
    Ok(())
}

fn scale_of(head: &[f64]) -> f64 {
    if head.iter().any(|x| !x.is_finite()) {
        return f64::NAN;
    }
    let scale = head.iter().fold(0.0, |max: f64, x| max.max(x.abs())) / KV_CODE_MAX;
    if scale < KV_SCALE_LEAST { 0.0 } else { scale }
}

/// scale·code, exactly.
pub fn dequantise(x: Quantised<'_, Reference>, s: AttentionShape) -> Result<Buf> {
    const OP: &str = "attention_int8";
    let heads = s.rows * s.keys * s.kv_heads;
    let codes = part(OP, "codes", x.codes, heads * s.head_dim)?;
    let scales = part(OP, "scales", x.scales, heads)?;
    Ok(HostBuf(codes.iter().enumerate().map(|(i, &code)| scales[i / s.head_dim] * f64::from(code)).collect()))
}
