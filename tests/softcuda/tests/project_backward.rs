//! The project's norms, rotation, embedding, backward attention, decoding, loss and optimizer against plain loops; every check on.

mod common;

use common::{Arg, Arg::*, Gpu, numbers, ptx, worst};
use softcuda::FaultKind;

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn rmsnorm_both_ways() {
    let Some(text) = ptx("norm.cu") else { return };
    let gpu = Gpu::new(&text);
    for (tokens, width) in [(1, 1), (5, 7), (130, 72), (200, 576)] {
        let (x, w, dy, dx) = (
            numbers(tokens * width, 1),
            numbers(width, 2),
            numbers(tokens * width, 3),
            numbers(tokens * width, 4),
        );
        let sizes = [Int(tokens as i32), Int(width as i32)];
        let (y, rstd) = (
            gpu.memory.alloc(4 * (tokens * width) as u64).unwrap(),
            gpu.memory.alloc(4 * tokens as u64).unwrap(),
        );
        let (px, pw, pdy, pdx) = (gpu.f32(&x), gpu.f32(&w), gpu.f32(&dy), gpu.f32(&dx));
        let forward = [&[Ptr(y), Ptr(rstd), Ptr(px), Ptr(pw)], &sizes[..], &[Float(1e-5)]].concat();
        gpu.launch("rmsnorm_f32", [3, 1, 1], 256, (2 * width * 4).next_multiple_of(16) as u32, &forward)
            .unwrap();
        let partial = gpu.memory.alloc(4 * 128 * width as u64).unwrap();
        let backward =
            [&[Ptr(pdx), Ptr(partial), Ptr(pdy), Ptr(px), Ptr(rstd), Ptr(pw)], &sizes[..]].concat();
        gpu.launch("rmsnorm_backward_f32", [128, 1, 1], 256, (width * 16) as u32, &backward).unwrap();
        let dw = gpu.f32(&w);
        let sum = [Ptr(dw), Ptr(partial), Int(128), Int(width as i32)];
        gpu.launch(
            "column_sum_f32",
            [width.div_ceil(if width % 4 == 0 { 128 } else { 32 }) as u32, 1, 1],
            256,
            0,
            &sum,
        )
        .unwrap();

        let (x, w, dy, mut want_dx) = (f64s(&x), f64s(&w), f64s(&dy), f64s(&dx));
        let (mut want_y, mut want_dw) = (vec![0.0; tokens * width], w.clone());
        for t in 0..tokens {
            let row = |i: usize| t * width + i;
            let r =
                1.0 / ((0..width).map(|i| x[row(i)] * x[row(i)]).sum::<f64>() / width as f64 + 1e-5).sqrt();
            let mean = (0..width).map(|i| dy[row(i)] * w[i] * x[row(i)] * r).sum::<f64>() / width as f64;
            for i in 0..width {
                want_y[row(i)] = x[row(i)] * r * w[i];
                want_dx[row(i)] += r * (dy[row(i)] * w[i] - x[row(i)] * r * mean);
                want_dw[i] += dy[row(i)] * x[row(i)] * r;
            }
        }
        assert!(worst(&gpu.read_f32(y, tokens * width), &want_y) < 1e-5, "y {tokens} {width}");
        assert!(worst(&gpu.read_f32(pdx, tokens * width), &want_dx) < 2e-5, "dx {tokens} {width}");
        assert!(worst(&gpu.read_f32(dw, width), &want_dw) < 1e-4, "dw {tokens} {width}");
    }
}

