//! matmul_nt, _nn, _tn, bias_backward, head_loss, head_logits.

use super::plain::{product, round};
use super::{Suite, TRUTH, host, zeros};
use pose_engine::backend::reference::HostBuf;
use pose_engine::backend::{Backend, Float, HeadGrad, HeadShape, MatmulShape, Write};
use pose_engine::index::TokenId;

pub fn all<B: Backend>(t: &mut Suite<'_, B>) {
    let sizes = [
        (0, 5, 3),
        (5, 0, 3),
        (5, 3, 0),
        (1, 1, 1),
        (1, 63, 257),
        (2, 65, 64),
        (3, 257, 17),
        (4, 33, 31),
        (5, 17, 2),
        (14, 32, 16),
        (15, 33, 2),
        (17, 63, 65),
        (63, 1, 257),
        (65, 257, 17),
        (257, 65, 63),
        (300, 130, 64),
        (100, 96, 2049),
        // rows that start on 16 bytes, of which there are any number; outputs that do not
        (130, 72, 168),
        (9, 136, 40),
        (67, 131, 64),
        (11, 8, 8),
        (30, 40, 3000),
        (3001, 20, 18),
        (20, 3001, 18),
        // several slabs: of columns with k in parts, and of rows that a power of two lies between
        (9, 1030, 2100),
        (2100, 9, 2048),
    ];
    for (m, n, k) in sizes {
        let s = MatmulShape { m, n, k };
        nt(t, s, &[(false, false), (true, false), (false, true), (true, true)]);
        nn(t, s);
        tn(t, s);
        bias_backward(t, m, n);
    }
    for (tokens, width, vocab) in
        [(1, 1, 1), (3, 65, 257), (17, 63, 65), (65, 17, 1), (257, 30, 300), (13, 64, 261)]
    {
        head(t, HeadShape { tokens, width, vocab }, false, false);
    }
    no_numbers_do_not_pass(t);
    nothing_is_scored(t);
    for (tokens, width, vocab) in [(1, 1, 1), (17, 63, 65), (70, 24, 520)] {
        head(t, HeadShape { tokens, width, vocab }, true, false);
    }
    for (tokens, width, vocab) in [(3, 65, 257), (17, 63, 65), (70, 24, 520)] {
        head(t, HeadShape { tokens, width, vocab }, tokens == 17, true);
        weights_of_one(t, HeadShape { tokens, width, vocab });
    }
}

/// With a bias and a residual or without, as the pairs say.
pub fn nt<B: Backend>(t: &mut Suite<'_, B>, s: MatmulShape, with: &[(bool, bool)]) {
    let MatmulShape { m, n, k } = s;
    let (x, w) = (t.random(m * k, 1.0), t.random(n * k, 1.0));
    let (bias, residual) = (t.random(n, 2.0), t.random(m * n, 2.0));
    let sums = product((m, n, k), |i, l| x[i * k + l], |l, j| w[j * k + l]);
    for &(with_bias, with_residual) in with {
        let name = format!("matmul_nt {s:?} bias {with_bias} residual {with_residual}");
        let mut want = zeros(m * n);
        let (b, r) = (host(&bias), host(&residual));
        let (b, r) = (with_bias.then_some(&b), with_residual.then_some(&r));
        TRUTH.matmul_nt(&mut want, &host(&x), &host(&w), b, r, s).unwrap();
        let plain: Vec<f64> = (0..m * n)
            .map(|at| {
                let bias = if with_bias { bias[at % n] as f32 } else { 0.0 };
                let residual = if with_residual { residual[at] as f32 } else { 0.0 };
                round::<B::Act>(sums[at] + bias + residual)
            })
            .collect();
        let mut y = t.fresh(m * n);
        let (b, r) = (t.floats(&bias), t.floats(&residual));
        let (b, r) = (with_bias.then_some(&b), with_residual.then_some(&r));
        t.b.matmul_nt(&mut y, &t.floats(&x), &t.floats(&w), b, r, s).unwrap();
        t.compare::<B::Act>(&name, &y, &want.0, &plain);
    }
}

