//! Models and texts from strangers: what they could do with names, links, sizes and content, and what is said instead. That no
//! damaged file ends a reader in any other way is what tests/hostile shows.

mod common;

use common::cli::{Dir, Ran, words};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::symlink;

/// A safetensors file with this header, and as many zeros as it takes.
fn safetensors(header: Value, bytes: usize) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; bytes]].concat()
}

fn tensor(shape: Value, offsets: [u64; 2]) -> Value {
    json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets })
}

/// Puts a file into a copy of the model and reads with it.
#[track_caller]
fn refuse_file(dir: &Dir, name: &str, bytes: impl AsRef<[u8]>, parts: &[&str]) {
    dir.copy("m", "bad");
    if name.ends_with("index.json") {
        std::fs::remove_file(dir.path("bad/model.safetensors")).unwrap();
    }
    dir.write(&format!("bad/{name}"), bytes);
    dir.run("generate --model bad --prompt x").refused(1, parts);
    std::fs::remove_dir_all(dir.path("bad")).unwrap();
}

#[test]
fn shards_stay_in_their_directory() {
    let dir = Dir::with_model();
    std::fs::copy(dir.path("m/model.safetensors"), dir.path("outside.safetensors")).unwrap();
    let outside = dir.path("outside.safetensors").display().to_string();
    for shard in ["../outside.safetensors", &outside, "./../outside.safetensors", "", "."] {
        let index = json!({ "weight_map": { "model.norm.weight": shard } });
        refuse_file(
            &dir,
            "model.safetensors.index.json",
            index.to_string(),
            &["is no file of this directory"],
        );
    }
}

#[test]
fn links_out_of_a_models_directory_are_refused() {
    let dir = Dir::with_model();
    dir.write("secret.txt", "a key of the user's");
    for name in ["tokenizer_config.json", "chat_template.jinja", "vocab.txt", "model.safetensors"] {
        dir.copy("m", "bad");
        let _ = std::fs::remove_file(dir.path(&format!("bad/{name}")));
        symlink(dir.path("secret.txt"), dir.path(&format!("bad/{name}"))).unwrap();
        for command in
            ["generate --model bad --prompt x", "train --model bad --data a.txt --train-len 32 --out o"]
        {
            dir.run(command).refused(1, &[name, "is a link to", "secret.txt, outside its directory"]);
        }
        std::fs::remove_dir_all(dir.path("bad")).unwrap();
    }
    // shards may have any name, and lie deeper
    for (shard, link) in [("w.dat", "w.dat"), ("sub/w.safetensors", "sub")] {
        dir.copy("m", "bad");
        std::fs::remove_file(dir.path("bad/model.safetensors")).unwrap();
        let target = if link == "sub" { dir.path("") } else { dir.path("secret.txt") };
        symlink(target, dir.path("bad").join(link)).unwrap();
        std::fs::copy(dir.path("m/model.safetensors"), dir.path("w.safetensors")).unwrap();
        let index = json!({ "weight_map": { "model.norm.weight": shard } });
        dir.write("bad/model.safetensors.index.json", index.to_string());
        dir.run("generate --model bad --prompt x").refused(1, &["is a link to", "outside its directory"]);
        std::fs::remove_dir_all(dir.path("bad")).unwrap();
    }
    // what is no file at all would be read without end
    for (name, target) in [("config.json", "/dev/zero"), (".py", "/dev/zero")] {
        dir.copy("m", "bad");
        let _ = std::fs::remove_file(dir.path("bad").join(name));
        symlink(target, dir.path("bad").join(name)).unwrap();
        dir.run("generate --model bad --prompt x").refused(1, &[name, "is a link to /dev/zero"]);
        std::fs::remove_dir_all(dir.path("bad")).unwrap();
    }
    dir.copy("m", "bad");
    symlink("/dev/zero", dir.path("bad/x")).unwrap();
    let file = json!({ "path": "x", "bytes": 0, "blake3": "" });
    let manifest = json!({ "format": "pose-engine manifest 1", "written_by": "", "files": [file] });
    dir.write("bad/manifest.json", manifest.to_string());
    let ran = dir.run("verify bad");
    assert!(ran.code == Some(1) && ran.stderr.contains("is no file"), "{}", ran.all());
    // a link within is nobody's harm
    dir.copy("m", "good");
    std::fs::rename(dir.path("good/config.json"), dir.path("good/config-1.json")).unwrap();
    symlink("config-1.json", dir.path("good/config.json")).unwrap();
    dir.run("generate --model good --prompt x --max-new-tokens 1").ok();
}

