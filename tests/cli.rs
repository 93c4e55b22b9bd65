//! Every command: its help, the flags that all have, sizes as people write them, recipes, and what a pipe sees.

mod common;

use common::cli::Dir;

/// All commands that --help lists, and those of `plan`.
fn commands(dir: &Dir) -> Vec<String> {
    let listed = |args: &str| -> Vec<String> {
        let help = dir.run(args).ok().stdout;
        let (_, list) = help.split_once("\nCommands:\n").expect("a list of commands");
        let (list, _) = list.split_once("\n\n").unwrap();
        // a line on which a description goes on has no name
        let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        names.filter(|name| !["", "help"].contains(name)).map(String::from).collect()
    };
    let of_plan = listed("plan --help").into_iter().map(|name| format!("plan {name}"));
    listed("--help").into_iter().chain(of_plan).collect()
}

#[test]
fn every_command_has_help_with_an_example_and_the_common_flags() {
    let dir = Dir::new();
    let commands = commands(&dir);
    assert!(commands.contains(&"plan train".into()), "{commands:?}");
    for command in commands {
        let help = dir.run(&format!("{command} --help")).ok().stdout;
        for part in ["Example", "pose-engine ", "--threads", "--quiet"] {
            assert!(help.contains(part), "{command} --help has no \"{part}\":\n{help}");
        }
        let writes_files = ["logits", "merge", "report", "completions", "man"].contains(&command.as_str());
        assert_eq!(
            help.contains("--json FILE") || help.contains("--json <FILE>"),
            !writes_files,
            "{command} --json"
        );
        assert_eq!(help.contains("--partial"), command.contains("eval-"), "{command} --partial");
    }
    for bare in ["", "nothing"] {
        assert_eq!(dir.run(bare).code, Some(2));
    }
    assert!(dir.run("--version").ok().stdout.starts_with("pose-engine "));
}

#[test]
fn train_has_the_flags_that_others_rely_on() {
    let help = Dir::new().run("train --help").ok().stdout;
    for flag in [
        "model",
        "preset",
        "data",
        "out",
        "method",
        "train-len",
        "target-len",
        "chunks",
        "chunk-lengths",
        "content",
        "rope",
        "rope-factor",
        "steps",
        "batch",
        "grad-accum",
        "lr",
        "warmup",
        "schedule",
        "weight-decay",
        "clip",
        "seed",
        "dtype",
        "recompute",
        "lora-rank",
        "lora-alpha",
        "lora-rs",
        "lora-targets",
        "lora-train",
        "lora-merge",
        "mix",
        "pack",
        "probe-every",
        "early-stop",
        "save-best",
        "tensorboard",
        "eval-data",
        "eval-every",
        "save-every",
        "resume",
        "config",
        "device",
        "text-field",
    ] {
        assert!(help.contains(&format!("--{flag}")), "train has no --{flag}");
    }
}

#[test]
fn completions_and_pages_have_what_help_has() {
    let dir = Dir::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = dir.run(&format!("completions {shell}")).ok().stdout;
        for part in ["pose-engine", "eval-ppl", "target-len"] {
            assert!(script.contains(part), "{shell}: no {part}");
        }
        // the generators of the other two complete no values
        assert_eq!(script.contains("randpos"), ["bash", "zsh", "fish"].contains(&shell), "{shell}");
    }
    let page = |args: &str| dir.run(&format!("man {args}")).ok().stdout.replace("\\-", "-");
    assert!(page("").starts_with(".ie") && page("").contains(".TH pose-engine 1"), "{}", page(""));
    for part in
        [".TH pose-engine-train 1", "--target-len", "Target context length Lt", "pose-engine train --resume"]
    {
        assert!(page("train").contains(part), "no {part} in {}", page("train"));
    }
    let program = concat!("\"pose-engine ", env!("CARGO_PKG_VERSION"), "\"");
    assert!(
        page("train").lines().any(|line| line.starts_with(".TH") && line.contains(program)),
        "{}",
        page("train")
    );
    assert!(page("plan eval-ppl").contains("--windows"));
    // twice: pages take the place of earlier ones
    for _ in 0..2 {
        dir.run("man --out share/man1 --quiet").ok();
    }
    for command in commands(&dir) {
        let text = dir.read(&format!("share/man1/pose-engine-{}.1", command.replace(' ', "-")));
        assert_eq!(String::from_utf8(text).unwrap(), dir.run(&format!("man {command}")).ok().stdout);
    }
    dir.run("man --out a.txt").refused(1, &["a.txt", "making the directory"]);
}

