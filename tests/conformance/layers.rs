//! embed, rmsnorm, layernorm, unit_rows, rope, swiglu, gelu, adamw, sum_squares and what undoes them; memory that is copied, zeroed
//! and exchanged.

use super::plain::{dot, round};
use super::{GUARDED, Suite, TRUTH, host, zeros};
use pose_engine::backend::reference::HostBuf;
use pose_engine::backend::{
    AdamStep, AdamTensor, Backend, Buffer, Direction, Float, HeadShape, NormShape, PairLayout, Places,
    RopeShape,
};
use pose_engine::index::{ChunkSpan, RopePosition, SeqIndex, TokenId};

pub fn all<B: Backend>(t: &mut Suite<'_, B>) {
    for (tokens, width) in [(1, 1), (17, 63), (65, 64), (257, 65), (3, 257), (5000, 20)] {
        embed(t, HeadShape { tokens, width, vocab: 7 });
        rmsnorm(t, NormShape { tokens, width, eps: 1e-5 });
        layernorm(t, NormShape { tokens, width, eps: 1e-5 });
        unit_rows(t, tokens, width, false);
        unit_rows(t, tokens, width, true);
    }
    // rows that take all the shared memory there is without asking: of a backward pass in f32, and of layernorm
    for width in [3072, 4096] {
        rmsnorm(t, NormShape { tokens: 2, width, eps: 1e-5 });
        layernorm(t, NormShape { tokens: 2, width, eps: 1e-5 });
    }
    for len in [0, 1, 17, 63, 65, 257, 40_001] {
        swiglu(t, len);
        gelu(t, len);
        adamw(t, len);
        sum_squares(t, len);
        scale(t, len);
        widen(t, len);
        copy_and_zero(t, len);
        exchange(t, len);
    }
    for pairs in [PairLayout::HalfSplit, PairLayout::Interleaved] {
        for (rows, tokens, heads, kv_heads, head_dim, rotary_dim) in [
            (1, 1, 1, 1, 2, 2),
            (2, 17, 3, 1, 20, 20),
            (1, 65, 2, 2, 80, 20),
            (3, 63, 2, 1, 256, 256),
            (2, 500, 4, 2, 64, 64),
        ] {
            let s = RopeShape {
                rows,
                tokens,
                heads,
                kv_heads,
                head_dim,
                rotary_dim,
                pairs,
                attention_factor: 1.1,
            };
            rope(t, s, Direction::Forward);
            rope(t, s, Direction::Backward);
        }
    }
}

pub fn embed<B: Backend>(t: &mut Suite<'_, B>, s: HeadShape) {
    let (table, dy) = (t.random(s.vocab * s.width, 1.0), t.random(s.tokens * s.width, 1.0));
    let old = t.random_stat(s.vocab * s.width, 1.0);
    let ids: Vec<TokenId> = (0..s.tokens).map(|_| TokenId(t.below(s.vocab) as u32)).collect();
    let ids_b = t.upload(&ids);
    let mut want = zeros(s.tokens * s.width);
    TRUTH.embed(&mut want, &host(&table), &HostBuf(ids.clone()), s).unwrap();
    let mut y = t.fresh(s.tokens * s.width);
    t.b.embed(&mut y, &t.floats(&table), &ids_b, s).unwrap();
    t.compare::<B::Act>(&format!("embed {s:?}"), &y, &want.0, &want.0);

    let mut want = host(&old);
    TRUTH.embed_backward(&mut want, &host(&dy), &HostBuf(ids.clone()), s).unwrap();
    let mut plain: Vec<f32> = old.iter().map(|x| *x as f32).collect();
    for (id, dy) in ids.iter().zip(dy.chunks_exact(s.width)) {
        (0..s.width).for_each(|c| plain[id.0 as usize * s.width + c] += dy[c] as f32);
    }
    let plain: Vec<f64> = plain.iter().map(|x| f64::from(*x)).collect();
    let mut d_table = t.output(&old);
    t.b.embed_backward(&mut d_table, &t.floats(&dy), &ids_b, s).unwrap();
    t.compare::<B::Stat>(&format!("embed_backward {s:?}"), &d_table, &want.0, &plain);
}

