//! Where a training step's time goes: each of its operations timed alone at the step's shapes, times how often the step
//! calls it. What is left of the whole step is "the rest" (batches, copies, what the operations cost each other's caches).

use crate::TOKENS;
use crate::harness::{Stopwatch, Table, random, time};
use pose_engine::backend::{
    AdamStep, AdamTensor, Direction, HeadGrad, MatmulShape, NormShape, PairLayout, Places, RopeShape, Write,
};
use pose_engine::index::TokenId;
use pose_engine::model::Config;

/// One operation of the step.
struct Row {
    name: String,
    calls: usize,
    /// Of all calls.
    seconds: f64,
    flops: f64,
}

/// Prints a row for each operation of a step that takes `whole` seconds.
pub fn print<B: Stopwatch>(b: &B, table: &Table, config: &Config, parameters: usize, whole: f64) {
    let mut rows = products(b, config);
    rows.extend(attention(b, config));
    rows.push(head(b, config));
    rows.extend(elementwise(b, config));
    rows.extend(optimizer(b, parameters));
    let known: f64 = rows.iter().map(|row| row.seconds).sum();
    rows.sort_by(|x, y| y.seconds.total_cmp(&x.seconds));
    rows.push(Row { name: "the rest".into(), calls: 1, seconds: whole - known, flops: 0.0 });
    println!("{:32} {:>6} {:>10} {:>8} {:>9} {:>6}", "", "calls", "ms a step", "of step", "GFLOP/s", "peak");
    for Row { name, calls, seconds, flops } in rows {
        let gflops = flops / seconds / 1e9;
        println!(
            "{name:32} {calls:>6} {:>10.1} {:>7.1}% {gflops:>9.1} {:>5.0}%",
            1e3 * seconds,
            100.0 * seconds / whole,
            100.0 * gflops / table.peak_gflops,
        );
    }
}

fn row<B: Stopwatch>(b: &B, name: &str, calls: usize, flops: f64, call: impl FnMut()) -> Row {
    let seconds = calls as f64 * time(b, call).median;
    Row { name: name.into(), calls, seconds, flops: calls as f64 * flops }
}

fn products<B: Stopwatch>(b: &B, config: &Config) -> Vec<Row> {
    let s = config.block_shapes(TOKENS);
    let layers = config.num_hidden_layers;
    let mut rows = Vec::new();
    for (what, s, each) in
        [("q", s.q, 1), ("k, v", s.kv, 2), ("o", s.o, 1), ("gate, up", s.up, 2), ("down", s.down, 1)]
    {
        let MatmulShape { m, n, k } = s;
        let flops = 2.0 * (m * n * k) as f64;
        let (x, w) = (random::<B, B::Act>(b, m * k), random::<B, B::Act>(b, n * k));
        let (mut y, mut dx) = (random::<B, B::Act>(b, m * n), random::<B, B::Act>(b, m * k));
        let (dy, mut dw) = (random::<B, B::Act>(b, m * n), random::<B, B::Stat>(b, n * k));
        let calls = layers * each;
        rows.push(row(b, &format!("{what}: forward"), calls, flops, || {
            b.matmul_nt(&mut y, &x, &w, None, None, s).expect("matmul_nt");
        }));
        rows.push(row(b, &format!("{what}: dx"), calls, flops, || {
            b.matmul_nn(&mut dx, &dy, &w, Write::Overwrite, s).expect("matmul_nn");
        }));
        rows.push(row(b, &format!("{what}: dw"), calls, flops, || {
            b.matmul_tn(&mut dw, &dy, &x, s).expect("matmul_tn");
        }));
    }
    rows
}

fn attention<B: Stopwatch>(b: &B, config: &Config) -> Vec<Row> {
    let (s, layers) = (config.attention_shape(1, TOKENS, TOKENS), config.num_hidden_layers);
    let (nq, nk) = (TOKENS * s.heads * s.head_dim, TOKENS * s.kv_heads * s.head_dim);
    let act = |len| random::<B, B::Act>(b, len);
    let (q, k, v, d_o, mut o) = (act(nq), act(nk), act(nk), act(nq), act(nq));
    let (mut dq, mut dk, mut dv) = (act(nq), act(nk), act(nk));
    let mut lse = random::<B, B::Stat>(b, TOKENS * s.heads);
    let forward = row(b, "attention: forward", layers, s.flops(), || {
        b.attention(&mut o, &mut lse, &q, &k, &v, None, s).expect("attention");
    });
    let backward = row(b, "attention: backward", layers, s.backward_flops(), || {
        b.attention_backward(&mut dq, &mut dk, &mut dv, &d_o, &o, &lse, &q, &k, &v, None, s)
            .expect("attention_backward");
    });
    vec![forward, backward]
}