#[test]
fn rope_at_two_to_the_twenty() {
    let Some(text) = ptx("rope.cu") else { return };
    let gpu = Gpu::new(&text);
    let (tokens, heads, kv_heads, d) = (6, 2, 1, 16);
    for (interleaved, rotary) in [(0, 16), (1, 16), (0, 6), (1, 8)] {
        let (q, k) = (numbers(tokens * heads * d, 1), numbers(tokens * kv_heads * d, 2));
        let turns: Vec<u64> = (0..rotary / 2)
            .map(|i| {
                (10000f64.powf(-2.0 * i as f64 / rotary as f64) / std::f64::consts::TAU * 2f64.powi(64))
                    as u64
            })
            .collect();
        let spans = gpu.u32(&[0, 0, 2, 1000, 4, 1 << 20]); // start, skipping bias
        let (pq, pk) = (gpu.f32(&q), gpu.f32(&k));
        let pt = gpu.bytes(&turns.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<_>>());
        let sizes = [3, tokens, heads, kv_heads, d, rotary, interleaved].map(|n| Int(n as i32));
        let args =
            [&[Ptr(pq), Ptr(pk), Ptr(spans), Ptr(pt)], &sizes[..], &[Float(1.0), Float(1.25)]].concat();
        gpu.launch("rope_f32", [tokens as u32, 1, 1], 128, (rotary * 4).next_multiple_of(16) as u32, &args)
            .unwrap();
        for (x, at, heads) in [(&q, pq, heads), (&k, pk, kv_heads)] {
            let mut want = f64s(x);
            for t in 0..tokens {
                let position = t as u64 + [0, 0, 1000, 1000, 1 << 20, 1 << 20][t];
                for h in 0..heads {
                    for (pair, turn) in turns.iter().enumerate() {
                        let phase =
                            position.wrapping_mul(*turn) as f64 / 2f64.powi(64) * std::f64::consts::TAU;
                        let (i, j) = if interleaved == 1 {
                            (2 * pair, 2 * pair + 1)
                        } else {
                            (pair, pair + rotary / 2)
                        };
                        let (i, j) = ((t * heads + h) * d + i, (t * heads + h) * d + j);
                        let (a, b) = (f64::from(x[i]), f64::from(x[j]));
                        want[i] = 1.25 * (a * phase.cos() - b * phase.sin());
                        want[j] = 1.25 * (b * phase.cos() + a * phase.sin());
                    }
                }
            }
            assert!(
                worst(&gpu.read_f32(at, x.len()), &want) < 1e-6,
                "interleaved {interleaved}, {rotary} rotated"
            );
        }
    }
}

#[test]
fn embedding_both_ways() {
    let Some(text) = ptx("embed.cu") else { return };
    let gpu = Gpu::new(&text);
    for width in [24, 9] {
        let ids = [3u32, 40, 3, 0, 3, 40];
        let (table, dy) = (numbers(50 * width, 1), numbers(6 * width, 2));
        let (y, pids) = (gpu.memory.alloc(4 * 6 * width as u64).unwrap(), gpu.u32(&ids));
        let args = [Ptr(y), Ptr(gpu.f32(&table)), Ptr(pids), Int(6), Int(width as i32), Int(50)];
        gpu.launch("embed_f32", [2, 1, 1], 256, 0, &args).unwrap();
        let row = |id: u32| f64s(&table[id as usize * width..][..width]);
        assert_eq!(
            worst(&gpu.read_f32(y, 6 * width), &ids.iter().flat_map(|id| row(*id)).collect::<Vec<_>>()),
            0.0
        );
        let sums = gpu.f32(&table);
        let args = [Ptr(sums), Ptr(gpu.f32(&dy)), Ptr(pids), Int(6), Int(width as i32), Int(50)];
        gpu.launch("embed_backward_f32", [1, 32, 1], 256, 0, &args).unwrap();
        let mut want = f64s(&table);
        for (t, id) in ids.iter().enumerate() {
            (0..width).for_each(|i| want[*id as usize * width + i] += f64::from(dy[t * width + i]));
        }
        assert!(worst(&gpu.read_f32(sums, 50 * width), &want) < 1e-6);

        let beyond = [&[0u32, 50][..], &[7; 4]].concat();
        let args =
            |first, other| [Ptr(first), other, Ptr(gpu.u32(&beyond)), Int(6), Int(width as i32), Int(50)];
        let read = gpu.launch("embed_f32", [2, 1, 1], 256, 0, &args(y, Ptr(gpu.f32(&table))));
        let written = gpu.launch("embed_backward_f32", [1, 32, 1], 256, 0, &args(sums, Ptr(gpu.f32(&dy))));
        for ended in [read, written] {
            assert_eq!(ended.expect_err("an id that is no row").kind, FaultKind::Trap);
        }
    }
}