pub fn rmsnorm<B: Backend>(t: &mut Suite<'_, B>, s: NormShape) {
    let NormShape { tokens, width, eps } = s;
    let (x, w, dy) = (t.random(tokens * width, 3.0), t.random(width, 1.0), t.random(tokens * width, 1.0));
    let (mut y, mut rstd) = (zeros(tokens * width), zeros(tokens));
    TRUTH.rmsnorm(&mut y, &mut rstd, &host(&x), &host(&w), s).unwrap();
    let row = |r: usize| &x[r * width..][..width];
    let plain_rstd: Vec<f32> = (0..tokens)
        .map(|r| 1.0 / (dot(width, |i| (row(r)[i], row(r)[i])) / width as f32 + eps as f32).sqrt())
        .collect();
    let plain_y: Vec<f64> = (0..tokens * width)
        .map(|at| round::<B::Act>(x[at] as f32 * plain_rstd[at / width] * w[at % width] as f32))
        .collect();
    let (mut y_b, mut rstd_b) = (t.fresh(tokens * width), t.fresh(tokens));
    let (x_b, w_b) = (t.floats(&x), t.floats(&w));
    t.b.rmsnorm(&mut y_b, &mut rstd_b, &x_b, &w_b, s).unwrap();
    t.compare::<B::Act>(&format!("rmsnorm {s:?}"), &y_b, &y.0, &plain_y);
    let wide: Vec<f64> = plain_rstd.iter().map(|x| f64::from(*x)).collect();
    t.compare::<B::Stat>(&format!("rstd {s:?}"), &rstd_b, &rstd.0, &wide);

    let (old_dx, old_dw) = (t.random(tokens * width, 1.0), t.random_stat(width, 1.0));
    let rstd: Vec<f64> = rstd.0.iter().map(|x| B::Stat::from_f64(*x).to_f64()).collect();
    let (mut dx, mut dw) = (host(&old_dx), host(&old_dw));
    let (mut dx_b, mut dw_b) = (t.output(&old_dx), t.output(&old_dw));
    let mut plain_dw: Vec<f32> = old_dw.iter().map(|x| *x as f32).collect();
    let mut plain_dx = old_dx.clone();
    let (dy_b, rstd_b) = (t.floats(&dy), t.floats(&rstd));
    for twice in 1..=2 {
        let [hdy, hx, hrstd, hw] = [&dy, &x, &rstd, &w].map(|v| host(v));
        TRUTH.rmsnorm_backward(&mut dx, Some(&mut dw), &hdy, &hx, &hrstd, &hw, s).unwrap();
        t.b.rmsnorm_backward(&mut dx_b, Some(&mut dw_b), &dy_b, &x_b, &rstd_b, &w_b, s).unwrap();
        for r in 0..tokens {
            let rstd = rstd[r] as f32;
            let (x, dy) = (row(r), &dy[r * width..][..width]);
            let mean = (0..width).map(|i| dy[i] as f32 * w[i] as f32 * x[i] as f32 * rstd).sum::<f32>()
                / width as f32;
            for i in 0..width {
                let xhat = x[i] as f32 * rstd;
                plain_dw[i] += dy[i] as f32 * xhat;
                let g = rstd * (dy[i] as f32 * w[i] as f32 - xhat * mean);
                plain_dx[r * width + i] = round::<B::Act>(plain_dx[r * width + i] as f32 + g);
            }
        }
        let wide: Vec<f64> = plain_dw.iter().map(|x| f64::from(*x)).collect();
        t.compare::<B::Act>(&format!("rmsnorm dx {s:?} x{twice}"), &dx_b, &dx.0, &plain_dx);
        t.compare::<B::Stat>(&format!("rmsnorm dw {s:?} x{twice}"), &dw_b, &dw.0, &wide);
        if twice == 1 {
            let mut dx_b = t.output(&old_dx);
            t.b.rmsnorm_backward(&mut dx_b, None, &dy_b, &x_b, &rstd_b, &w_b, s).unwrap();
            t.compare::<B::Act>(&format!("rmsnorm dx {s:?} of a frozen weight"), &dx_b, &dx.0, &plain_dx);
        }
    }
}

/// μ and rstd of each row, in f32.
fn plain_stats(x: &[f64], s: NormShape) -> Vec<[f32; 2]> {
    let of = |row: &[f64]| {
        let n = s.width as f32;
        let mean = row.iter().map(|x| *x as f32).sum::<f32>() / n;
        let variance = row.iter().map(|x| (*x as f32 - mean).powi(2)).sum::<f32>() / n;
        [mean, 1.0 / (variance + s.eps as f32).sqrt()]
    };
    x.chunks_exact(s.width).map(of).collect()
}

