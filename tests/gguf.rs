//! GGUF files become the checkpoints that the Python package gguf and the tokenizers' own libraries say they are
//! (tests/fixtures/gguf), and files that are damaged become an error and nothing else.

mod common;

use common::cli::Dir;
use pose_engine::checkpoint::Weights;
use pose_engine::data::Tokenizer;
use pose_engine::gguf::{import, reader::Gguf};
use pose_engine::index::TokenId;
use pose_engine::model::Config;
use pose_engine::model::config::Dtype;
use pose_engine::rope::Scaling;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// All numbers of a tensor.
fn numbers(weights: &Weights, name: &str, shape: &[usize]) -> Vec<f32> {
    let mut all = Vec::new();
    weights
        .read_f32(name, shape, &mut |_, values| {
            all.extend_from_slice(values);
            Ok(())
        })
        .unwrap();
    all
}

fn shape_of(tensor: &Value) -> Vec<usize> {
    tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

fn check_weights(name: &str, out: &Path) {
    let weights = Weights::open(out).unwrap();
    let expected = json(&fixture(&format!("{name}.json")));
    let tensors = expected["tensors"].as_object().unwrap();
    assert_eq!(weights.names().len(), tensors.len());
    for (tensor, expected) in tensors {
        let ours = numbers(&weights, tensor, &shape_of(expected));
        let first: Vec<f64> = ours.iter().take(2).map(|&x| x.into()).collect();
        assert_eq!(
            first,
            expected["first"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>()
        );
        let mut crc = flate2::Crc::new();
        ours.iter().for_each(|x| crc.update(&x.to_le_bytes()));
        assert_eq!(u64::from(crc.sum()), expected["crc32"].as_u64().unwrap(), "{name}: {tensor}");
    }
}

fn check_tokenizer(name: &str, out: &Path) -> Tokenizer {
    let tokenizer = Tokenizer::load(out).unwrap();
    for (text, ids) in json(&fixture(&format!("{name}.json")))["texts"].as_object().unwrap() {
        let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let ours: Vec<u32> = tokenizer.encode(text).unwrap().iter().map(|t| t.0).collect();
        assert_eq!(ours, ids, "{name}: {text:?}");
        let tokens: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
        // Qwen2 composes characters first
        let kept = if name == "qwen2" { text.replace("e\u{301}", "é") } else { text.clone() };
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), kept, "{name}: back to text");
    }
    tokenizer
}

#[test]
fn every_format_of_a_llama_model_and_its_sentencepiece_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m");
    let done = import(&fixture("llama.gguf"), &out, Dtype::F32, None).unwrap();
    assert_eq!((done.architecture, done.context, done.tokenizer), ("llama", 131_072, "SentencePiece"));
    check_weights("llama", &out);
    let tokenizer = check_tokenizer("llama", &out);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.adds_bos()), (Some(1), Some(2), true));
    let special = tokenizer.encode("<|im_start|>the</s>").unwrap();
    assert_eq!(special.first().map(|t| t.0), tokenizer.token_id("<|im_start|>"));
    assert_eq!(special.last(), Some(&TokenId(2)));

    let config = Config::load(&out).unwrap();
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (4, 2, 16));
    assert_eq!((config.norm_eps, config.rope.theta, config.tie_word_embeddings), (1e-5, 5e5, false));
    assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    let Scaling::Llama3(llama3) = &config.rope.scaling else { panic!("{:?}", config.rope) };
    assert_eq!((llama3.factor, llama3.original), (8.0, 8192));
}

#[test]
fn bf16_is_the_nearest_to_what_f32_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let (exact, rounded) = (dir.path().join("f32"), dir.path().join("bf16"));
    import(&fixture("llama.gguf"), &exact, Dtype::F32, None).unwrap();
    import(&fixture("llama.gguf"), &rounded, Dtype::Bf16, None).unwrap();
    let (exact, rounded) = (Weights::open(&exact).unwrap(), Weights::open(&rounded).unwrap());
    for name in exact.names() {
        let shape = exact.shape(name).unwrap();
        assert_eq!(rounded.dtype(name), Some(Dtype::Bf16));
        let pairs = numbers(&exact, name, shape).into_iter().zip(numbers(&rounded, name, shape));
        assert!(pairs.into_iter().all(|(a, b)| half::bf16::from_f32(a).to_f32() == b), "{name}");
    }
}

#[test]
fn qwen2_with_its_biases_and_byte_level_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m");
    let done = import(&fixture("qwen2.gguf"), &out, Dtype::F32, None).unwrap();
    assert_eq!((done.architecture, done.tokenizer), ("qwen2", "byte-level BPE"));
    check_weights("qwen2", &out);
    let tokenizer = check_tokenizer("qwen2", &out);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.adds_bos()), (None, Some(2), false));
    let config = json(&out.join("config.json"));
    assert_eq!(
        (&config["model_type"], &config["architectures"][0]),
        (&"qwen2".into(), &"Qwen2ForCausalLM".into())
    );
    assert_eq!((&config["tie_word_embeddings"], &config["rms_norm_eps"]), (&true.into(), &1e-6.into()));
    assert_eq!(
        config["vocab_size"].as_u64().unwrap() as usize,
        tokenizer.vocab_size() + 4,
        "spare rows are kept"
    );
    assert!(config["attention_bias"].is_null());
    for rope in [&config["rope_scaling"], &config["rope_parameters"]] {
        assert_eq!((&rope["rope_type"], &rope["factor"]), (&"yarn".into(), &4.0.into()));
        assert_eq!(rope["original_max_position_embeddings"], 8192);
    }
    assert!(
        json(&out.join("tokenizer_config.json"))["chat_template"].as_str().unwrap().starts_with("{% for")
    );
}