#[test]
fn sizes_are_taken_as_people_write_them() {
    let dir = Dir::with_model();
    let plan = |flags: &str| {
        dir.run(&format!("plan --preset tiny --json plan.json {flags}")).ok();
        dir.json("plan.json")
    };
    assert_eq!(plan("--train-len 2048 --target-len 131072"), plan("--train-len 2k --target-len 128K"));
    let ppl = |windows: &str| {
        dir.run(&format!(
            "eval-ppl --model m --data a.txt --windows {windows} --tokens 2k --json e.json --quiet"
        ))
        .ok();
        let results = dir.json("e.json")["results"].as_array().unwrap().clone();
        results
            .iter()
            .map(|r| (r["window"].as_u64().unwrap(), r["ppl"].as_f64().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(ppl("1k,2K"), ppl("1024,2048"));
    dir.run("coverage --train-len 1k --target-len 4k --rows 1k --json c.json --plot c.svg").ok();
    assert_eq!(dir.json("c.json")["probability"].as_array().unwrap().len(), 4096);
    assert!(dir.read("c.svg").starts_with(b"<svg"));
}

#[test]
fn what_keys_and_values_are_kept_as_is_a_choice() {
    let dir = Dir::with_model();
    for command in ["eval-ppl", "eval-passkey", "eval-needle", "generate", "plan eval-ppl"] {
        let help = dir.run(&format!("{command} --help")).ok().stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["--kv-cache", "int8 takes about half the memory of bf16"] {
            assert!(help.contains(part), "{command} --help has no \"{part}\":\n{help}");
        }
    }
    let ppl = |flags: &str| {
        let args = "eval-ppl --model m --data a.txt --windows 128 --tokens 600 --quiet --json e.json";
        dir.run(&format!("{args} {flags}")).ok();
        (dir.json("e.json")["kv_cache"].clone(), dir.json("e.json")["results"][0]["ppl"].as_f64().unwrap())
    };
    let (plain, int8) = (ppl("--dtype f32"), ppl("--dtype f32 --kv-cache int8"));
    assert_eq!(ppl("--dtype f32 --kv-cache f32"), plain);
    assert_eq!((&plain.0, &int8.0), (&"f32".into(), &"int8".into()));
    assert_ne!(int8.1, plain.1, "--kv-cache int8 changed nothing");
    assert!((int8.1 / plain.1 - 1.0).abs() < 1e-3, "{int8:?} instead of {plain:?}");
    let cache = |flags: &str| {
        dir.run(&format!("plan eval-ppl --model m --windows 16k --json p.json {flags}")).ok();
        dir.json("p.json")["by_kind"]["KV cache"].as_f64().unwrap()
    };
    let heads_of = |bytes: f64| bytes / (16 << 10) as f64;
    let (bf16, int8) = (heads_of(cache("")), heads_of(cache("--kv-cache int8")));
    let config = dir.json("m/config.json");
    let scales = 2.0 * 4.0 * config["num_key_value_heads"].as_f64().unwrap();
    assert_eq!(int8, bf16 / 2.0 + scales);
    dir.run("generate --model m --prompt fox --max-new-tokens 8 --kv-cache int8 --quiet").ok();
}

#[test]
fn a_recipe_file_has_the_keys_of_the_flags_and_flags_win() {
    let dir = Dir::new();
    dir.write(
        "recipe.toml",
        "preset = 'tiny'\ndata = ['a.txt']\ntrain-len = '32'\ntarget-len = '1k'\nsteps = 3\nbatch = 2\nwarmup = 0\n\
         lr = 1e-3\nrope = 'yarn'\nmethod = 'randpos'\nrecompute = 2\n",
    );
    let ran = dir.run("train --config recipe.toml --out m --steps 2 --method plain").ok();
    let recipe = String::from_utf8(dir.read("m/recipe.toml")).unwrap();
    for line in [
        "steps = 2",
        "method = \"plain\"",
        "target-len = 1024",
        "batch = 2",
        "rope = \"yarn\"",
        "warmup = 0",
        "recompute = 2",
    ] {
        assert!(recipe.lines().any(|l| l == line), "the saved recipe has no {line}:\n{recipe}");
        assert!(ran.stderr.contains(line), "the recipe was not printed\n{}", ran.all());
    }
    assert!(ran.stderr.contains("memory plan:") && ran.stderr.contains("activations"), "{}", ran.all());
    // what a run saved is a recipe itself
    dir.run("train --config m/recipe.toml --out again --quiet").ok();
    assert_eq!(dir.read("again/model.safetensors"), dir.read("m/model.safetensors"));
}

#[test]
fn quiet_says_results_only() {
    let dir = Dir::new();
    let train = dir.run("train --preset tiny --data a.txt --train-len 32 --steps 1 --out m --quiet").ok();
    let read = dir.run("eval-ppl --model m --data a.txt --windows 64 --tokens 256 --quiet").ok();
    for ran in [&train, &read] {
        assert!(ran.stderr.is_empty() && !ran.stdout.is_empty(), "{}", ran.all());
    }
    let loud = dir.run("eval-ppl --model m --data a.txt --windows 64 --tokens 256").ok();
    assert!(loud.stderr.contains("protocol: sliding windows, stride half the window"), "{}", loud.all());
    assert!(!loud.stderr.contains('\u{1b}'), "no terminal, no escape codes\n{}", loud.all());
}

#[test]
fn a_pipe_sees_a_line_of_progress_now_and_then() {
    let dir = Dir::new();
    let ran = dir.run("train --preset tiny --data a.txt --train-len 32 --steps 3 --out m").ok();
    let line = ran.stderr.lines().find(|line| line.starts_with("train 3/3 ")).unwrap_or_default();
    for part in ["loss ", "norm ", "lr ", "tok/s"] {
        assert!(line.contains(part), "no \"{part}\" in \"{line}\"\n{}", ran.all());
    }
    assert!(ran.stdout.contains("trained 3 steps"), "{}", ran.all());
}

#[test]
fn eval_ppl_uses_the_documents_that_were_asked_for() {
    let dir = Dir::with_model();
    for (name, bytes) in [("d/1.txt", 300), ("d/2.txt", 700), ("d/3.txt", 900)] {
        std::fs::create_dir_all(dir.path("d")).unwrap();
        dir.write(name, common::cli::words(bytes));
    }
    let scored = |flags: &str| {
        dir.run(&format!("eval-ppl --model m --data d --windows 64 --json e.json --quiet {flags}")).ok();
        let result = dir.json("e.json")["results"][0].clone();
        let documents = result["documents"].as_array().unwrap().iter();
        documents.map(|d| d["scored"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let whole = scored("");
    assert_eq!(whole.len(), 3);
    assert_eq!(scored("--docs 2"), whole[..2]);
    assert_eq!(scored("--min-tokens 500"), whole[1..]);
    assert_eq!(scored("--tokens 100"), [99, 99, 99]);
    assert_eq!(scored("--tokens 100 --bos on"), [100, 100, 100]);
    assert_eq!(scored("--mode truncate"), [63, 63, 63]);
}

#[test]
fn a_scaling_can_be_tried_without_training() {
    let dir = Dir::with_model();
    let ppl = |flags: &str| {
        dir.run(&format!(
            "eval-ppl --model m --data a.txt --windows 512 --tokens 600 --json e.json --quiet {flags}"
        ))
        .ok();
        (
            dir.json("e.json")["rope_scaling"].clone(),
            dir.json("e.json")["results"][0]["ppl"].as_f64().unwrap(),
        )
    };
    let plain = ppl("");
    for rope in ["linear", "ntk", "yarn", "yarn-revised"] {
        let (told, scaled) = ppl(&format!("--rope {rope} --rope-factor 2"));
        assert_eq!(told, rope);
        assert_ne!(scaled, plain.1, "--rope {rope} changed nothing");
    }
    // 512 over the 256 that `tiny` is made for
    assert_eq!(ppl("--rope linear"), ppl("--rope linear --rope-factor 2"));
}

#[test]
fn devices_says_what_there_is_and_why_not_the_rest() {
    let dir = Dir::new();
    let ran = dir.run("devices --threads 2 --json d.json").ok();
    assert!(ran.stdout.contains("2 threads") && ran.stdout.contains("\ncuda"), "{}", ran.all());
    assert_eq!(dir.json("d.json")["cpu"]["threads"], 2);
    let args = "train --preset tiny --data a.txt --train-len 32 --steps 1 --out m --device cuda:99";
    dir.run(args).refused(1, &["cuda:99"]);
}

/// Text arrives while it is being written, and a reader that has had enough ends the program quietly.
#[test]
fn generate_streams() {
    use std::io::Read;
    let dir = Dir::with_model();
    let mut child = dir.start("generate --model m --prompt fox --max-new-tokens 20k --temperature 1");
    let mut some = [0; 16];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{:?} {}", ended.status, String::from_utf8_lossy(&ended.stderr));
}
