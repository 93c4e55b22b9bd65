//! Training adapters by the command line: what is saved, read again, resumed, merged and refused.

mod common;

use common::cli::Dir;
use serde_json::{Value, json};

const RUN: &str = "train --model m --data a.txt --train-len 32 --target-len 512 --rope yarn --steps 12 --batch 2 --lr 1e-2 \
                   --lora-rank 4 --lora-targets q,v,down --quiet";

fn perplexity(dir: &Dir, model: &str, dtype: &str) -> f64 {
    let flags = "--data a.txt --windows 128 --tokens 600 --quiet --json e.json";
    dir.run(&format!("eval-ppl --model {model} --dtype {dtype} {flags}")).ok();
    dir.json("e.json")["results"][0]["ppl"].as_f64().unwrap()
}

/// Names and shapes in a safetensors file.
fn tensors(dir: &Dir, file: &str) -> Vec<(String, Vec<usize>)> {
    let bytes = dir.read(file);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut found: Vec<_> = file.iter().map(|(name, t)| (name.to_string(), t.shape().to_vec())).collect();
    found.sort();
    found
}

#[test]
fn an_adapter_is_saved_as_peft_does_with_the_new_scaling_beside_it() {
    let dir = Dir::with_model();
    dir.run(&format!("{RUN} --lora-train embed,norm --lora-alpha 12 --out a")).ok();
    let config = dir.json("a/adapter_config.json");
    for (key, value) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("r", json!(4)),
        ("lora_alpha", json!(12.0)),
        ("target_modules", json!(["q_proj", "v_proj", "down_proj"])),
        (
            "modules_to_save",
            json!(["embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm", "norm"]),
        ),
        ("base_model_name_or_path", json!(dir.path("m").canonicalize().unwrap())),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let found = tensors(&dir, "a/adapter_model.safetensors");
    let has = |name: &str, shape: &[usize]| {
        let name = format!("base_model.model.{name}.weight");
        assert!(found.contains(&(name.clone(), shape.to_vec())), "no {name} of {shape:?} in {found:?}");
    };
    has("model.layers.0.self_attn.q_proj.lora_A", &[4, 64]);
    has("model.layers.3.self_attn.v_proj.lora_B", &[32, 4]);
    has("model.layers.3.mlp.down_proj.lora_A", &[4, 176]);
    has("model.layers.3.mlp.down_proj.lora_B", &[64, 4]);
    has("model.layers.2.input_layernorm", &[64]);
    has("model.norm", &[64]);
    // the embedding of this model is its head too
    has("model.embed_tokens", &[264, 64]);
    has("lm_head", &[264, 64]);
    assert_eq!(found.len(), 4 * 3 * 2 + 4 * 2 + 1 + 2);
    let model = dir.json("a/config.json");
    assert_eq!(
        (&model["rope_scaling"]["rope_type"], &model["max_position_embeddings"]),
        (&json!("yarn"), &json!(512))
    );
    assert!(!dir.names().iter().any(|name| name == "a/model.safetensors"));
    let losses = dir.losses("a");
    assert!(losses[11] < 0.8 * losses[0], "{losses:?}");
}