#[test]
fn an_imported_model_is_one_that_every_command_takes() {
    let dir = Dir::new();
    let file = fixture("llama.gguf");
    let said = dir.run(&format!("import {} --out m --json done.json", file.display())).ok();
    assert!(
        said.stdout.contains("llama, 21 tensors") && said.stdout.contains("tokenizer: SentencePiece"),
        "{}",
        said.all()
    );
    assert_eq!(dir.json("done.json")["context"], 131_072);
    dir.run("eval-ppl --model m --data a.txt --windows 64 --tokens 200 --quiet").ok();
    dir.run(&format!("import {} --out m", file.display()))
        .refused(2, &["--out m", "exists already and is never overwritten"]);
    dir.run("import . --out n").refused(1, &[".: is a directory"]);
    dir.run("import a.txt --out n").refused(1, &["a.txt: is not a GGUF file"]);
    dir.run("import none.gguf --out n").refused(1, &["none.gguf"]);
    dir.run(&format!("import {} --out n --tokenizer m", file.display())).ok();
    assert_eq!(dir.read("m/tokenizer.json"), dir.read("n/tokenizer.json"));
    std::fs::create_dir(dir.path("empty")).unwrap();
    dir.run(&format!("import {} --out o --tokenizer empty", file.display()))
        .refused(2, &["has no tokenizer.json"]);
    let smaller = file.with_file_name("qwen2.gguf");
    dir.run(&format!("import {} --out o --tokenizer m", smaller.display()))
        .refused(1, &["the tokenizer has ids up to 379", "only 344 rows"]);
    assert!(!dir.names().iter().any(|n| n.starts_with('o') || n.contains(".tmp")), "{:?}", dir.names());
}

/// What becomes of a changed file: an error's sentence, and nothing on the disk.
fn refused(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("x.gguf"), dir.path().join("m"));
    std::fs::write(&file, bytes).unwrap();
    let error = import(&file, &out, Dtype::Bf16, None).expect_err("must be refused").to_string();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the file itself is there");
    error
}

#[test]
fn truncated_files_are_refused_wherever_they_end() {
    let path = Path::new("x.gguf");
    for name in ["llama.gguf", "qwen2.gguf"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let data = bytes.len()
            - Gguf::open(&bytes, path).unwrap().tensors.iter().map(|t| t.bytes.len()).sum::<usize>();
        // each place in the header and the first keys, and then some hundred
        for len in (0..300).chain((300..bytes.len()).step_by(data / 400 + 1)) {
            let error = Gguf::open(&bytes[..len], path).expect_err("less is not the file").to_string();
            assert!(
                error.contains("truncated or damaged") || error.contains("not a GGUF file"),
                "{len}: {error}"
            );
        }
        assert!(refused(&bytes[..bytes.len() - 1]).contains("truncated or damaged"));
        assert!(refused(&bytes[..data / 2]).contains("truncated or damaged"));
    }
    assert!(refused(b"").contains("is empty"));
}

#[test]
fn a_weight_that_is_no_number_names_the_file() {
    let mut bytes = std::fs::read(fixture("llama.gguf")).unwrap();
    let path = Path::new("x.gguf");
    let (name, at) = {
        let gguf = Gguf::open(&bytes, path).unwrap();
        let tensor = gguf.tensors.iter().find(|t| t.name == "output_norm.weight").unwrap();
        (tensor.name.to_string(), tensor.bytes.as_ptr() as usize - bytes.as_ptr() as usize)
    };
    // all ones are NaN in every float of GGUF
    bytes[at..at + 4].fill(0xff);
    let error = refused(&bytes);
    assert!(error.contains(&format!("x.gguf: {name} has NaN: the file is damaged")), "{error}");
}