pub fn layernorm<B: Backend>(t: &mut Suite<'_, B>, s: NormShape) {
    let NormShape { tokens, width, .. } = s;
    let (w, bias, dy) = (t.random(width, 1.0), t.random(width, 1.0), t.random(tokens * width, 1.0));
    // rows far from zero: what their squares sum to says little of how they vary
    let x: Vec<f64> =
        t.random(tokens * width, 3.0).iter().map(|x| B::Act::from_f64(x + 8.0).to_f64()).collect();
    let (mut y, mut stats) = (zeros(tokens * width), zeros(2 * tokens));
    TRUTH.layernorm(&mut y, &mut stats, &host(&x), &host(&w), &host(&bias), s).unwrap();
    let plain = plain_stats(&x, s);
    let normed = |at: usize, [mean, rstd]: [f32; 2]| (x[at] as f32 - mean) * rstd;
    let plain_y: Vec<f64> = (0..tokens * width)
        .map(|at| (normed(at, plain[at / width]), w[at % width] as f32, bias[at % width] as f32))
        .map(|(x, w, bias)| round::<B::Act>(x * w + bias))
        .collect();
    let (mut y_b, mut stats_b) = (t.fresh(tokens * width), t.fresh(2 * tokens));
    let (x_b, w_b) = (t.floats(&x), t.floats(&w));
    t.b.layernorm(&mut y_b, &mut stats_b, &x_b, &w_b, &t.floats(&bias), s).unwrap();
    t.compare::<B::Act>(&format!("layernorm {s:?}"), &y_b, &y.0, &plain_y);
    let wide: Vec<f64> = plain.iter().flatten().map(|x| f64::from(*x)).collect();
    t.compare::<B::Stat>(&format!("layernorm stats {s:?}"), &stats_b, &stats.0, &wide);
    layernorm_backward(t, s, [&x, &w, &dy], &stats.0);
}

fn layernorm_backward<B: Backend>(
    t: &mut Suite<'_, B>, s: NormShape, [x, w, dy]: [&[f64]; 3], stats: &[f64],
) {
    let NormShape { tokens, width, .. } = s;
    let (old_dx, old_dw) = (t.random(tokens * width, 1.0), t.random_stat(width, 1.0));
    let stats: Vec<f64> = stats.iter().map(|x| B::Stat::from_f64(*x).to_f64()).collect();
    let (mut dx, mut dw) = (host(&old_dx), host(&old_dw));
    TRUTH
        .layernorm_backward(&mut dx, Some(&mut dw), &host(dy), &host(x), &host(&stats), &host(w), s)
        .unwrap();
    let mut plain_dw: Vec<f32> = old_dw.iter().map(|x| *x as f32).collect();
    let mut plain_dx = old_dx.clone();
    for r in 0..tokens {
        let (mean, rstd) = (stats[2 * r] as f32, stats[2 * r + 1] as f32);
        let (x, dy) = (&x[r * width..][..width], &dy[r * width..][..width]);
        let xhat: Vec<f32> = x.iter().map(|x| (*x as f32 - mean) * rstd).collect();
        let g: Vec<f32> = dy.iter().zip(w).map(|(dy, w)| *dy as f32 * *w as f32).collect();
        let mean_g = g.iter().sum::<f32>() / width as f32;
        let mean_gx = g.iter().zip(&xhat).map(|(g, x)| g * x).sum::<f32>() / width as f32;
        for i in 0..width {
            plain_dw[i] += dy[i] as f32 * xhat[i];
            let added = rstd * (g[i] - mean_g - xhat[i] * mean_gx);
            plain_dx[r * width + i] = round::<B::Act>(plain_dx[r * width + i] as f32 + added);
        }
    }
    let (mut dx_b, mut dw_b, mut alone) = (t.output(&old_dx), t.output(&old_dw), t.output(&old_dx));
    let (dy_b, x_b, stats_b, w_b) = (t.floats(dy), t.floats(x), t.floats(&stats), t.floats(w));
    t.b.layernorm_backward(&mut dx_b, Some(&mut dw_b), &dy_b, &x_b, &stats_b, &w_b, s).unwrap();
    let wide: Vec<f64> = plain_dw.iter().map(|x| f64::from(*x)).collect();
    t.compare::<B::Act>(&format!("layernorm dx {s:?}"), &dx_b, &dx.0, &plain_dx);
    t.compare::<B::Stat>(&format!("layernorm dw {s:?}"), &dw_b, &dw.0, &wide);
    t.b.layernorm_backward(&mut alone, None, &dy_b, &x_b, &stats_b, &w_b, s).unwrap();
    t.compare::<B::Act>(&format!("layernorm dx {s:?} of a frozen weight"), &alone, &dx.0, &plain_dx);
}