#[test]
fn adapter_and_merged_model_are_the_same_model() {
    for dtype in ["f32", "bf16"] {
        let dir = Dir::with_model();
        let run = format!("{RUN} --lora-train embed,norm --dtype {dtype}");
        let evaluated = format!("{run} --eval-data a.txt --eval-tokens 600");
        dir.run(&format!("{run} --out a")).ok();
        dir.run(&format!("{evaluated} --lora-merge --out at-once")).ok();
        dir.run(&format!("merge --adapter a --out merged --dtype {dtype} --quiet")).ok();
        let adapter = perplexity(&dir, "a", dtype);
        assert_eq!(adapter, perplexity(&dir, "merged", dtype), "{dtype}");
        assert_eq!(dir.read("merged/model.safetensors"), dir.read("at-once/model.safetensors"), "{dtype}");
        assert_eq!(dir.json("merged/config.json")["rope_scaling"]["rope_type"], "yarn");
        assert!(adapter < 0.5 * perplexity(&dir, "m", dtype), "{dtype}");
        // and what was trained, unmerged, is within rounding of it
        let trained = dir.lines("at-once/metrics.jsonl").iter().find_map(|m| m["ppl"].as_f64()).unwrap();
        dir.run(&format!(
            "eval-ppl --model a --dtype {dtype} --data a.txt --windows 512 --tokens 600 --quiet --json e.json"
        ))
        .ok();
        let merged = dir.json("e.json")["results"][0]["ppl"].as_f64().unwrap();
        let bound = if dtype == "f32" { 1e-5 } else { 0.02 };
        assert!(
            (trained / merged - 1.0).abs() <= bound,
            "{dtype}: {trained} while training, {merged} merged"
        );
    }
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let dir = Dir::with_model();
    for (name, flags) in [("model", RUN.to_string()), ("preset", RUN.replace("--model m", "--preset tiny"))] {
        let run = format!("{flags} --lora-train norm --lora-rs --schedule cosine --save-every 4");
        dir.run(&format!("{run} --out {name}")).ok();
        let file = |run: &str| dir.read(&format!("{run}/adapter_model.safetensors"));
        let whole = file(name);
        // as if it had been killed after step 8, on another number of threads
        std::fs::remove_dir_all(dir.path(&format!("{name}/checkpoint-000012"))).unwrap();
        std::fs::remove_file(dir.path(&format!("{name}/manifest.json"))).unwrap();
        let ran = dir.run(&format!("train --resume --out {name} --threads 2")).ok();
        assert!(ran.stderr.contains("going on after step 8"), "{}", ran.all());
        assert_eq!(file(name), whole, "{name}");
        let kept = tensors(&dir, &format!("{name}/checkpoint-000008/resume/optimizer.safetensors"));
        assert!(
            kept.iter().all(|(tensor, _)| tensor.contains("lora_") || tensor.contains("norm")),
            "{kept:?}"
        );
        dir.run(&format!("train --resume --out {name} --lora-alpha 9"))
            .refused(2, &["--lora-alpha 9", "started with 8"]);
    }
}

#[test]
fn a_run_goes_on_from_a_checkpoint_to_a_merged_model() {
    let dir = Dir::with_model();
    dir.run(&format!("{RUN} --steps 4 --save-every 4 --out a").replace("--steps 12 ", "")).ok();
    let checkpoint = perplexity(&dir, "a/checkpoint-000004", "bf16");
    assert_eq!(checkpoint, perplexity(&dir, "a", "bf16"));
    std::fs::remove_file(dir.path("a/manifest.json")).unwrap();
    // what is frozen is not in a checkpoint: the base must still be the one that the run was started with
    dir.run(
        "train --preset tiny --seed 1 --data a.txt --train-len 32 --steps 1 --dtype f32 --quiet --out twin",
    )
    .ok();
    dir.run("train --resume --out a --model twin").refused(1, &["adapter for another model"]);
    dir.run("train --resume --out a --model m --lora-merge --quiet").ok();
    assert_eq!(checkpoint, perplexity(&dir, "a", "bf16"));
    assert!(dir.names().contains(&"a/model.safetensors".to_string()));
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let dir = Dir::with_model();
    let fresh = "train --data a.txt --train-len 32 --steps 1 --dtype f32 --quiet";
    dir.run(&format!("{fresh} --preset tiny --seed 1 --out twin")).ok();
    dir.run(&format!("{fresh} --preset small --out larger")).ok();
    dir.run(&format!("{RUN} --out a")).ok();
    let other = ["adapter for another model", "fingerprint"];
    for model in ["twin", "larger"] {
        dir.run(&format!("merge --adapter a --model {model} --out x")).refused(1, &other);
    }
    // one that PEFT saved says nothing of its base but the name
    for file in ["base_model.json", "config.json", "manifest.json"] {
        std::fs::remove_file(dir.path(&format!("a/{file}"))).unwrap();
    }
    dir.run("merge --adapter a --model larger --out x")
        .refused(1, &["adapter for another model", "lora_", "[4, 64]"]);
    assert!(!dir.path("x").exists());
    let mut config: Value = dir.json("a/adapter_config.json");
    config["base_model_name_or_path"] = json!("gone");
    dir.write("a/adapter_config.json", config.to_string());
    dir.run("eval-ppl --model a --data a.txt --windows 32").refused(1, &["base_model_name_or_path", "gone"]);
    config["use_dora"] = json!(true);
    dir.write("a/adapter_config.json", config.to_string());
    dir.run("eval-ppl --model a --data a.txt --windows 32").refused(1, &["use_dora", "not supported"]);
}

