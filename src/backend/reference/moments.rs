//! AdamW with moments in 8 bits, by the definition.

use super::*;
use crate::random::{Purpose, Stream};

/// The tensor in place `at` of the list.
pub fn adamw8(t: &mut Adam8Tensor<'_, Reference>, at: usize, a: AdamStep, seed: u64) -> Result<()> {
    const OP: &str = "adamw8";
    let n = t.param.0.len();
    let blocks = n.div_ceil(MOMENT_BLOCK);
    let m_codes = part_mut(OP, "m.codes", t.m.codes, n)?;
    let m_scales = part_mut(OP, "m.scales", t.m.scales, blocks)?;
    let v_codes = part_mut(OP, "v.codes", t.v.codes, n)?;
    let v_scales = part_mut(OP, "v.scales", t.v.scales, blocks)?;
    let mut m = HostBuf((0..n).map(|i| m_scales[i / MOMENT_BLOCK] * m_share(m_codes[i])).collect());
    let mut v =
        HostBuf((0..n).map(|i| (v_scales[i / MOMENT_BLOCK] * root_share(v_codes[i])).powi(2)).collect());
    let (param, master) = (&mut *t.param, t.master.as_deref_mut());
    loss::adamw(&mut AdamTensor { param, master, m: &mut m, v: &mut v, grad: t.grad, decay: t.decay }, a)?;

    let mut words = Stream::new(seed, Purpose::Rounding, a.step, at as u32);
    for b in 0..blocks {
        let block = b * MOMENT_BLOCK..n.min((b + 1) * MOMENT_BLOCK);
        let roots = v.0[block.clone()].iter().map(|v| v.sqrt());
        (m_scales[b], v_scales[b]) = (scale_of(m.0[block.clone()].iter().map(|m| m.abs())), scale_of(roots));
        for i in block {
            let word = words.next_u32();
            let [m_unit, v_unit] = [word & 0xffff, word >> 16].map(|bits| (f64::from(bits) + 0.5) / 65536.0);
            let share = over(m.0[i].abs(), m_scales[b]);
            m_codes[i] = rounded(share, 2, M_CODE_MAX, m_unit).copysign(m.0[i]) as i8;
            let share = over(v.0[i], v_scales[b].powi(2));
            v_codes[i] = (rounded(share, 4, V_CODE_MAX, v_unit) as u8).max(u8::from(share > 0.0));
        }
    }
    Ok(())
}

/// sign(c)·(c/127)²
pub fn m_share(code: i8) -> f64 {
    let c = f64::from(code) / M_CODE_MAX;
    c * c.abs()
}

/// (c/255)²
pub fn root_share(code: u8) -> f64 {
    (f64::from(code) / V_CODE_MAX).powi(2)
}

fn scale_of(values: impl Iterator<Item = f64> + Clone) -> f64 {
    if values.clone().any(|x| !x.is_finite()) {
        return f64::NAN;
    }
    let scale = values.fold(0.0, f64::max);
    if scale < MOMENT_SCALE_LEAST { 0.0 } else { scale }
}

/// x / scale, 0 where there is no scale.
fn over(x: f64, scale: f64) -> f64 {
    if scale > 0.0 { x / scale } else { 0.0 }
}

/// The code c of which (c/most)^k is `share` in the mean over all units in (0, 1).
fn rounded(share: f64, k: i32, most: f64, unit: f64) -> f64 {
    let x = share.min(1.0) * most.powi(k);
    let c = x.powf(1.0 / f64::from(k)).floor();
    let up = unit * ((c + 1.0).powi(k) - c.powi(k)) < x - c.powi(k);
    c + f64::from(u8::from(up))
}