/// Where there is a `hole`, the second row is zero: it has no direction, and stays zero. Its scale is so large that it
/// would hide what is wrong with the others.
pub fn unit_rows<B: Backend>(t: &mut Suite<'_, B>, rows: usize, width: usize, hole: bool) {
    let (mut x, d) = (t.random(rows * width, 3.0), t.random_stat(rows * width, 1.0));
    if hole {
        x.iter_mut().skip(width).take(width).for_each(|x| *x = 0.0);
    }
    let (mut y, mut scale) = (zeros(rows * width), zeros(rows));
    TRUTH.unit_rows(&mut y, &mut scale, &host(&x), rows, width).unwrap();
    let row = |v: &[f64], r: usize| v[r * width..][..width].to_vec();
    let length = |r: usize| dot(width, |i| (x[r * width + i], x[r * width + i])).sqrt().max(1e-12);
    let plain_scale: Vec<f32> = (0..rows).map(|r| 1.0 / length(r)).collect();
    let plain_y: Vec<f64> =
        (0..rows * width).map(|at| round::<B::Act>(x[at] as f32 * plain_scale[at / width])).collect();
    let (mut y_b, mut scale_b) = (t.fresh(rows * width), t.fresh(rows));
    t.b.unit_rows(&mut y_b, &mut scale_b, &t.floats(&x), rows, width).unwrap();
    t.compare::<B::Act>(&format!("unit_rows {rows} {width} hole {hole}"), &y_b, &y.0, &plain_y);
    if hole {
        return;
    }
    let wide: Vec<f64> = plain_scale.iter().map(|x| f64::from(*x)).collect();
    t.compare::<B::Stat>(&format!("unit_rows scale {rows} {width}"), &scale_b, &scale.0, &wide);

    let rounded = |v: &HostBuf<f64>, act: bool| -> Vec<f64> {
        let one = |x: &f64| if act { B::Act::from_f64(*x).to_f64() } else { B::Stat::from_f64(*x).to_f64() };
        v.0.iter().map(one).collect()
    };
    let (y, scale) = (rounded(&y, true), rounded(&scale, false));
    let mut want = host(&d);
    TRUTH.unit_rows_backward(&mut want, &host(&y), &host(&scale), rows, width).unwrap();
    let plain: Vec<f64> = (0..rows)
        .flat_map(|r| {
            let (d, y) = (row(&d, r), row(&y, r));
            let along = dot(width, |i| (d[i], y[i]));
            let one = |i: usize| f64::from(scale[r] as f32 * (d[i] as f32 - y[i] as f32 * along));
            (0..width).map(one).collect::<Vec<_>>()
        })
        .collect();
    let mut d_b = t.output(&d);
    t.b.unit_rows_backward(&mut d_b, &t.floats(&y), &t.floats(&scale), rows, width).unwrap();
    t.compare::<B::Stat>(&format!("unit_rows_backward {rows} {width}"), &d_b, &want.0, &plain);
}

pub fn gelu<B: Backend>(t: &mut Suite<'_, B>, len: usize) {
    let (mut x, dy) = (t.random(len, 12.0), t.random(len, 1.0));
    for (x, extreme) in x.iter_mut().zip([-200.0, 200.0, 0.0, -5.0, 5.0]).skip(1) {
        *x = extreme;
    }
    let gate = |x: f32| 1.0 / (1.0 + (-2.0 * 0.797_884_6 * (x + 0.044715 * x * x * x)).exp());
    let mut want = zeros(len);
    TRUTH.gelu(&mut want, &host(&x), len).unwrap();
    let plain: Vec<f64> = x.iter().map(|x| round::<B::Act>(*x as f32 * gate(*x as f32))).collect();
    let (x_b, mut y) = (t.floats(&x), t.fresh(len));
    t.b.gelu(&mut y, &x_b, len).unwrap();
    t.compare::<B::Act>(&format!("gelu {len}"), &y, &want.0, &plain);

    let mut want = zeros(len);
    TRUTH.gelu_backward(&mut want, &host(&dy), &host(&x), len).unwrap();
    let slope = |x: f32| {
        let s = gate(x);
        s * (1.0 + 2.0 * x * (1.0 - s) * 0.797_884_6 * (1.0 + 3.0 * 0.044715 * x * x))
    };
    let plain: Vec<f64> =
        x.iter().zip(&dy).map(|(x, dy)| round::<B::Act>(*dy as f32 * slope(*x as f32))).collect();
    let mut dx = t.fresh(len);
    t.b.gelu_backward(&mut dx, &t.floats(&dy), &x_b, len).unwrap();
    t.compare::<B::Act>(&format!("gelu dx {len}"), &dx, &want.0, &plain);
}

