//! Whatever is wrong with what a user gives, the answer is one sentence with the file or flag and what to do, the right
//! exit status, and nothing half-written.

mod common;

use common::cli::Dir;
use serde_json::{Value, json};

/// A run that would do, but for what a test adds.
const TRAIN: &str = "train --preset tiny --data a.txt --out out --train-len 32 --steps 2 --quiet";

/// Runs `args`, which must be refused, and looks whether anything was left behind.
#[track_caller]
fn refuse(dir: &Dir, args: &str, code: i32, parts: &[&str]) {
    let before = dir.names();
    dir.run(args).refused(code, parts);
    assert_eq!(dir.names(), before, "pose-engine {args}: something half-written was left behind");
}

#[test]
fn flags_that_train_cannot_take() {
    let dir = Dir::new();
    for (flags, parts) in [
        ("--steps 0", &["--steps", "0", "at least 1"][..]),
        ("--steps -1", &["-1"]),
        ("--steps 1.5k", &["--steps", "1.5k", "2048, 2k or 1M"]),
        ("--steps abc", &["--steps", "abc"]),
        ("--train-len 99999999999999999999", &["--train-len", "99999999999999999999", "larger"]),
        ("--train-len 1", &["--train-len 1", "at least 2"]),
        ("--target-len 16", &["--target-len 16", "shorter than the training window of 32"]),
        ("--target-len 8000000k", &["--target-len", "positions go up to"]),
        ("--steps 9007199254740992k", &["--steps", "larger"]),
        ("--chunks 9223372036854775808", &["--chunks", "9223372036854775807"]),
        ("--seed 9223372036854775808", &["--seed", "9223372036854775807"]),
        ("--lora-rank 10000000000000000000", &["--lora-rank", "9223372036854775807"]),
        ("--recompute 9223372036854775808", &["--recompute", "number of layers"]),
        ("--max-decompressed 9000000TiB", &["--max-decompressed", "more memory than there is"]),
        ("--chunks 8 --method randpos", &["--chunks 8", "and this is randpos"]),
        ("--chunk-lengths reference --method balanced", &["--chunk-lengths reference", "pose and adaptive"]),
        ("--content aligned --method plain", &["--content aligned", "and this is plain"]),
        ("--eval-tokens 64", &["--eval-tokens 64", "--eval-data"]),
        ("--split-ids 999 --method axolotl", &["--split-ids 999", "no token of this tokenizer"]),
        ("--chunks 33", &["--chunks 33", "32 tokens"]),
        ("--chunks 1", &["--chunks 1", "at least 2"]),
        ("--batch 200000000", &["--batch 200000000", "ask for less"]),
        ("--batch 99999999999999", &["--batch 99999999999999", "ask for less"]),
        ("--batch 1k --grad-accum 1M", &["--grad-accum 1048576", "ask for less"]),
        ("--lr abc", &["--lr", "abc"]),
        ("--lr nan", &["--lr NaN", "finite"]),
        ("--lr inf", &["--lr inf", "finite"]),
        ("--lr=-1e-3", &["--lr -0.001", "between 0 and"]),
        ("--clip=-1", &["--clip -1", "at least 0"]),
        ("--beta1 1", &["--beta1 1", "between"]),
        ("--weight-decay nan", &["--weight-decay NaN", "finite"]),
        ("--seed -1", &["-1"]),
        ("--dtype f16", &["--dtype", "f16", "bf16, f32"]),
        ("--method posse", &["--method", "posse", "pose, full"]),
        ("--rope magic", &["--rope", "magic", "there are none, linear"]),
        ("--rope yarm", &["--rope", "the nearest is yarn"]),
        ("--method balance", &["--method", "balance", "'balanced'"]),
        ("--method balanced --chunks 33", &["--chunks 33", "32 tokens"]),
        ("--method cream --target-len 1k", &["--target-len 1024", "at most 127"]),
        ("--method adaptive", &["--eval-data (missing)", "held-out"]),
        ("--method adaptive --eval-data a.txt --adapt-floor 2", &["--adapt-floor 2", "between 0 and 1"]),
        ("--method adaptive --eval-data a.txt --adapt-every 0", &["--adapt-every", "0"]),
        ("--adapt-every 5", &["--adapt-every 5", "is for --method adaptive and not pose"]),
        ("--adapt-floor 0.5", &["--adapt-floor 0.5", "is for --method adaptive"]),
        ("--rope dynamic --rope-factor 2 --target-len 128", &["--target-len 128", "changes nothing up to"]),
        ("--split-ids 13,10", &["--split-ids 13,10", "longrecipe and axolotl"]),
        (
            "--method axolotl --split-ids 200,201 --target-len 64",
            &["--method axolotl", "no text has one of the tokens 200,201 in it", "as by plain"],
        ),
        ("--rope-theta 10000", &["--rope-theta 10000", "changes nothing"]),
        ("--rope-theta 0", &["--rope-theta 0", "above 1"]),
        ("--rope yarn", &["--rope yarn", "nothing to scale"]),
        ("--rope-factor 4", &["--rope-factor 4", "--rope is none"]),
        ("--rope linear --rope-factor 0.5", &["--rope-factor 0.5", "between 1 and"]),
        ("--schedule sine", &["--schedule", "sine", "cosine"]),
        ("--content nowhere", &["--content", "nowhere", "uniform"]),
        ("--chunk-lengths long", &["--chunk-lengths", "long", "reference"]),
        ("--device gpu", &["--device", "gpu", "cuda:N"]),
        ("--save-every 0", &["--save-every", "0"]),
        ("--eval-tokens 1 --eval-data a.txt", &["--eval-tokens 1", "at least 2"]),
        ("--mix 0", &["--mix 0", "sum to zero"]),
        ("--mix -1", &["--mix -1", "at least 0"]),
        ("--mix nan", &["--mix NaN", "finite"]),
        ("--mix 1,2", &["--mix 1,2", "2 weights for the 1 paths"]),
        ("--mix a", &["--mix", "'a'"]),
        ("--pack --method cream", &["--pack", "is for --method pose", "cream"]),
        ("--pack=maybe", &["--pack", "maybe"]),
        ("--early-stop 3", &["--early-stop 3", "--eval-data"]),
        ("--early-stop 0 --eval-data a.txt --eval-every 1", &["--early-stop", "'0'", "at least 1"]),
        ("--early-stop 3 --eval-data a.txt", &["--early-stop 3", "--eval-every"]),
        ("--save-best", &["--save-best true", "--eval-data"]),
        ("--save-best --eval-data a.txt", &["--save-best true", "--eval-every"]),
        ("--probe-every 3", &["--probe-every 3", "--eval-data"]),
        ("--eval-every 3", &["--eval-every 3", "--eval-data"]),
        ("--on-spike rollback", &["--on-spike rollback", "--save-every"]),
        ("--probe-every 0 --eval-data a.txt", &["--probe-every", "at least 1"]),
        (
            "--probe-every 1 --eval-data a.txt --eval-tokens 31",
            &["--eval-data a.txt", "the target length, 32 tokens", "has 31"],
        ),
        ("--loss longest", &["--loss", "longest", "'longce'"]),
        ("--longce-short 4", &["--longce-short 4", "--loss longce"]),
        ("--longce-gamma 4", &["--longce-gamma 4", "--loss longce"]),
        ("--loss ce --longce-gamma 4", &["--longce-gamma 4", "--loss longce"]),
        ("--loss longce --longce-short 0", &["--longce-short", "'0'"]),
        ("--loss longce --longce-short 16", &["--longce-short 16", "a row of 32", "less than half"]),
        ("--loss longce --longce-short 99999999999999999", &["--longce-short", "less than half"]),
        ("--loss longce --longce-gamma 0.5", &["--longce-gamma 0.5", "between 1 and"]),
        ("--loss longce --longce-gamma nan", &["--longce-gamma NaN", "finite"]),
        ("--recompute some", &["--recompute", "some", "number of layers"]),
        ("--no-such-flag", &["--no-such-flag"]),
        ("--model m", &["--preset tiny", "--model"]),
        ("--resume", &["--resume out", "holds no run"]),
    ] {
        // clap refuses a flag that is given twice: ours gives way
        let ours = TRAIN.split(" --").filter(|flag| {
            let name = flag.split(' ').next().unwrap_or_default();
            !flags.contains(&format!("--{name} "))
        });
        let args = format!("{} {flags}", ours.collect::<Vec<_>>().join(" --"));
        refuse(&dir, &args, 2, parts);
    }
}

