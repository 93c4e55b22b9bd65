//! The training step seen from outside: the same rows give the same update however they are cut into micro-batches,
//! clipping and decay do what they say, the rate follows its schedule, and the loss falls.

mod common;

use common::cli::Dir;
use pose_engine::backend::Element;
use pose_engine::checkpoint::Weights;

const TRAIN: &str = "train --preset tiny --data a.txt --train-len 64 --quiet --dtype f32 --warmup 0";

fn metrics(dir: &Dir, out: &str, key: &str) -> Vec<f64> {
    dir.lines(&format!("{out}/metrics.jsonl")).iter().map(|m| m[key].as_f64().unwrap()).collect()
}

/// All weights of a run, by name.
fn weights(dir: &Dir, out: &str) -> Vec<(String, Vec<f32>)> {
    let file = Weights::open(&dir.path(out)).unwrap();
    let read = |name: &str| {
        let (shape, mut values) = (file.shape(name).unwrap().to_vec(), Vec::new());
        file.read_into(name, &shape, &mut values).unwrap();
        (name.to_string(), values)
    };
    file.names().into_iter().map(read).collect()
}

/// ‖a − b‖, over all weights.
fn distance(a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b).flat_map(|((_, a), (_, b))| a.iter().zip(b));
    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let dir = Dir::new();
    let run = |out: &str, flags: &str| {
        dir.run(&format!("{TRAIN} --steps 3 --target-len 256 --out {out} {flags}")).ok();
    };
    run("start", "--lr 0");
    run("batch", "--lr 1e-3 --batch 4");
    run("accum", "--lr 1e-3 --grad-accum 4");
    run("mixed", "--lr 1e-3 --batch 2 --grad-accum 2");
    run("fewer", "--lr 1e-3 --batch 3");
    let (start, batch) = (weights(&dir, "start"), weights(&dir, "batch"));
    let moved = distance(&batch, &start);
    assert!(moved > 0.0);
    for out in ["accum", "mixed"] {
        let apart = distance(&weights(&dir, out), &batch);
        // f32 sums in another order; Adam's first steps divide a gradient by its own size and make the most of it
        assert!(apart <= 1e-3 * moved, "{out}: {apart:.3e} apart after moving by {moved:.3e}");
        for key in ["loss", "grad_norm"] {
            for (a, b) in metrics(&dir, out, key).iter().zip(metrics(&dir, "batch", key)) {
                assert!((a / b - 1.0).abs() < 1e-5, "{out}: {key} {a} against {b}");
            }
        }
        assert_eq!(metrics(&dir, out, "tokens"), [256.0, 512.0, 768.0]);
    }
    assert!(distance(&weights(&dir, "fewer"), &batch) > 1e-2 * moved, "a row more made no difference");
}

#[test]
fn clipping_bounds_the_gradient_and_not_what_is_reported() {
    let dir = Dir::new();
    // Adam's step hardly depends on the gradient's size but for eps: a norm clipped far below eps hardly moves anything
    let run = |out: &str, clip: &str| {
        dir.run(&format!("{TRAIN} --steps 1 --lr 1e-3 --out {out} --clip {clip}")).ok();
        (weights(&dir, out), metrics(&dir, out, "grad_norm")[0])
    };
    dir.run(&format!("{TRAIN} --steps 1 --lr 0 --out start")).ok();
    let start = weights(&dir, "start");
    let ((free, norm), (loose, _), (tight, reported)) =
        (run("free", "0"), run("loose", "1e6"), run("tight", "1e-9"));
    assert_eq!(distance(&free, &loose), 0.0, "a norm of {norm} was clipped at 1e6");
    assert_eq!(norm, reported, "the norm is reported before clipping");
    let (free, tight) = (distance(&free, &start), distance(&tight, &start));
    assert!(free > 0.0 && tight < 0.05 * free, "clipped {tight:.3e}, unclipped {free:.3e}");
}

#[test]
fn decay_shrinks_matrices_only() {
    let dir = Dir::new();
    let run = |out: &str, decay: &str| {
        dir.run(&format!("{TRAIN} --steps 1 --lr 1e-3 --out {out} --weight-decay {decay}")).ok();
        weights(&dir, out)
    };
    dir.run(&format!("{TRAIN} --steps 1 --lr 0 --out start")).ok();
    let (start, plain, decayed) = (weights(&dir, "start"), run("plain", "0"), run("decayed", "10"));
    let mut matrices = 0;
    for ((name, start), ((_, plain), (_, decayed))) in start.iter().zip(plain.iter().zip(&decayed)) {
        if name.ends_with("norm.weight") {
            assert_eq!(plain, decayed, "{name} is no matrix");
            continue;
        }
        matrices += 1;
        for ((w, p), d) in start.iter().zip(plain).zip(decayed) {
            // w shrinks by lr * decay = 1% of itself
            assert!((p - d - 0.01 * w).abs() <= 1e-6 * (1.0 + w.abs()), "{name}: {w} went to {p} and {d}");
        }
    }
    assert!(matrices > 20, "only {matrices} matrices");
}

#[test]
fn the_rate_follows_its_schedule() {
    let dir = Dir::new();
    let lr = |schedule: &str| {
        let run = TRAIN.replace("--warmup 0", "--warmup 2");
        dir.run(&format!("{run} --steps 6 --lr 8e-3 --schedule {schedule} --out {schedule}")).ok();
        metrics(&dir, schedule, "lr").iter().map(|lr| (lr * 1e6).round() as u64).collect::<Vec<_>>()
    };
    assert_eq!(lr("constant"), [4000, 8000, 8000, 8000, 8000, 8000]);
    assert_eq!(lr("linear"), [4000, 8000, 8000, 6000, 4000, 2000]);
    assert_eq!(lr("cosine"), [4000, 8000, 8000, 6828, 4000, 1172]);
}