pub fn scale<B: Backend>(t: &mut Suite<'_, B>, len: usize) {
    let x = t.random(len, 3.0);
    for factor in [2.0, 0.7] {
        let mut want = host(&x);
        TRUTH.scale(&mut want, factor, len).unwrap();
        let plain: Vec<f64> = x.iter().map(|x| round::<B::Act>(factor as f32 * *x as f32)).collect();
        let mut y = t.output(&x);
        t.b.scale(&mut y, factor, len).unwrap();
        t.compare::<B::Act>(&format!("scale {len} by {factor}"), &y, &want.0, &plain);
    }
}

/// The memory of activations serves for statistics and comes back, as long as it was.
pub fn exchange<B: Backend>(t: &mut Suite<'_, B>, len: usize) {
    let fits = len * size_of::<B::Act>() / size_of::<B::Stat>();
    let (mut x, mut y) = (t.fresh::<B::Act>(len + GUARDED), t.b.alloc::<B::Stat>(0).unwrap());
    for round in 1..=2 {
        t.b.exchange(&mut x, &mut y);
        assert!(x.is_empty() && y.len() >= fits + GUARDED, "{} elements, {fits} fit", y.len());
        let values = t.random_stat(fits, 3.0);
        t.fill::<B::Stat>(&mut y, &values);
        t.compare::<B::Stat>(&format!("exchange {len} x{round}"), &y, &values, &values);
        t.b.exchange(&mut x, &mut y);
        assert!(y.is_empty() && x.len() >= len + GUARDED, "{} elements of {len}", x.len());
        let values = t.random(len, 3.0);
        t.fill::<B::Act>(&mut x, &values);
        t.compare::<B::Act>(&format!("exchange back {len} x{round}"), &x, &values, &values);
    }
}

pub fn widen<B: Backend>(t: &mut Suite<'_, B>, len: usize) {
    let x = t.random(len, 3.0);
    let mut y = t.fresh(len);
    t.b.widen(&mut y, &t.floats(&x), len).unwrap();
    t.compare::<B::Stat>(&format!("widen {len}"), &y, &x, &x);
}

/// Part of a buffer to part of another, and zeros over part of one.
pub fn copy_and_zero<B: Backend>(t: &mut Suite<'_, B>, len: usize) {
    const AT: usize = 2;
    let (x, old) = (t.random(AT + len, 3.0), t.random(AT + len, 3.0));
    let want = [&old[..AT], &x[..len]].concat();
    let mut y = t.output::<B::Act>(&old);
    t.b.copy(&mut y, AT, &t.floats(&x), 0, len).unwrap();
    t.compare::<B::Act>(&format!("copy {len}"), &y, &want, &want);
    let want = [&x[AT..], &old[len..]].concat();
    let mut y = t.output::<B::Stat>(&old);
    t.b.copy(&mut y, 0, &t.floats(&x), AT, len).unwrap();
    t.compare::<B::Stat>(&format!("copy {len} from {AT} on"), &y, &want, &want);

    let want = [&vec![0.0; len], &old[len..]].concat();
    let mut y = t.output::<B::Act>(&old);
    t.b.zero(&mut y, len).unwrap();
    t.compare::<B::Act>(&format!("zero {len}"), &y, &want, &want);
    let mut y = t.output::<B::Stat>(&old);
    t.b.zero(&mut y, len).unwrap();
    t.compare::<B::Stat>(&format!("zero {len} in full precision"), &y, &want, &want);
}

