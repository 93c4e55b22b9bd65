//! The rotation that a model is trained and read with, from its configuration to the kernel's output, against cosines and
//! sines in f64 at positions up to 2^20: by spans and by lists, in both layouts, of whole heads and of parts.

use pose_engine::backend::cpu::Cpu;
use pose_engine::backend::{Backend, Direction, PairLayout, Places, RopeShape};
use pose_engine::index::{ChunkSpan, RopePosition, SeqIndex};
use pose_engine::rope::{Rope, Scaling};

const THETA: f64 = 100_000.0;

fn shape(rotary_dim: usize, pairs: PairLayout) -> RopeShape {
    RopeShape {
        rows: 1,
        tokens: 9,
        heads: 2,
        kv_heads: 1,
        head_dim: 24,
        rotary_dim,
        pairs,
        attention_factor: 1.25,
    }
}

/// The two elements of pair i.
fn pair(s: &RopeShape, i: usize) -> (usize, usize) {
    match s.pairs {
        PairLayout::HalfSplit => (i, i + s.rotary_dim / 2),
        PairLayout::Interleaved => (2 * i, 2 * i + 1),
    }
}

/// x rotated at `positions` by the formula.
fn rotated(x: &[f32], heads: usize, positions: &[u32], s: &RopeShape) -> Vec<f64> {
    let mut y: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    for (token, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            let at = (token * heads + head) * s.head_dim;
            for i in 0..s.rotary_dim / 2 {
                let angle = f64::from(position) * THETA.powf(-2.0 * i as f64 / s.rotary_dim as f64);
                let (sin, cos) = (angle.sin() * s.attention_factor, angle.cos() * s.attention_factor);
                let (a, b) = (at + pair(s, i).0, at + pair(s, i).1);
                (y[a], y[b]) = (y[a] * cos - y[b] * sin, y[b] * cos + y[a] * sin);
            }
        }
    }
    y
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 1000) as f32 / 500.0 - 1.0).collect()
}

fn check(s: &RopeShape, spans: &[ChunkSpan], positions: &[u32], listed: bool) {
    let b = Cpu::<f32>::new(2).unwrap();
    let upload = |values: &[f32]| {
        let mut buf = b.alloc::<f32>(values.len()).unwrap();
        b.upload(&mut buf, 0, values).unwrap();
        buf
    };
    let (q, k) = (numbers(s.tokens * s.heads * s.head_dim), numbers(s.tokens * s.kv_heads * s.head_dim));
    let turns = Rope { theta: THETA, rotary_dim: s.rotary_dim, scaling: Scaling::None }.turns();
    let (mut qb, mut kb, mut tb) = (upload(&q), upload(&k), b.alloc(turns.len()).unwrap());
    b.upload(&mut tb, 0, &turns).unwrap();
    let list: Vec<RopePosition> = positions.iter().map(|&p| RopePosition(p)).collect();
    let (mut spans_b, mut list_b) = (b.alloc(spans.len()).unwrap(), b.alloc(list.len()).unwrap());
    b.upload(&mut spans_b, 0, spans).unwrap();
    b.upload(&mut list_b, 0, &list).unwrap();
    let places = || {
        if listed { Places::List(&list_b) } else { Places::Spans { spans: &spans_b, per_row: spans.len() } }
    };
    b.rope(&mut qb, &mut kb, places(), &tb, Direction::Forward, *s).unwrap();
    for (buf, x, heads) in [(&qb, &q, s.heads), (&kb, &k, s.kv_heads)] {
        let mut got = vec![0f32; x.len()];
        b.download(&mut got, buf, 0).unwrap();
        for (i, (got, want)) in got.iter().zip(rotated(x, heads, positions, s)).enumerate() {
            // f32 rounds a sum of two products of about 1; the angle may be off by a millionth
            assert!(
                (f64::from(*got) - want).abs() <= 2e-6,
                "{s:?} listed {listed}: element {i} is {got}, not {want}"
            );
        }
    }
    // backwards undoes forwards, but for the factor, which comes twice
    b.rope(&mut qb, &mut kb, places(), &tb, Direction::Backward, *s).unwrap();
    let mut back = vec![0f32; q.len()];
    b.download(&mut back, &qb, 0).unwrap();
    for (i, (back, q)) in back.iter().zip(&q).enumerate() {
        let rotates = i % s.head_dim < s.rotary_dim;
        let factor = if rotates { (s.attention_factor * s.attention_factor) as f32 } else { 1.0 };
        assert!(
            (back - q * factor).abs() <= 4e-6,
            "{s:?} listed {listed}: element {i} came back as {back}, was {q}"
        );
    }
}

#[test]
fn rotations_are_exact_up_to_position_two_to_the_twentieth() {
    let span = |start, bias| ChunkSpan { start: SeqIndex(start), bias };
    let spans = [span(0, 0), span(2, 131_069), span(5, (1 << 20) - 8)];
    let positions = [0, 1, 131_071, 131_072, 131_073, 1_048_573, 1_048_574, 1_048_575, 1_048_576];
    for pairs in [PairLayout::HalfSplit, PairLayout::Interleaved] {
        for rotary_dim in [2, 10, 24] {
            for listed in [false, true] {
                check(&shape(rotary_dim, pairs), &spans, &positions, listed);
            }
        }
    }
}