pub fn nn<B: Backend>(t: &mut Suite<'_, B>, s: MatmulShape) {
    let MatmulShape { m, n, k } = s;
    let (dy, w, old) = (t.random(m * n, 1.0), t.random(n * k, 1.0), t.random(m * k, 1.0));
    let sums = product((m, k, n), |i, l| dy[i * n + l], |l, j| w[l * k + j]);
    for write in [Write::Overwrite, Write::Accumulate] {
        let mut want = host(&old);
        TRUTH.matmul_nn(&mut want, &host(&dy), &host(&w), write, s).unwrap();
        let base = |at: usize| if write == Write::Accumulate { old[at] as f32 } else { 0.0 };
        let plain: Vec<f64> = (0..m * k).map(|at| round::<B::Act>(base(at) + sums[at])).collect();
        let mut dx = if write == Write::Accumulate { t.output(&old) } else { t.fresh(m * k) };
        t.b.matmul_nn(&mut dx, &t.floats(&dy), &t.floats(&w), write, s).unwrap();
        t.compare::<B::Act>(&format!("matmul_nn {s:?} {write:?}"), &dx, &want.0, &plain);
    }
}

pub fn tn<B: Backend>(t: &mut Suite<'_, B>, s: MatmulShape) {
    let MatmulShape { m, n, k } = s;
    let (dy, x, old) = (t.random(m * n, 1.0), t.random(m * k, 1.0), t.random_stat(n * k, 1.0));
    let sums = product((n, k, m), |i, l| dy[l * n + i], |l, j| x[l * k + j]);
    let mut want = host(&old);
    let mut dw = t.output(&old);
    let (dy_buf, x_buf) = (t.floats(&dy), t.floats(&x));
    for twice in 1..=2 {
        TRUTH.matmul_tn(&mut want, &host(&dy), &host(&x), s).unwrap();
        t.b.matmul_tn(&mut dw, &dy_buf, &x_buf, s).unwrap();
        let plain: Vec<f64> =
            (0..n * k).map(|at| f64::from(old[at] as f32 + sums[at] * twice as f32)).collect();
        t.compare::<B::Stat>(&format!("matmul_tn {s:?} x{twice}"), &dw, &want.0, &plain);
    }
}

pub fn bias_backward<B: Backend>(t: &mut Suite<'_, B>, m: usize, n: usize) {
    let (dy, old) = (t.random(m * n, 1.0), t.random_stat(n, 1.0));
    let mut want = host(&old);
    let mut db = t.output(&old);
    let mut plain: Vec<f32> = old.iter().map(|x| *x as f32).collect();
    let dy_buf = t.floats(&dy);
    for twice in 1..=2 {
        TRUTH.bias_backward(&mut want, &host(&dy), m, n).unwrap();
        t.b.bias_backward(&mut db, &dy_buf, m, n).unwrap();
        (0..m * n).for_each(|at| plain[at % n] += dy[at] as f32);
        let plain: Vec<f64> = plain.iter().map(|x| f64::from(*x)).collect();
        t.compare::<B::Stat>(&format!("bias_backward {m} {n} x{twice}"), &db, &want.0, &plain);
    }
}

/// Where all weights are 1 the bits are those without weights.
fn weights_of_one<B: Backend>(t: &mut Suite<'_, B>, s: HeadShape) {
    let HeadShape { tokens, width, vocab } = s;
    let (x, w) = (t.random(tokens * width, 2.0), t.random(vocab * width, 2.0));
    let targets: Vec<TokenId> = (0..tokens).map(|_| TokenId(t.below(vocab) as u32)).collect();
    let (x, w, targets) = (t.floats(&x), t.floats(&w), t.upload(&targets));
    let ones = t.floats(&vec![1.0; tokens]);
    let gradients = |weights| {
        let (mut nll, mut dx) = (t.fresh(tokens), t.fresh(tokens * width));
        let mut dw = t.output(&vec![0.0; vocab * width]);
        let grad = HeadGrad { dx: &mut dx, dw: Some(&mut dw), db: None, scale: 0.3, weights };
        t.b.head_loss(&mut nll, &x, &w, None, &targets, Some(grad), s).unwrap();
        let (mut of_x, mut of_w) =
            (vec![B::Act::default(); tokens * width], vec![B::Stat::default(); vocab * width]);
        t.b.download(&mut of_x, &dx, 0).unwrap();
        t.b.download(&mut of_w, &dw, 0).unwrap();
        (of_x, of_w)
    };
    assert!(gradients(None) == gradients(Some(&ones)), "head_loss {s:?}: weights of 1 change the bits");
}