pub fn swiglu<B: Backend>(t: &mut Suite<'_, B>, len: usize) {
    let (mut gate, up, dy) = (t.random(len, 12.0), t.random(len, 2.0), t.random(len, 1.0));
    for (x, extreme) in gate.iter_mut().zip([-200.0, 200.0, 0.0, -88.0, 88.0]).skip(1) {
        *x = extreme;
    }
    let mut want = zeros(len);
    TRUTH.swiglu(&mut want, &host(&gate), &host(&up), len).unwrap();
    let sigma = |x: f64| 1.0 / (1.0 + (-x as f32).exp());
    let plain: Vec<f64> =
        (0..len).map(|i| round::<B::Act>(gate[i] as f32 * sigma(gate[i]) * up[i] as f32)).collect();
    let (gate_b, up_b) = (t.floats(&gate), t.floats(&up));
    let mut y = t.fresh(len);
    t.b.swiglu(&mut y, &gate_b, &up_b, len).unwrap();
    t.compare::<B::Act>(&format!("swiglu {len}"), &y, &want.0, &plain);

    let (mut d_gate, mut d_up) = (zeros(len), zeros(len));
    TRUTH.swiglu_backward(&mut d_gate, &mut d_up, &host(&dy), &host(&gate), &host(&up), len).unwrap();
    let plain: Vec<[f64; 2]> = (0..len)
        .map(|i| {
            let (g, up, dy, s) = (gate[i] as f32, up[i] as f32, dy[i] as f32, sigma(gate[i]));
            [round::<B::Act>(dy * up * s * (1.0 + g * (1.0 - s))), round::<B::Act>(dy * g * s)]
        })
        .collect();
    let (mut d_gate_b, mut d_up_b) = (t.fresh(len), t.fresh(len));
    t.b.swiglu_backward(&mut d_gate_b, &mut d_up_b, &t.floats(&dy), &gate_b, &up_b, len).unwrap();
    let column = |i: usize| plain.iter().map(|p| p[i]).collect::<Vec<_>>();
    t.compare::<B::Act>(&format!("swiglu d_gate {len}"), &d_gate_b, &d_gate.0, &column(0));
    t.compare::<B::Act>(&format!("swiglu d_up {len}"), &d_up_b, &d_up.0, &column(1));
}

pub fn adamw<B: Backend>(t: &mut Suite<'_, B>, len: usize) {
    let (master, grad) = (t.random_stat(len, 1.0), t.random_stat(len, 3.0));
    let (m, v) =
        (t.random_stat(len, 1.0), t.random_stat(len, 1.0).iter().map(|x| x.abs()).collect::<Vec<_>>());
    let with_master = std::mem::size_of::<B::Act>() < std::mem::size_of::<B::Stat>();
    let decay = 0.1;
    let step = AdamStep { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale: 0.5 };
    let (mut p, mut pm, mut hm, mut hv) = (host(&master), host(&master), host(&m), host(&v));
    TRUTH
        .adamw(
            &mut [AdamTensor {
                param: &mut p,
                master: Some(&mut pm),
                m: &mut hm,
                v: &mut hv,
                grad: &host(&grad),
                decay,
            }],
            step,
        )
        .unwrap();
    let plain: Vec<[f32; 3]> = (0..len)
        .map(|i| {
            let g = grad[i] as f32 * 0.5;
            let m = 0.9 * m[i] as f32 + 0.1 * g;
            let v = 0.95 * v[i] as f32 + 0.05 * g * g;
            let (fix1, fix2) = (1.0 - 0.9f32.powi(3), 1.0 - 0.95f32.powi(3));
            let p = master[i] as f32;
            [p - 1e-2 * (m / fix1 / ((v / fix2).sqrt() + 1e-8) + 0.1 * p), m, v]
        })
        .collect();
    let column = |i: usize| plain.iter().map(|p| f64::from(p[i])).collect::<Vec<_>>();
    // `compare` looks past the end, adamw takes all of a tensor: the guards are gone over too, and put back.
    let mut param_b = t.floats::<B::Act>(&master);
    let (mut master_b, mut m_b, mut v_b) = (t.floats(&master), t.floats(&m), t.floats(&v));
    let grad_b = t.floats(&grad);
    let tensor = AdamTensor {
        param: &mut param_b,
        master: with_master.then_some(&mut master_b),
        m: &mut m_b,
        v: &mut v_b,
        grad: &grad_b,
        decay,
    };
    t.b.adamw(&mut [tensor], step).unwrap();
    let rounded: Vec<f64> = plain.iter().map(|p| round::<B::Act>(p[0])).collect();
    let (param, m, v) =
        (guarded::<B, B::Act>(t, &param_b, len), guarded(t, &m_b, len), guarded(t, &v_b, len));
    t.compare::<B::Act>(&format!("adamw param {len}"), &param, &p.0, &rounded);
    t.compare::<B::Stat>(&format!("adamw m {len}"), &m, &hm.0, &column(1));
    t.compare::<B::Stat>(&format!("adamw v {len}"), &v, &hv.0, &column(2));
    if with_master {
        let master = guarded(t, &master_b, len);
        t.compare::<B::Stat>(&format!("adamw master {len}"), &master, &pm.0, &column(0));
    }
}