#[test]
fn flags_that_are_missing() {
    let dir = Dir::new();
    for (args, parts) in [
        ("train --data a.txt --out out", &["--model", "--preset"][..]),
        ("train --preset tiny --out out", &["--data"]),
        ("train --preset tiny --data a.txt", &["--out"]),
        ("train --resume", &["--resume", "--out"]),
        ("train --preset huge --data a.txt --out out", &["--preset huge", "tiny, small"]),
        ("eval-ppl --model m --windows 2k", &["--data"]),
        ("eval-ppl --model m --data a.txt", &["--windows"]),
        ("eval-passkey --model m", &["--lengths"]),
        ("eval-needle --model m --lengths 2k", &["--data"]),
        ("eval-needle --model m --data a.txt", &["--lengths"]),
        ("eval-needle --model m --data a.txt --lengths 2k --depths 0,2", &["--depths", "from 0 to 1"]),
        (
            "eval-needle --model m --data a.txt --lengths 2k --depths 99999999999999",
            &["--depths", "at most 1000"],
        ),
        ("generate --model m --prompt x --kv-cache int4", &["int4", "--kv-cache", "int8"]),
        ("generate --model m", &["--prompt"]),
        ("generate --model m --prompt x --top-p 0.9", &["--top-p 0.9", "a temperature of 0"]),
        ("coverage --train-len 64 --target-len 128 --method randpos --chunks 3", &["--chunks 3", "randpos"]),
        ("coverage --train-len 2k", &["--target-len"]),
        ("coverage --train-len 64 --target-len 128 --rows 0", &["--rows", "at least 1"]),
        ("logits --model m --ids ids.json", &["--out"]),
        ("plan", &["--model", "--preset"]),
        ("completions", &["SHELL"]),
        ("completions csh", &["csh", "bash"]),
        ("man trian", &["COMMAND trian", "the nearest is train"]),
        ("man train extra", &["COMMAND extra: train has no subcommands"]),
        ("train --preset tinny --data a.txt --out out", &["--preset tinny", "the nearest is tiny"]),
        (
            "coverage --train-len 64 --target-len 128k --method balanced",
            &["--target-len 131072", "at most 32768"],
        ),
        ("man train --out pages", &["--out"]),
        ("retrain", &["retrain", "train"]),
    ] {
        refuse(&dir, args, 2, parts);
    }
}

