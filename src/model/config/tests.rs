//! Promise: a config.json is read as transformers reads it, or refused by a sentence; what is written reads the same.

use super::*;
use crate::model::params::{Init, ParamIds, parameter_count, table};
use crate::rope::{Scaling, ScalingKind, Yarn, for_training};

fn fixture(name: &str) -> Config {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    Config::load(&dir).expect("the fixture is readable")
}

fn parse(json: &Value) -> Result<Config> {
    Config::from_json(&json.to_string(), Path::new("config.json"))
}

/// The least that a config can say, with `changes` laid over it; a null removes.
fn with(changes: Value) -> Value {
    let mut json = json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 2048,
    });
    for (key, value) in changes.as_object().expect("changes are an object") {
        json[key] = value.clone();
    }
    json
}

fn sentence(changes: Value) -> String {
    parse(&with(changes.clone())).expect_err(&changes.to_string()).to_string()
}

#[test]
fn defaults_are_those_of_transformers() {
    let c = parse(&with(json!({}))).unwrap();
    assert_eq!((c.num_key_value_heads, c.head_dim, c.norm_eps), (4, 16, 1e-6));
    assert!(!c.tie_word_embeddings && c.arch == Arch::LLAMA);
    assert_eq!(c.rope, Rope { theta: 10000.0, rotary_dim: 16, scaling: Scaling::None });
    assert_eq!((c.bos_token_id, c.eos_token_ids, c.dtype), (None, vec![], None));
    let c =
        parse(&with(json!({"eos_token_id": [7, 8], "bos_token_id": 1, "torch_dtype": "bfloat16"}))).unwrap();
    assert_eq!((c.bos_token_id, c.eos_token_ids, c.dtype), (Some(1), vec![7, 8], Some(Dtype::Bf16)));
}

#[test]
fn fixtures_are_read() {
    let c = fixture("llama-tiny-bias");
    assert_eq!((c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim), (24, 3, 1, 20));
    assert!(c.arch.qkv_bias && c.arch.o_bias && !c.tie_word_embeddings);
    assert_eq!(c.dtype, Some(Dtype::F32));
    assert_eq!(parameter_count(&c), 16_256);
    assert_eq!(parameter_count(&fixture("llama-tiny")), 17_568);
}

#[test]
fn what_cannot_be_is_refused_by_a_sentence() {
    let cases = [
        (json!({"vocab_size": 0}), "vocab_size is 0, but it should be a whole number from 1 to"),
        (json!({"hidden_size": null}), "hidden_size is missing"),
        (json!({"hidden_size": "64"}), "hidden_size is \"64\", but it should be"),
        (json!({"hidden_size": 64.5}), "hidden_size is 64.5"),
        (json!({"num_hidden_layers": -1}), "num_hidden_layers is -1"),
        (json!({"num_hidden_layers": u64::MAX}), "num_hidden_layers is 18446744073709551615"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads 3 does not divide num_attention_heads 4"),
        (json!({"num_attention_heads": 5}), "num_attention_heads 5 does not divide hidden_size 64"),
        (json!({"head_dim": 15}), "head_dim is 15, but it must be even"),
        (
            json!({"head_dim": 1 << 23}),
            "head_dim is 8388608, but it should be a whole number from 1 to 65536",
        ),
        (
            json!({"hidden_size": 512, "num_attention_heads": 512, "num_key_value_heads": 512, "head_dim": 1 << 16}),
            "num_attention_heads 512 times head_dim 65536 is above 16777216",
        ),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps is 0"),
        (json!({"initializer_range": -0.1}), "initializer_range is -0.1"),
        (
            json!({"model_type": "qwen"}),
            "model_type \"qwen\": there is no such family; there are llama, mistral, qwen2, qwen3, gptj, baichuan; the nearest is qwen2",
        ),
        (json!({"model_type": "bloom"}), "there are llama, mistral, qwen2, qwen3"),
        (json!({"model_type": null}), "model_type is missing"),
        (json!({"hidden_act": "gelu"}), "supported is silu"),
        (json!({"mlp_bias": true}), "mlp_bias true is not supported"),
        (json!({"attention_dropout": 0.1}), "attention_dropout above 0"),
        (json!({"quantization_config": {"bits": 4}}), "quantized checkpoints are not supported"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings is 1, but it should be true or false"),
        (json!({"bos_token_id": [1]}), "bos_token_id is [1], but it should be a token id"),
        (json!({"eos_token_id": -2}), "eos_token_id is -2, but it should be a token id or a list"),
        (json!({"dtype": "int8"}), "supported are float32, float16, bfloat16"),
        (
            json!({"dtype": "float32", "torch_dtype": "float16"}),
            "dtype is \"float32\" and torch_dtype is \"float16\"",
        ),
    ];
    for (changes, expected) in cases {
        let sentence = sentence(changes.clone());
        assert!(
            sentence.starts_with("config.json: ") && sentence.contains(expected),
            "{changes}: {sentence}"
        );
    }
    for text in ["", "[]", "{", "nonsense"] {
        assert!(Config::from_json(text, Path::new("config.json")).is_err());
    }
}

#[test]
fn both_spellings_of_rope_are_read() {
    let yarn = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 2048});
    let old_type =
        json!({"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 2048, "finetuned": true});
    let mut new = yarn.clone();
    new["rope_theta"] = json!(5e5);
    let expected = Rope { theta: 5e5, rotary_dim: 16, scaling: Scaling::Yarn(Yarn::new(8.0, 2048)) };
    for changes in [
        json!({"rope_theta": 5e5, "rope_scaling": yarn}),
        json!({"rope_theta": 500000, "rope_scaling": old_type}),
        json!({"rope_parameters": new}),
        json!({"rope_theta": 5e5, "rope_scaling": yarn, "rope_parameters": new}),
        json!({"rope_scaling": new}),
        json!({"rope_theta": 5e5, "rope_scaling": null, "rope_parameters": new}),
        // the original length left out is the model's length; outside the object it is read too
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "yarn", "factor": 8.0}}),
        json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn", "factor": 8.0},
               "max_position_embeddings": 16384, "original_max_position_embeddings": 2048}),
    ] {
        let c = parse(&with(changes.clone())).unwrap_or_else(|e| panic!("{changes}: {e}"));
        assert_eq!(c.rope, expected, "{changes}");
        assert!(c.extra.is_empty());
    }
}

