//! What products and decoding can reach at most on this CPU, measured: their parts, each alone.
//!
//! - A product is tiles, here with operands that stay next to the core, the packing of what is not read in place, and the tiles' way
//!   out. Its time cannot be less than the tiles', and, as packing is over before tiles begin, not less than both together; the way out
//!   may hide behind tiles.
//! - A decoded token's attention reads each key and value once: it cannot take less than they take from memory, nor less than their
//!   arithmetic takes when they lie in the caches.

use crate::Shape;
use crate::harness::{Stopwatch, random, time};
use pose_engine::backend::cpu::{Buf, Cpu, CpuFloat, Part};
use pose_engine::backend::{
    AttentionShape, Backend, Buffer, HeadGrad, HeadShape, KvShape, MatmulShape, Quantised, Write,
};
use pose_engine::index::TokenId;
use std::time::{Duration, Instant};

const TOKENS: usize = 2048;

pub fn all<E: CpuFloat>(shape: &Shape, threads: usize) {
    let mut b = Cpu::<E>::new(threads).expect("a CPU");
    println!("\n{}, {}, limits at {TOKENS} tokens of {}", b.about(), E::NAME, shape.name);
    println!("shares of multiply-adds on registers, each measured in turns with them:\n");
    println!(
        "{:32} {:>9} {:>8} {:>7} {:>8} {:>10} {:>9}",
        "", "ms", "GFLOP/s", "reached", "tiles", "+ packing", "+ stores"
    );
    products(&mut b, shape);
    head(&mut b, shape);
    println!("\none token's attention, ns a key of all heads");
    println!("{:32} {:>9} {:>9} {:>9}", "", "in cache", "bytes", "measured");
    decoding(&b, shape);
}

const ROUNDS: usize = 5;

/// Seconds of a call, of a few.
fn few<E: CpuFloat>(b: &Cpu<E>, call: &mut impl FnMut(&Cpu<E>)) -> f64 {
    const FOR: Duration = Duration::from_millis(50);
    let (mut seconds, start) = (Vec::new(), Instant::now());
    while seconds.len() < 3 || start.elapsed() < FOR {
        seconds.push(b.seconds(&mut || call(b)));
    }
    middle(seconds)
}