/// A logit that is no number is in every token's loss, whatever the others are.
fn no_numbers_do_not_pass<B: Backend>(t: &mut Suite<'_, B>) {
    for (vocab, bad) in [(5, 3..4), (300, 128..256), (300, 0..300), (264, 7..8)] {
        let (tokens, width) = (3, 8);
        let s = HeadShape { tokens, width, vocab };
        let mut w = t.random(vocab * width, 1.0);
        w[bad.start * width..bad.end * width].fill(f64::NAN);
        let x = t.random(tokens * width, 1.0);
        let (x, w) = (t.floats(&x), t.floats(&w));
        let targets = t.upload(&[TokenId(0), TokenId::IGNORED, TokenId(vocab as u32 - 1)]);
        let mut nll = t.fresh(tokens);
        t.b.head_loss(&mut nll, &x, &w, None, &targets, None, s).unwrap();
        let mut got = vec![B::Stat::default(); tokens];
        t.b.download(&mut got, &nll, 0).unwrap();
        let is_nan: Vec<bool> = got.iter().map(|x| x.to_f64().is_nan()).collect();
        assert_eq!(is_nan, [true, false, true], "{}: rows {bad:?} of {vocab}", t.label);
        assert_eq!(got[1].to_f64(), 0.0);
    }
}

/// A batch without a target has no loss and no gradient, though 1 / (no tokens) is infinite.
fn nothing_is_scored<B: Backend>(t: &mut Suite<'_, B>) {
    for (tokens, width, vocab) in [(1, 1, 1), (3, 8, 16), (17, 63, 65), (130, 24, 300)] {
        let s = HeadShape { tokens, width, vocab };
        let (x, w) = (t.random(tokens * width, 2.0), t.random(vocab * width, 2.0));
        let (bias, weights) = (t.random(vocab, 2.0), t.random_stat(tokens, 5.0));
        let (old, old_db) = (t.random_stat(vocab * width, 0.1), t.random_stat(vocab, 0.1));
        let (x, w, bias, weights) = (t.floats(&x), t.floats(&w), t.floats(&bias), t.floats(&weights));
        let targets = t.upload(&vec![TokenId::IGNORED; tokens]);
        for scale in [1.0 / 0.0, f64::NAN] {
            let (mut nll, mut dx) = (t.fresh(tokens), t.fresh(tokens * width));
            let (mut dw, mut db) = (t.output(&old), t.output(&old_db));
            let grad = HeadGrad {
                dx: &mut dx,
                dw: Some(&mut dw),
                db: Some(&mut db),
                scale,
                weights: Some(&weights),
            };
            t.b.head_loss(&mut nll, &x, &w, Some(&bias), &targets, Some(grad), s).unwrap();
            let name = |what: &str| format!("{what} of nothing scored, {s:?} scale {scale}");
            let (none, no_dx) = (vec![0.0; tokens], vec![0.0; tokens * width]);
            t.compare::<B::Stat>(&name("nll"), &nll, &none, &none);
            t.compare::<B::Act>(&name("dx"), &dx, &no_dx, &no_dx);
            t.compare::<B::Stat>(&name("dw"), &dw, &old, &old);
            t.compare::<B::Stat>(&name("db"), &db, &old_db, &old_db);
        }
    }
}

