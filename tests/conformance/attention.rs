//! attention and attention_backward.

use super::plain;
use super::{Suite, TRUTH, host, zeros};
use pose_engine::backend::reference::HostBuf;
use pose_engine::backend::{AttentionShape, Backend, Float};
use pose_engine::index::DocumentId;

pub struct Case {
    pub shape: AttentionShape,
    pub documents: Option<fn(usize) -> u32>,
    /// How large queries and keys are.
    pub spread: f64,
    /// How much larger keys become from one to the next, as a share of the first one's size: scores that outgrow all before.
    pub rise: f64,
}

pub fn case(rows: usize, queries: usize, keys: usize, heads: (usize, usize), head_dim: usize) -> Case {
    let scale = 1.0 / (head_dim as f64).sqrt();
    let (heads, kv_heads) = heads;
    Case {
        shape: AttentionShape { rows, queries, keys, heads, kv_heads, head_dim, scale, window: None },
        documents: None,
        spread: 4.0,
        rise: 0.0,
    }
}

impl Case {
    pub fn window(mut self, window: usize) -> Case {
        self.shape.window = Some(window);
        self
    }
    pub fn spread(mut self, spread: f64) -> Case {
        self.spread = spread;
        self
    }
    pub fn rise(mut self, rise: f64) -> Case {
        self.rise = rise;
        self
    }
    pub fn documents(mut self, documents: fn(usize) -> u32) -> Case {
        self.documents = Some(documents);
        self
    }
    /// The document of every key.
    pub fn ids(&self) -> Option<Vec<u32>> {
        let s = self.shape;
        self.documents.map(|f| (0..s.rows * s.keys).map(|at| f(at % s.keys)).collect())
    }
}

pub fn all<B: Backend>(t: &mut Suite<'_, B>) {
    let cases = [
        case(1, 1, 1, (1, 1), 1),
        case(2, 17, 17, (2, 1), 20),
        case(1, 33, 33, (1, 1), 15),
        case(1, 63, 63, (3, 3), 80),
        case(2, 65, 65, (4, 2), 32),
        case(3, 64, 64, (4, 4), 32),
        case(1, 40, 40, (1, 1), 256),
        case(1, 257, 257, (6, 2), 64),
        case(1, 600, 600, (2, 1), 16),
        // gradients of queries are sums over blocks of keys: of one task, of two, begun at the first of them or a later one
        case(12, 257, 257, (1, 1), 16),
        case(6, 513, 513, (1, 1), 20).window(300),
        case(6, 513, 513, (1, 1), 16).documents(|j| j as u32 / 256),
        // windows and documents, in order and not
        case(1, 300, 300, (2, 1), 32).window(50),
        case(1, 130, 130, (1, 1), 16).window(2),
        case(1, 600, 600, (1, 1), 16).window(257),
        case(2, 257, 257, (2, 2), 16).documents(|j| j as u32 / 100),
        case(1, 600, 600, (1, 1), 16).documents(|j| j as u32 / 256),
        case(1, 140, 140, (1, 1), 16).documents(|j| j as u32 % 3),
        case(1, 600, 600, (2, 1), 16).documents(|j| 9 - j as u32 / 70).window(33),
        // after a cache
        case(1, 5, 70, (2, 1), 32),
        case(2, 100, 357, (3, 1), 20).window(90),
        case(1, 1, 5000, (4, 1), 16),
        case(2, 3, 4500, (2, 2), 16).window(1000),
        case(1, 2, 4200, (2, 1), 16).documents(|j| j as u32 / 1500),
        // tensor cores: a block's first query is the last of a tile of keys, or not; scores that need no maximum, and that do
        case(1, 17, 80, (1, 1), 64).spread(0.3),
        case(2, 17, 80, (2, 1), 64),
        case(1, 17, 336, (1, 1), 64).window(200).spread(0.3),
        case(1, 130, 449, (2, 1), 64).window(200),
        case(1, 20, 147, (1, 1), 128).spread(0.3),
        case(1, 20, 147, (2, 2), 128),
        case(1, 18, 49, (1, 1), 256).spread(0.3),
        case(1, 18, 49, (1, 1), 256),
        case(1, 40, 300, (2, 2), 96).documents(|j| j as u32 / 90).spread(0.3),
        case(1, 150, 277, (2, 1), 64).documents(|j| j as u32 / 60).window(100),
        case(1, 140, 140, (2, 1), 128).documents(|j| j as u32 / 33).window(70),
        case(1, 129, 129, (2, 1), 64).window(40),
        // weights relative to an earlier maximum, which some rows of a strip leave behind and others do not
        case(1, 600, 600, (3, 1), 64).rise(0.02),
        case(1, 40, 1300, (2, 2), 32).rise(0.01),
        case(1, 1, 1100, (6, 2), 64).rise(0.02),
        case(1, 600, 600, (2, 1), 16).documents(|j| j as u32 / 256).rise(0.03),
        // few queries, of a group that is no power of two
        case(1, 15, 4200, (3, 1), 16),
        // decoding: whole vectors, halves of them, more heads on a key than registers hold
        case(1, 1, 3001, (9, 3), 64),
        case(2, 1, 1500, (12, 1), 32).window(700),
        case(1, 2, 1400, (2, 1), 64).window(600),
        case(2, 1, 2085, (4, 2), 128).documents(|j| j as u32 / 1000),
        case(1, 1, 1100, (4, 2), 80),
        // of the heads that share a key, any number left over: 4 with the sums of two vectors, 5 to 7 with those of one
        case(1, 1, 1045, (8, 2), 64),
        case(1, 1, 261, (3, 3), 192),
        case(1, 1, 333, (2, 2), 96),
        case(1, 1, 90, (4, 2), 96),
        case(1, 1, 519, (5, 1), 64),
        case(2, 1, 300, (6, 1), 96),
        case(1, 1, 139, (7, 1), 32),
        // more heads than columns of a tile, more of them on one key than rows; a step shorter than a block
        case(1, 1, 310, (20, 2), 32),
        case(1, 1, 150, (40, 40), 32),
        case(1, 1, 2000, (6, 2), 64).window(300),
        case(3, 1, 1700, (6, 3), 64).documents(|j| j as u32 / 500),
    ];
    for case in &cases {
        one(t, case);
    }
}