#[test]
fn the_cache_of_the_hub_is_read_through_its_links() {
    let dir = Dir::with_model();
    dir.copy("m", "hub/blobs");
    std::fs::create_dir_all(dir.path("hub/snapshots/abc")).unwrap();
    for entry in std::fs::read_dir(dir.path("hub/blobs")).unwrap().flatten() {
        let name = entry.file_name();
        let link = dir.path("hub/snapshots/abc").join(&name);
        symlink(std::path::Path::new("../../blobs").join(&name), link).unwrap();
    }
    dir.run("generate --model hub/snapshots/abc --prompt x --max-new-tokens 1").ok();
}

#[test]
fn tensors_share_nothing_and_fit_their_file() {
    let dir = Dir::with_model();
    let of = |tensors: Value, bytes: usize| safetensors(tensors, bytes);
    let huge = u64::MAX / 2;
    for (what, file) in [
        ("overlapping", of(json!({"a": tensor(json!([2]), [0, 8]), "b": tensor(json!([2]), [4, 12])}), 12)),
        ("in one place", of(json!({"a": tensor(json!([2]), [0, 8]), "b": tensor(json!([2]), [0, 8])}), 8)),
        ("a hole", of(json!({"a": tensor(json!([1]), [4, 8])}), 8)),
        ("sizes that overflow", of(json!({"a": tensor(json!([huge, 8]), [0, 8])}), 8)),
        ("offsets that overflow", of(json!({"a": tensor(json!([2]), [huge, u64::MAX])}), 8)),
        ("more than the file", of(json!({"a": tensor(json!([1u64 << 40]), [0, 1u64 << 42])}), 8)),
        ("a header of 2^63 bytes", (1u64 << 63).to_le_bytes().to_vec()),
    ] {
        println!("{what}");
        refuse_file(&dir, "model.safetensors", file, &["model.safetensors", "fetch it again"]);
    }
    let twice = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#;
    let file = [&(twice.len() as u64).to_le_bytes()[..], twice.as_bytes(), &[0; 16]].concat();
    refuse_file(&dir, "model.safetensors", file, &["model.safetensors"]);
}

#[test]
fn a_tensor_is_in_one_shard() {
    let dir = Dir::with_model();
    dir.copy("m", "sharded");
    let whole = dir.read("m/model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let shard = |name: &str, is_here: &dyn Fn(&str) -> bool| {
        let tensors = file.tensors().into_iter().filter(|(tensor, _)| is_here(tensor));
        dir.write(&format!("sharded/{name}"), safetensors::serialize(tensors, None).unwrap());
    };
    let norm = "model.norm.weight";
    // sorted, as an index is: its first file is read first
    let names: std::collections::BTreeSet<&str> = file.names().into_iter().collect();
    let map: serde_json::Map<String, Value> = names
        .into_iter()
        .map(|name| {
            (name.to_string(), json!(if name == norm { "one.safetensors" } else { "two.safetensors" }))
        })
        .collect();
    std::fs::remove_file(dir.path("sharded/model.safetensors")).unwrap();
    dir.write("sharded/model.safetensors.index.json", json!({ "weight_map": map }).to_string());
    let read = "generate --model sharded --prompt x --max-new-tokens 1";
    shard("one.safetensors", &|name| name == norm);
    shard("two.safetensors", &|name| name != norm);
    dir.run(read).ok();
    // one that the index has in the other file, and one that it does not name
    shard("two.safetensors", &|_| true);
    dir.run(read).refused(
        1,
        &["sharded/one.safetensors: has model.norm.weight, as two.safetensors has", "fetch both again"],
    );
    let extra =
        safetensors(json!({ norm: tensor(json!([1]), [0, 4]), "extra": tensor(json!([1]), [4, 8]) }), 8);
    dir.write("sharded/one.safetensors", &extra);
    let extra = safetensors(json!({ "extra": tensor(json!([1]), [0, 4]) }), 4);
    dir.write("sharded/two.safetensors", &extra);
    dir.run(read).refused(1, &["safetensors: has extra, as ", "one.safetensors", "two.safetensors"]);
}