#[test]
fn a_scaled_model_reaches_as_far_as_either_length_says() {
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    for (max, scaling, reach) in [
        (32768, yarn.clone(), 131_072),
        (131_072, yarn, 131_072),
        (4096, json!({"type": "linear", "factor": 4.0}), 16384),
        (2048, Value::Null, 2048),
    ] {
        let json = with(json!({"max_position_embeddings": max, "rope_scaling": scaling, "rope_theta": 1e4}));
        let config = parse(&json).unwrap();
        assert_eq!(config.reach(&config.rope), reach, "{scaling}");
    }
    let plain = parse(&with(json!({"max_position_embeddings": 2048}))).unwrap();
    let scaled = Rope { scaling: Scaling::Linear { factor: 8.0 }, ..plain.rope.clone() };
    assert_eq!(plain.reach(&scaled), 16384);
}

#[test]
fn wrong_rope_is_refused_by_a_sentence() {
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    let cases = [
        (
            json!({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
            "rope_theta is 10000 and rope_parameters.rope_theta is 500000",
        ),
        (
            json!({"rope_scaling": linear, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
            "rope_scaling is {\"rope_type\":\"linear\",\"factor\":4.0} and rope_parameters is",
        ),
        (
            json!({"rope_scaling": linear, "rope_parameters": {"rope_type": "default"}}),
            "remove the wrong one",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "rope_type": "yarn"}}),
            "rope_scaling.type is \"linear\" and",
        ),
        (json!({"rope_scaling": {"type": "dynamic"}}), "rope_scaling.factor is missing"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 0.5}}), "factor 0.5 must be"),
        (json!({"rope_parameters": {"rope_type": "longrope"}}), "rope_parameters.short_factor is missing"),
        (
            json!({"rope_scaling": {"type": "su", "short_factor": [1, 1], "long_factor": [2, 3]}}),
            "short_factor has 2 numbers, and 16 rotated elements per head are 8 pairs",
        ),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, "x"], "long_factor": []}}),
            "should be a list of finite numbers",
        ),
        (json!({"rope_parameters": {"rope_type": "yam"}}), "rope_parameters.rope_type \"yam\" is unknown"),
        (
            json!({"rope_parameters": {"rope_type": "yam"}}),
            "default, linear, dynamic, yarn, longrope, llama3; the nearest is yarn",
        ),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor is missing"),
        (json!({"rope_scaling": {"type": "linear", "factor": "4"}}), "rope_scaling.factor is \"4\""),
        (json!({"rope_scaling": {"type": "linear", "factor": 1.0}}), "changes nothing"),
        (json!({"rope_scaling": {"type": "linear", "factor": 0.0}}), "factor 0 must be"),
        (json!({"rope_scaling": {"type": "linear", "factor": 4.0, "beta_fast": 32}}), "does not take"),
        (json!({"rope_scaling": "linear"}), "rope_scaling is \"linear\", but it should be an object"),
        (json!({"rope_scaling": {"type": "llama3", "factor": 8.0}}), "low_freq_factor is missing"),
        (json!({"rope_parameters": {"full_attention": {}}}), "differs from layer to layer"),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor other than 1"),
        (json!({"rope_theta": 0.5}), "rope_theta 0.5 must be"),
        (
            json!({"original_max_position_embeddings": 1024, "rope_scaling":
                   {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}}),
            "original_max_position_embeddings is 1024 and rope_scaling.original_max_position_embeddings is 2048",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "pose_engine_variant": "new"}}),
            "supported is revised",
        ),
    ];
    for (changes, expected) in cases {
        let found = sentence(changes.clone());
        assert!(found.contains(expected), "{changes}: {found}");
    }
}