pub fn one<B: Backend>(t: &mut Suite<'_, B>, case: &Case) {
    let s = case.shape;
    let (nq, nk) = (s.rows * s.queries * s.heads * s.head_dim, s.rows * s.keys * s.kv_heads * s.head_dim);
    let (q, mut k, v) = (t.random(nq, case.spread), t.random(nk, case.spread), t.random(nk, 1.0));
    for (i, k) in k.iter_mut().enumerate() {
        let key = i / (s.kv_heads * s.head_dim) % s.keys;
        *k = B::Act::from_f64(*k * (1.0 + case.rise * key as f64)).to_f64();
    }
    let ids = case.ids();
    let documents: Option<Vec<DocumentId>> =
        ids.as_ref().map(|ids| ids.iter().map(|id| DocumentId(*id)).collect());
    let name = |what: &str| format!("{what} of {s:?} documents {}", ids.is_some());

    let (mut o, mut lse) = (zeros(nq), zeros(s.rows * s.heads * s.queries));
    let documents_host = documents.clone().map(HostBuf);
    TRUTH.attention(&mut o, &mut lse, &host(&q), &host(&k), &host(&v), documents_host.as_ref(), s).unwrap();
    let plain = plain::attention::<B::Act>(&q, &k, &v, ids.as_deref(), s);
    let documents_b = documents.map(|d| t.upload(&d));
    let (qb, kb, vb) = (t.floats(&q), t.floats(&k), t.floats(&v));
    let (mut ob, mut lse_b) = (t.fresh(nq), t.fresh(lse.0.len()));
    t.b.attention(&mut ob, &mut lse_b, &qb, &kb, &vb, documents_b.as_ref(), s).unwrap();
    t.compare::<B::Act>(&name("o"), &ob, &o.0, &plain.o);
    t.compare::<B::Stat>(&name("lse"), &lse_b, &lse.0, &plain.lse);
    if s.queries != s.keys {
        return;
    }

    let d_o = t.random(nq, 1.0);
    let o: Vec<f64> = o.0.iter().map(|x| B::Act::from_f64(*x).to_f64()).collect();
    let lse: Vec<f64> = lse.0.iter().map(|x| B::Stat::from_f64(*x).to_f64()).collect();
    let [mut dq, mut dk, mut dv] = [zeros(nq), zeros(nk), zeros(nk)];
    TRUTH
        .attention_backward(
            &mut dq,
            &mut dk,
            &mut dv,
            &host(&d_o),
            &host(&o),
            &host(&lse),
            &host(&q),
            &host(&k),
            &host(&v),
            documents_host.as_ref(),
            s,
        )
        .unwrap();
    let [plain_dq, plain_dk, plain_dv] =
        plain::attention_backward::<B::Act>(&d_o, &o, &lse, &q, &k, &v, ids.as_deref(), s);
    let [mut dq_b, mut dk_b, mut dv_b] = [t.fresh(nq), t.fresh(nk), t.fresh(nk)];
    t.b.attention_backward(
        &mut dq_b,
        &mut dk_b,
        &mut dv_b,
        &t.floats(&d_o),
        &t.floats(&o),
        &t.floats(&lse),
        &qb,
        &kb,
        &vb,
        documents_b.as_ref(),
        s,
    )
    .unwrap();
    t.compare::<B::Act>(&name("dq"), &dq_b, &dq.0, &plain_dq);
    t.compare::<B::Act>(&name("dk"), &dk_b, &dk.0, &plain_dk);
    t.compare::<B::Act>(&name("dv"), &dv_b, &dv.0, &plain_dv);
}