#[test]
fn pickled_weights_are_refused_with_the_way_out() {
    let dir = Dir::with_model();
    let transformers = "from_pretrained('.').save_pretrained('.')";
    let other = "torch.load('FILE', weights_only=True)";
    for (name, way_out) in [
        ("pytorch_model.bin", transformers),
        ("pytorch_model-00001-of-00002.bin", transformers),
        ("model.bin", other),
        ("consolidated.00.pth", other),
        ("weights.pt", other),
        ("model.ckpt", other),
    ] {
        dir.copy("m", "bad");
        std::fs::rename(dir.path("bad/model.safetensors"), dir.path("bad").join(name)).unwrap();
        dir.run("generate --model bad --prompt x").refused(1, &[name, "pickles can run code", way_out]);
        std::fs::remove_dir_all(dir.path("bad")).unwrap();
    }
    // pickles, but none of weights
    dir.copy("m", "bad");
    std::fs::rename(dir.path("bad/model.safetensors"), dir.path("bad/training_args.bin")).unwrap();
    dir.run("generate --model bad --prompt x").refused(1, &["has neither model.safetensors nor"]);
}

#[test]
fn a_pickled_adapter_is_refused_with_the_way_out() {
    let dir = Dir::with_model();
    dir.run("train --model m --data a.txt --train-len 32 --steps 1 --quiet --lora-rank 2 --out adapter").ok();
    std::fs::remove_file(dir.path("adapter/manifest.json")).unwrap();
    let tensors = dir.path("adapter/adapter_model.safetensors");
    std::fs::rename(&tensors, dir.path("adapter/adapter_model.bin")).unwrap();
    for command in ["generate --model adapter --prompt x", "merge --adapter adapter --out merged"] {
        let parts = [
            "adapter_model.bin",
            "pickles can run code",
            "torch.load('adapter_model.bin', weights_only=True)",
            "'adapter_model.safetensors')",
        ];
        dir.run(command).refused(1, &parts);
    }
    assert!(!dir.path("merged").exists());
}

/// A command that a sentence suggests is pasted into a shell, so no name of a stranger's may be in it.
#[test]
fn a_suggested_command_has_no_name_in_it_that_a_stranger_chose() {
    let dir = Dir::with_model();
    let (model, file) = ("x'$(id)`id`\"; id #", "pytorch_model'$(id)\";id #.bin");
    for weights in [file, "adapter_model.bin", "$(id).bin"] {
        dir.copy("m", model);
        std::fs::rename(dir.path(model).join("model.safetensors"), dir.path(model).join(weights)).unwrap();
        let mut command = dir.command("generate --prompt x --model");
        command.arg(model);
        let ran = dir.finish(command, model);
        let (_, suggested) = ran.stderr.split_once("python -c ").unwrap_or_else(|| panic!("{}", ran.all()));
        assert!(!suggested.contains("id") && !suggested.contains('$'), "{suggested}");
        std::fs::remove_dir_all(dir.path(model)).unwrap();
    }
}