#[test]
fn flags_that_reading_commands_cannot_take() {
    let dir = Dir::with_model();
    dir.write("ids.json", "[[1, 2], [3]]");
    dir.write("high.json", "[1, 264]");
    dir.write("two.json", "[1, 2]");
    for (args, code, parts) in [
        ("eval-ppl --data a.txt --windows 1", 2, &["--windows 1", "at least 2"][..]),
        ("eval-ppl --data a.txt --windows 16,x", 2, &["--windows", "'x'"]),
        ("eval-ppl --data a.txt --windows 16 --stride 0", 2, &["--stride", "at least 1"]),
        ("eval-ppl --data a.txt --windows 32,16 --stride 17", 2, &["--stride 17", "windows of 16"]),
        ("eval-ppl --data a.txt --windows 1,16", 2, &["--windows 1", "at least 2"]),
        (
            "eval-ppl --data a.txt --windows 16 --min-tokens 1M",
            2,
            &["--min-tokens 1048576: leaves nothing to measure on", "a.txt, has 200", "ask for at most 200"],
        ),
        ("eval-ppl --data a.txt --windows 16 --tokens 1", 2, &["--data a.txt: there is no token to score"]),
        ("eval-ppl --data b.txt --windows 16", 1, &["b.txt", "No such file"]),
        (
            "eval-ppl --data a.txt --windows 16 --rope yarn",
            2,
            &["--rope yarn", "nothing to scale", "larger --windows"],
        ),
        ("eval-passkey --lengths 128 --rope dynamic", 2, &["--rope dynamic", "larger --lengths"]),
        ("eval-ppl --data a.txt --windows 16 --rope-factor 2", 2, &["--rope-factor 2", "--rope is none"]),
        ("eval-ppl --data a.txt --windows 16 --device cuda:99", 1, &["cuda:99"]),
        ("eval-ppl --data a.txt --windows 16 --kv-cache f32", 2, &["--kv-cache f32", "--dtype bf16", "int8"]),
        ("generate --prompt x --dtype f32 --kv-cache bf16", 2, &["--kv-cache bf16", "--dtype f32", "int8"]),
        ("eval-needle --data a.txt --lengths 60", 2, &["--lengths 60", "needle and question alone take"]),
        ("eval-needle --data a.txt --lengths 64k", 2, &["--data a.txt", "the longest length is 65536"]),
        ("eval-needle --data none.txt --lengths 1k", 1, &["none.txt"]),
        ("eval-passkey --lengths 10", 2, &["--lengths 10", "the question alone takes"]),
        ("eval-passkey --lengths 512 --trials 0", 2, &["--trials", "at least 1"]),
        ("eval-passkey --lengths 512 --trials 9999999999", 2, &["--trials", "more than 1000000 trials"]),
        ("generate --prompt-file b.txt", 1, &["b.txt", "No such file"]),
        ("generate --prompt x --prompt-file a.txt", 2, &["--prompt", "--prompt-file"]),
        ("generate --prompt x --top-p 0", 2, &["--top-p 0", "above 0"]),
        ("generate --prompt x --top-p nan", 2, &["--top-p NaN", "above 0"]),
        ("generate --prompt x --temperature nan", 2, &["--temperature NaN"]),
        ("generate --prompt x --max-new-tokens 0", 2, &["--max-new-tokens", "at least 1"]),
        (
            "generate --prompt x --max-new-tokens 9223372036854775807",
            2,
            &["--max-new-tokens", "positions go up to 4294967295"],
        ),
        ("eval-passkey --lengths 9223372036854775807", 2, &["--lengths", "positions go up to 4294967295"]),
        ("logits --ids ids.json --out o.npy", 1, &["ids.json", "one length"]),
        ("logits --ids a.txt --out o.npy", 1, &["a.txt", "JSON"]),
        ("logits --ids high.json --out o.npy", 2, &["--ids 264", "264 entries"]),
        ("logits --ids two.json --positions high.json --out a.txt", 2, &["--out a.txt", "exists already"]),
        ("logits --ids ids.json --positions no.json --out o.npy", 1, &["json"]),
    ] {
        let (command, rest) = args.split_once(' ').unwrap();
        refuse(&dir, &format!("{command} --model m {rest}"), code, parts);
    }
    let mut empty = dir.command("generate --model m --prompt");
    empty.arg("");
    dir.finish(empty, "generate --model m --prompt ''").refused(2, &["--prompt", "is empty"]);
}

