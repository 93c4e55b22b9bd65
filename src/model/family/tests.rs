//! Promise: each family's keys are read as transformers reads them, or refused by a sentence; what is written reads the
//! same.

use super::*;
use serde_json::json;
use std::path::Path;

/// The least that a config of the family can say, with `changes` laid over it; a null stays a null.
fn parse(model_type: &str, changes: &Value) -> Result<Config> {
    let mut json = json!({
        "model_type": model_type, "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
    });
    for (key, value) in changes.as_object().expect("changes are an object") {
        json[key] = value.clone();
    }
    Config::from_json(&json.to_string(), Path::new("config.json"))
}

/// The same for GPT-J, which has keys of its own.
fn parse_gptj(changes: &Value) -> Result<Config> {
    let mut json = json!({
        "model_type": "gptj", "vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 2048, "rotary_dim": 4,
    });
    for (key, value) in changes.as_object().expect("changes are an object") {
        json[key] = value.clone();
    }
    Config::from_json(&json.to_string(), Path::new("config.json"))
}

#[test]
fn gptj_has_keys_of_its_own() {
    let c = parse_gptj(&json!({})).unwrap();
    assert_eq!((c.hidden_size, c.intermediate_size, c.head_dim, c.num_key_value_heads), (64, 256, 16, 4));
    assert_eq!((c.rope.rotary_dim, c.rope.theta, c.norm_eps), (4, 10000.0, 1e-5));
    let (json, warnings) = c.to_json();
    // as its own software writes it: no rotation to read there
    assert!(
        !json.as_object().unwrap().keys().any(|key| key.contains("rope")) && warnings.is_empty(),
        "{json}"
    );
    let scaled = parse_gptj(&json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}})).unwrap();
    let (json, warnings) = scaled.to_json();
    assert!(
        warnings.len() == 1 && warnings[0].contains("other software will compute different"),
        "{warnings:?}"
    );
    assert_eq!(Config::from_json(&json.to_string(), Path::new("again.json")).unwrap().rope, scaled.rope);
    for (changes, expected) in [
        (json!({"rotary_dim": null}), "rotary_dim is missing"),
        (json!({"rotary_dim": 3}), "rotary_dim is 3, but it should be even and at most n_embd/n_head, 16"),
        (json!({"rotary_dim": 18}), "rotary_dim is 18"),
        (json!({"n_head": 3}), "n_head 3 does not divide n_embd 64"),
        (json!({"activation_function": "relu"}), "supported is gelu_new"),
        (json!({"attn_pdrop": 0.1}), "attn_pdrop above 0"),
        (json!({"tie_word_embeddings": true}), "not supported for GPT-J"),
        (json!({"layer_norm_epsilon": 0}), "layer_norm_epsilon is 0"),
    ] {
        let sentence = parse_gptj(&changes).expect_err(&changes.to_string()).to_string();
        assert!(sentence.contains(expected), "{changes}: {sentence}");
    }
}

#[test]
fn the_baichuan_models_are_told_apart() {
    let of = |changes: Value| {
        let mut all = json!({"num_key_value_heads": null});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        parse("baichuan", &all)
    };
    assert!(of(json!({"vocab_size": 125_696})).unwrap().arch.unit_head);
    assert!(!of(json!({"vocab_size": 64_000})).unwrap().arch.unit_head);
    let json = json!({"model_type": "baichuan", "vocab_size": 125_696, "model_max_length": 4096});
    let without = Config::from_json(&json.to_string(), Path::new("config.json")).unwrap_err().to_string();
    assert!(without.contains("ALiBi"), "{without}");
    let tied = of(json!({"tie_word_embeddings": true})).unwrap_err().to_string();
    assert!(tied.contains("tie_word_embeddings true is not supported"), "{tied}");
    let written = of(json!({"model_max_length": 2048})).unwrap().extended(
        crate::rope::Rope { theta: 10_000.0, rotary_dim: 16, scaling: crate::rope::Scaling::None },
        8192,
    );
    let (json, _) = written.to_json();
    assert_eq!((&json["model_max_length"], &json["max_position_embeddings"]), (&json!(8192), &json!(8192)));
}

