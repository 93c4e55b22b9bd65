//! Kernels that are not this project's, in the style of CUDA's own samples: they give the right answers, with all checks on.

mod common;

use common::{Arg, Gpu, numbers, worst};
use softcuda::{FaultKind, Launch, Options, launch};
use std::path::Path;
use std::sync::OnceLock;

fn gpu() -> Option<Gpu> {
    static PTX: OnceLock<Option<String>> = OnceLock::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/foreign.cu");
    PTX.get_or_init(|| common::compile(&source)).as_ref().map(|ptx| Gpu::new(ptx))
}

/// A launch with blocks of more than one dimension.
fn run(gpu: &Gpu, kernel: &str, grid: [u32; 3], block: [u32; 3], args: &[Arg]) {
    let kernel = &gpu.module.kernels[kernel];
    let mut params = vec![0u8; kernel.param_bytes as usize];
    for (p, arg) in kernel.params.iter().zip(args) {
        let word = match arg {
            Arg::Ptr(x) => x.to_le_bytes().to_vec(),
            Arg::Int(x) => x.to_le_bytes().to_vec(),
            Arg::Long(x) => x.to_le_bytes().to_vec(),
            Arg::Float(x) => x.to_le_bytes().to_vec(),
        };
        params[p.offset as usize..][..word.len()].copy_from_slice(&word);
    }
    let l = Launch { kernel, grid, block, dynamic_shared: 0, params: &params };
    launch(&gpu.memory, &l, &Options::default()).unwrap();
}

#[test]
fn a_reduction_by_shuffles() {
    let Some(gpu) = gpu() else { return };
    let x = numbers(10_007, 1);
    let (there, sum) = (gpu.f32(&x), gpu.f32(&[0.0]));
    let args = [Arg::Ptr(there), Arg::Ptr(sum), Arg::Int(x.len() as i32)];
    gpu.launch("reduce", [7, 1, 1], 256, 0, &args).unwrap();
    let want: f64 = x.iter().map(|x| f64::from(*x)).sum();
    assert!(worst(&gpu.read_f32(sum, 1), &[want]) < 1e-3);
}

#[test]
fn a_histogram_by_atomics() {
    let Some(gpu) = gpu() else { return };
    let data: Vec<u8> = numbers(5000, 2).iter().map(|x| (x * 100.0) as i32 as u8).collect();
    let (there, bins) = (gpu.bytes(&data), gpu.u32(&[0; 256]));
    let args = [Arg::Ptr(there), Arg::Ptr(bins), Arg::Int(5000)];
    gpu.launch("histogram", [3, 1, 1], 128, 0, &args).unwrap();
    let got: Vec<u32> = gpu.read_f32(bins, 256).iter().map(|x| x.to_bits()).collect();
    for (value, count) in got.iter().enumerate() {
        assert_eq!(*count as usize, data.iter().filter(|d| usize::from(**d) == value).count(), "bin {value}");
    }
}

#[test]
fn a_scan_in_shared_memory() {
    let Some(gpu) = gpu() else { return };
    let values: Vec<u32> = (0..512u32).map(|i| i * 7919 % 101).collect();
    let there = gpu.u32(&values);
    gpu.launch("scan", [1, 1, 1], 256, 2048, &[Arg::Ptr(there), Arg::Int(512)]).unwrap();
    let mut sum = 0;
    for (i, (got, value)) in gpu.read_f32(there, 512).iter().zip(&values).enumerate() {
        assert_eq!(got.to_bits(), sum, "element {i}");
        sum += value;
    }
}

#[test]
fn a_tiled_transpose_without_bank_conflicts() {
    let Some(gpu) = gpu() else { return };
    let (width, height) = (75usize, 50usize);
    let x = numbers(width * height, 3);
    let (to, from) = (gpu.f32(&vec![0.0; x.len()]), gpu.f32(&x));
    let args = [Arg::Ptr(to), Arg::Ptr(from), Arg::Int(width as i32), Arg::Int(height as i32)];
    run(&gpu, "transpose", [3, 2, 1], [32, 8, 1], &args);
    let got = gpu.read_f32(to, x.len());
    for (i, y) in got.iter().enumerate() {
        assert_eq!(*y, x[i % height * width + i / height], "element {i}");
    }
}