/// Before anything is computed whose numbers would be lost.
#[test]
fn places_where_numbers_cannot_be_written() {
    let dir = Dir::with_model();
    std::fs::create_dir(dir.path("d")).unwrap();
    for command in [
        "eval-ppl --model m --data a.txt --windows 16",
        "eval-passkey --model m --lengths 512",
        "eval-needle --model m --data a.txt --lengths 512",
        "eval-longppl --model m --data a.txt --windows 8k",
        "eval-shift --model m --data a.txt --offsets 64",
        "eval-tasks --model m --data a.txt",
        "generate --model m --prompt x",
        "coverage --train-len 64 --target-len 128",
        "plan --preset tiny",
        "plan eval-ppl --model m --windows 16",
        "import a.gguf --out out",
        "verify m",
        "devices",
        "quickstart --out out",
        TRAIN,
    ] {
        refuse(
            &dir,
            &format!("{command} --json gone/n.json"),
            2,
            &["--json gone/n.json", "no directory gone"],
        );
        refuse(&dir, &format!("{command} --json d"), 2, &["--json d", "is a directory"]);
    }
    // directories that the command makes are there in the end
    let train = TRAIN.replace("--out out", "--out ./runs/out");
    dir.run(&format!("{train} --json runs/n.json")).ok();
    assert_eq!(dir.json("runs/n.json")["steps"], 2);
    dir.run(&format!("{TRAIN} --json out/n.json")).ok();
    assert_eq!(dir.json("out/n.json")["steps"], 2);
    let coverage = "coverage --train-len 64 --target-len 128 --rows 9 --json c.json --plot gone/c.svg";
    dir.run(coverage).refused(2, &["--plot gone/c.svg", "no directory gone"]);
    // what is no earlier result may be one of the inputs
    let coverage = "coverage --train-len 64 --target-len 128 --rows 9 --quiet";
    let before = dir.read("a.txt");
    for (flag, kind) in [("--json", "JSON"), ("--plot", "SVG")] {
        let expected = format!("is there already and is no {kind}");
        dir.run(&format!("{coverage} {flag} a.txt")).refused(2, &[&format!("{flag} a.txt"), &expected]);
    }
    // results are: an object, or a list of them
    for again in [
        "verify out --json v.json",
        &format!("{coverage} --json c.json --plot c.svg"),
        "report out --out r.html",
    ] {
        dir.run(again).ok();
        dir.run(again).ok();
    }
    dir.run("report out --out a.txt").refused(2, &["--out a.txt", "is no HTML"]);
    assert_eq!(dir.read("a.txt"), before);
}

