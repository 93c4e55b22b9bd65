//! Plain loops in f32 that round to `A` where low precision has to: the error that is allowed twice.

use pose_engine::backend::{AttentionShape, Float};

pub fn round<A: Float>(x: f32) -> f64 {
    A::from_f64(f64::from(x)).to_f64()
}

pub fn dot(n: usize, f: impl Fn(usize) -> (f64, f64)) -> f32 {
    (0..n).fold(0f32, |sum, i| {
        let (a, b) = f(i);
        sum + a as f32 * b as f32
    })
}

/// `base[i,j] + Σ_k a(i,k)·b(k,j)`, unrounded.
pub fn product(
    (m, n, k): (usize, usize, usize), a: impl Fn(usize, usize) -> f64, b: impl Fn(usize, usize) -> f64,
) -> Vec<f32> {
    (0..m * n).map(|at| dot(k, |l| (a(at / n, l), b(l, at % n)))).collect()
}

pub struct Attention {
    pub o: Vec<f64>,
    pub lse: Vec<f64>,
}

fn sees(s: &AttentionShape, documents: Option<&[u32]>, row: usize, i: usize, j: usize) -> bool {
    let at = s.keys - s.queries + i;
    j <= at
        && s.window.is_none_or(|w| at - j < w)
        && documents.is_none_or(|d| d[row * s.keys + at] == d[row * s.keys + j])
}

fn at_q(s: &AttentionShape, r: usize, i: usize, h: usize) -> usize {
    ((r * s.queries + i) * s.heads + h) * s.head_dim
}

fn at_k(s: &AttentionShape, r: usize, j: usize, h: usize) -> usize {
    ((r * s.keys + j) * s.kv_heads + h / (s.heads / s.kv_heads)) * s.head_dim
}

/// Scores in f32, weights rounded to `A` before they meet the values.
pub fn attention<A: Float>(
    q: &[f64], k: &[f64], v: &[f64], documents: Option<&[u32]>, s: AttentionShape,
) -> Attention {
    let d = s.head_dim;
    let mut out = Attention { o: vec![0.0; q.len()], lse: vec![0.0; s.rows * s.heads * s.queries] };
    for r in 0..s.rows {
        for h in 0..s.heads {
            for i in 0..s.queries {
                let at = at_q(&s, r, i, h);
                let seen: Vec<usize> = (0..s.keys).filter(|&j| sees(&s, documents, r, i, j)).collect();
                let score = |j: usize| s.scale as f32 * dot(d, |c| (q[at + c], k[at_k(&s, r, j, h) + c]));
                let scores: Vec<f32> = seen.iter().map(|&j| score(j)).collect();
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|x| (x - max).exp()).sum();
                out.lse[(r * s.heads + h) * s.queries + i] = f64::from(max + sum.ln());
                let p: Vec<f64> = scores.iter().map(|x| round::<A>((x - max).exp())).collect();
                for c in 0..d {
                    let o = dot(seen.len(), |l| (p[l], v[at_k(&s, r, seen[l], h) + c]));
                    out.o[at + c] = round::<A>(o / sum);
                }
            }
        }
    }
    out
}

/// dq, dk, dv; weights and their slopes rounded to `A`.
#[allow(clippy::too_many_arguments)]
pub fn attention_backward<A: Float>(
    d_o: &[f64], o: &[f64], lse: &[f64], q: &[f64], k: &[f64], v: &[f64], documents: Option<&[u32]>,
    s: AttentionShape,
) -> [Vec<f64>; 3] {
    let d = s.head_dim;
    let (mut dq, mut dk, mut dv) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; k.len()]);
    for r in 0..s.rows {
        for h in 0..s.heads {
            for i in 0..s.queries {
                let at = at_q(&s, r, i, h);
                let delta = dot(d, |c| (d_o[at + c], o[at + c]));
                let lse = lse[(r * s.heads + h) * s.queries + i] as f32;
                for j in (0..s.keys).filter(|&j| sees(&s, documents, r, i, j)) {
                    let to = at_k(&s, r, j, h);
                    let p = (s.scale as f32 * dot(d, |c| (q[at + c], k[to + c])) - lse).exp();
                    let slope = p * (dot(d, |c| (d_o[at + c], v[to + c])) - delta);
                    let (p, slope) = (round::<A>(p) as f32, round::<A>(slope) as f32);
                    for c in 0..d {
                        dq[at + c] += slope * k[to + c] as f32;
                        dk[to + c] += slope * q[at + c] as f32;
                        dv[to + c] += p * d_o[at + c] as f32;
                    }
                }
            }
        }
    }
    let scaled = |x: Vec<f32>| x.iter().map(|x| round::<A>(x * s.scale as f32)).collect();
    [scaled(dq), scaled(dk), dv.iter().map(|x| round::<A>(*x)).collect()]
}