fn head<B: Stopwatch>(b: &B, config: &Config) -> Row {
    let s = config.head_shape(TOKENS);
    let act = |len| random::<B, B::Act>(b, len);
    let (x, w, mut dx) = (act(TOKENS * s.width), act(s.vocab * s.width), act(TOKENS * s.width));
    let (mut nll, mut dw) = (random::<B, B::Stat>(b, TOKENS), random::<B, B::Stat>(b, s.vocab * s.width));
    let ids: Vec<TokenId> = (0..TOKENS).map(|t| TokenId((t * 7919 % s.vocab) as u32)).collect();
    let mut targets = b.alloc(TOKENS).expect("memory for the benchmark");
    b.upload(&mut targets, 0, &ids).expect("as many targets as tokens");
    let flops = 6.0 * (TOKENS * s.width * s.vocab) as f64;
    row(b, "head and loss, with gradients", 1, flops, || {
        let grad = HeadGrad { dx: &mut dx, dw: Some(&mut dw), db: None, scale: 1e-3, weights: None };
        b.head_loss(&mut nll, &x, &w, None, &targets, Some(grad), s).expect("head_loss");
    })
}

/// Norms and activation are computed again in the backward pass.
fn elementwise<B: Stopwatch>(b: &B, config: &Config) -> Vec<Row> {
    let (s, layers): (NormShape, _) = (config.norm_shape(TOKENS), config.num_hidden_layers);
    let (n, wide) = (TOKENS * s.width, TOKENS * config.intermediate_size);
    let act = |len| random::<B, B::Act>(b, len);
    let (x, w, dy, mut y, mut dx) = (act(n), act(s.width), act(n), act(n), act(n));
    let (mut rstd, mut dw) = (random::<B, B::Stat>(b, TOKENS), random::<B, B::Stat>(b, s.width));
    let norm = row(b, "rmsnorm", 4 * layers + 1, 0.0, || {
        b.rmsnorm(&mut y, &mut rstd, &x, &w, s).expect("rmsnorm");
    });
    let norm_backward = row(b, "rmsnorm: backward", 2 * layers + 1, 0.0, || {
        b.rmsnorm_backward(&mut dx, Some(&mut dw), &dy, &x, &rstd, &w, s).expect("rmsnorm_backward");
    });
    let (gate, up, d_act) = (act(wide), act(wide), act(wide));
    let (mut out, mut dg, mut du) = (act(wide), act(wide), act(wide));
    let swiglu = row(b, "swiglu", 2 * layers, 0.0, || b.swiglu(&mut out, &gate, &up, wide).expect("swiglu"));
    let swiglu_backward = row(b, "swiglu: backward", layers, 0.0, || {
        b.swiglu_backward(&mut dg, &mut du, &d_act, &gate, &up, wide).expect("swiglu_backward");
    });
    vec![norm, norm_backward, swiglu, swiglu_backward, rope(b, config)]
}

fn rope<B: Stopwatch>(b: &B, config: &Config) -> Row {
    let s = RopeShape {
        rows: 1,
        tokens: TOKENS,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        rotary_dim: config.head_dim,
        pairs: PairLayout::HalfSplit,
        attention_factor: 1.0,
    };
    let mut q = random::<B, B::Act>(b, TOKENS * s.heads * s.head_dim);
    let mut k = random::<B, B::Act>(b, TOKENS * s.kv_heads * s.head_dim);
    let (turns, spans) = (b.alloc(s.head_dim / 2).expect("memory"), b.alloc(1).expect("memory"));
    row(b, "rope", 2 * config.num_hidden_layers, 0.0, || {
        let places = Places::Spans { spans: &spans, per_row: 1 };
        b.rope(&mut q, &mut k, places, &turns, Direction::Forward, s).expect("rope");
    })
}

fn optimizer<B: Stopwatch>(b: &B, len: usize) -> Vec<Row> {
    let fresh = || b.alloc::<B::Stat>(len).expect("memory for the benchmark");
    let (mut master, mut m, mut v, mut grad) = (fresh(), fresh(), fresh(), fresh());
    let mut param = b.alloc::<B::Act>(len).expect("memory for the benchmark");
    let coarse = size_of::<B::Act>() < size_of::<B::Stat>();
    let step = AdamStep { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale: 1.0 };
    let zero = row(b, "gradients to zero", 1, 0.0, || b.zero(&mut grad, len).expect("zero"));
    let adamw = row(b, "adamw", 1, 0.0, || {
        let master = coarse.then_some(&mut master);
        let tensor = AdamTensor { param: &mut param, master, m: &mut m, v: &mut v, grad: &grad, decay: 0.1 };
        b.adamw(&mut [tensor], step).expect("adamw");
    });
    let norm = row(b, "gradient norm", 1, 0.0, || {
        std::hint::black_box(b.sum_squares(&[(&grad, len)]).expect("sum_squares"));
    });
    vec![zero, adamw, norm]
}
