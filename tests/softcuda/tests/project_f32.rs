//! The f32 products and AdamW in both dtypes, against plain loops; every check on.

mod common;

use common::{Arg, Arg::*, Gpu, numbers, ptx, worst};

#[test]
fn the_three_products_in_f32() {
    let Some(text) = ptx("matmul_f32.cu") else { return };
    let gpu = Gpu::new(&text);
    for (m, n, k) in [(1, 1, 1), (64, 64, 16), (65, 33, 17), (7, 130, 70)] {
        let (x, w, dy, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3), numbers(n, 4));
        let (px, pw, pdy) = (gpu.f32(&x), gpu.f32(&w), gpu.f32(&dy));
        let run = |name: &str, rows: usize, columns: usize, args: &[Arg]| {
            let all = [args, &[m, n, k].map(|s| Int(s as i32))].concat();
            gpu.launch(name, [columns.div_ceil(64) as u32, rows.div_ceil(64) as u32, 1], 256, 0, &all)
                .unwrap();
        };
        let sum = |l: usize, f: &dyn Fn(usize) -> (f32, f32)| {
            (0..l).map(f).map(|(a, b)| f64::from(a) * f64::from(b)).sum::<f64>()
        };
        let y = gpu.memory.alloc(4 * (m * n) as u64).unwrap();
        run("matmul_nt_f32", m, n, &[Ptr(y), Ptr(px), Ptr(pw), Ptr(gpu.f32(&bias)), Ptr(pdy)]);
        let want: Vec<f64> = (0..m * n)
            .map(|at| {
                let (i, j) = (at / n, at % n);
                f64::from(bias[j]) + f64::from(dy[at]) + sum(k, &|l| (x[i * k + l], w[j * k + l]))
            })
            .collect();
        assert!(worst(&gpu.read_f32(y, m * n), &want) < 2e-5, "nt {m} {n} {k}");
        let dx = gpu.f32(&x);
        run("matmul_nn_f32", m, k, &[Ptr(dx), Ptr(pdy), Ptr(pw), Int(1)]);
        let want: Vec<f64> = (0..m * k)
            .map(|at| f64::from(x[at]) + sum(n, &|l| (dy[at / k * n + l], w[l * k + at % k])))
            .collect();
        assert!(worst(&gpu.read_f32(dx, m * k), &want) < 2e-5, "nn {m} {n} {k}");
        let dw = gpu.f32(&w);
        run("matmul_tn_f32", n, k, &[Ptr(dw), Ptr(pdy), Ptr(px)]);
        let want: Vec<f64> = (0..n * k)
            .map(|at| f64::from(w[at]) + sum(m, &|l| (dy[l * n + at / k], x[l * k + at % k])))
            .collect();
        assert!(worst(&gpu.read_f32(dw, n * k), &want) < 2e-5, "tn {m} {n} {k}");
    }
}

/// Two tensors of awkward lengths in one launch; `master` null or not.
fn adamw(name: &str, with_master: bool) {
    let Some(text) = ptx("optim.cu") else { return };
    let gpu = Gpu::new(&text);
    let lens = [4096 + 7, 5];
    let (lr, b1, b2, eps, step, clip) = (1e-2f64, 0.9f64, 0.95f64, 1e-8f64, 3, 0.5f64);
    let (mut tensors, mut runs, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (t, len) in lens.into_iter().enumerate() {
        let [p, m, v, g] = [1, 2, 3, 4].map(|seed| numbers(len, seed + 10 * t as u64));
        let v: Vec<f32> = v.iter().map(|x| x.abs()).collect();
        let master = if with_master { gpu.f32(&p) } else { 0 };
        let param = if with_master { gpu.bf16(&p) } else { gpu.f32(&p) };
        let decay = [0.1f32, 0.0][t];
        for word in [param, master, gpu.f32(&m), gpu.f32(&v), gpu.f32(&g), len as u64] {
            tensors.extend(word.to_le_bytes());
        }
        tensors.extend(decay.to_le_bytes());
        tensors.extend([0; 4]);
        runs.extend((0..len.div_ceil(4096)).flat_map(|r| [t as u32, r as u32]));
        kept.push((param, if with_master { master } else { param }, p, m, v, g, f64::from(decay)));
    }
    let kernel = gpu.module.kernels[name].clone();
    let numbers = [lr, b1, b2, eps, 1.0 / (1.0 - b1.powi(step)), 1.0 / (1.0 - b2.powi(step)), clip];
    let mut params = [gpu.bytes(&tensors).to_le_bytes(), gpu.u32(&runs).to_le_bytes()].concat();
    params.extend(numbers.iter().flat_map(|x| (*x as f32).to_le_bytes()));
    let grid = [runs.len() as u32 / 2, 1, 1];
    let l =
        softcuda::Launch { kernel: &kernel, grid, block: [256, 1, 1], dynamic_shared: 0, params: &params };
    softcuda::launch(&gpu.memory, &l, &softcuda::Options::default()).unwrap();
    for (param, master, p, m, v, g, decay) in kept {
        let want: Vec<f64> = (0..p.len())
            .map(|i| {
                let g = f64::from(g[i]) * clip;
                let m = (b1 * f64::from(m[i]) + (1.0 - b1) * g) / (1.0 - b1.powi(step));
                let v = (b2 * f64::from(v[i]) + (1.0 - b2) * g * g) / (1.0 - b2.powi(step));
                f64::from(p[i]) - lr * (m / (v.sqrt() + eps) + decay * f64::from(p[i]))
            })
            .collect();
        let got = gpu.read_f32(master, p.len());
        let relative = got
            .iter()
            .zip(&want)
            .map(|(g, w)| (f64::from(*g) - w).abs() / (1.0 + w.abs()))
            .fold(0.0, f64::max);
        assert!(relative < 1e-5, "{relative}");
        if with_master {
            let rounded: Vec<f64> =
                got.iter().map(|x| f64::from(half::bf16::from_f32(*x).to_f32())).collect();
            assert_eq!(worst(&gpu.read_bf16(param, p.len()), &rounded), 0.0);
        }
    }
}

#[test]
fn adamw_with_and_without_a_master() {
    adamw("adamw_bf16", true);
    adamw("adamw_f32", false);
}
