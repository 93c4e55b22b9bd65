//! Every backward operation of the f64 reference is the derivative of its forward: central differences of a random linear
//! functional of the outputs, element by element. (Whole models are in tests/model.rs; other backends are held to the
//! reference by the conformance suite.)

use pose_engine::backend::reference::{HostBuf, Reference};
use pose_engine::backend::{
    AttentionShape, Backend, Direction, HeadGrad, HeadShape, MatmulShape, NormShape, PairLayout, Places,
    RopeShape, Write,
};
use pose_engine::index::{ChunkSpan, DocumentId, SeqIndex, TokenId};
use pose_engine::random::{Purpose, Stream};

type Buf = HostBuf<f64>;
const B: Reference = Reference;

fn random(len: usize, row: u32) -> Buf {
    let mut stream = Stream::new(11, Purpose::Task, 0, row);
    HostBuf((0..len).map(|_| stream.unit_f64() - 0.5).collect())
}

fn zeros(len: usize) -> Buf {
    HostBuf(vec![0.0; len])
}

fn dot(a: &Buf, b: &Buf) -> f64 {
    a.0.iter().zip(&b.0).map(|(a, b)| a * b).sum()
}

/// Fails unless `gradient` is the derivative of `scalar` by each element of `x`.
fn check(what: &str, x: &Buf, gradient: &Buf, scalar: &dyn Fn(&Buf) -> f64) {
    assert_eq!(x.0.len(), gradient.0.len(), "{what}");
    let h = 1e-5;
    let largest = gradient.0.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    assert!(largest > 1e-6, "{what}: no gradient to speak of");
    for i in 0..x.0.len() {
        let at = |shift: f64| {
            let mut moved = x.clone();
            moved.0[i] += shift;
            scalar(&moved)
        };
        let difference = (at(h) - at(-h)) / (2.0 * h);
        let error = (gradient.0[i] - difference).abs();
        assert!(error <= 1e-8 * largest.max(1.0), "{what}[{i}]: {} against {difference}", gradient.0[i]);
    }
}

#[test]
fn matrix_products() {
    for (m, n, k) in [(1, 1, 1), (3, 5, 2), (4, 17, 7)] {
        let s = MatmulShape { m, n, k };
        let (x, w, bias, dy) = (random(m * k, 0), random(n * k, 1), random(n, 2), random(m * n, 3));
        let value = |x: &Buf, w: &Buf, bias: &Buf| {
            let mut y = zeros(m * n);
            B.matmul_nt(&mut y, x, w, Some(bias), None, s).unwrap();
            dot(&y, &dy)
        };
        let (mut dx, mut dw, mut db) = (zeros(m * k), zeros(n * k), zeros(n));
        B.matmul_nn(&mut dx, &dy, &w, Write::Overwrite, s).unwrap();
        B.matmul_tn(&mut dw, &dy, &x, s).unwrap();
        B.bias_backward(&mut db, &dy, m, n).unwrap();
        check("matmul dx", &x, &dx, &|x| value(x, &w, &bias));
        check("matmul dw", &w, &dw, &|w| value(&x, w, &bias));
        check("bias", &bias, &db, &|bias| value(&x, &w, bias));
    }
}

#[test]
fn rmsnorm() {
    let s = NormShape { tokens: 3, width: 7, eps: 1e-5 };
    let (x, w, dy) = (random(21, 0), random(7, 1), random(21, 2));
    let value = |x: &Buf, w: &Buf| {
        let (mut y, mut rstd) = (zeros(21), zeros(3));
        B.rmsnorm(&mut y, &mut rstd, x, w, s).unwrap();
        dot(&y, &dy)
    };
    let (mut y, mut rstd, mut dx, mut dw) = (zeros(21), zeros(3), zeros(21), zeros(7));
    B.rmsnorm(&mut y, &mut rstd, &x, &w, s).unwrap();
    B.rmsnorm_backward(&mut dx, Some(&mut dw), &dy, &x, &rstd, &w, s).unwrap();
    check("rmsnorm dx", &x, &dx, &|x| value(x, &w));
    check("rmsnorm dw", &w, &dw, &|w| value(&x, w));
}