fn sentence(model_type: &str, changes: Value) -> String {
    parse(model_type, &changes).expect_err(&changes.to_string()).to_string()
}

#[test]
fn windows_are_read_as_transformers_does() {
    let types =
        |layers: [&str; 4]| json!({"use_sliding_window": true, "sliding_window": 9, "layer_types": layers});
    let (full, sliding) = ("full_attention", "sliding_attention");
    for (model_type, changes, window) in [
        ("llama", json!({"sliding_window": 9}), None),
        ("mistral", json!({}), Some(4096)),
        ("mistral", json!({"sliding_window": null}), None),
        ("mistral", json!({"sliding_window": 9}), Some(9)),
        ("qwen2", json!({"sliding_window": 9}), None),
        ("qwen2", json!({"use_sliding_window": false, "sliding_window": 9, "max_window_layers": 0}), None),
        // not reached by the four layers that there are
        ("qwen2", json!({"use_sliding_window": true}), None),
        ("qwen2", json!({"use_sliding_window": true, "max_window_layers": 0}), Some(4096)),
        ("qwen2", json!({"use_sliding_window": true, "max_window_layers": 0, "sliding_window": null}), None),
        ("qwen3", json!({"use_sliding_window": true, "max_window_layers": 0, "sliding_window": 9}), Some(9)),
        ("qwen3", types([full; 4]), None),
        ("qwen3", types([sliding; 4]), Some(9)),
    ] {
        let config = parse(model_type, &changes).unwrap_or_else(|e| panic!("{changes}: {e}"));
        assert_eq!(config.arch.window, window, "{model_type} {changes}");
        let again = Config::from_json(&config.to_json().0.to_string(), Path::new("again.json")).unwrap();
        assert_eq!(again, config, "{model_type} {changes}");
    }
    for changes in
        [types([full, full, sliding, sliding]), json!({"use_sliding_window": true, "max_window_layers": 2})]
    {
        let sentence = sentence("qwen2", changes);
        assert!(
            sentence.contains("2 of 4 layers have the window of") && sentence.contains("of none"),
            "{sentence}"
        );
    }
}

#[test]
fn what_sets_a_family_apart_is_read() {
    let of = |model_type: &str, changes: Value| parse(model_type, &changes).unwrap();
    let qwen2 = of("qwen2", json!({}));
    assert_eq!(qwen2.arch, Arch { qkv_bias: true, ..Arch::LLAMA });
    let qwen3 = of("qwen3", json!({}));
    assert_eq!((qwen3.arch, qwen3.head_dim), (Arch { qk_norm: true, ..Arch::LLAMA }, 128));
    let biased = of("qwen3", json!({"attention_bias": true, "head_dim": 32}));
    assert!(biased.arch.qkv_bias && biased.arch.o_bias && biased.head_dim == 32);
    assert_eq!(of("mistral", json!({"sliding_window": null})).arch, Arch::LLAMA);
}

#[test]
fn what_cannot_be_is_refused_by_a_sentence() {
    for (model_type, changes, expected) in [
        ("mistral", json!({"num_key_value_heads": null}), "num_key_value_heads is missing"),
        ("mistral", json!({"sliding_window": 0}), "sliding_window is 0, but it should be a whole number"),
        (
            "qwen2",
            json!({"use_sliding_window": "yes"}),
            "use_sliding_window is \"yes\", but it should be true or false",
        ),
        ("qwen2", json!({"max_window_layers": -1}), "max_window_layers"),
        ("qwen2", json!({"layer_types": 3}), "layer_types should be a list"),
        ("qwen3", json!({"attention_dropout": 0.1}), "attention_dropout above 0"),
        ("qwen3", json!({"hidden_act": "gelu"}), "supported is silu"),
        ("qwen3_moe", json!({}), "there are llama, mistral, qwen2, qwen3"),
        ("mistral3", json!({}), "the nearest is mistral"),
    ] {
        let sentence = sentence(model_type, changes.clone());
        assert!(sentence.contains(expected), "{model_type} {changes}: {sentence}");
    }
}