struct Case {
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
    window: usize,
    documents: Option<Vec<u32>>,
}

/// Plain attention in f64: weights p[h][i][j], o, lse.
fn forward(c: &Case, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (n, d, group) = (c.tokens, c.d, c.heads / c.kv_heads);
    let (mut p, mut o, mut lse) = (vec![0.0; c.heads * n * n], vec![0.0; q.len()], vec![0.0; n * c.heads]);
    for h in 0..c.heads {
        for i in 0..n {
            let sees = |j: usize| i - j < c.window && c.documents.as_ref().is_none_or(|x| x[i] == x[j]);
            let key = |j: usize| (j * c.kv_heads + h / group) * d;
            let at = (i * c.heads + h) * d;
            let score = |j: usize| {
                (0..d).map(|e| f64::from(q[at + e]) * f64::from(k[key(j) + e])).sum::<f64>()
                    / (d as f64).sqrt()
            };
            let sum: f64 = (0..=i).filter(|j| sees(*j)).map(|j| score(j).exp()).sum();
            lse[h * n + i] = sum.ln();
            for j in (0..=i).filter(|j| sees(*j)) {
                p[(h * n + i) * n + j] = score(j).exp() / sum;
                (0..d).for_each(|e| o[at + e] += p[(h * n + i) * n + j] * f64::from(v[key(j) + e]));
            }
        }
    }
    (p, o, lse)
}