/// A head with a bias or without one, its tokens weighted or not.
pub fn head<B: Backend>(t: &mut Suite<'_, B>, s: HeadShape, biased: bool, weighted: bool) {
    let HeadShape { tokens, width, vocab } = s;
    let (x, w) = (t.random(tokens * width, 2.0), t.random(vocab * width, 2.0));
    let bias = if biased { t.random(vocab, 2.0) } else { vec![0.0; vocab] };
    let (old, old_db) = (t.random_stat(vocab * width, 0.1), t.random_stat(vocab, 0.1));
    let mut targets: Vec<TokenId> = (0..tokens).map(|_| TokenId(t.below(vocab) as u32)).collect();
    targets.iter_mut().skip(1).step_by(3).for_each(|target| *target = TokenId::IGNORED);
    let scale = 1.0 / tokens as f64;
    let mut weights = if weighted { t.random_stat(tokens, 5.0) } else { vec![1.0; tokens] };
    if weighted {
        weights[tokens / 2] = 0.0;
    }
    let name = |what: &str| format!("head_loss {s:?} biased {biased} weighted {weighted} {what}");
    let (weights_h, weights_b) = (host(&weights), t.floats(&weights));
    let (weights_h, weights_b) = (weighted.then_some(&weights_h), weighted.then_some(&weights_b));

    let (mut nll, mut dx, mut dw) = (zeros(tokens), zeros(tokens * width), host(&old));
    let (mut db, bias_h, bias_b) = (host(&old_db), host(&bias), t.floats(&bias));
    let (truth_bias, bias_b) = (biased.then_some(&bias_h), biased.then_some(&bias_b));
    let grad =
        HeadGrad { dx: &mut dx, dw: Some(&mut dw), db: biased.then_some(&mut db), scale, weights: weights_h };
    let targets_h = HostBuf(targets.clone());
    TRUTH.head_loss(&mut nll, &host(&x), &host(&w), truth_bias, &targets_h, Some(grad), s).unwrap();
    let plain = plain_head::<B>([&x, &w, &bias], [&old, &old_db], &targets, (scale, &weights), s);

    let (xb, wb, tb) = (t.floats(&x), t.floats(&w), t.upload(&targets));
    let (mut nll_b, mut dx_b, mut dw_b) = (t.fresh(tokens), t.fresh(tokens * width), t.output(&old));
    let mut db_b = t.output(&old_db);
    let grad = HeadGrad {
        dx: &mut dx_b,
        dw: Some(&mut dw_b),
        db: biased.then_some(&mut db_b),
        scale,
        weights: weights_b,
    };
    t.b.head_loss(&mut nll_b, &xb, &wb, bias_b, &tb, Some(grad), s).unwrap();
    t.compare::<B::Stat>(&name("nll"), &nll_b, &nll.0, &plain.nll);
    t.compare::<B::Act>(&name("dx"), &dx_b, &dx.0, &plain.dx);
    t.compare::<B::Stat>(&name("dw"), &dw_b, &dw.0, &plain.dw);
    if biased {
        t.compare::<B::Stat>(&name("db"), &db_b, &db.0, &plain.db);
    }

    let (mut nll_b, mut dx_b) = (t.fresh(tokens), t.fresh(tokens * width));
    let frozen = HeadGrad { dx: &mut dx_b, dw: None, db: None, scale, weights: weights_b };
    t.b.head_loss(&mut nll_b, &xb, &wb, bias_b, &tb, Some(frozen), s).unwrap();
    t.compare::<B::Act>(&name("dx of a frozen head"), &dx_b, &dx.0, &plain.dx);

    let mut nll_b = t.fresh(tokens);
    t.b.head_loss(&mut nll_b, &xb, &wb, bias_b, &tb, None, s).unwrap();
    t.compare::<B::Stat>(&name("nll alone"), &nll_b, &nll.0, &plain.nll);

    let mut logits = zeros(tokens * vocab);
    TRUTH.head_logits(&mut logits, &host(&x), &host(&w), truth_bias, s).unwrap();
    let mut logits_b = t.fresh(tokens * vocab);
    t.b.head_logits(&mut logits_b, &xb, &wb, bias_b, s).unwrap();
    t.compare::<B::Stat>(&format!("head_logits {s:?} biased {biased}"), &logits_b, &logits.0, &plain.logits);
}

/// What plain loops make of a head; gradients are added to what was there.
struct PlainHead {
    logits: Vec<f64>,
    nll: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    db: Vec<f64>,
}

fn plain_head<B: Backend>(
    [x, w, bias]: [&[f64]; 3], [old, old_db]: [&[f64]; 2], targets: &[TokenId],
    (scale, weights): (f64, &[f64]), s: HeadShape,
) -> PlainHead {
    let HeadShape { tokens, width, vocab } = s;
    let mut z = product((tokens, vocab, width), |i, l| x[i * width + l], |l, j| w[j * width + l]);
    z.iter_mut().enumerate().for_each(|(at, z)| *z += bias[at % vocab] as f32);
    let mut nll = vec![0.0; tokens];
    let mut dz = vec![0.0; tokens * vocab];
    for (i, target) in targets.iter().enumerate().filter(|(_, target)| **target != TokenId::IGNORED) {
        let z = &z[i * vocab..][..vocab];
        let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f32>().ln();
        nll[i] = f64::from(lse - z[target.0 as usize]);
        for j in 0..vocab {
            let hit = if j == target.0 as usize { 1.0 } else { 0.0 };
            dz[i * vocab + j] =
                round::<B::Act>(scale as f32 * weights[i] as f32 * ((z[j] - lse).exp() - hit));
        }
    }
    let dx = product((tokens, width, vocab), |i, j| dz[i * vocab + j], |j, c| w[j * width + c]);
    let dw = product((vocab, width, tokens), |j, i| dz[i * vocab + j], |i, c| x[i * width + c]);
    let dx = dx.iter().map(|x| round::<B::Act>(*x)).collect();
    let dw = dw.iter().zip(old).map(|(x, old)| f64::from(x + *old as f32)).collect();
    let mut db: Vec<f32> = old_db.iter().map(|x| *x as f32).collect();
    dz.iter().enumerate().for_each(|(at, dz)| db[at % vocab] += *dz as f32);
    let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
    PlainHead { logits: wide(z), nll, dx, dw, db: wide(db) }
}