#[test]
fn text_that_cannot_be_trained_on() {
    let dir = Dir::new();
    dir.write("empty.txt", "");
    dir.write("blank.txt", " \n\n");
    dir.write("latin.txt", b"caf\xe9 au lait");
    dir.write("short.txt", "too short");
    dir.write("no.jsonl", "{\"body\": \"x\"}\n");
    dir.write("table.csv", "a,b\n");
    dir.write("cut.txt.gz", [0x1f, 0x8b, 8, 0, 0]);
    std::fs::create_dir(dir.path("none")).unwrap();
    for (data, code, parts) in [
        ("empty.txt", 1, &["empty.txt", "no text"][..]),
        ("blank.txt", 1, &["blank.txt", "no text"]),
        ("latin.txt", 1, &["latin.txt", "not UTF-8 at byte 3", "iconv"]),
        ("a.txt latin.txt", 1, &["latin.txt", "not UTF-8"]),
        ("short.txt", 2, &["--train-len 32", "short.txt", "has 9"]),
        ("no.jsonl", 1, &["no.jsonl", "line 1", "--text-field"]),
        ("table.csv", 1, &["table.csv", ".jsonl"]),
        ("cut.txt.gz", 1, &["cut.txt.gz", "gzip"]),
        ("none", 1, &["none", "no documents"]),
        ("missing.txt", 1, &["missing.txt", "No such file"]),
    ] {
        let args = format!("train --preset tiny --train-len 32 --steps 1 --out out --data {data}");
        refuse(&dir, &args, code, parts);
    }
    dir.write("ones.jsonl", "{\"text\": \"x\"}\n{\"text\": \"\"}\n");
    let args = "train --preset tiny --train-len 32 --steps 1 --out out --pack --data ones.jsonl";
    refuse(&dir, args, 2, &["--data", "ones.jsonl:1", "fewer than two tokens", "nothing to predict"]);
    let args = "train --preset tiny --train-len 32 --steps 1 --out out --data a.txt short.txt --mix 1,1";
    refuse(&dir, args, 2, &["--train-len 32", "short.txt", "has 9"]);
    let args = "train --preset tiny --train-len 32 --steps 1 --out out --data a.txt --eval-data latin.txt";
    refuse(&dir, args, 1, &["latin.txt", "not UTF-8"]);
}

#[test]
fn what_exists_is_never_overwritten() {
    let dir = Dir::with_model();
    let before = dir.read("m/model.safetensors");
    refuse(&dir, &TRAIN.replace("--out out", "--out m"), 2, &["--out m", "exists already", "--resume"]);
    refuse(&dir, &TRAIN.replace("--out out", "--out a.txt"), 2, &["--out a.txt", "exists already"]);
    assert_eq!(dir.read("m/model.safetensors"), before);
    refuse(&dir, &TRAIN.replace("--out out", "--out a.txt/out"), 1, &["a.txt/out", "making"]);
    refuse(&dir, "quickstart --out m", 2, &["--out m", "exists already", "--overwrite"]);
    refuse(&dir, "quickstart --out m --overwrite", 2, &["--overwrite m", "not known to be a quickstart"]);
    let config = dir.read("m/config.json");
    let over = "eval-ppl --model m --data a.txt --windows 32 --json m/config.json";
    refuse(&dir, over, 2, &["--json m/config.json", "no JSON of a result"]);
    assert_eq!(dir.read("m/config.json"), config);
}