#[test]
fn attention_backward() {
    let Some(text) = ptx("attention_backward.cu") else { return };
    let gpu = Gpu::new(&text);
    let documents = |n: usize| Some((0..n).map(|i| (i / 37) as u32).collect::<Vec<_>>());
    for (tokens, heads, kv_heads, d, window, docs) in [
        (1, 1, 1, 64, 9999, false),
        (100, 4, 2, 64, 9999, false),
        (90, 2, 1, 80, 20, false),
        (70, 1, 1, 96, 9999, true),
        (130, 2, 1, 128, 70, true),
        (70, 1, 1, 256, 9999, false),
    ] {
        let c = Case {
            tokens,
            heads,
            kv_heads,
            d,
            window,
            documents: if docs { documents(tokens) } else { None },
        };
        let (nq, nk) = (tokens * heads * d, tokens * kv_heads * d);
        let (q, k, v, d_o) = (numbers(nq, 1), numbers(nk, 2), numbers(nk, 3), numbers(nq, 4));
        let (p, o, lse) = forward(&c, &q, &k, &v);
        let f32s = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
        let stats = gpu.memory.alloc(8 * (tokens * heads) as u64).unwrap();
        let (po, pdo) = (gpu.bf16(&f32s(&o)), gpu.bf16(&d_o));
        let all = tokens * heads;
        let args = [
            Ptr(stats),
            Ptr(pdo),
            Ptr(po),
            Ptr(gpu.f32(&f32s(&lse))),
            Int(tokens as i32),
            Int(heads as i32),
            Int(d as i32),
            Int(all as i32),
        ];
        gpu.launch("attention_row_stats_bf16", [all.div_ceil(8) as u32, 1, 1], 256, 0, &args).unwrap();
        let pdocs = c.documents.as_ref().map_or(0, |x| gpu.u32(x));
        let alloc = |n: usize| gpu.memory.alloc(2 * n as u64).unwrap();
        let (dq, dk, dv) = (alloc(nq), alloc(nk), alloc(nk));
        let window = if window > 5000 { i32::MAX } else { window as i32 };
        let sizes = [tokens as i32, tokens as i32, heads as i32, kv_heads as i32, window].map(Int);
        let inputs = [pdo, stats, gpu.bf16(&q), gpu.bf16(&k), gpu.bf16(&v), pdocs].map(Ptr);
        let args = |out: &[Arg]| [out, &inputs, &sizes, &[Float(1.0 / (d as f32).sqrt())]].concat();
        let rows = (128 + 128) * (d as u32 + 8) * 2;
        let grid = [tokens.div_ceil(64) as u32, heads as u32, 1];
        gpu.launch(&format!("attention_dq_d{d}_bf16"), grid, 128, rows, &args(&[Ptr(dq)]))
            .unwrap_or_else(|e| panic!("{e}"));
        let grid = [tokens.div_ceil(64) as u32, kv_heads as u32, d.div_ceil(128) as u32];
        let out = [Ptr(dk), Ptr(dv)];
        gpu.launch(&format!("attention_dkv_d{d}_bf16"), grid, 128, rows + 512, &args(&out))
            .unwrap_or_else(|e| panic!("{e}"));

        let (mut want_q, mut want_k, mut want_v) = (vec![0.0; nq], vec![0.0; nk], vec![0.0; nk]);
        let scale = 1.0 / (d as f64).sqrt();
        for h in 0..heads {
            for i in 0..tokens {
                let at = (i * heads + h) * d;
                let dot: f64 = (0..d).map(|e| f64::from(d_o[at + e]) * o[at + e]).sum();
                for j in 0..=i {
                    let weight = p[(h * tokens + i) * tokens + j];
                    let key = (j * kv_heads + h / (heads / kv_heads)) * d;
                    let dp: f64 = (0..d).map(|e| f64::from(d_o[at + e]) * f64::from(v[key + e])).sum();
                    for e in 0..d {
                        want_q[at + e] += scale * weight * (dp - dot) * f64::from(k[key + e]);
                        want_k[key + e] += scale * weight * (dp - dot) * f64::from(q[at + e]);
                        want_v[key + e] += weight * f64::from(d_o[at + e]);
                    }
                }
            }
        }
        for (name, at, want) in [("dq", dq, want_q), ("dk", dk, want_k), ("dv", dv, want_v)] {
            let largest = want.iter().fold(1.0f64, |a, x| a.max(x.abs()));
            let error = worst(&gpu.read_bf16(at, want.len()), &want) / largest;
            assert!(error < 1.5e-2, "{name} of {tokens} tokens, head_dim {d}: {error}");
        }
    }
}

#[test]
fn decoding() {
    let Some(text) = ptx("decode.cu") else { return };
    let gpu = Gpu::new(&text);
    for (keys, queries, heads, kv_heads, d) in
        [(1, 1, 3, 1, 64), (300, 1, 9, 3, 64), (130, 2, 4, 2, 80), (200, 1, 4, 1, 128), (70, 1, 1, 1, 256)]
    {
        let c = Case { tokens: keys, heads, kv_heads, d, window: 9999, documents: None };
        let (q, k, v) =
            (numbers(keys * heads * d, 1), numbers(keys * kv_heads * d, 2), numbers(keys * kv_heads * d, 3));
        let (_, o, lse) = forward(&c, &q, &k, &v);
        let (splits, per_split) = (keys.div_ceil(128), 128);
        let parts = splits * kv_heads * 16;
        let (part_o, part_lse) =
            (gpu.memory.alloc((4 * parts * d) as u64).unwrap(), gpu.memory.alloc(4 * parts as u64).unwrap());
        let last = (keys - queries) * heads * d;
        let sizes = [per_split, queries, keys, heads, kv_heads].map(|n| Int(n as i32));
        let tail = [Int(i32::MAX), Float(1.0 / (d as f32).sqrt())];
        let inputs = [part_o, part_lse, gpu.bf16(&q[last..]), gpu.bf16(&k), gpu.bf16(&v), 0].map(Ptr);
        let shared = (16 + 256) * (d as u32 + 8) * 2;
        let grid = [splits as u32, kv_heads as u32, 1];
        gpu.launch(&format!("decode_d{d}_bf16"), grid, 128, shared, &[&inputs[..], &sizes, &tail].concat())
            .unwrap_or_else(|e| panic!("{e}"));
        let (po, plse) = (
            gpu.memory.alloc((2 * queries * heads * d) as u64).unwrap(),
            gpu.memory.alloc((4 * queries * heads) as u64).unwrap(),
        );
        let sizes = [splits, queries, heads, kv_heads, d].map(|n| Int(n as i32));
        let args = [&[Ptr(po), Ptr(plse), Ptr(part_o), Ptr(part_lse)], &sizes[..]].concat();
        gpu.launch("decode_combine_bf16", [(queries * heads) as u32, 1, 1], 128, 0, &args).unwrap();
        assert!(
            worst(&gpu.read_bf16(po, queries * heads * d), &o[last..]) < 8e-3,
            "{keys} keys, head_dim {d}"
        );
        let want: Vec<f64> =
            (0..heads).flat_map(|h| lse[h * keys + keys - queries..(h + 1) * keys].to_vec()).collect();
        assert!(worst(&gpu.read_f32(plse, queries * heads), &want) < 1e-4);
    }
}