/// The file of a run's moments; its state is of the last step.
fn moments(dir: &Dir, out: &str, step: u64) -> Weights {
    Weights::open_file(&dir.path(&format!("{out}/checkpoint-{step:06}/resume/optimizer.safetensors")))
        .unwrap()
}

#[test]
fn the_first_step_with_moments_in_8_bits_is_adamws_own() {
    let dir = Dir::new();
    let run = |optimizer: &str| {
        let flags = "--steps 1 --lr 1e-3 --weight-decay 0.1 --clip 0.5 --save-every 1";
        dir.run(&format!("{TRAIN} {flags} --optimizer {optimizer} --out {optimizer}")).ok();
        (weights(&dir, optimizer), moments(&dir, optimizer, 1))
    };
    let ((full, wide), (codes, narrow)) = (run("adamw"), run("adamw8bit"));
    // moments begin at zero, which their codes hold exactly
    assert_eq!(full, codes);
    for (name, _) in &full {
        let shape = wide.shape(&format!("m.{name}")).unwrap();
        let read = |file: &Weights, slot: &str, shape: &[usize]| {
            let mut values = Vec::new();
            file.read_into(&format!("{slot}.{name}"), shape, &mut values).unwrap();
            values
        };
        let m_codes = stored::<i8>(&narrow, &format!("m-codes.{name}"), shape);
        let v_codes = stored::<u8>(&narrow, &format!("v-codes.{name}"), shape);
        let blocks = [m_codes.len().div_ceil(256)];
        let (m, m_scales) = (read(&wide, "m", shape), read(&narrow, "m-scales", &blocks));
        let v: Vec<f32> = read(&wide, "v", shape).iter().map(|v| v.sqrt()).collect();
        coded(&format!("m of {name}"), &m, &m_codes, &m_scales, 127.0);
        coded(&format!("v of {name}"), &v, &v_codes, &read(&narrow, "v-scales", &blocks), 255.0);
        assert!(v.iter().zip(&v_codes).all(|(v, c)| *v == 0.0 || *c > 0.0), "{name}: a v is lost");
    }
}

/// Codes as numbers.
fn stored<C: Element + Into<f32>>(file: &Weights, name: &str, shape: &[usize]) -> Vec<f32> {
    let mut codes = Vec::new();
    let mut take = |_, read: &[C]| {
        codes.extend(read.iter().map(|code| (*code).into()));
        Ok(())
    };
    file.read_stored(name, shape, &mut take).unwrap();
    codes
}

/// Scales are the largest of each block, and each code is one of the two whose squares its value lies between.
fn coded(name: &str, values: &[f32], codes: &[f32], scales: &[f32], most: f32) {
    for ((x, codes), scale) in values.chunks(256).zip(codes.chunks(256)).zip(scales) {
        assert_eq!(*scale, x.iter().fold(0f32, |top, x| top.max(x.abs())), "{name}");
        for (x, code) in x.iter().zip(codes).filter(|_| *scale > 0.0) {
            let at = (most * (x.abs() / scale).sqrt()).copysign(*x);
            assert!((code - at).abs() < 1.001, "{name}: {x} of {scale} is {code}, should be at {at}");
        }
    }
}

/// The mean loss of a run's second half.
fn late_loss(dir: &Dir, out: &str) -> f64 {
    let losses = metrics(dir, out, "loss");
    let late = &losses[losses.len() / 2..];
    late.iter().sum::<f64>() / late.len() as f64
}

#[test]
fn moments_in_8_bits_train_as_well() {
    let dir = Dir::new();
    for dtype in ["f32", "bf16"] {
        let run = |optimizer: &str| {
            let flags =
                "--preset tiny --data a.txt --train-len 64 --steps 200 --batch 4 --lr 3e-3 --warmup 10";
            let out = format!("{dtype}-{optimizer}");
            dir.run(&format!("train {flags} --dtype {dtype} --optimizer {optimizer} --quiet --out {out}"))
                .ok();
            (metrics(&dir, &out, "loss")[0], late_loss(&dir, &out))
        };
        let ((first, full), (_, codes)) = (run("adamw"), run("adamw8bit"));
        assert!(full < 0.4 * first, "{dtype}: from {first} to {full}");
        assert!((codes / full - 1.0).abs() < 0.02, "{dtype}: a loss of {codes}, in f32 {full}");
    }
}

#[test]
fn a_small_model_learns_a_short_text_by_heart() {
    let dir = Dir::new();
    dir.write("line.txt", "she sells sea shells by the sea shore and the shells she sells are sea shells");
    for dtype in ["f32", "bf16"] {
        let args = "train --preset tiny --data line.txt --train-len 64 --method plain --steps 150 --batch 4 --lr 5e-3 --quiet";
        dir.run(&format!("{args} --dtype {dtype} --out {dtype}")).ok();
        let losses = metrics(&dir, dtype, "loss");
        assert!(losses[0] > 5.0, "{dtype}: an untrained model predicts bytes with a loss of {}", losses[0]);
        assert!(losses[149] < 0.3, "{dtype}: the loss only fell to {}", losses[149]);
    }
}
