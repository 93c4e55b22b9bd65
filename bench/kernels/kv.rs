//! Keys and values as 8-bit integers beside what they are made of: quantising, decoding, a chunk of prefill.

use crate::Shape;
use crate::harness::{Stopwatch, Table, random, time};
use pose_engine::backend::{AttentionShape, KvShape, Quantised};

pub fn all<B: Stopwatch>(b: &B, table: &Table, shape: &Shape) {
    for (queries, keys) in [(1, 8192), (1, 32768), (512, 8192)] {
        cached(b, table, shape, queries, keys);
    }
}

fn cached<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, queries: usize, keys: usize) {
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let scale = 1.0 / (head_dim as f64).sqrt();
    let s = AttentionShape { rows: 1, queries, keys, heads, kv_heads, head_dim, scale, window: None };
    let (nq, nk) = (queries * heads * head_dim, keys * kv_heads * head_dim);
    let act = |len| random::<B, B::Act>(b, len);
    let (q, k, v, mut o) = (act(nq), act(nk), act(nk), act(nq));
    let mut lse = random::<B, B::Stat>(b, queries * heads);
    let t = time(b, || b.attention(&mut o, &mut lse, &q, &k, &v, None, s).expect("attention"));
    let name = format!("  attention {queries} of {keys}, {heads}/{kv_heads} heads of {head_dim}");
    table.row(&name, t, s.flops(), (2 * nk * size_of::<B::Act>()) as f64);

    let kv = KvShape { tokens: keys, kv_heads, head_dim };
    let (mut codes, mut scales) = (
        [0; 2].map(|_| b.alloc(nk).expect("memory")),
        [0; 2].map(|_| random::<B, B::Stat>(b, keys * kv_heads)),
    );
    let mut quantise =
        |i: usize, x| b.kv_quantise(&mut codes[i], &mut scales[i], 0, x, kv).expect("kv_quantise");
    quantise(1, &v);
    let t = time(b, || quantise(0, &k));
    table.row(
        "  kv_quantise of all keys",
        t,
        0.0,
        (nk * (size_of::<B::Act>() + 1) + 4 * keys * kv_heads) as f64,
    );
    let [k, v] = [0, 1].map(|i| (&codes[i], &scales[i]));
    let t = time(b, || {
        let [k, v] = [k, v].map(|(codes, scales)| Quantised { codes, scales });
        b.attention_int8(&mut o, &mut lse, &q, k, v, None, s).expect("attention_int8");
    });
    table.row("  attention_int8", t, s.flops(), (2 * (nk + 4 * keys * kv_heads)) as f64);
}