#[test]
fn cross_entropy_and_its_slope() {
    let Some(text) = ptx("loss.cu") else { return };
    let gpu = Gpu::new(&text);
    let (tokens, vocab) = (3, 1003);
    let z: Vec<f32> = numbers(tokens * vocab, 1).iter().map(|x| 10.0 * x).collect();
    let targets = [5u32, u32::MAX, 1002];
    let (nll, slope) = (
        gpu.memory.alloc(4 * tokens as u64).unwrap(),
        gpu.memory.alloc((4 * tokens * vocab) as u64).unwrap(),
    );
    let weights = [3.0f32, 7.0, 0.25];
    for weighted in [false, true] {
        let numbers = [Ptr(0), Int(0), Int(vocab as i32), Float(0.5)];
        let weights_at = if weighted { gpu.f32(&weights) } else { 0 };
        let args =
            [&[nll, slope, gpu.f32(&z), gpu.u32(&targets), weights_at].map(Ptr)[..], &numbers].concat();
        gpu.launch("cross_entropy_f32", [tokens as u32, 1, 1], 512, 0, &args).unwrap();
        let (mut want_nll, mut want) = (vec![0.0; tokens], vec![0.0; tokens * vocab]);
        for t in [0, 2] {
            let row = f64s(&z[t * vocab..][..vocab]);
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            want_nll[t] = sum.ln() - row[targets[t] as usize];
            let scale = if weighted { 0.5 * f64::from(weights[t]) } else { 0.5 };
            (0..vocab).for_each(|i| {
                let hit = f64::from(u8::from(i == targets[t] as usize));
                want[t * vocab + i] = scale * (row[i].exp() / sum - hit)
            });
        }
        assert!(worst(&gpu.read_f32(nll, tokens), &want_nll) < 1e-5);
        assert!(worst(&gpu.read_f32(slope, tokens * vocab), &want) < 1e-6);
    }
}

#[test]
fn sums_of_squares() {
    let Some(text) = ptx("optim.cu") else { return };
    let gpu = Gpu::new(&text);
    for n in [1, 5, 4099, 100_003] {
        let x = numbers(n, 1);
        let partial = gpu.memory.alloc(8 * 256).unwrap();
        gpu.launch("sum_squares", [256, 1, 1], 256, 0, &[Ptr(partial), Ptr(gpu.f32(&x)), Long(n as i64)])
            .unwrap();
        let mut bytes = [0u8; 2048];
        gpu.memory.read(partial, &mut bytes).unwrap();
        let got: f64 = bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).sum();
        let want: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        assert!((got - want).abs() <= 1e-6 * want, "{n}: {got} {want}");
    }
}