#[test]
fn no_changed_byte_panics() {
    let bytes = std::fs::read(fixture("qwen2.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("x.gguf"), dir.path().join("m"));
    let mut state = 1u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for round in 0..600 {
        let mut changed = bytes.clone();
        // most of them where the keys and the table are
        let reach = if round % 4 == 0 { bytes.len() } else { 16_000 };
        for _ in 0..=next(3) {
            let at = next(reach);
            changed[at] = [0, 1, 127, 255, 64][next(5)];
        }
        std::fs::write(&file, &changed).unwrap();
        if import(&file, &out, Dtype::Bf16, None).is_ok() {
            std::fs::remove_dir_all(&out).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written");
    }
}

/// A file made by hand: keys as bytes, and tensors of (name, sizes fastest first, type, offset) with `data` bytes behind them.
fn by_hand(keys: &[Vec<u8>], tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    bytes.extend(keys.concat());
    for (name, sizes, format, offset) in tensors {
        bytes.extend(text(name));
        bytes.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.extend(format.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A key whose value is a text.
fn key(name: &str, value: &str) -> Vec<u8> {
    [text(name), 8u32.to_le_bytes().to_vec(), text(value)].concat()
}

#[test]
fn hostile_numbers_are_refused_before_anything_is_done_with_them() {
    let llama = key("general.architecture", "llama");
    let tensor = |sizes: &[u64], format, offset| {
        refused(&by_hand(std::slice::from_ref(&llama), &[("t", sizes, format, offset)], 64))
    };
    for (sizes, format, offset, expected) in [
        (&[u64::MAX, u64::MAX][..], 0, 0, "could hold"),
        (&[1 << 62, 8], 0, 0, "could hold"),
        (&[16], 0, u64::MAX - 31, "truncated or damaged"),
        (&[16], 0, 1 << 63, "truncated or damaged"),
        (&[16], 0, 8, "no multiple of 32"),
        (&[17], 0, 0, "truncated or damaged"),
        (&[33], 2, 0, "not whole blocks of Q4_0"),
        (&[], 0, 0, "has 0 dimensions"),
        (&[1, 1, 1, 1, 1], 0, 0, "has 5 dimensions"),
        (&[256], 10, 0, "type Q2_K, which is not read; read are F32, F16, BF16, Q4_0"),
        (&[256], 23, 0, "type IQ4_XS"),
        (&[256], 99, 0, "type 99"),
    ] {
        let error = tensor(sizes, format, offset);
        assert!(error.contains(expected), "{sizes:?} {format} {offset}: {error}");
    }
    let header = |tensors: u64, keys: u64| {
        let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
        refused(&[&b"GGUF"[..], &3u32.to_le_bytes(), &counts, &[0; 40]].concat())
    };
    assert!(header(u64::MAX, 0).contains("dimensions") || header(u64::MAX, 0).contains("truncated"));
    assert!(header(0, u64::MAX).contains("truncated") || header(0, u64::MAX).contains("twice"));
    let value = |kind: u32, rest: &[u8]| {
        refused(&by_hand(&[[text("k"), kind.to_le_bytes().to_vec(), rest.to_vec()].concat()], &[], 64))
    };
    assert!(value(8, &u64::MAX.to_le_bytes()).contains("k: a text at byte"));
    assert!(value(13, &[]).contains("there is no value type 13"));
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    assert!(value(9, &array(0, u64::MAX)).contains("truncated or damaged"));
    assert!(value(9, &array(9, 1)).contains("array of arrays"));
    let twice = by_hand(&[llama.clone(), llama.clone()], &[], 0);
    assert!(refused(&twice).contains("stands twice"));
    let same = |second: &str, offset| {
        refused(&by_hand(std::slice::from_ref(&llama), &[("t", &[8], 0, 0), (second, &[8], 0, offset)], 64))
    };
    assert!(same("t", 32).contains("two tensors t"));
    assert!(same("u", 0).contains("same place"));
}

#[test]
fn what_is_not_read_is_named() {
    let arch = |name: &str| key("general.architecture", name);
    let of = |keys: &[Vec<u8>]| refused(&by_hand(keys, &[], 0));
    assert!(of(&[arch("lama")]).contains("there are llama, qwen2; the nearest is llama"));
    assert!(of(&[]).contains("general.architecture is missing"));
    assert!(of(&[arch("llama"), key("general.type", "adapter")]).contains("no whole model"));
    assert!(of(&[arch("llama")]).contains("llama.embedding_length is missing"));
    let mut version = by_hand(&[], &[], 0);
    version[4] = 1;
    assert!(refused(&version).contains("GGUF version 1"));
    version[4..8].copy_from_slice(&[0, 0, 0, 3]);
    assert!(refused(&version).contains("big-endian"));

    // one key of a good file changed, in place
    let bytes = std::fs::read(fixture("qwen2.gguf")).unwrap();
    let changed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        refused(&changed)
    };
    for (from, to, expected) in [
        ("blk.0.attn_q.bias", "blk.0.attn_x.bias", "has no tensor blk.0.attn_q.bias"),
        ("output_norm.weight", "output_moon.weight", "has no tensor output_norm.weight"),
        ("qwen2.block_count", "qwen2.block_cound", "qwen2.block_count is missing"),
        ("tokenizer.ggml.model", "tokenizer.ggml.modal", "has no tokenizer; give --tokenizer"),
        ("tokenizer.ggml.pre", "tokenizer.ggml.pra", "does not say how text is cut"),
        ("tokenizer.ggml.merges", "tokenizer.ggml.mergez", "tokenizer.ggml.merges is missing"),
    ] {
        let error = changed(from, to);
        assert!(error.contains(expected), "{from}: {error}");
    }
}
