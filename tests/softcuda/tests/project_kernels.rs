//! The project's own kernels, as nvcc compiled them, against plain loops; every check on.

mod common;

use common::{Arg::*, Gpu, numbers, ptx, worst};

#[test]
fn every_kernel_file_is_read() {
    let mut unknown = std::collections::BTreeMap::new();
    for name in [
        "embed",
        "norm",
        "layernorm",
        "unit",
        "gelu",
        "swiglu",
        "rope",
        "matmul",
        "matmul_f32",
        "attention_forward",
        "attention_backward",
        "decode",
        "loss",
        "optim",
    ] {
        let Some(text) = ptx(&format!("{name}.cu")) else { return };
        let gpu = Gpu::new(&text);
        assert!(!gpu.module.kernels.is_empty(), "{name}.cu has no kernel");
        for kernel in gpu.module.kernels.values() {
            for i in &kernel.code {
                if let softcuda::program::Code::Unknown(op) = &i.code {
                    unknown.insert(format!("{name}.cu: {op}"), format!("{} line {}", kernel.name, i.line));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "not known: {unknown:#?}");
}

#[test]
fn swiglu_forward() {
    let Some(text) = ptx("swiglu.cu") else { return };
    let gpu = Gpu::new(&text);
    for n in [1, 7, 8, 1000, 5003] {
        let (gate, up) = (numbers(n, 1), numbers(n, 2));
        let (y, g, u) = (gpu.memory.alloc(2 * n as u64).unwrap(), gpu.bf16(&gate), gpu.bf16(&up));
        let counters =
            gpu.launch("swiglu_bf16", [2, 1, 1], 256, 0, &[Ptr(y), Ptr(g), Ptr(u), Long(n as i64)]).unwrap();
        let want: Vec<f64> = gate
            .iter()
            .zip(&up)
            .map(|(g, u)| f64::from(*g) / (1.0 + (-f64::from(*g)).exp()) * f64::from(*u))
            .collect();
        assert!(worst(&gpu.read_bf16(y, n), &want) < 2e-3);
        assert_eq!(counters.loads.bytes, 4 * n as u64);
        assert_eq!(counters.stores.bytes, 2 * n as u64);
        // the last bytes are a request of their own, which may need a sector more
        assert!(counters.loads.sectors <= counters.loads.ideal_sectors + 2, "{:?}", counters.loads);
    }
}

fn product(
    m: usize, n: usize, k: usize, a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    (0..m * n).map(|at| (0..k).map(|l| f64::from(a(at / n, l)) * f64::from(b(l, at % n))).sum()).collect()
}

#[test]
fn the_three_products() {
    let Some(text) = ptx("matmul.cu") else { return };
    let gpu = Gpu::new(&text);
    for (m, n, k) in
        [(128, 128, 256), (1, 8, 8), (136, 264, 200), (200, 72, 40), (33, 65, 17), (129, 130, 131)]
    {
        let (x, w, dy) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
        let (px, pw, pdy) = (gpu.bf16(&x), gpu.bf16(&w), gpu.bf16(&dy));
        let sizes = [Int(m as i32), Int(n as i32), Int(k as i32)];
        let grid = |rows: usize, columns: usize| [columns.div_ceil(128) as u32, rows.div_ceil(128) as u32, 1];
        let suffix = if [m, n, k].iter().all(|s| s % 8 == 0) { "bf16" } else { "ragged_bf16" };
        let run = |name: &str, grid, args: &[common::Arg]| {
            let all = [args, &sizes].concat();
            gpu.launch(&format!("{name}_{suffix}"), grid, 128, 65536, &all)
                .unwrap_or_else(|e| panic!("{m} {n} {k}: {e}"))
        };
        let y = gpu.memory.alloc(4 * (m * n) as u64).unwrap();
        let c = run("matmul_nt_f32out", grid(m, n), &[Ptr(y), Ptr(px), Ptr(pw), Ptr(0)]);
        let want = product(m, n, k, |i, l| x[i * k + l], |l, j| w[j * k + l]);
        assert!(worst(&gpu.read_f32(y, m * n), &want) < 1e-4, "nt {m} {n} {k}");
        if suffix == "bf16" && (m, n, k) == (128, 128, 256) {
            assert_eq!(c.bank_conflicts(), 0);
            assert_eq!(c.async_copies.sectors, c.async_copies.ideal_sectors);
            assert_eq!(c.stores.sectors, c.stores.ideal_sectors);
        }
        let tiles = (m.div_ceil(128) * n.div_ceil(128)) as u64;
        assert_eq!(c.tensor_ops, 2 * tiles * 128 * 128 * k.next_multiple_of(32) as u64);
        let dx = gpu.memory.alloc(2 * (m * k) as u64).unwrap();
        run("matmul_nn", grid(m, k), &[Ptr(dx), Ptr(pdy), Ptr(pw), Int(0)]);
        let want = product(m, k, n, |i, l| dy[i * n + l], |l, j| w[l * k + j]);
        let scale = want.iter().fold(0f64, |a, x| a.max(x.abs()));
        assert!(worst(&gpu.read_bf16(dx, m * k), &want) < 4e-3 * scale, "nn {m} {n} {k}");
        let before = numbers(n * k, 4);
        let dw = gpu.f32(&before);
        run("matmul_tn", grid(n, k), &[Ptr(dw), Ptr(pdy), Ptr(px)]);
        let mut want = product(n, k, m, |i, l| dy[l * n + i], |l, j| x[l * k + j]);
        want.iter_mut().zip(&before).for_each(|(w, b)| *w += f64::from(*b));
        assert!(worst(&gpu.read_f32(dw, n * k), &want) < 1e-4, "tn {m} {n} {k}");
    }
}

struct Shape {
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
    window: usize,
}

/// Plain causal attention in f64: o, lse.
fn attention(q: &[f32], k: &[f32], v: &[f32], s: &Shape) -> (Vec<f64>, Vec<f64>) {
    let (d, group) = (s.d, s.heads / s.kv_heads);
    let (mut o, mut lse) = (vec![0.0; q.len()], vec![0.0; s.tokens * s.heads]);
    for i in 0..s.tokens {
        for h in 0..s.heads {
            let at = (i * s.heads + h) * d;
            let key = |j: usize| (j * s.kv_heads + h / group) * d;
            let first = (i + 1).saturating_sub(s.window);
            let scores: Vec<f64> = (first..=i)
                .map(|j| {
                    (0..d).map(|c| f64::from(q[at + c]) * f64::from(k[key(j) + c])).sum::<f64>()
                        / (d as f64).sqrt()
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
            lse[h * s.tokens + i] = max + sum.ln();
            for c in 0..d {
                let weighted =
                    scores.iter().zip(first..).map(|(x, j)| (x - max).exp() * f64::from(v[key(j) + c]));
                o[at + c] = weighted.sum::<f64>() / sum;
            }
        }
    }
    (o, lse)
}

#[test]
fn attention_forward() {
    let Some(text) = ptx("attention_forward.cu") else { return };
    let gpu = Gpu::new(&text);
    for (tokens, heads, kv_heads, d, window, tile) in [
        (1, 1, 1, 64, 9999),
        (200, 2, 1, 64, 9999),
        (150, 2, 2, 80, 40),
        (70, 1, 1, 96, 9999),
        (300, 2, 1, 128, 100),
        (130, 1, 1, 256, 9999),
    ]
    .into_iter()
    .flat_map(|(tokens, heads, kv_heads, d, window)| {
        // in tiles of 64 keys, of 32, or of either
        let tiles: &[usize] = if d < 128 {
            &[64]
        } else if d > 128 {
            &[32]
        } else {
            &[64, 32]
        };
        tiles.iter().map(move |tile| (tokens, heads, kv_heads, d, window, *tile))
    }) {
        let s = Shape { tokens, heads, kv_heads, d, window };
        let (q, k, v) = (
            numbers(tokens * heads * d, 1),
            numbers(tokens * kv_heads * d, 2),
            numbers(tokens * kv_heads * d, 3),
        );
        let (o, lse) = (
            gpu.memory.alloc(2 * q.len() as u64).unwrap(),
            gpu.memory.alloc(4 * (tokens * heads) as u64).unwrap(),
        );
        let shared = (128 + 4 * tile as u32) * (d as u32 + 8) * 2;
        let args = [
            Ptr(o),
            Ptr(lse),
            Ptr(gpu.bf16(&q)),
            Ptr(gpu.bf16(&k)),
            Ptr(gpu.bf16(&v)),
            Ptr(0),
            Int(tokens as i32),
            Int(tokens as i32),
            Int(heads as i32),
            Int(kv_heads as i32),
            Int(if window > 5000 { i32::MAX } else { window as i32 }),
            Float(1.0 / (d as f32).sqrt()),
        ];
        let grid = [tokens.div_ceil(128) as u32, heads as u32, 1];
        let counters = gpu
            .launch(
                &format!("attention{}_d{d}_bf16", if tile == 32 { "_narrow" } else { "" }),
                grid,
                256,
                shared,
                &args,
            )
            .unwrap_or_else(|e| panic!("{e}"));
        let (want_o, want_lse) = attention(&q, &k, &v, &s);
        assert!(worst(&gpu.read_bf16(o, q.len()), &want_o) < 8e-3, "o of {tokens} tokens, head_dim {d}");
        assert!(
            worst(&gpu.read_f32(lse, tokens * heads), &want_lse) < 1e-4,
            "lse of {tokens} tokens, head_dim {d}"
        );
        assert_eq!(counters.bank_conflicts(), 0, "head_dim {d}");
        assert_eq!(counters.async_copies.sectors, counters.async_copies.ideal_sectors, "head_dim {d}");
    }
}
