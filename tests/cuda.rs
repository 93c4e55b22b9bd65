//! The unmodified binary on `--device cuda:0`, with the CUDA driver in software: it does what the CPU does, and says in one
//! sentence what stands in its way.

#[allow(dead_code)]
#[path = "common/cli.rs"]
mod cli;
#[allow(dead_code)]
#[path = "common/softcuda.rs"]
mod softcuda;

use cli::{Dir, Ran};

const TRAIN: &str =
    "train --preset tiny --data a.txt --train-len 24 --target-len 96 --chunks 2 --method pose --quiet";

/// The binary under softcuda with settings of its own; None where there are no kernels.
fn run(dir: &Dir, args: &str, settings: &[(&str, &str)]) -> Option<Ran> {
    let mut command = softcuda::under(dir.command(args))?;
    command.envs(settings.iter().copied());
    Some(dir.finish(command, args))
}

/// Trains for so many steps on both and holds the losses to each other; softcuda must have found nothing, leaks included.
fn follows_the_cpu(steps: usize, flags: &str, tolerance: f64) {
    let dir = Dir::new();
    let train = format!("{TRAIN} --steps {steps} {flags}");
    let Some(ran) = run(&dir, &format!("{train} --device cuda:0 --out gpu"), &[]) else { return };
    assert!(!ran.ok().stderr.contains("softcuda:"));
    dir.run(&format!("{train} --device cpu --out cpu")).ok();
    let (gpu, cpu) = (dir.losses("gpu"), dir.losses("cpu"));
    assert_eq!((gpu.len(), cpu.len()), (steps, steps));
    for (step, (g, c)) in gpu.iter().zip(&cpu).enumerate() {
        assert!((g / c - 1.0).abs() <= tolerance, "step {}: loss {g} on the GPU, {c} on the CPU", step + 1);
    }
}

#[test]
fn training_follows_the_cpu_in_bf16() {
    follows_the_cpu(20, "--dtype bf16", 0.01);
}

#[test]
fn training_follows_the_cpu_in_f32() {
    follows_the_cpu(20, "--dtype f32", 1e-4);
}

#[test]
fn training_with_moments_in_8_bits_follows_the_cpu() {
    follows_the_cpu(20, "--dtype f32 --optimizer adamw8bit --lr 1e-3", 1e-4);
}

#[test]
fn training_with_weighed_tokens_follows_the_cpu() {
    follows_the_cpu(6, "--dtype f32 --loss longce --lr 1e-3", 1e-4);
}

#[test]
fn training_adapters_follows_the_cpu() {
    for (dtype, tolerance) in [("bf16", 0.01), ("f32", 1e-4)] {
        let dir = Dir::with_model();
        let train = format!(
            "train --model m --data a.txt --train-len 24 --target-len 512 --rope linear --steps 8 --warmup 0 --lr 3e-3 --dtype {dtype} \
             --lora-rank 3 --lora-alpha 4 --lora-targets q,v,gate,down --lora-train embed,norm --quiet"
        );
        let Some(ran) = run(&dir, &format!("{train} --device cuda:0 --out gpu"), &[]) else { return };
        assert!(!ran.ok().stderr.contains("softcuda:"));
        dir.run(&format!("{train} --device cpu --out cpu")).ok();
        let (gpu, cpu) = (dir.losses("gpu"), dir.losses("cpu"));
        assert!(cpu.len() == 8 && cpu[7] < 0.9 * cpu[0], "{cpu:?}");
        for (step, (g, c)) in gpu.iter().zip(&cpu).enumerate() {
            assert!(
                (g / c - 1.0).abs() <= tolerance,
                "{dtype}, step {}: {g} on the GPU, {c} on the CPU",
                step + 1
            );
        }
        // merged on the GPU, read on the CPU
        let merge = format!("merge --adapter gpu --out merged --dtype {dtype} --device cuda:0 --quiet");
        run(&dir, &merge, &[]).unwrap().ok();
        let ppl = |model: &str| {
            dir.run(&format!(
                "eval-ppl --model {model} --data a.txt --windows 64 --tokens 300 --dtype {dtype} --quiet --json e.json"
            ))
            .ok();
            dir.json("e.json")["results"][0]["ppl"].as_f64().unwrap()
        };
        let (gpu, cpu) = (ppl("merged"), ppl("cpu"));
        assert!(
            (gpu / cpu - 1.0).abs() <= tolerance,
            "{dtype}: perplexity {gpu} merged on the GPU, {cpu} on the CPU"
        );
    }
}

#[test]
fn perplexity_and_greedy_text_are_the_cpus() {
    let dir = Dir::with_model();
    let eval = "eval-ppl --model m --data a.txt --windows 32,128 --tokens 600 --quiet";
    let Some(ran) = run(&dir, &format!("{eval} --dtype bf16 --device cuda:0 --json gpu.json"), &[]) else {
        return;
    };
    ran.ok();
    dir.run(&format!("{eval} --dtype bf16 --device cpu --json cpu.json")).ok();
    let (gpu, cpu) = (dir.json("gpu.json"), dir.json("cpu.json"));
    let perplexities = |json: &serde_json::Value| -> Vec<f64> {
        json["results"].as_array().unwrap().iter().map(|w| w["ppl"].as_f64().unwrap()).collect()
    };
    let (gpu, cpu) = (perplexities(&gpu), perplexities(&cpu));
    assert_eq!(gpu.len(), 2);
    for (g, c) in gpu.iter().zip(&cpu) {
        assert!((g / c - 1.0).abs() <= 0.005, "perplexity {g} on the GPU, {c} on the CPU");
    }
    let generate =
        "generate --model m --prompt alpha --max-new-tokens 24 --temperature 0 --dtype f32 --quiet";
    let gpu = run(&dir, &format!("{generate} --device cuda:0"), &[]).unwrap().ok();
    let cpu = dir.run(&format!("{generate} --device cpu")).ok();
    assert!(!cpu.stdout.trim().is_empty());
    assert_eq!(gpu.stdout, cpu.stdout);
}