#[test]
fn no_value_of_any_key_panics() {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(0.5),
        json!(1e300),
        json!(u64::MAX),
        json!("x"),
        json!(""),
        json!([]),
        json!([1, "x"]),
        json!({}),
        json!({"rope_type": "yarn"}),
        json!({"rope_type": "yarn", "factor": 1e300}),
        json!({"factor": 2}),
    ];
    let (json, _) = fixture("llama-tiny").to_json();
    let mut refused = 0;
    for key in json.as_object().unwrap().keys() {
        for value in &odd {
            let mut changed = json.clone();
            changed[key] = value.clone();
            if let Ok(config) = parse(&changed) {
                assert!(parameter_count(&config) > 0);
            } else {
                refused += 1;
            }
        }
    }
    assert!(refused > 200, "only {refused} of these were refused");
}

#[test]
fn what_is_written_reads_the_same() {
    for kind in ScalingKind::ALL {
        for name in ["llama-tiny", "llama-tiny-bias"] {
            let base =
                Config { extra: Map::from_iter([("use_cache".into(), json!(false))]), ..fixture(name) };
            let base = Config { eos_token_ids: vec![2, 7], ..base };
            let rope = for_training(&base.rope, kind, (16384, "--target-len"), 2048, None).unwrap();
            let config = base.extended(rope, 16384);
            let (json, warnings) = config.to_json();
            assert_eq!(warnings.len(), usize::from(kind == ScalingKind::YarnRevised));
            assert_eq!(json["rope_theta"], json["rope_parameters"]["rope_theta"]);
            let mut again = parse(&json).unwrap();
            again.rope = again.rope.for_length(16384);
            assert_eq!(again.rope.inverse_frequencies(), config.rope.inverse_frequencies(), "{kind}");
            assert_eq!(again.rope.attention_factor(), config.rope.attention_factor(), "{kind}");
            assert_eq!(Config { rope: config.rope.clone(), ..again }, config, "{kind}");
        }
    }
}

#[test]
fn longrope_is_read_and_written_in_both_spellings() {
    let (short, long): (Vec<f64>, Vec<f64>) =
        (0..8).map(|i| (1.0 + f64::from(i) / 64.0, f64::from(1 + i))).unzip();
    let lists = json!({"rope_type": "longrope", "short_factor": short, "long_factor": long});
    let mut inside = lists.clone();
    (inside["original_max_position_embeddings"], inside["rope_theta"]) = (json!(4096), json!(1e4));
    for changes in [
        // Phi-3: the original length outside
        json!({"rope_theta": 1e4, "rope_scaling": lists, "original_max_position_embeddings": 4096,
               "max_position_embeddings": 131_072}),
        json!({"rope_parameters": inside, "max_position_embeddings": 131_072}),
    ] {
        let config = parse(&with(changes)).unwrap();
        let Scaling::LongRope(read) = &config.rope.scaling else { panic!("{:?}", config.rope) };
        assert_eq!((&read.short_factor, &read.long_factor), (&short, &long));
        assert_eq!((read.original, read.factor), (4096, 32.0));
        let (json, warnings) = config.extended(config.rope.for_length(65_536), 262_144).to_json();
        assert!(warnings.is_empty());
        assert_eq!(json["original_max_position_embeddings"], 4096);
        assert_eq!(
            (&json["rope_scaling"]["type"], &json["rope_parameters"]["factor"]),
            (&json!("longrope"), &json!(32.0))
        );
        let again = parse(&json).unwrap();
        for length in [4096, 65_536] {
            let (new, old) = (again.rope.for_length(length), config.rope.for_length(length));
            assert_eq!(new.inverse_frequencies(), old.inverse_frequencies());
            assert_eq!(new.attention_factor(), old.attention_factor());
        }
    }
}