#[test]
fn layernorm() {
    let s = NormShape { tokens: 3, width: 7, eps: 1e-5 };
    let (x, w, bias, dy) = (random(21, 0), random(7, 1), random(7, 2), random(21, 3));
    let value = |x: &Buf, w: &Buf, bias: &Buf| {
        let (mut y, mut stats) = (zeros(21), zeros(6));
        B.layernorm(&mut y, &mut stats, x, w, bias, s).unwrap();
        dot(&y, &dy)
    };
    let (mut y, mut stats, mut dx, mut dw, mut db) = (zeros(21), zeros(6), zeros(21), zeros(7), zeros(7));
    B.layernorm(&mut y, &mut stats, &x, &w, &bias, s).unwrap();
    B.layernorm_backward(&mut dx, Some(&mut dw), &dy, &x, &stats, &w, s).unwrap();
    B.bias_backward(&mut db, &dy, 3, 7).unwrap();
    check("layernorm dx", &x, &dx, &|x| value(x, &w, &bias));
    check("layernorm dw", &w, &dw, &|w| value(&x, w, &bias));
    check("layernorm db", &bias, &db, &|bias| value(&x, &w, bias));
}

#[test]
fn unit_rows() {
    let (x, dy) = (random(15, 0), random(15, 1));
    let value = |x: &Buf| {
        let (mut y, mut scale) = (zeros(15), zeros(3));
        B.unit_rows(&mut y, &mut scale, x, 3, 5).unwrap();
        dot(&y, &dy)
    };
    let (mut y, mut scale, mut d) = (zeros(15), zeros(3), dy.clone());
    B.unit_rows(&mut y, &mut scale, &x, 3, 5).unwrap();
    B.unit_rows_backward(&mut d, &y, &scale, 3, 5).unwrap();
    check("unit_rows", &x, &d, &value);
}

#[test]
fn gelu() {
    let (mut x, dy) = (random(13, 0), random(13, 1));
    x.0.iter_mut().for_each(|x| *x *= 8.0);
    let value = |x: &Buf| {
        let mut y = zeros(13);
        B.gelu(&mut y, x, 13).unwrap();
        dot(&y, &dy)
    };
    let mut dx = zeros(13);
    B.gelu_backward(&mut dx, &dy, &x, 13).unwrap();
    check("gelu", &x, &dx, &value);
}

#[test]
fn swiglu() {
    let (gate, up, dy) = (random(13, 0), random(13, 1), random(13, 2));
    let value = |gate: &Buf, up: &Buf| {
        let mut y = zeros(13);
        B.swiglu(&mut y, gate, up, 13).unwrap();
        dot(&y, &dy)
    };
    let (mut d_gate, mut d_up) = (zeros(13), zeros(13));
    B.swiglu_backward(&mut d_gate, &mut d_up, &dy, &gate, &up, 13).unwrap();
    check("swiglu d_gate", &gate, &d_gate, &|gate| value(gate, &up));
    check("swiglu d_up", &up, &d_up, &|up| value(&gate, up));
}

#[test]
fn rope_both_layouts_and_partial() {
    let turns = HostBuf(vec![u64::MAX / 7, u64::MAX / 91]);
    let span = |start, bias| ChunkSpan { start: SeqIndex(start), bias };
    let spans = HostBuf(vec![span(0, 0), span(2, 100_003)]);
    for pairs in [PairLayout::HalfSplit, PairLayout::Interleaved] {
        for head_dim in [4, 6] {
            let s = RopeShape {
                rows: 1,
                tokens: 3,
                heads: 2,
                kv_heads: 1,
                head_dim,
                rotary_dim: 4,
                pairs,
                attention_factor: 1.3,
            };
            let (nq, nk) = (3 * 2 * head_dim, 3 * head_dim);
            let (q, k, dq, dk) = (random(nq, 0), random(nk, 1), random(nq, 2), random(nk, 3));
            let rotated = |q: &Buf, k: &Buf, direction| {
                let (mut q, mut k) = (q.clone(), k.clone());
                let places = Places::Spans { spans: &spans, per_row: 2 };
                B.rope(&mut q, &mut k, places, &turns, direction, s).unwrap();
                (q, k)
            };
            let value = |q: &Buf, k: &Buf| {
                let (q, k) = rotated(q, k, Direction::Forward);
                dot(&q, &dq) + dot(&k, &dk)
            };
            let (gq, gk) = rotated(&dq, &dk, Direction::Backward);
            check("rope dq", &q, &gq, &|q| value(q, &k));
            check("rope dk", &k, &gk, &|k| value(&q, k));
        }
    }
}

