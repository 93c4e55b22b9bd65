//! What the real models of the paper's size take, as docs/guide.md tells it: plans alone, no weights.

mod common;

use common::cli::{Dir, Ran};

const GIB: f64 = (1u64 << 30) as f64;

fn plan(dir: &Dir, flags: &str) -> (Ran, f64) {
    let ran = dir.run(&format!("plan {flags} --json plan.json --device cpu --threads 2"));
    let total = dir.json("plan.json")["total"].as_f64().unwrap() / GIB;
    (ran, total)
}

#[test]
fn adapters_of_both_models_train_on_one_device_of_80_gib() {
    let dir = Dir::new();
    for (preset, most) in [("llama-7b", 16.0), ("llama-3-8b", 18.0)] {
        let flags =
            format!("train --preset {preset} --train-len 2k --target-len 128k --lora-rank 16 --recompute");
        let (ran, total) = plan(&dir, &format!("{flags} --device-memory 80GiB"));
        assert!(ran.ok().stdout.contains("fits in 80.00 GiB"));
        assert!(total < most, "{preset} takes {total} GiB");
        // the activations that are kept decide what is left: without recomputation it fits too
        let (ran, kept) = plan(&dir, &format!("{} --device-memory 80GiB", flags.replace(" --recompute", "")));
        ran.ok();
        let (_, half) = plan(&dir, &format!("{flags} 16"));
        assert!(total < half && half < kept, "{preset}: {total}, {half}, {kept}");
    }
}

#[test]
fn a_window_of_128k_is_read_on_one_device_of_80_gib() {
    let dir = Dir::new();
    for preset in ["llama-7b", "llama-3-8b"] {
        let (ran, _) =
            plan(&dir, &format!("eval-ppl --preset {preset} --windows 128k --device-memory 80GiB"));
        assert!(ran.ok().stdout.contains("fits in 80.00 GiB"));
    }
    dir.run("plan eval-ppl --preset llama-7b --model m --windows 2k").refused(2, &["--preset", "--model"]);
    dir.run("plan eval-ppl --preset lama --windows 2k").refused(2, &["--preset lama", "llama-7b"]);
}

#[test]
fn full_training_says_what_it_takes_and_how_many_devices_that_would_be() {
    let dir = Dir::new();
    let flags = "train --preset llama-7b --train-len 2k --target-len 128k --recompute --device-memory 80GiB";
    let (ran, total) = plan(&dir, flags);
    // 18 bytes a parameter (bf16, and in f32 master, two moments and gradient) and what a step works in
    assert!((18.0 * 6_738_415_616.0 / GIB..120.0).contains(&total), "{total}");
    let ran = ran.refused(3, &["the plan takes", "moments", "--lora-rank", "--optimizer adamw8bit"]);
    for part in ["arithmetic", "one device", "ZeRO-3", "take 2 devices of 80.00 GiB"] {
        assert!(ran.stdout.contains(part), "no \"{part}\"\n{}", ran.all());
    }
    let (ran, _) = plan(&dir, &flags.replace("80GiB", "24GiB"));
    let ran = ran.refused(3, &["--device-memory is 24.00 GiB"]);
    assert!(ran.stdout.contains("take 5 devices of 24.00 GiB"), "{}", ran.all());
    let (ran, _) = plan(&dir, &flags.replace("80GiB", "1GiB"));
    assert!(ran.refused(3, &[]).stdout.contains("would not split does not fit a device of 1.00 GiB"));
}

#[test]
fn moments_in_8_bits_let_7_billion_parameters_train_on_one_device_of_80_gib() {
    let dir = Dir::new();
    let flags = "--train-len 2k --target-len 128k --recompute --optimizer adamw8bit --device-memory 80GiB";
    let (ran, total) = plan(&dir, &format!("train --preset llama-7b {flags}"));
    assert!(ran.ok().stdout.contains("fits in 80.00 GiB"));
    // 12 bytes a parameter, 8 of 256 for scales, and what a step works in
    assert!((12.03 * 6_738_415_616.0 / GIB..78.0).contains(&total), "{total}");
    let (ran, _) = plan(&dir, &format!("train --preset llama-3-8b {flags}"));
    let ran = ran.refused(3, &["moments", "--lora-rank"]);
    assert!(!ran.stderr.contains("adamw8bit"), "advises what was done already\n{}", ran.all());
}

#[test]
fn a_plan_for_a_gpu_that_is_not_here_says_whose_scratch_it_has() {
    let ran = Dir::new().run("plan --preset tiny --train-len 32 --device cuda:99").ok();
    assert!(
        ran.stdout.starts_with("cuda:99 is not usable here: scratch is that of the CPU"),
        "{}",
        ran.all()
    );
    assert!(ran.stdout.contains("total"), "{}", ran.all());
}