#[test]
fn a_dynamic_scaling_keeps_the_length_that_it_counts_from() {
    let base = fixture("llama-tiny");
    let rope = for_training(&base.rope, ScalingKind::Dynamic, (16384, "--target-len"), 2048, None).unwrap();
    let (json, _) = base.extended(rope.clone(), 16384).to_json();
    assert_eq!(json["max_position_embeddings"], 2048, "other software counts from this");
    assert_eq!(json["rope_scaling"], json!({"rope_type": "dynamic", "factor": 8.0, "type": "dynamic"}));
    let again = parse(&json).unwrap();
    assert_eq!(again.rope.for_length(16384), rope);
    assert_eq!(again.rope.for_length(2048).inverse_frequencies(), base.rope.inverse_frequencies());
}

#[test]
fn the_revised_yarn_keeps_its_name_and_warns() {
    let base = fixture("llama-tiny");
    let rope =
        for_training(&base.rope, ScalingKind::YarnRevised, (16384, "--target-len"), 2048, None).unwrap();
    let (json, warnings) = base.extended(rope, 16384).to_json();
    assert_eq!(json["rope_scaling"]["rope_type"], "yarn");
    assert_eq!(json["rope_parameters"]["pose_engine_variant"], "revised");
    assert!(warnings[0].contains("standard yarn"), "{warnings:?}");
    assert!(matches!(parse(&json).unwrap().rope.scaling, Scaling::YarnRevised(_)));
}

#[test]
fn presets_are_sound() {
    for (name, least, most) in
        [("tiny", 190_000, 210_000), ("small", 900_000, 1_100_000), ("10m", 9_000_000, 11_000_000)]
    {
        let config = Config::preset(name).unwrap();
        config.check().unwrap();
        let count = parameter_count(&config);
        assert!((least..=most).contains(&count), "{name} has {count} parameters");
    }
    for (name, count) in
        [("smollm2-135m", 134_515_008), ("llama-7b", 6_738_415_616), ("llama-3-8b", 8_030_261_248)]
    {
        let config = Config::preset(name).unwrap();
        config.check().unwrap();
        assert_eq!(parameter_count(&config), count, "{name}");
    }
    let unknown = Config::preset("huge").unwrap_err().to_string();
    assert!(unknown.contains("tiny, small, 10m, smollm2-135m"), "{unknown}");
    assert_eq!(preset_names().count(), 6);
}

#[test]
fn ids_and_table_agree() {
    let config = fixture("llama-tiny-bias");
    let (table, ids) = (table(&config), ParamIds::new(&config));
    let spec = |id: super::super::params::ParamId| &table[id.0];
    assert_eq!(spec(ids.embed).name, "model.embed_tokens.weight");
    assert_eq!(spec(ids.head_weight()).name, "lm_head.weight");
    let layer = &ids.layers[1];
    assert_eq!(spec(layer.q.weight).name, "model.layers.1.self_attn.q_proj.weight");
    assert_eq!(spec(layer.q.weight).shape, [60, 24]);
    assert_eq!(spec(layer.o.weight).shape, [24, 60]);
    assert_eq!(spec(layer.down.weight).shape, [24, 40]);
    assert_eq!(spec(layer.v.bias.unwrap()).name, "model.layers.1.self_attn.v_proj.bias");
    assert_eq!((spec(layer.v.bias.unwrap()).decay, spec(layer.v.bias.unwrap()).init), (false, Init::Zeros));
    let post_norm = layer.post_norm.expect("a second norm").weight;
    assert_eq!((spec(post_norm).decay, spec(post_norm).init), (false, Init::Ones));
    assert_eq!((spec(layer.up.weight).decay, spec(layer.up.weight).init), (true, Init::Normal(0.02)));
    let tied = ParamIds::new(&fixture("llama-tiny"));
    assert_eq!((tied.head, tied.head_weight(), tied.layers[0].q.bias), (None, tied.embed, None));
}