/// Recipes and results are text, so they could not name such a file.
#[cfg(unix)]
#[test]
fn names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let dir = Dir::new();
    let mut command = dir.command("train --preset tiny --data a.txt --train-len 32 --steps 1 --out");
    command.arg(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    dir.finish(command, "train --out of no UTF-8").refused(2, &["caf", "is not UTF-8", "rename it"]);
}

#[test]
fn what_does_not_fit() {
    let dir = Dir::with_model();
    for (args, parts) in [
        (
            "train --preset 10m --data a.txt --out out --train-len 1k --batch 200k --quiet",
            &["the plan takes", "memory available", "the largest are activations", "--batch"][..],
        ),
        ("plan --preset tiny --device-memory 1M", &["--device-memory is 1.00 MiB", "the largest are"]),
        ("plan eval-ppl --model m --windows 1M --device-memory 8M", &["cache.0.k", "--windows"]),
        (
            "coverage --train-len 2 --target-len 4000000000",
            &["--target-len 4000000000: counting", "memory available", "lower --target-len"],
        ),
    ] {
        refuse(&dir, args, 3, parts);
    }
}

#[test]
fn recipes_that_cannot_be_read() {
    let dir = Dir::new();
    for (recipe, parts) in [
        ("steps = ", &["recipe.toml", "line 1"][..]),
        ("lr = 1e-3\nstep = 4", &["recipe.toml", "line 2", "there is no key step; the nearest is steps"]),
        ("zzzzz = 4", &["recipe.toml", "unknown field `zzzzz`", "`model`"]),
        ("rope = \"yar\"", &["recipe.toml", "no such scaling", "the nearest is yarn"]),
        ("steps = 4\n[rope]\nkind = \"yarn\"", &["recipe.toml", "line 2", "table"]),
        ("out = a.b", &["recipe.toml", "line 1", "string"]),
        ("steps = \"4x\"", &["recipe.toml", "line 1", "not a size"]),
        ("steps = -4", &["recipe.toml", "line 1", "not a size"]),
        ("steps = [4]", &["recipe.toml", "line 1", "not a size"]),
        ("lr = \"fast\"", &["recipe.toml", "line 1", "fast"]),
        ("method = \"posse\"", &["recipe.toml", "line 1", "posse"]),
    ] {
        dir.write("recipe.toml", recipe);
        let args = "train --preset tiny --data a.txt --out out --train-len 32 --config recipe.toml";
        refuse(&dir, args, 1, parts);
    }
    dir.write("recipe.toml", "steps = 0\n");
    refuse(&dir, "train --preset tiny --data a.txt --out out --config recipe.toml", 2, &["--steps 0"]);
    refuse(&dir, "train --preset tiny --data a.txt --out out --config no.toml", 1, &["no.toml"]);
    dir.write("recipe.toml", "#".repeat(300 << 10));
    let args = "train --preset tiny --data a.txt --out out --train-len 32 --config recipe.toml";
    dir.run(args).refused(1, &["recipe.toml", "longer than 256 KiB"]);
}

/// Changes one key of m's config.json.
fn with_config(dir: &Dir, name: &str, change: impl FnOnce(&mut Value)) {
    dir.copy("m", name);
    let mut config = dir.json("m/config.json");
    change(&mut config);
    dir.write(&format!("{name}/config.json"), config.to_string());
}

#[test]
fn configs_that_are_not_understood() {
    let dir = Dir::with_model();
    for (key, value, parts) in [
        ("model_type", json!("mamba"), &["config.json", "mamba"][..]),
        ("rope_scaling", json!({"rope_type": "spiral", "factor": 2.0}), &["config.json", "spiral"]),
        (
            "rope_scaling",
            json!({"rope_type": "longrope"}),
            &["config.json", "rope_scaling.short_factor is missing"],
        ),
        ("hidden_size", json!(0), &["config.json", "hidden_size"]),
        ("num_key_value_heads", json!(3), &["config.json", "num_key_value_heads"]),
        ("vocab_size", json!(100), &["tokenizer.json", "257", "100"]),
    ] {
        with_config(&dir, "bad", |config| {
            config[key] = value;
            if key == "rope_scaling" {
                config.as_object_mut().unwrap().remove("rope_parameters");
            }
        });
        let args = TRAIN.replace("--preset tiny", "--model bad");
        refuse(&dir, &args, 1, parts);
        refuse(&dir, "eval-ppl --model bad --data a.txt --windows 32", 1, parts);
    }
    dir.write("bad/config.json", "{");
    refuse(&dir, &TRAIN.replace("--preset tiny", "--model bad"), 1, &["config.json"]);
    refuse(&dir, &TRAIN.replace("--preset tiny", "--model gone"), 1, &["gone", "config.json"]);
    dir.copy("m", "mute");
    std::fs::remove_file(dir.path("mute/tokenizer.json")).unwrap();
    refuse(&dir, &TRAIN.replace("--preset tiny", "--model mute"), 1, &["mute", "tokenizer.json"]);
}

