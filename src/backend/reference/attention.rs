//! Causal attention by its definition: all scores of a query, their softmax, the weighted sum.

use super::*;

const OP: &str = "attention";

/// One query's view of the keys: which it sees and with what score.
struct View<'a> {
    s: AttentionShape,
    documents: Option<&'a [DocumentId]>,
}

impl View<'_> {
    fn check(&self) -> Result<()> {
        let s = &self.s;
        if s.keys < s.queries || s.kv_heads == 0 || !s.heads.is_multiple_of(s.kv_heads) {
            return Err(refused(format!(
                "{OP}: {s:?} has fewer keys than queries or heads that do not divide"
            )));
        }
        Ok(())
    }

    /// Query `i` of `row` sits at index keys - queries + i and sees key `j` if it is not later, within the window and
    /// of the same document.
    fn sees(&self, row: usize, i: usize, j: usize) -> bool {
        let at = self.s.keys - self.s.queries + i;
        let same = |d: &[DocumentId]| d[row * self.s.keys + at] == d[row * self.s.keys + j];
        j <= at && self.s.window.is_none_or(|w| at - j < w) && self.documents.is_none_or(same)
    }

    fn q_at(&self, row: usize, i: usize, head: usize) -> usize {
        ((row * self.s.queries + i) * self.s.heads + head) * self.s.head_dim
    }

    fn k_at(&self, row: usize, j: usize, head: usize) -> usize {
        let kv_head = head / (self.s.heads / self.s.kv_heads);
        ((row * self.s.keys + j) * self.s.kv_heads + kv_head) * self.s.head_dim
    }

    /// Every (row, head, query).
    fn queries(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let s = self.s;
        (0..s.rows * s.heads * s.queries)
            .map(move |at| (at / s.queries / s.heads, at / s.queries % s.heads, at % s.queries))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Elements of q, of k, of lse.
fn sizes(s: &AttentionShape) -> (usize, usize, usize) {
    let per_head = s.rows * s.head_dim;
    (per_head * s.queries * s.heads, per_head * s.keys * s.kv_heads, s.rows * s.heads * s.queries)
}

pub fn forward(
    o: &mut Buf, lse: &mut Buf, q: &Buf, k: &Buf, v: &Buf, documents: Option<&HostBuf<DocumentId>>,
    s: AttentionShape,
) -> Result<()> {
    let documents = documents.map(|d| part(OP, "documents", d, s.rows * s.keys)).transpose()?;
    let (view, (nq, nk, nl), d) = (View { s, documents }, sizes(&s), s.head_dim);
    view.check()?;
    let (q, k, v) = (part(OP, "q", q, nq)?, part(OP, "k", k, nk)?, part(OP, "v", v, nk)?);
    let o = part_mut(OP, "o", o, nq)?;
    let lse = part_mut(OP, "lse", lse, nl)?;
    for (r, h, i) in view.queries() {
        let q = &q[view.q_at(r, i, h)..][..d];
        let seen: Vec<usize> = (0..s.keys).filter(|&j| view.sees(r, i, j)).collect();
        let scores: Vec<f64> =
            seen.iter().map(|&j| s.scale * dot(q, &k[view.k_at(r, j, h)..][..d])).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
        let log_sum_exp = max + sum.ln();
        lse[(r * s.heads + h) * s.queries + i] = log_sum_exp;
        let o = &mut o[view.q_at(r, i, h)..][..d];
        o.fill(0.0);
        for (&j, score) in seen.iter().zip(&scores) {
            let p = (score - log_sum_exp).exp();
            (0..d).for_each(|c| o[c] += p * v[view.k_at(r, j, h) + c]);
        }
    }
    Ok(())
}

pub fn backward(
    dq: &mut Buf, dk: &mut Buf, dv: &mut Buf, d_o: &Buf, o: &Buf, lse: &Buf, q: &Buf, k: &Buf, v: &Buf,
    documents: Option<&HostBuf<DocumentId>>, s: AttentionShape,
) -> Result<()> {
    let documents = documents.map(|d| part(OP, "documents", d, s.rows * s.keys)).transpose()?;
    let (view, (nq, nk, nl), d) = (View { s, documents }, sizes(&s), s.head_dim);
    view.check()?;
    let (q, k, v) = (part(OP, "q", q, nq)?, part(OP, "k", k, nk)?, part(OP, "v", v, nk)?);
    let (d_o, o, lse) = (part(OP, "d_o", d_o, nq)?, part(OP, "o", o, nq)?, part(OP, "lse", lse, nl)?);
    let dq = part_mut(OP, "dq", dq, nq)?;
    let dk = part_mut(OP, "dk", dk, nk)?;
    let dv = part_mut(OP, "dv", dv, nk)?;
    for out in [&mut *dq, &mut *dk, &mut *dv] {
        out.fill(0.0);
    }
    for (r, h, i) in view.queries() {
        let at_q = view.q_at(r, i, h);
        let (q, d_o) = (&q[at_q..][..d], &d_o[at_q..][..d]);
        let delta = dot(d_o, &o[at_q..][..d]);
        for j in (0..s.keys).filter(|&j| view.sees(r, i, j)) {
            let at_k = view.k_at(r, j, h);
            // forward: p_ij = exp(scale·q_i·k_j − lse_i), o_i = Σ_j p_ij v_j
            let p = (s.scale * dot(q, &k[at_k..][..d]) - lse[(r * s.heads + h) * s.queries + i]).exp();
            let ds = s.scale * p * (dot(d_o, &v[at_k..][..d]) - delta);
            for c in 0..d {
                dq[at_q + c] += ds * k[at_k + c];
                dk[at_k + c] += ds * q[c];
                dv[at_k + c] += p * d_o[c];
            }
        }
    }
    Ok(())
}
