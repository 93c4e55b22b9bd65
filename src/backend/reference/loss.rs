//! Head with cross-entropy, and AdamW.

use super::*;

pub fn head_loss(
    nll: &mut Buf, x: &Buf, w: &Buf, bias: Option<&Buf>, targets: &HostBuf<TokenId>,
    mut grad: Option<HeadGrad<'_, Reference>>, s: HeadShape,
) -> Result<()> {
    const OP: &str = "head_loss";
    let (d, v) = (s.width, s.vocab);
    let (x, w) = (part(OP, "x", x, s.tokens * d)?, part(OP, "w", w, v * d)?);
    let bias = bias.map(|bias| part(OP, "bias", bias, v)).transpose()?;
    let targets = part(OP, "targets", targets, s.tokens)?;
    let nll = part_mut(OP, "nll", nll, s.tokens)?;
    nll.fill(0.0);
    if let Some(grad) = &mut grad {
        part_mut(OP, "dx", grad.dx, s.tokens * d)?.fill(0.0);
        grad.dw.as_mut().map(|dw| part_mut(OP, "dw", dw, v * d)).transpose()?;
        grad.db.as_mut().map(|db| part_mut(OP, "db", db, v)).transpose()?;
        grad.weights.map(|weights| part(OP, "weights", weights, s.tokens)).transpose()?;
    }
    for t in (0..s.tokens).filter(|&t| targets[t] != TokenId::IGNORED) {
        let target = targets[t].0 as usize;
        if target >= v {
            return Err(refused(format!("{OP}: target {target} is outside the vocabulary of {v}")));
        }
        let x = &x[t * d..][..d];
        let score = |(j, w): (usize, &[f64])| {
            w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias.map_or(0.0, |bias| bias[j])
        };
        let z: Vec<f64> = w.chunks_exact(d).enumerate().map(score).collect();
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum_exp = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        nll[t] = log_sum_exp - z[target];
        let Some(grad) = &mut grad else { continue };
        let scale = grad.scale * grad.weights.map_or(1.0, |weights| weights.0[t]);
        for (j, z) in z.iter().enumerate() {
            let dz = scale * ((z - log_sum_exp).exp() - f64::from(j == target));
            if let Some(db) = &mut grad.db {
                db.0[j] += dz;
            }
            for c in 0..d {
                grad.dx.0[t * d + c] += dz * w[j * d + c];
                if let Some(dw) = &mut grad.dw {
                    dw.0[j * d + c] += dz * x[c];
                }
            }
        }
    }
    Ok(())
}

pub fn adamw(t: &mut AdamTensor<'_, Reference>, a: AdamStep) -> Result<()> {
    let n = t.param.0.len();
    let grad = part("adamw", "grad", t.grad, n)?;
    let (m, v) = (part_mut("adamw", "m", t.m, n)?, part_mut("adamw", "v", t.v, n)?);
    let (fix1, fix2) = (1.0 - a.beta1.powf(a.step as f64), 1.0 - a.beta2.powf(a.step as f64));
    for i in 0..n {
        let g = grad[i] * a.grad_scale;
        m[i] = a.beta1 * m[i] + (1.0 - a.beta1) * g;
        v[i] = a.beta2 * v[i] + (1.0 - a.beta2) * g * g;
        let master = match &mut t.master {
            Some(master) => &mut part_mut("adamw", "master", master, n)?[i],
            None => &mut t.param.0[i],
        };
        *master -= a.lr * (m[i] / fix1 / ((v[i] / fix2).sqrt() + a.eps) + t.decay * *master);
        t.param.0[i] = *master;
    }
    Ok(())
}