#[test]
fn a_grid_of_three_dimensions() {
    let Some(gpu) = gpu() else { return };
    let n = [9usize, 7, 5];
    let x = numbers(n[0] * n[1] * n[2], 4);
    let (to, from) = (gpu.f32(&vec![0.0; x.len()]), gpu.f32(&x));
    let sizes = n.map(|n| Arg::Int(n as i32));
    let args = [&[Arg::Ptr(to), Arg::Ptr(from)][..], &sizes].concat();
    run(&gpu, "mean_of_neighbours", [3, 2, 3], [4, 4, 2], &args);
    let near = |i: usize, n: usize| i.saturating_sub(1)..(i + 2).min(n);
    let mut want = Vec::new();
    for z in 0..n[2] {
        for y in 0..n[1] {
            for i in 0..n[0] {
                let mut all = Vec::new();
                for c in near(z, n[2]) {
                    for b in near(y, n[1]) {
                        all.extend(near(i, n[0]).map(|a| f64::from(x[(c * n[1] + b) * n[0] + a])));
                    }
                }
                want.push(all.iter().sum::<f64>() / all.len() as f64);
            }
        }
    }
    assert!(worst(&gpu.read_f32(to, x.len()), &want) < 1e-6);
}

#[test]
fn products_on_tensor_cores_by_wmma() {
    let Some(gpu) = gpu() else { return };
    let (m, n, k) = (48, 32, 64);
    let (a, b) = (numbers(m * k, 5), numbers(n * k, 6));
    let cell = |i: usize, j: usize| -> f64 {
        (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum::<f64>() / 2.0
    };
    let want: Vec<f64> = (0..m * n).map(|i| cell(i / n, i % n)).collect();
    // the inputs are bf16 numbers: f16 rounds the smallest of them
    for (kernel, a, b, tolerance) in
        [("wmma_f16", gpu.f16(&a), gpu.f16(&b), 1e-3), ("wmma_bf16", gpu.bf16(&a), gpu.bf16(&b), 1e-5)]
    {
        let c = gpu.f32(&vec![0.0; m * n]);
        let args = [Arg::Ptr(a), Arg::Ptr(b), Arg::Ptr(c), Arg::Int(n as i32), Arg::Int(k as i32)];
        let counters = gpu.launch(kernel, [2, 3, 1], 32, 0, &args).unwrap();
        assert_eq!(counters.tensor_ops, 2 * (m * n * k) as u64);
        assert!(worst(&gpu.read_f32(c, m * n), &want) < tolerance, "{kernel}");
    }
}

#[test]
fn wmma_through_shared_memory() {
    let Some(gpu) = gpu() else { return };
    let whole = |n: usize, seed| -> Vec<f32> { numbers(n, seed).iter().map(|x| (x * 5.0).round()).collect() };
    let (a, b) = (whole(16 * 8, 7), whole(16 * 32, 8));
    let (there, out) = ([gpu.f16(&a), gpu.f16(&b)], gpu.f16(&[0.0; 256]));
    gpu.launch("wmma_shared", [1; 3], 32, 0, &[Arg::Ptr(there[0]), Arg::Ptr(there[1]), Arg::Ptr(out)])
        .unwrap();
    for (i, got) in gpu.read_f16(out, 256).iter().enumerate() {
        let want = (0..16).fold(1.0, |sum, l| sum + a[l * 8 + i / 32] * b[l * 32 + i % 32]);
        assert_eq!(*got, want, "element {i}");
    }
}

#[test]
fn functions_that_are_called() {
    let Some(gpu) = gpu() else { return };
    let n = 64;
    let out = [gpu.u32(&vec![0; n]), gpu.bytes(&vec![0; 8 * n]), gpu.f32(&vec![0.0; n])];
    let args = [Arg::Ptr(out[0]), Arg::Ptr(out[1]), Arg::Ptr(out[2]), Arg::Int(7)];
    gpu.launch("calls", [2, 1, 1], 32, 0, &args).unwrap();
    let fibonacci = |n: usize| (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0;
    let number = |i: usize| if i % 3 == 1 { -1 } else { fibonacci(i % 11) };
    let mut sums = vec![0; 8 * n];
    gpu.memory.read(out[1], &mut sums).unwrap();
    let (numbers, combined) = (gpu.read_f32(out[0], n), gpu.read_f32(out[2], n));
    for i in 0..n {
        assert_eq!(numbers[i].to_bits() as i32, number(i ^ 1), "element {i}");
        let values: Vec<usize> = (0..=i % 7).map(|j| i + j).collect();
        let count = values.iter().filter(|v| *v % 5 == i % 5).count();
        let sum = f64::from_le_bytes(sums[8 * i..][..8].try_into().unwrap());
        assert_eq!(sum, (values.iter().sum::<usize>() + 1000 * count) as f64, "element {i}");
        let x = i as f32;
        assert_eq!(combined[i], [x + 7.0, x * 7.0, x - 7.0][i % 3], "element {i}");
    }
}

#[test]
fn recursion_that_does_not_end_is_told() {
    let Some(gpu) = gpu() else { return };
    let there = gpu.u32(&[1 << 30]);
    let fault = gpu.launch("too_deep", [1; 3], 1, 0, &[Arg::Ptr(there)]).unwrap_err();
    assert_eq!(fault.kind, softcuda::FaultKind::OutOfBounds);
    assert!(fault.to_string().contains("bytes of stack"), "{fault}");
}

#[test]
fn cooperative_groups_and_matches() {
    let Some(gpu) = gpu() else { return };
    let x: Vec<u32> = (0..128u32).map(|i| i * 7919 % 13).collect();
    let (there, out) = (gpu.u32(&x), [4, 128, 128].map(|n| gpu.u32(&vec![0; n])));
    let args = [there, out[0], out[1], out[2]].map(Arg::Ptr);
    gpu.launch("groups", [2, 1, 1], 64, 0, &args).unwrap();
    let read = |at, n| gpu.read_f32(at, n).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let sums: Vec<u32> = x.chunks(32).map(|c| c.iter().sum()).collect();
    assert_eq!(read(out[0], 4), sums);
    let (most, same) = (read(out[1], 128), read(out[2], 128));
    for i in 0..128usize {
        let (tile, warp) = (i & !7, i & !31);
        assert_eq!(most[i], *x[tile..tile + 8].iter().max().unwrap(), "element {i}");
        let peers: Vec<usize> = (0..32).filter(|l| x[warp + l] == x[i]).collect();
        assert_eq!(same[i] as usize, peers.len() * 1000 + peers.iter().sum::<usize>(), "element {i}");
    }
}

#[test]
fn votes_at_a_barrier() {
    const THREADS: usize = 100;
    let Some(gpu) = gpu() else { return };
    // an ordinary block, one with a zero, one with none below 90
    let values: Vec<u32> = [(1, 80), (0, 80), (90, 9)]
        .iter()
        .flat_map(|&(from, modulo)| (0..THREADS as u32).map(move |i| from + i * 7 % modulo))
        .collect();
    let seen = THREADS.div_ceil(33);
    let (there, out) = (gpu.u32(&values), gpu.u32(&vec![0; 3 * 3 * seen]));
    gpu.launch("barrier_votes", [3, 1, 1], THREADS as u32, 0, &[Arg::Ptr(there), Arg::Ptr(out)]).unwrap();
    let got: Vec<u32> = gpu.read_f32(out, 3 * 3 * seen).iter().map(|x| x.to_bits()).collect();
    for (block, values) in values.chunks(THREADS).enumerate() {
        let odd = values.iter().filter(|v| **v % 2 == 1).count() as u32;
        let all = values.iter().all(|v| *v > 0);
        let any = values.iter().any(|v| *v >= 90);
        for thread in 0..seen {
            let at = (block * seen + thread) * 3;
            assert_eq!(got[at], odd, "block {block}");
            assert_eq!((got[at + 1] != 0, got[at + 2] != 0), (all, any), "block {block}");
        }
    }
}

#[test]
fn barriers_of_different_kinds_do_not_meet() {
    let Some(gpu) = gpu() else { return };
    let out = gpu.u32(&[0; 32]);
    let fault = gpu.launch("mixed_barriers", [1; 3], 64, 0, &[Arg::Ptr(out)]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::DivergentBarrier);
    assert!(fault.to_string().contains("different kinds"), "{fault}");
}
