//! Norms, rotation, activation, optimizer: bound by memory.

use crate::Shape;
use crate::harness::{Stopwatch, Table, random, time};
use pose_engine::backend::{
    Adam8Tensor, AdamStep, AdamTensor, Direction, MOMENT_BLOCK, MomentCodes, NormShape, PairLayout, Places,
    RopeShape,
};
use pose_engine::index::{ChunkSpan, SeqIndex};

pub fn all<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, tokens: usize) {
    norms(b, table, shape, tokens);
    swiglu(b, table, tokens * shape.inner);
    rope(b, table, shape, tokens);
    optimizer(b, table, 16 << 20);
    optimizer_in_8_bits(b, table, 16 << 20);
}

fn norms<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, tokens: usize) {
    let s = NormShape { tokens, width: shape.hidden, eps: 1e-5 };
    let (n, e) = (tokens * s.width, size_of::<B::Act>() as f64);
    let act = |len| random::<B, B::Act>(b, len);
    let (x, w, dy, mut y, mut dx) = (act(n), act(s.width), act(n), act(n), act(n));
    let (mut rstd, mut dw) = (random::<B, B::Stat>(b, tokens), random::<B, B::Stat>(b, s.width));
    let t = time(b, || b.rmsnorm(&mut y, &mut rstd, &x, &w, s).expect("rmsnorm"));
    table.row("  rmsnorm", t, 0.0, 2.0 * n as f64 * e);
    let t = time(b, || {
        b.rmsnorm_backward(&mut dx, Some(&mut dw), &dy, &x, &rstd, &w, s).expect("rmsnorm_backward")
    });
    table.row("  rmsnorm_backward", t, 0.0, 4.0 * n as f64 * e);
    let (bias, mut stats) = (act(s.width), random::<B, B::Stat>(b, 2 * tokens));
    let t = time(b, || b.layernorm(&mut y, &mut stats, &x, &w, &bias, s).expect("layernorm"));
    table.row("  layernorm", t, 0.0, 2.0 * n as f64 * e);
    let t = time(b, || {
        b.layernorm_backward(&mut dx, Some(&mut dw), &dy, &x, &stats, &w, s).expect("layernorm_backward");
    });
    table.row("  layernorm_backward", t, 0.0, 4.0 * n as f64 * e);
    let t = time(b, || b.unit_rows(&mut y, &mut rstd, &x, tokens, s.width).expect("unit_rows"));
    table.row("  unit_rows", t, 0.0, 2.0 * n as f64 * e);
    let mut d = random::<B, B::Stat>(b, n);
    let t = time(b, || b.unit_rows_backward(&mut d, &y, &rstd, tokens, s.width).expect("unit_rows_backward"));
    table.row("  unit_rows_backward", t, 0.0, n as f64 * (e + 2.0 * size_of::<B::Stat>() as f64));
}

fn swiglu<B: Stopwatch>(b: &B, table: &Table, len: usize) {
    let act = || random::<B, B::Act>(b, len);
    let (gate, up, dy, mut y, mut dg, mut du) = (act(), act(), act(), act(), act(), act());
    let bytes = len as f64 * size_of::<B::Act>() as f64;
    let t = time(b, || b.swiglu(&mut y, &gate, &up, len).expect("swiglu"));
    table.row("  swiglu", t, 0.0, 3.0 * bytes);
    let t = time(b, || b.swiglu_backward(&mut dg, &mut du, &dy, &gate, &up, len).expect("swiglu_backward"));
    table.row("  swiglu_backward", t, 0.0, 5.0 * bytes);
    let t = time(b, || b.gelu(&mut y, &up, len).expect("gelu"));
    table.row("  gelu", t, 0.0, 2.0 * bytes);
    let t = time(b, || b.gelu_backward(&mut dg, &dy, &up, len).expect("gelu_backward"));
    table.row("  gelu_backward", t, 0.0, 3.0 * bytes);
}