/// PEFT may adapt what is no projection of a layer.
#[test]
fn an_adapter_of_the_embedding_is_refused() {
    let dir = Dir::with_model();
    dir.run(&format!("{RUN} --out a")).ok();
    std::fs::remove_file(dir.path("a/manifest.json")).unwrap();
    let bytes = dir.read("a/adapter_model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = vec![0u8; 4 * 4 * 64];
    let more = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4, 64], &numbers).unwrap();
    let name = "base_model.model.model.embed_tokens.lora_A.weight".to_string();
    let tensors = file.tensors().into_iter().chain([(name, more)]);
    dir.write("a/adapter_model.safetensors", safetensors::serialize(tensors, None).unwrap());
    let parts = ["adapter for another model", "embed_tokens.lora_A.weight"];
    dir.run("merge --adapter a --out x").refused(1, &parts);
    dir.run("eval-ppl --model a --data a.txt --windows 32").refused(1, &parts);
}

/// PEFT trains an embedding and a head that are one in the base model apart, or one of them alone.
#[test]
fn a_tied_embedding_without_its_head_is_refused() {
    let dir = Dir::with_model();
    dir.run(&format!("{RUN} --lora-train embed --out a")).ok();
    dir.run("merge --adapter a --out merged").ok();
    std::fs::remove_file(dir.path("a/manifest.json")).unwrap();
    let bytes = dir.read("a/adapter_model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let of = |name: &str| format!("base_model.model.{name}.weight");
    let (embed, head) = (of("model.embed_tokens"), of("lm_head"));
    for other in [&embed, &head] {
        let tensors: Vec<_> = file.tensors().into_iter().filter(|(name, _)| name != other).collect();
        assert_eq!(tensors.len() + 1, file.len(), "{other} is there");
        dir.write("a/adapter_model.safetensors", safetensors::serialize(tensors, None).unwrap());
        dir.run("merge --adapter a --out x").refused(1, &["embed_tokens", "lm_head", "one in this model"]);
    }
    let numbers = vec![0u8; file.tensor(&head).unwrap().data().len()];
    let view = file.tensor(&head).unwrap();
    let zero = safetensors::tensor::TensorView::new(view.dtype(), view.shape().to_vec(), &numbers).unwrap();
    let tensors = file.tensors().into_iter().filter(|(name, _)| *name != head).chain([(head.clone(), zero)]);
    dir.write("a/adapter_model.safetensors", safetensors::serialize(tensors, None).unwrap());
    dir.run("merge --adapter a --out x").refused(1, &["embed_tokens", "lm_head", "one in this model"]);
    assert!(!dir.path("x").exists());
}

#[test]
fn adapters_that_cannot_be_trained() {
    let dir = Dir::with_model();
    dir.run(&format!("{RUN} --out a")).ok();
    let run = "train --data a.txt --train-len 32 --steps 2 --quiet --out x";
    for (flags, code, parts) in [
        ("--model m --lora-rank 0", 2, &["--lora-rank 0", "at least 1"][..]),
        (
            "--model m --lora-rank 33",
            2,
            &["--lora-rank 33", "smaller side of k_proj", "32 x 64", "at most 32"],
        ),
        ("--model m --lora-rank 65 --lora-targets q", 2, &["--lora-rank 65", "q_proj", "at most 64"]),
        (
            "--model m --lora-rank 4 --lora-targets q,gat",
            2,
            &["--lora-targets", "q, k, v, o, gate, up, down", "'gate'"],
        ),
        ("--model m --lora-rank 4 --lora-train head", 2, &["--lora-train", "embed, norm"]),
        ("--model m --lora-rank 4 --lora-alpha 0", 2, &["--lora-alpha 0", "above 0"]),
        ("--model m --lora-merge", 2, &["--lora-merge", "--lora-rank"]),
        ("--model m --lora-alpha 8", 2, &["--lora-alpha", "--lora-rank"]),
        ("--model a --lora-rank 4", 1, &["a: is an adapter", "merge"]),
    ] {
        dir.run(&format!("{run} {flags}")).refused(code, parts);
        assert!(!dir.path("x").exists(), "{flags}");
    }
    dir.run(&format!("{} --out fresh", RUN.replace("--model m", "--preset tiny"))).ok();
    dir.run("eval-ppl --model fresh --data a.txt --windows 32")
        .refused(1, &["fresh weights", "--lora-merge"]);
    dir.run("merge --adapter a --out m").refused(2, &["--out m", "exists already"]);
}