/// A copy with the guards that `compare` looks for.
fn guarded<B: Backend, T: Float>(t: &Suite<'_, B>, buf: &B::Buf<T>, len: usize) -> B::Buf<T> {
    let mut out = t.output(&vec![0.0; len]);
    t.b.copy(&mut out, 0, buf, 0, len).unwrap();
    out
}

pub fn sum_squares<B: Backend>(t: &mut Suite<'_, B>, len: usize) {
    // squares of the second are beyond f32
    let tensors = [t.random_stat(len, 3.0), t.random_stat(len / 2 + 1, 1e25), vec![0.0; 3]];
    let want = tensors.each_ref().map(|x| x.iter().map(|x| x * x).sum::<f64>());
    let there = tensors.each_ref().map(|x| t.floats(x));
    let lengths = tensors.each_ref().map(Vec::len);
    let all: Vec<_> = there.iter().zip(lengths).collect();
    let got = t.b.sum_squares(&all).unwrap();
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-6 * want, "sum_squares {lengths:?}: {got} instead of {want}");
    }
    assert_eq!(got.len(), tensors.len());
    t.trace.push((format!("sum_squares {len}"), got));
}

pub fn rope<B: Backend>(t: &mut Suite<'_, B>, s: RopeShape, direction: Direction) {
    let (nq, nk) = (s.rows * s.tokens * s.heads * s.head_dim, s.rows * s.tokens * s.kv_heads * s.head_dim);
    let (q, k) = (t.random(nq, 1.0), t.random(nk, 1.0));
    let pairs = s.rotary_dim / 2;
    // Frequencies of theta 10000, in turns as 64-bit fractions.
    let turns: Vec<u64> = (0..pairs)
        .map(|i| (1e4f64.powf(-(i as f64) / pairs as f64) / std::f64::consts::TAU * 2f64.powi(64)) as u64)
        .collect();
    // Three chunks a row, the last one rotated at positions beyond 2^20.
    let spans: Vec<ChunkSpan> = (0..s.rows)
        .flat_map(|r| {
            let n = s.tokens as u32;
            [(0, 0), (n / 3, 5000 + r as u32), (2 * n / 3, 1 << 20)]
                .map(|(start, bias)| ChunkSpan { start: SeqIndex(start), bias })
        })
        .collect();
    let list: Vec<RopePosition> =
        (0..s.rows * s.tokens).map(|_| RopePosition(t.below(1 << 20) as u32)).collect();
    let turns_b = t.upload(&turns);
    for listed in [false, true] {
        let (mut hq, mut hk) = (host(&q), host(&k));
        let (hspans, hlist) = (HostBuf(spans.clone()), HostBuf(list.clone()));
        let places = if listed { Places::List(&hlist) } else { Places::Spans { spans: &hspans, per_row: 3 } };
        TRUTH.rope(&mut hq, &mut hk, places, &HostBuf(turns.clone()), direction, s).unwrap();
        // What rounding alone costs: the rotation itself may be off by a millionth (the floor of `compare`).
        let plain = |x: &HostBuf<f64>| x.0.iter().map(|x| B::Act::from_f64(*x).to_f64()).collect::<Vec<_>>();
        let (mut qb, mut kb) = (t.output(&q), t.output(&k));
        let (bspans, blist) = (t.upload(&spans), t.upload(&list));
        let places = if listed { Places::List(&blist) } else { Places::Spans { spans: &bspans, per_row: 3 } };
        t.b.rope(&mut qb, &mut kb, places, &turns_b, direction, s).unwrap();
        t.compare::<B::Act>(&format!("rope q {s:?} {direction:?} listed {listed}"), &qb, &hq.0, &plain(&hq));
        t.compare::<B::Act>(&format!("rope k {s:?} {direction:?} listed {listed}"), &kb, &hk.0, &plain(&hk));
    }
}