fn rope<B: Stopwatch>(b: &B, table: &Table, shape: &Shape, tokens: usize) {
    let s = RopeShape {
        rows: 1,
        tokens,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        rotary_dim: shape.head_dim,
        pairs: PairLayout::HalfSplit,
        attention_factor: 1.0,
    };
    let (nq, nk) = (tokens * s.heads * s.head_dim, tokens * s.kv_heads * s.head_dim);
    let (mut q, mut k) = (random::<B, B::Act>(b, nq), random::<B, B::Act>(b, nk));
    let frequencies: Vec<u64> = (0..s.head_dim / 2).map(|i| (1 << 61) >> (i / 4)).collect();
    let chunks = [ChunkSpan::default(), ChunkSpan { start: SeqIndex(tokens as u32 / 3), bias: 100_000 }];
    let mut turns = b.alloc(frequencies.len()).expect("memory for the benchmark");
    let mut spans = b.alloc(2).expect("memory for the benchmark");
    b.upload(&mut turns, 0, &frequencies).expect("as long as its content");
    b.upload(&mut spans, 0, &chunks).expect("as long as its content");
    let t = time(b, || {
        let places = Places::Spans { spans: &spans, per_row: 2 };
        b.rope(&mut q, &mut k, places, &turns, Direction::Forward, s).expect("rope");
    });
    table.row("  rope", t, 0.0, 2.0 * (nq + nk) as f64 * size_of::<B::Act>() as f64);
}

const STEP: AdamStep = AdamStep { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale: 1.0 };

fn optimizer<B: Stopwatch>(b: &B, table: &Table, len: usize) {
    let stat = || random::<B, B::Stat>(b, len);
    let (mut param, mut master, mut m, mut v, grad) =
        (random::<B, B::Act>(b, len), stat(), stat(), stat(), stat());
    b.zero(&mut v, len).expect("zero");
    let coarse = size_of::<B::Act>() < size_of::<B::Stat>();
    let t = time(b, || {
        let master = coarse.then_some(&mut master);
        let tensor = AdamTensor { param: &mut param, master, m: &mut m, v: &mut v, grad: &grad, decay: 0.1 };
        b.adamw(&mut [tensor], STEP).expect("adamw");
    });
    // master (or param), m and v are read and written, the gradient is read, a coarse copy is written
    let bytes = if coarse { 3.0 * 8.0 + 4.0 + 2.0 } else { 3.0 * 8.0 + 4.0 };
    table.row("  adamw", t, 0.0, bytes * len as f64);
    let t = time(b, || {
        std::hint::black_box(b.sum_squares(&[(&grad, len)]).expect("sum_squares"));
    });
    table.row("  sum_squares", t, 0.0, 4.0 * len as f64);
}

fn optimizer_in_8_bits<B: Stopwatch>(b: &B, table: &Table, len: usize) {
    let blocks = len.div_ceil(MOMENT_BLOCK);
    let (mut param, mut master, grad) =
        (random::<B, B::Act>(b, len), random::<B, B::Stat>(b, len), random::<B, B::Stat>(b, len));
    let memory = "memory for the benchmark";
    let (mut m, mut v) = (b.alloc(len).expect(memory), b.alloc(len).expect(memory));
    let (mut m_scales, mut v_scales) = (b.alloc(blocks).expect(memory), b.alloc(blocks).expect(memory));
    let coarse = size_of::<B::Act>() < size_of::<B::Stat>();
    let t = time(b, || {
        let tensor = Adam8Tensor {
            param: &mut param,
            master: coarse.then_some(&mut master),
            m: MomentCodes { codes: &mut m, scales: &mut m_scales },
            v: MomentCodes { codes: &mut v, scales: &mut v_scales },
            grad: &grad,
            decay: 0.1,
        };
        b.adamw8(&mut [tensor], STEP, 1).expect("adamw8");
    });
    // as adamw, but for moments of a byte and their scales
    let moments = 2.0 * (2.0 + 8.0 / MOMENT_BLOCK as f64);
    let bytes = moments + if coarse { 8.0 + 4.0 + 2.0 } else { 8.0 + 4.0 };
    table.row("  adamw8", t, 0.0, bytes * len as f64);
}
