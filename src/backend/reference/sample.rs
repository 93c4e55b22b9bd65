//! Which token comes next.

use super::*;

pub fn sample(tokens: &mut HostBuf<TokenId>, logits: &mut Buf, units: &Buf, s: SampleShape) -> Result<()> {
    const OP: &str = "sample";
    super::super::check::sample("reference", OP, s)?;
    let units = part(OP, "units", units, s.rows)?;
    let logits = part_mut(OP, "logits", logits, s.rows * s.vocab)?;
    let tokens = part_mut(OP, "tokens", tokens, s.rows)?;
    for ((token, z), unit) in tokens.iter_mut().zip(logits.chunks_exact_mut(s.vocab)).zip(units) {
        *token = if z.iter().all(|z| z.is_finite()) { choose(z, *unit, s) } else { TokenId::IGNORED };
    }
    Ok(())
}

fn choose(z: &mut [f64], unit: f64, s: SampleShape) -> TokenId {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if s.temperature == 0.0 {
        return TokenId(z.iter().position(|z| *z == max).unwrap_or(0) as u32);
    }
    z.iter_mut().for_each(|z| *z = ((*z - max) / s.temperature).exp());
    let mut falling = z.to_vec();
    falling.sort_by(|a, b| b.total_cmp(a));
    let (total, mut sum): (f64, f64) = (falling.iter().sum(), 0.0);
    let enough = falling.iter().find(|w| {
        sum += **w;
        sum >= s.top_p * total
    });
    let least = enough.copied().unwrap_or(0.0);
    let nucleus = |(_, w): &(usize, &f64)| **w >= least;
    let wanted = unit * z.iter().enumerate().filter(nucleus).map(|(_, w)| w).sum::<f64>();
    let (mut running, mut last) = (0.0, 0);
    for (i, w) in z.iter().enumerate().filter(nucleus) {
        (running, last) = (running + w, i);
        if running > wanted {
            break;
        }
    }
    TokenId(last as u32)
}
