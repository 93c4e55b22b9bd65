//! Matrix products, attention, head with loss: bound by multiply-adds.

use crate::Shape;
use crate::harness::{Stopwatch, Table, random, time};
use pose_engine::backend::{AttentionShape, HeadGrad, HeadShape, MatmulShape, Write};
use pose_engine::index::TokenId;

pub fn matmul<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, m: usize) {
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let mut products = vec![
        ("q", q, shape.hidden),
        ("k", kv, shape.hidden),
        ("up", shape.inner, shape.hidden),
        ("down", shape.hidden, shape.inner),
    ];
    // the head of a 7B model is gigabytes in f32; `head` times it as it is used, a chunk of tokens at a time
    if shape.hidden < 1000 {
        products.push(("head", shape.vocab, shape.hidden));
    }
    for (what, n, k) in products {
        let s = MatmulShape { m, n, k };
        let (x, w) = (random::<B, B::Act>(b, m * k), random::<B, B::Act>(b, n * k));
        let (mut y, mut dx) = (random::<B, B::Act>(b, m * n), random::<B, B::Act>(b, m * k));
        let mut dw = random::<B, B::Stat>(b, n * k);
        let flops = 2.0 * (m * n * k) as f64;
        let t = time(b, || b.matmul_nt(&mut y, &x, &w, None, None, s).expect("matmul_nt"));
        table.row(&format!("  matmul_nt {what} {m}x{n}x{k}"), t, flops, 0.0);
        if b.vendor_nt(&mut y, &x, &w, s) {
            let vendor = time(b, || _ = b.vendor_nt(&mut y, &x, &w, s));
            table.row(
                &format!("  cuBLAS, {:.2} of this engine's time", vendor.median / t.median),
                vendor,
                flops,
                0.0,
            );
        }
        let t = time(b, || b.matmul_nn(&mut dx, &y, &w, Write::Overwrite, s).expect("matmul_nn"));
        table.row(&format!("  matmul_nn {what}"), t, flops, 0.0);
        let t = time(b, || b.matmul_tn(&mut dw, &y, &x, s).expect("matmul_tn"));
        table.row(&format!("  matmul_tn {what}"), t, flops, 0.0);
        let one = MatmulShape { m: 1, ..s };
        let t = time(b, || b.matmul_nt(&mut y, &x, &w, None, None, one).expect("matmul_nt"));
        table.row(
            &format!("  matmul_nt {what}, one token"),
            t,
            2.0 * (n * k) as f64,
            (n * k * size_of::<B::Act>()) as f64,
        );
    }
}

pub fn attention<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, tokens: usize) {
    let row = |queries: usize, keys: usize, backward: bool| {
        let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let s = AttentionShape { rows: 1, queries, keys, heads, kv_heads, head_dim, scale, window: None };
        let (nq, nk) = (queries * heads * head_dim, keys * kv_heads * head_dim);
        let act = |len| random::<B, B::Act>(b, len);
        let (q, k, v, d_o, mut o) = (act(nq), act(nk), act(nk), act(nq), act(nq));
        let mut lse = random::<B, B::Stat>(b, queries * heads);
        let name = format!("  attention {queries} of {keys}, {heads}/{kv_heads} heads of {head_dim}");
        let t = time(b, || b.attention(&mut o, &mut lse, &q, &k, &v, None, s).expect("attention"));
        table.row(&name, t, s.flops(), (2 * nk * size_of::<B::Act>()) as f64);
        if backward {
            let (mut dq, mut dk, mut dv) = (act(nq), act(nk), act(nk));
            let t = time(b, || {
                b.attention_backward(&mut dq, &mut dk, &mut dv, &d_o, &o, &lse, &q, &k, &v, None, s)
                    .expect("attention_backward");
            });
            table.row(&format!("  attention_backward {queries} of {keys}"), t, s.backward_flops(), 0.0);
        }
    };
    row(tokens, tokens, true);
    row(4 * tokens, 4 * tokens, true);
    row(1, 8192, false);
    row(1, 32768, false);
}

pub fn head<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, tokens: usize) {
    let s = HeadShape { tokens, width: shape.hidden, vocab: shape.vocab };
    let act = |len| random::<B, B::Act>(b, len);
    let (x, w, mut dx) = (act(tokens * s.width), act(s.vocab * s.width), act(tokens * s.width));
    let (mut nll, mut dw) = (random::<B, B::Stat>(b, tokens), random::<B, B::Stat>(b, s.vocab * s.width));
    let ids: Vec<TokenId> = (0..tokens).map(|t| TokenId((t * 7919 % s.vocab) as u32)).collect();
    let mut targets = b.alloc(tokens).expect("memory for the benchmark");
    b.upload(&mut targets, 0, &ids).expect("as many targets as tokens");
    let flops = 2.0 * (tokens * s.width * s.vocab) as f64;
    let t = time(b, || b.head_loss(&mut nll, &x, &w, None, &targets, None, s).expect("head_loss"));
    table.row(&format!("  head_loss, vocabulary {}", s.vocab), t, flops, 0.0);
    let t = time(b, || {
        let grad = HeadGrad { dx: &mut dx, dw: Some(&mut dw), db: None, scale: 1e-3, weights: None };
        b.head_loss(&mut nll, &x, &w, None, &targets, Some(grad), s).expect("head_loss");
    });
    table.row("  head_loss with gradients", t, 3.0 * flops, 0.0);
}
