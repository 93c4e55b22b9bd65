//! A model's directory: weights, config.json, tokenizer.json, an adapter.

use super::{fixture, texts};
use crate::budget::Budget;
use crate::{Desk, Target};
use pose_engine::checkpoint::{Adapter, Weights};
use pose_engine::data::Tokenizer;
use pose_engine::model::{Config, params};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

pub const SAFETENSORS: Target =
    Target { name: "safetensors", read: safetensors, seeds: safetensors_seeds, budget: Budget::PARSED };
pub const INDEX: Target = Target { name: "index", read: index, seeds: index_seeds, budget: Budget::PARSED };
/// 8 MiB for the parameters of as many layers as there may be, of the file's config and of the one that is written of it.
pub const CONFIG: Target = Target {
    name: "config",
    read: config,
    seeds: config_seeds,
    budget: Budget { base: 8 << 20, ..Budget::PARSED },
};
pub const TOKENIZER: Target =
    Target { name: "tokenizer", read: tokenizer, seeds: tokenizer_seeds, budget: Budget::PARSED };
pub const ADAPTER: Target =
    Target { name: "adapter", read: adapter, seeds: adapter_seeds, budget: Budget::PARSED };

/// Reads every tensor in every way.
fn walk(weights: &Weights) {
    for name in weights.names() {
        let shape = weights.shape(name).unwrap_or_default().to_vec();
        let _ = weights.read_f32(name, &shape, &mut |_, _| Ok(()));
        let _ = weights.read_stored::<u8>(name, &shape, &mut |_, _| Ok(()));
    }
    let _ = weights.fingerprint();
}

fn safetensors(desk: &Desk, bytes: &[u8]) {
    desk.lay("model.safetensors", bytes);
    if let Ok(weights) = Weights::open(desk.path()) {
        walk(&weights);
    }
}

/// A file of tensors with these names, of six bytes each.
fn tensors(named: &[(&str, Dtype, &[usize])]) -> Vec<u8> {
    let bytes = [0u8; 64];
    let view = |&(name, dtype, shape): &(&str, Dtype, &[usize])| {
        let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name.to_string(), TensorView::new(dtype, shape.to_vec(), &bytes[..len]).expect("a tensor"))
    };
    safetensors::serialize(named.iter().map(view), None).expect("a file")
}

fn safetensors_seeds() -> Vec<Vec<u8>> {
    vec![
        tensors(&[("a", Dtype::F32, &[2, 3]), ("b", Dtype::BF16, &[4]), ("c", Dtype::F16, &[])]),
        tensors(&[("empty", Dtype::F32, &[0, 3]), ("codes", Dtype::U8, &[6])]),
        tensors(&[("wide", Dtype::F64, &[2]), ("model.norm.weight", Dtype::I64, &[1])]),
    ]
}

fn index(desk: &Desk, bytes: &[u8]) {
    for (shard, name) in [("a.safetensors", "a"), ("b.safetensors", "b")] {
        if !desk.path().join(shard).exists() {
            desk.lay(shard, &tensors(&[(name, Dtype::F32, &[2])]));
        }
    }
    desk.lay("model.safetensors.index.json", bytes);
    if let Ok(weights) = Weights::open(desk.path()) {
        walk(&weights);
    }
}

fn index_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"metadata": {"total_size": 16}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#,
        r#"{"weight_map": {"a": "../a.safetensors"}}"#,
        r#"{"weight_map": {"a": "/etc/passwd", "b": "b.safetensors"}}"#,
    ])
}

fn config(_: &Desk, bytes: &[u8]) {
    let path = Path::new("config.json");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = Config::from_json(text, path) else { return };
    let table = params::table(&config);
    let _ = params::file_tensors(&table);
    let _ = config.rope.for_length(config.max_position_embeddings).turns();
    // what we write we read, and as the same model
    let (json, _) = config.to_json();
    let again = Config::from_json(&json.to_string(), path).unwrap_or_else(|e| panic!("{e}: {json}"));
    assert_eq!(again.rope.inverse_frequencies(), config.rope.inverse_frequencies(), "{json}");
    assert_eq!(params::parameter_count(&again), params::parameter_count(&config), "{json}");
}