#[test]
fn attention_with_documents_and_window() {
    let documents = HostBuf([0, 0, 1, 1, 1, 0, 0, 0, 0, 2].map(DocumentId).to_vec());
    for (documents, window) in
        [(None, None), (Some(&documents), None), (None, Some(3)), (Some(&documents), Some(2))]
    {
        let s = AttentionShape {
            rows: 2,
            queries: 5,
            keys: 5,
            heads: 4,
            kv_heads: 2,
            head_dim: 3,
            scale: 0.7,
            window,
        };
        let (nq, nk) = (2 * 5 * 4 * 3, 2 * 5 * 2 * 3);
        let (q, k, v, d_o) = (random(nq, 0), random(nk, 1), random(nk, 2), random(nq, 3));
        let forward = |q: &Buf, k: &Buf, v: &Buf| {
            let (mut o, mut lse) = (zeros(nq), zeros(2 * 4 * 5));
            B.attention(&mut o, &mut lse, q, k, v, documents, s).unwrap();
            (o, lse)
        };
        let value = |q: &Buf, k: &Buf, v: &Buf| dot(&forward(q, k, v).0, &d_o);
        let (o, lse) = forward(&q, &k, &v);
        let (mut dq, mut dk, mut dv) = (zeros(nq), zeros(nk), zeros(nk));
        B.attention_backward(&mut dq, &mut dk, &mut dv, &d_o, &o, &lse, &q, &k, &v, documents, s).unwrap();
        check("attention dq", &q, &dq, &|q| value(q, &k, &v));
        check("attention dk", &k, &dk, &|k| value(&q, k, &v));
        check("attention dv", &v, &dv, &|v| value(&q, &k, v));
    }
}

#[test]
fn embedding_and_head_with_loss() {
    let s = HeadShape { tokens: 4, width: 3, vocab: 5 };
    let ids = HostBuf([4, 1, 4, 0].map(TokenId).to_vec());
    let targets = HostBuf(vec![TokenId(1), TokenId::IGNORED, TokenId(0), TokenId(4)]);
    let (table, w, dy) = (random(15, 0), random(15, 1), random(12, 2));
    let mut d_table = zeros(15);
    B.embed_backward(&mut d_table, &dy, &ids, s).unwrap();
    check("embed", &table, &d_table, &|table| {
        let mut y = zeros(12);
        B.embed(&mut y, table, &ids, s).unwrap();
        dot(&y, &dy)
    });
    let bias = random(5, 3);
    let loss = |x: &Buf, w: &Buf, bias: &Buf| {
        let mut nll = zeros(4);
        B.head_loss(&mut nll, x, w, Some(bias), &targets, None, s).unwrap();
        nll
    };
    let weighted = HostBuf(vec![0.5, 7.0, 0.0, 3.0]);
    for weights in [None, Some(&weighted)] {
        let loss = |x: &Buf, w: &Buf, bias: &Buf| {
            let ones = HostBuf(vec![1.0; 4]);
            0.25 * dot(&loss(x, w, bias), weights.unwrap_or(&ones))
        };
        let (mut nll, mut dx, mut dw, mut db) = (zeros(4), zeros(12), zeros(15), zeros(5));
        let grad = HeadGrad { dx: &mut dx, dw: Some(&mut dw), db: Some(&mut db), scale: 0.25, weights };
        B.head_loss(&mut nll, &dy, &w, Some(&bias), &targets, Some(grad), s).unwrap();
        check("head dx", &dy, &dx, &|x| loss(x, &w, &bias));
        check("head dw", &w, &dw, &|w| loss(&dy, w, &bias));
        check("head db", &bias, &db, &|bias| loss(&dy, &w, bias));
    }
}