/// A copy of m whose weights are `change`d: header and data of its safetensors.
fn with_weights(dir: &Dir, name: &str, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    dir.copy("m", name);
    let file = dir.read("m/model.safetensors");
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let mut data = file[8 + length..].to_vec();
    change(&mut header, &mut data);
    let header = header.to_string().into_bytes();
    let parts = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    dir.write(&format!("{name}/model.safetensors"), parts);
}

const Q: &str = "model.layers.0.self_attn.q_proj.weight";

#[test]
fn weights_that_are_broken() {
    let dir = Dir::with_model();
    let refuse_model = |name: &str, parts: &[&str]| {
        refuse(&dir, &TRAIN.replace("--preset tiny", &format!("--model {name}")), 1, parts);
        refuse(&dir, &format!("generate --model {name} --prompt x"), 1, parts);
    };
    with_weights(&dir, "nan", |header, data| {
        let at = header[Q]["data_offsets"][0].as_u64().unwrap() as usize;
        data[at + 8..at + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    refuse_model("nan", &["nan/model.safetensors", &format!("{Q}[0, 2] is NaN")]);
    with_weights(&dir, "cut", |_, data| data.truncate(data.len() / 2));
    refuse_model("cut", &["cut/model.safetensors", "truncated", "fetch it again"]);
    with_weights(&dir, "shape", |header, _| header[Q]["shape"] = json!([32, 128]));
    refuse_model("shape", &["shape/model.safetensors", Q, "[32, 128]", "[64, 64]"]);
    with_weights(&dir, "absent", |header, _| {
        let taken = header.as_object_mut().unwrap().remove(Q).unwrap();
        header["other.weight"] = taken;
    });
    refuse_model("absent", &["absent/model.safetensors", Q, "absent"]);
    dir.copy("m", "none");
    std::fs::remove_file(dir.path("none/model.safetensors")).unwrap();
    refuse_model("none", &["none", "model.safetensors"]);
    dir.write(
        "none/model.safetensors.index.json",
        json!({"weight_map": {Q: "gone.safetensors"}}).to_string(),
    );
    refuse_model("none", &["none/gone.safetensors", "is missing", "fetch it again"]);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let dir = Dir::new();
    // each step multiplies the weights by about -1e6 until they overflow
    let args = "train --preset tiny --data a.txt --out out --train-len 32 --steps 50 --quiet --dtype f32 --lr 1000 \
                --warmup 0 --weight-decay 1000 --save-every 1";
    let ran =
        dir.run(args).refused(1, &["step ", "the loss is", "the sample is", "a.txt", "nothing was updated"]);
    let good = ran.stderr.split("the last good checkpoint is ").nth(1).unwrap_or_default();
    let good = good.split(';').next().unwrap_or_default();
    assert!(dir.path(good).join("manifest.json").exists(), "no checkpoint at \"{good}\"\n{}", ran.all());
    assert!(!dir.names().iter().any(|n| n.contains("tmp") || n == "out/config.json"), "{:?}", dir.names());
}

#[test]
fn instructions_are_chosen_by_a_name_that_exists() {
    let dir = Dir::new();
    let asked = |isa: &str| {
        let mut command = dir.command("devices");
        command.env("POSE_CPU_ISA", isa);
        dir.finish(command, &format!("devices with POSE_CPU_ISA={isa}"))
    };
    asked("avx9").refused(2, &["POSE_CPU_ISA avx9", "portable, avx2, avx512, avx512-bf16"]);
    let stdout = asked("portable").ok().stdout;
    assert!(stdout.contains("kernels for portable"), "{stdout}");
}