#[test]
fn a_model_that_was_changed_is_not_used() {
    let dir = Dir::with_model();
    let mut weights = dir.read("m/model.safetensors");
    let last = weights.len() - 1;
    weights[last] ^= 1;
    dir.write("m/model.safetensors", weights);
    for command in [
        "generate --model m --prompt x",
        "eval-ppl --model m --data a.txt --windows 32",
        "train --model m --data a.txt --train-len 32 --steps 1 --out o",
        "plan eval-ppl --model m --windows 32",
    ] {
        let parts = [
            "m/model.safetensors",
            "its hash differs",
            "where you changed it yourself, remove the manifest.json",
        ];
        dir.run(command).refused(1, &parts);
    }
    std::fs::remove_file(dir.path("m/manifest.json")).unwrap();
    dir.run("generate --model m --prompt x --max-new-tokens 1").ok();
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_decompression_bomb_is_refused_before_it_fills_the_memory() {
    let dir = Dir::with_model();
    let bomb = gzip(&vec![b'a'; 70 << 20]);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    dir.write("bomb.txt.gz", &bomb);
    dir.write("bomb.jsonl.gz", &bomb);
    for file in ["bomb.txt.gz", "bomb.jsonl.gz"] {
        let parts = [file, "becomes more than 64.00 MiB", "--max-decompressed"];
        dir.run(&format!("eval-ppl --model m --windows 32 --data {file}")).refused(1, &parts);
        dir.run(&format!("train --preset tiny --train-len 32 --out o --data {file}")).refused(1, &parts);
    }
    dir.run("eval-tasks --model m --data bomb.jsonl.gz")
        .refused(1, &["becomes more than", "--max-decompressed"]);
    // the user's own bound, either way
    dir.write("text.txt.gz", gzip(words(20_000).as_bytes()));
    let read = "eval-ppl --model m --windows 32 --tokens 64 --data text.txt.gz";
    dir.run(&format!("{read} --max-decompressed 10kB")).refused(1, &["becomes more than 9.77 KiB"]);
    dir.run(read).ok();
    dir.run(&format!("{read} --max-decompressed 20MB")).ok();
    let train = "train --preset tiny --train-len 32 --steps 1 --quiet --data text.txt.gz";
    dir.write("r.toml", "max-decompressed = \"1GiB\"\n");
    dir.run(&format!("{train} --out o --config r.toml")).ok();
    dir.run("eval-ppl --model m --data a.txt --max-decompressed 3parsec")
        .refused(2, &["--max-decompressed", "3parsec"]);
}

/// What is small for one file is small for all that are read together.
#[test]
fn a_directory_of_bombs_is_refused_too() {
    let dir = Dir::with_model();
    std::fs::create_dir(dir.path("bombs")).unwrap();
    let bomb = gzip(&vec![b'a'; 40 << 20]);
    (0..20).for_each(|i| dir.write(&format!("bombs/{i}.txt.gz"), &bomb));
    dir.run("eval-ppl --model m --windows 32 --tokens 64 --data bombs")
        .refused(1, &["bombs/", "becomes more than", "--max-decompressed"]);
}

/// Tokenizing takes some 130 bytes for each of a text's, if it is done at once.
#[test]
#[cfg(target_os = "linux")]
fn a_long_text_is_tokenized_in_the_memory_of_a_piece() {
    let dir = Dir::with_model();
    dir.write("long.txt.gz", gzip(words(16 << 20).as_bytes()));
    let args = "eval-ppl --model m --windows 32 --tokens 64 --threads 2 --data long.txt.gz";
    let command = dir.command(args);
    let mut bounded = std::process::Command::new("sh");
    bounded.args(["-c", "ulimit -v 1000000 && exec \"$0\" \"$@\""]);
    bounded.arg(command.get_program()).args(command.get_args()).current_dir(dir.path("."));
    bounded.env("POSE_CACHE", dir.path("cache"));
    dir.finish(bounded, args).ok();
}

/// Nobody writes into these pipes.
#[test]
fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    let dir = Dir::with_model();
    dir.run("train --preset tiny --data a.txt --train-len 32 --steps 2 --save-every 1 --quiet --out run")
        .ok();
    let pipe = |name: &str| {
        let _ = std::fs::remove_file(dir.path(name));
        let path = std::ffi::CString::new(dir.path(name).display().to_string()).unwrap();
        // SAFETY: a path that ends in NUL.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    };
    for (name, args) in [
        ("bad/config.json", "generate --model bad --prompt x"),
        ("bad/tokenizer.json", "generate --model bad --prompt x"),
        ("bad/model.safetensors", "generate --model bad --prompt x"),
        ("bad/model.safetensors", "eval-ppl --model bad --windows 32 --data a.txt"),
        ("model.gguf", "import model.gguf --out imported"),
        ("text.txt", "eval-ppl --model m --windows 32 --data text.txt"),
        ("text.jsonl.gz", "train --preset tiny --train-len 32 --out o --data text.jsonl.gz"),
        ("run/recipe.toml", "train --resume --out run --steps 3"),
        ("run/recipe.toml", "report run --out page.html"),
        ("run/manifest.json", "verify run"),
    ] {
        dir.copy("m", "bad");
        pipe(name);
        let mut child = dir.start(args);
        let start = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() && start.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let waited = child.kill().is_ok() && start.elapsed().as_secs() >= 60;
        let ran = Ran::of(&child.wait_with_output().unwrap(), args);
        assert!(!waited, "{name} is waited for\n{}", ran.all());
        let said =
            ran.stderr.contains("it is a pipe") || ran.stderr.contains("is neither a file nor a directory");
        assert!(ran.code == Some(1) && said, "{name}\n{}", ran.all());
        std::fs::remove_file(dir.path(name)).unwrap();
    }
}

/// A frame of RLE blocks: four bytes for 128 KiB each, and a header that has the decoder remember 1 GiB before it gives out a byte.
fn zstd_bomb(window: u8, blocks: usize) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xB5, 0x2F, 0xFD, 0, window];
    for block in 0..blocks {
        let head = (128u32 << 10 << 3) | 1 << 1 | u32::from(block + 1 == blocks);
        bytes.extend(&head.to_le_bytes()[..3]);
        bytes.push(b'a');
    }
    bytes
}

#[test]
fn a_zstd_frame_remembers_no_more_than_the_zstd_tool_would() {
    let dir = Dir::with_model();
    dir.write("wide.txt.zst", zstd_bomb(20 << 3, 8000));
    let read = "eval-ppl --model m --windows 32 --tokens 64 --data";
    dir.run(&format!("{read} wide.txt.zst")).refused(1, &["wide.txt.zst", "a window of 1073741824 bytes"]);
    dir.write("long.txt.zst", zstd_bomb(10 << 3, 8000));
    dir.run(&format!("{read} long.txt.zst")).refused(1, &["long.txt.zst", "becomes more than 64.00 MiB"]);
    dir.write("good.txt.zst", zstd_bomb(10 << 3, 2));
    dir.run(&format!("{read} good.txt.zst")).ok();
}