fn config_seeds() -> Vec<Vec<u8>> {
    let families = ["llama", "llama", "mistral", "qwen2", "qwen3", "gptj", "baichuan2"];
    let mut seeds: Vec<Vec<u8>> =
        families.iter().map(|family| fixture(&format!("{family}-tiny/config.json"))).collect();
    let scaled = |scaling: &str| {
        let mut config: serde_json::Value = serde_json::from_slice(&seeds[0]).expect("JSON");
        config["rope_scaling"] = serde_json::from_str(scaling).expect("JSON");
        config.as_object_mut().expect("an object").remove("rope_parameters");
        config.to_string().into_bytes()
    };
    let scaled = [
        r#"{"type": "linear", "factor": 4.0}"#,
        r#"{"rope_type": "dynamic", "factor": 2}"#,
        r#"{"rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 64, "beta_fast": 32, "truncate": false}"#,
        r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 64}"#,
        r#"{"rope_type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [2, 2, 3, 4], "original_max_position_embeddings": 64}"#,
    ]
    .map(scaled);
    seeds.extend(scaled);
    seeds
}

fn tokenizer(desk: &Desk, bytes: &[u8]) {
    desk.lay("tokenizer.json", bytes);
    if !desk.path().join("tokenizer_config.json").exists() {
        desk.lay("tokenizer_config.json", br#"{"bos_token": "a", "eos_token": {"content": "b"}}"#);
    }
    let by_bytes = Tokenizer::from_json(bytes, Path::new("tokenizer.json"));
    for tokenizer in [Tokenizer::load(desk.path()), by_bytes].into_iter().flatten() {
        let tokens = tokenizer.encode("Hello, wörld: a 12\u{0}b  ").unwrap_or_default();
        let _ = tokenizer.decode(&tokens, false);
        let mut decoder = tokenizer.decoder(true);
        tokens.iter().for_each(|&token| drop(decoder.push(token)));
        let _ = (decoder.finish(), tokenizer.adds_bos(), tokenizer.check_vocab(32_000));
    }
}

fn tokenizer_seeds() -> Vec<Vec<u8>> {
    let bpe = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{"id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}], "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+"}, "behavior": "Isolated", "invert": false}, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}}, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}, "model": {"type": "BPE", "dropout": null, "unk_token": "a", "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}"#;
    let others = [
        r#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}"#,
        r###"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}, "model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"a": 0, "##b": 1}}}"###,
        r#"{"version": "1.0", "added_tokens": [], "normalizer": {"type": "Prepend", "prepend": "_"}, "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": true}, "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}, "model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["_b", -1.5]], "byte_fallback": false}}"#,
    ];
    let mut seeds = texts(&[bpe]);
    seeds.extend(texts(&others));
    seeds
}

/// The config and the tensors in one: a byte that tells which of the two the rest is.
fn adapter(desk: &Desk, bytes: &[u8]) {
    let Some((&which, rest)) = bytes.split_first() else { return };
    let tensors = tensors(&[
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", Dtype::F32, &[1, 2]),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", Dtype::F32, &[2, 1]),
    ]);
    let (config, tensors) =
        if which % 2 == 0 { (rest, &tensors[..]) } else { (ADAPTER_CONFIG.as_bytes(), rest) };
    desk.lay("adapter_config.json", config);
    desk.lay("adapter_model.safetensors", tensors);
    let Ok(Some(adapter)) = Adapter::find(desk.path()) else { return };
    let _ = (adapter.base(), adapter.has_config(), adapter.check_base(&adapter.weights));
    let config = Config::from_json(LLAMA, Path::new("config.json")).expect("a config");
    // as one whose head is the embedding, the first of the table, and as one with a head of its own
    let table = params::table(&config);
    let _ = (adapter.check(&table, None), adapter.check(&table, table.first()));
    walk(&adapter.weights);
}

const ADAPTER_CONFIG: &str = r#"{"peft_type": "LORA", "base_model_name_or_path": "base", "r": 1, "lora_alpha": 2.0, "target_modules": ["q_proj"]}"#;
const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 4, "hidden_size": 2, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu"}"#;

fn adapter_seeds() -> Vec<Vec<u8>> {
    let tensors = safetensors_seeds().remove(0);
    vec![[&b"\0"[..], ADAPTER_CONFIG.as_bytes()].concat(), [&b"\x01"[..], &tensors].concat()]
}