fn middle(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Prints what an operation of some FLOPs takes, and as shares of the peak what it would reach if nothing were done but some of its
/// parts. Rates of a machine that others use too, or that grows hot, drift by a tenth within a minute: so shares are of the same round's peak, and
/// the middle of some rounds.
fn row<E: CpuFloat>(b: &mut Cpu<E>, name: &str, flops: f64, mut call: impl FnMut(&Cpu<E>)) {
    let (mut whole, mut peaks, mut shares) = (Vec::new(), Vec::new(), [const { Vec::new() }; 4]);
    b.only(Part::Whole);
    call(b);
    for _ in 0..ROUNDS {
        let peak = b.measure_multiply_adds();
        let mut seconds = |part| {
            b.only(part);
            few(b, &mut call)
        };
        let [all, around] = [Part::Whole, Part::Nothing].map(&mut seconds);
        let [tiles, packing, stores] = [Part::Tiles, Part::Packing, Part::Stores].map(seconds);
        let packed = tiles + packing - around;
        for (share, seconds) in shares.iter_mut().zip([all, tiles, packed, packed + stores - around]) {
            share.push(100.0 * flops / seconds / 1e9 / peak);
        }
        whole.push(all);
        peaks.push(peak);
    }
    b.only(Part::Whole);
    let [reached, tiles, packed, stored] = shares.map(middle);
    let (ms, peak) = (1e3 * middle(whole), middle(peaks));
    println!(
        "{name:32} {ms:9.3} {:8.0} {reached:6.1}% {tiles:7.1}% {packed:9.1}% {stored:8.1}%",
        peak * reached / 100.0
    );
}

fn products<E: CpuFloat>(b: &mut Cpu<E>, shape: &Shape) {
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let m = TOKENS;
    for (what, n, k) in [
        ("q, o", q, shape.hidden),
        ("k, v", kv, shape.hidden),
        ("gate, up", shape.inner, shape.hidden),
        ("down", shape.hidden, shape.inner),
    ] {
        let s = MatmulShape { m, n, k };
        let (x, w) = (random::<_, E>(b, m * k), random::<_, E>(b, n * k));
        let (mut y, mut dx) = (random::<_, E>(b, m * n), random::<_, E>(b, m * k));
        let (dy, mut dw) = (random::<_, E>(b, m * n), random::<_, f32>(b, n * k));
        let flops = 2.0 * (m * n * k) as f64;
        row(b, &format!("{what}: forward"), flops, |b| {
            b.matmul_nt(&mut y, &x, &w, None, None, s).expect("matmul_nt");
        });
        row(b, &format!("{what}: dx"), flops, |b| {
            b.matmul_nn(&mut dx, &dy, &w, Write::Overwrite, s).expect("matmul_nn");
        });
        row(b, &format!("{what}: dx, added"), flops, |b| {
            b.matmul_nn(&mut dx, &dy, &w, Write::Accumulate, s).expect("matmul_nn");
        });
        row(b, &format!("{what}: dw"), flops, |b| {
            b.matmul_tn(&mut dw, &dy, &x, s).expect("matmul_tn");
        });
    }
}

/// The loss's own passes are in each of the columns.
fn head<E: CpuFloat>(b: &mut Cpu<E>, shape: &Shape) {
    let s = HeadShape { tokens: TOKENS, width: shape.hidden, vocab: shape.vocab };
    let (x, w) = (random::<_, E>(b, TOKENS * s.width), random::<_, E>(b, s.vocab * s.width));
    let (mut dx, mut nll) = (random::<_, E>(b, TOKENS * s.width), random::<_, f32>(b, TOKENS));
    let mut dw = random::<_, f32>(b, s.vocab * s.width);
    let ids: Vec<TokenId> = (0..TOKENS).map(|t| TokenId((t * 7919 % s.vocab) as u32)).collect();
    let mut targets = b.alloc(TOKENS).expect("memory for the benchmark");
    b.upload(&mut targets, 0, &ids).expect("as many targets as tokens");
    let flops = 6.0 * (TOKENS * s.width * s.vocab) as f64;
    row(b, "head and loss, with gradients", flops, |b| {
        let grad = HeadGrad { dx: &mut dx, dw: Some(&mut dw), db: None, scale: 1e-3, weights: None };
        b.head_loss(&mut nll, &x, &w, None, &targets, Some(grad), s).expect("head_loss");
    });
}

/// Rounds over so many caches that none is still in the CPU's when its turn comes again.
const CACHES_BYTES: usize = 768 << 20;
const NEAR: usize = 1024;
const FAR: usize = 32768;

fn decoding<E: CpuFloat>(b: &Cpu<E>, shape: &Shape) {
    let width = shape.kv_heads * shape.head_dim;
    let caches = CACHES_BYTES / (2 * FAR * width * size_of::<E>());
    let (k, v) = (random::<_, E>(b, FAR * width), random::<_, E>(b, FAR * width));
    let mut plain: Vec<_> = (0..caches).map(|_| [&k, &v].map(|x| copy(b, x))).collect();
    let mut attend = Attend::new(b, shape);
    let bytes = 2 * width * size_of::<E>();
    attend.print(&format!("cache in {}", E::NAME), bytes, caches, |a, s, i| {
        let [k, v] = &plain[i];
        a.b.attention(&mut a.o, &mut a.lse, &a.q, k, v, None, s).expect("attention");
    });
    plain.clear();

    let caches = CACHES_BYTES / (2 * FAR * width);
    let kv = KvShape { tokens: FAR, kv_heads: shape.kv_heads, head_dim: shape.head_dim };
    let quantised = |x| {
        let mut codes = b.alloc(FAR * width).expect("memory");
        let mut scales = b.alloc(FAR * shape.kv_heads).expect("memory");
        b.kv_quantise(&mut codes, &mut scales, 0, x, kv).expect("kv_quantise");
        (codes, scales)
    };
    let coded: Vec<_> = (0..caches).map(|_| [&k, &v].map(quantised)).collect();
    let bytes = 2 * (width + 4 * shape.kv_heads);
    attend.print("cache in int8", bytes, caches, |a, s, i| {
        let [k, v] = coded[i].each_ref().map(|(codes, scales)| Quantised { codes, scales });
        a.b.attention_int8(&mut a.o, &mut a.lse, &a.q, k, v, None, s).expect("attention_int8");
    });
}

fn copy<E: CpuFloat>(b: &Cpu<E>, x: &Buf<E>) -> Buf<E> {
    let mut copy = b.alloc(x.len()).expect("memory for the benchmark");
    b.upload(&mut copy, 0, x.as_slice()).expect("the buffer is as long as its content");
    copy
}

/// One query's attention.
struct Attend<'a, E: CpuFloat> {
    b: &'a Cpu<E>,
    of: &'a Shape,
    q: Buf<E>,
    o: Buf<E>,
    lse: Buf<f32>,
}

impl<'a, E: CpuFloat> Attend<'a, E> {
    fn new(b: &'a Cpu<E>, of: &'a Shape) -> Self {
        let width = of.heads * of.head_dim;
        Attend { b, of, q: random(b, width), o: random(b, width), lse: random(b, of.heads) }
    }

    fn shape(&self, keys: usize) -> AttentionShape {
        let Shape { heads, kv_heads, head_dim, .. } = *self.of;
        let scale = 1.0 / (head_dim as f64).sqrt();
        AttentionShape { rows: 1, queries: 1, keys, heads, kv_heads, head_dim, scale, window: None }
    }

    /// `call(self, shape, cache)` attends to the first keys of one of the caches, of which a key has `bytes`.
    fn print(
        &mut self, name: &str, bytes: usize, caches: usize,
        mut call: impl FnMut(&mut Self, AttentionShape, usize),
    ) {
        let (b, of_near, of_far) = (self.b, self.shape(NEAR), self.shape(FAR));
        let near = time(b, || call(self, of_near, 0)).median / NEAR as f64;
        let mut i = 0;
        let mut far = || {
            let seconds = time(b, || {
                call(self, of_far, i % caches);
                i += 1;
            });
            seconds.median / FAR as f64
        };
        // Memory changes from one second to the next where others use it too.
        let mut rounds: Vec<_> = (0..5).map(|_| (bytes as f64 / b.bandwidth() / 1e9, far())).collect();
        rounds.sort_by(|x, y| x.1.total_cmp(&y.1));
        let (memory, far) = rounds[2];
        let [near, memory, far] = [near, memory, far].map(|seconds| 1e9 * seconds);
        println!("{name:32} {near:9.1} {memory:9.1} {far:9.1}");
    }
}