#[test]
fn a_manifest_of_other_software_is_none_of_ours() {
    let dir = Dir::with_model();
    dir.copy("m", "web");
    dir.write("web/manifest.json", r#"{"name": "an app", "icons": []}"#);
    dir.run("generate --model web --prompt x --max-new-tokens 1").ok();
    dir.write("web/manifest.json", "{");
    dir.run("generate --model web --prompt x").refused(1, &["web/manifest.json", "is not a manifest"]);
}

#[test]
fn nothing_that_is_printed_steers_the_terminal() {
    let dir = Dir::with_model();
    let name = "a\u{1b}[2J\u{202e}b.txt";
    dir.write(name, words(2000));
    let steers = |text: &str| text.contains(['\u{1b}', '\u{202e}', '\r', '\u{9b}']);
    // in a table, of a directory
    let model = "m\u{1b}[2J\u{202e}\nx";
    dir.copy("m", model);
    std::fs::copy(dir.path("m/manifest.json"), dir.path(model).join("manifest.json")).unwrap();
    let mut command = dir.command("verify");
    command.arg(model);
    let ran = dir.finish(command, model).ok();
    assert!(ran.stdout.contains("m\\u{1b}[2J\\u{202e}") && !steers(&ran.stdout), "{}", ran.all());
    // in a note: a cache that cannot be written
    dir.write("file\u{1b}[2J", "no directory");
    let mut command = dir.command("eval-ppl --model m --windows 32 --tokens 64 --data a.txt");
    command.env("POSE_CACHE", dir.path("file\u{1b}[2J"));
    let ran = dir.finish(command, "eval-ppl").ok();
    assert!(
        ran.stderr.contains("file\\u{1b}[2J: tokens are not cached") && !steers(&ran.stderr),
        "{}",
        ran.all()
    );
    let mut command = dir.command("train --preset tiny --out o --train-len 4k --data");
    let ran = dir.finish(
        {
            command.arg(name);
            command
        },
        name,
    );
    assert!(ran.code != Some(0) && ran.stderr.contains("\\u{1b}[2J\\u{202e}b.txt"), "{}", ran.all());
    // a model's own words in an error
    let config = |config: &mut Value| config["model_type"] = json!("x\u{1b}]0;y\u{7}\nz");
    dir.copy("m", "bad");
    let mut json = dir.json("m/config.json");
    config(&mut json);
    dir.write("bad/config.json", json.to_string());
    dir.run("generate --model bad --prompt x").refused(1, &["x\\u{1b}]0;y\\u{7}\\nz"]);
}

/// In a process of its own, since that ends it.
#[test]
fn a_mapped_file_that_is_cut_short_ends_with_a_sentence() {
    const FILE: &str = "POSE_TEST_CUT";
    if let Some(path) = std::env::var_os(FILE).map(std::path::PathBuf::from) {
        // more than there are names for leave the last without one
        let others = std::env::var("POSE_TEST_OTHERS").map_or(0, |n| n.parse().unwrap());
        let others: Vec<_> = (0..others)
            .map(|_| pose_engine::checkpoint::map_file(&path.with_extension("kept")).unwrap())
            .collect();
        let mapped = pose_engine::checkpoint::map_file(&path).unwrap();
        let kept = pose_engine::checkpoint::map_file(&path.with_extension("kept")).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
        let sum: u64 = kept.iter().chain(mapped.iter()).map(|&b| u64::from(b)).sum();
        println!("read on, to {sum}, with {} others", others.len());
        return;
    }
    let dir = Dir::new();
    dir.write("cut.kept", vec![1; 100_000]);
    for (others, sentence) in [
        (0, "cut: can no longer be read"),
        (63, "cut: can no longer be read"),
        (64, "pose-engine: a mapped file can no longer be read"),
        (200, "pose-engine: a mapped file can no longer be read"),
    ] {
        dir.write("cut", vec![1; 100_000]);
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_mapped_file_that_is_cut_short_ends_with_a_sentence"]);
        child.env("POSE_TEST_OTHERS", others.to_string());
        let output = child.env(FILE, dir.path("cut")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{others} others: {said}");
        assert!(said.contains(sentence) && !said.contains("cut.kept"), "{others} others: {said}");
    }
}