#[test]
fn devices_names_the_gpu_and_its_image() {
    let dir = Dir::new();
    let Some(ran) = run(&dir, "devices --json d.json", &[("SOFTCUDA_CAPABILITY", "9.0")]) else { return };
    ran.ok();
    let found = &dir.json("d.json")["cuda"];
    assert_eq!(found["usable"], true);
    assert_eq!(found["devices"][0]["compute_capability"], "9.0");
    assert_eq!(found["devices"][0]["driver_version"], 13000);
}

#[test]
fn auto_takes_the_gpu_when_there_is_one() {
    let dir = Dir::new();
    let train = format!("{TRAIN} --steps 1 --dtype f32 --device auto --out out");
    let Some(ran) = run(&dir, &train, &[("SOFTCUDA_LOG", "on")]) else { return };
    assert!(ran.ok().stderr.contains("softcuda: adamw_f32"));
}

/// Nor does `--quiet` hide that it is not used.
#[test]
fn auto_says_why_it_leaves_out_a_gpu() {
    let generate = GENERATE.replace(" --device cuda:0", "");
    for (setting, value, said) in [
        (
            "SOFTCUDA_DRIVER_VERSION",
            "12040",
            "computing on the CPU: device cuda:0: the NVIDIA driver is for CUDA 12.4",
        ),
        (
            "SOFTCUDA_CAPABILITY",
            "7.5",
            "computing on the CPU: device cuda:0: a GPU of sm_75, and the kernels need sm_80 or newer",
        ),
        ("SOFTCUDA_DEVICES", "0", ""),
    ] {
        let Some(ran) = run(&Dir::with_model(), &generate, &[(setting, value)]) else { return };
        let ran = ran.ok();
        assert!(ran.stderr.contains(said) && ran.stderr.is_empty() == said.is_empty(), "{}", ran.all());
    }
}

/// What stands in the way is said in one sentence.
fn refused(args: &str, settings: &[(&str, &str)], code: i32, parts: &[&str]) {
    let dir = Dir::with_model();
    let Some(ran) = run(&dir, args, settings) else { return };
    let ran = ran.refused(code, parts);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.all());
}

const GENERATE: &str = "generate --model m --prompt alpha --max-new-tokens 4 --quiet --device cuda:0";

#[test]
fn no_driver() {
    if softcuda::directory().is_some() && std::env::var_os("POSE_TEST_HAS_DRIVER").is_none() {
        // a directory without a driver first; a machine that has one sets POSE_TEST_HAS_DRIVER
        Dir::with_model().run(GENERATE).refused(1, &["cuda:0", "no NVIDIA driver"]);
    }
}

#[test]
fn a_driver_too_old() {
    refused(GENERATE, &[("SOFTCUDA_DRIVER_VERSION", "12040")], 1, &["cuda:0", "CUDA 12.4", "13.0 or newer"]);
}

#[test]
fn no_device() {
    refused(GENERATE, &[("SOFTCUDA_DEVICES", "0")], 1, &["cuda:0", "finds no GPU"]);
}

#[test]
fn an_ordinal_that_does_not_exist() {
    let args = GENERATE.replace("cuda:0", "cuda:3");
    refused(&args, &[], 1, &["cuda:3", "no such device", "1 GPU"]);
}

#[test]
fn an_architecture_before_the_kernels() {
    refused(GENERATE, &[("SOFTCUDA_CAPABILITY", "7.5")], 1, &["cuda:0", "sm_75", "sm_80 or newer"]);
}

#[test]
fn a_corrupt_image() {
    refused(GENERATE, &[("SOFTCUDA_FAULT", "image")], 1, &["cuda:0", "image", "CUDA_ERROR_INVALID_IMAGE"]);
}

#[test]
fn a_missing_kernel() {
    let settings = [("SOFTCUDA_FAULT", "function:rope_bf16")];
    refused(GENERATE, &settings, 1, &["cuda:0", "kernel rope_bf16 is missing"]);
}

#[test]
fn out_of_device_memory_names_the_largest_buffers() {
    let train = format!("{TRAIN} --steps 1 --device cuda:0 --out out");
    refused(
        &train,
        &[("SOFTCUDA_MEMORY", "1MiB")],
        3,
        &["the plan takes", "free memory of the device", "largest"],
    );
}

#[test]
fn a_kernel_fault_is_named_and_a_resumed_run_ends_in_the_same_bits() {
    let dir = Dir::new();
    let train = format!("{TRAIN} --steps 4 --save-every 1 --dtype bf16 --device cuda:0");
    let Some(whole) = run(&dir, &format!("{train} --out whole"), &[]) else { return };
    whole.ok();
    let fault = [("SOFTCUDA_FAULT", "kernel:adamw_bf16:3")];
    let broken = run(&dir, &format!("{train} --out broken"), &fault).unwrap();
    broken.refused(1, &["cuda:0", "adamw_bf16", "CUDA_ERROR_ILLEGAL_ADDRESS"]);
    // two steps were saved; the rest is done from there
    run(&dir, "train --resume --out broken --device cuda:0 --quiet", &[]).unwrap().ok();
    assert_eq!(dir.losses("whole"), dir.losses("broken"));
    let weights = "checkpoint-000004/model.safetensors";
    assert_eq!(dir.read(&format!("whole/{weights}")), dir.read(&format!("broken/{weights}")));
}
