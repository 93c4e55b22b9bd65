//! Promise: a checkpoint exists whole or not at all, reads back bit for bit, and what cannot be read says why.

mod common;

use common::MODELS;
use pose_engine::checkpoint::*;
use pose_engine::error::{Error, Result};
use pose_engine::model::config::{Config, Dtype};
use pose_engine::model::params::{file_tensors, table};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Tensors in memory.
struct Held {
    specs: Vec<TensorSpec>,
    bytes: Vec<Vec<u8>>,
}

impl Held {
    fn of(tensors: &[(&str, &[usize], &[f32])]) -> Held {
        let specs = tensors.iter().map(|(name, shape, _)| TensorSpec {
            name: name.to_string(),
            shape: shape.to_vec(),
            dtype: Dtype::F32.into(),
        });
        let bytes = tensors.iter().map(|(_, _, x)| x.iter().flat_map(|x| x.to_le_bytes()).collect());
        Held { specs: specs.collect(), bytes: bytes.collect() }
    }

    /// Every weight of a fixture.
    fn model(name: &str) -> (Config, Held) {
        let config = Config::load(&fixture(name)).unwrap();
        let weights = Weights::open(&fixture(name)).unwrap();
        let mut held = Held { specs: Vec::new(), bytes: Vec::new() };
        for param in table(&config) {
            let mut numbers = Vec::new();
            weights.read_into(&param.name, &param.shape, &mut numbers).unwrap();
            held.bytes.push(numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
            held.specs.push(TensorSpec { name: param.name, shape: param.shape, dtype: Dtype::F32.into() });
        }
        (config, held)
    }

    fn write(&self, path: &Path) {
        let all: Vec<usize> = (0..self.specs.len()).collect();
        write_safetensors(path, self, &all).unwrap();
    }
}

impl TensorSource for Held {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }
    fn bytes(&self, i: usize, sink: &mut Bytes<'_>) -> Result<()> {
        let (one, rest) = self.bytes[i].split_at(self.bytes[i].len() / 3);
        sink(one)?;
        sink(rest)
    }
}

/// A device that fails in the middle of a download.
struct Failing(Held);

impl TensorSource for Failing {
    fn specs(&self) -> &[TensorSpec] {
        self.0.specs()
    }
    fn bytes(&self, i: usize, sink: &mut Bytes<'_>) -> Result<()> {
        match i {
            3 => Err(Error::Device { device: "cuda:0".into(), problem: "is lost".into() }),
            _ => self.0.bytes(i, sink),
        }
    }
}

fn sentence<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("must be refused").to_string()
}

fn save(target: &Path, name: &str, shard_bytes: u64) -> Config {
    let (config, held) = Held::model(name);
    let staging = Staging::create(target, Existing::Refuse).unwrap();
    write_model(&staging, &config, &held, None, shard_bytes).unwrap();
    staging.commit().unwrap();
    config
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_transformers_wrote_is_read() {
    for name in MODELS {
        let config = Config::load(&fixture(name)).unwrap();
        let weights = Weights::open(&fixture(name)).unwrap();
        assert_eq!(weights.check_table(&table(&config)).unwrap(), Vec::<String>::new());
        let norm = format!("{}.weight", config.family.names.final_norm);
        assert_eq!(weights.dtype(&norm), Some(Dtype::F32));
        let raw = fs::read(fixture(name).join("model.safetensors")).unwrap();
        let raw = safetensors::SafeTensors::deserialize(&raw).unwrap();
        let table = table(&config);
        for tensor in file_tensors(&table) {
            let mut numbers = Vec::new();
            weights.read_into(&tensor.name, &tensor.shape, &mut numbers).unwrap();
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(bytes, raw.tensor(&tensor.name).unwrap().data(), "{}", tensor.name);
            // the same, parameter by parameter
            let mut parts = Vec::new();
            for param in &table[tensor.holds] {
                let before = parts.len();
                let mut take = |at: usize, values: &[f32]| {
                    assert_eq!(parts.len(), before + at);
                    parts.extend_from_slice(values);
                    Ok(())
                };
                weights.read_param(param, &mut take).unwrap();
            }
            assert_eq!(parts, numbers, "{}", tensor.name);
        }
    }
}

#[test]
fn a_model_reads_back_bit_for_bit_from_one_file_or_many() {
    let (_, held) = Held::model("llama-tiny-bias");
    for (shard_bytes, files) in [(SHARD_BYTES, 1), (20_000, 4), (1, 29)] {
        let dir = temp();
        let target = dir.path().join("made/on/the/way");
        let config = save(&target, "llama-tiny-bias", shard_bytes);
        let shards = entries(&target).iter().filter(|n| n.ends_with(".safetensors")).count();
        assert_eq!(shards, files);
        assert_eq!(target.join("model.safetensors.index.json").exists(), files > 1);
        verify(&target).unwrap();
        let again = Config::load(&target).unwrap();
        assert_eq!(again.rope, config.rope);
        let weights = Weights::open(&target).unwrap();
        weights.check_table(&table(&again)).unwrap();
        for (spec, bytes) in held.specs.iter().zip(&held.bytes) {
            let mut numbers = Vec::new();
            weights.read_into(&spec.name, &spec.shape, &mut numbers).unwrap();
            assert_eq!(&numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), bytes);
        }
        // no leftovers beside it
        assert_eq!(entries(target.parent().unwrap()), ["way"]);
    }
}

#[cfg(unix)]
#[test]
fn all_files_have_the_mode_of_new_files() {
    use std::os::unix::fs::PermissionsExt;
    let dir = temp();
    save(&dir.path().join("m"), "llama-tiny", SHARD_BYTES);
    let mode = |name: &str| fs::metadata(dir.path().join("m").join(name)).unwrap().permissions().mode();
    assert_eq!(mode("model.safetensors"), mode("config.json"));
}

#[test]
fn halves_are_read_exactly_and_in_windows() {
    use half::{bf16, f16};
    let n = (1 << 20) + 17;
    let numbers: Vec<f32> = (0..n).map(|i| (i % 256) as f32 - 100.0).collect();
    let tensor =
        |name: &str, dtype: Dtype| TensorSpec { name: name.into(), shape: vec![n], dtype: dtype.into() };
    let held = Held {
        specs: vec![tensor("a", Dtype::Bf16), tensor("b", Dtype::F16)],
        bytes: vec![
            numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        ],
    };
    let dir = temp();
    let path = dir.path().join("x.safetensors");
    held.write(&path);
    let weights = Weights::open_file(&path).unwrap();
    for name in ["a", "b"] {
        let mut out = Vec::new();
        let mut windows = 0;
        let mut take = |offset: usize, x: &[f32]| {
            assert_eq!(offset, out.len());
            out.extend_from_slice(x);
            windows += 1;
            Ok(())
        };
        weights.read_f32(name, &[n], &mut take).unwrap();
        assert_eq!((windows, &out), (2, &numbers));
        // what the receiver says stops the reading
        let full = |_: usize, _: &[f32]| Err(Error::DoesNotFit("full".into()));
        assert_eq!(sentence(weights.read_f32(name, &[n], &mut { full })), "full");
    }
}

#[test]
fn wrong_tensors_say_which_and_how() {
    let dir = temp();
    let path = dir.path().join("model.safetensors");
    let mut broken = vec![0.5; 12];
    broken[7] = f32::NAN;
    Held::of(&[("w", &[3, 4], &[1.0; 12]), ("x", &[3, 4], &broken)]).write(&path);
    let weights = Weights::open(dir.path()).unwrap();
    let read = |name, shape: &[usize]| sentence(weights.read_into(name, shape, &mut Vec::new()));
    assert!(read("absent", &[1]).contains("absent is absent"));
    assert!(read("w", &[4, 3]).contains("w is [3, 4], but config.json makes it [4, 3]"));
    assert!(read("x", &[3, 4]).contains("x[1, 3] is NaN"));
    let f64s =
        [("y", safetensors::tensor::TensorView::new(safetensors::Dtype::F64, vec![1], &[0; 8]).unwrap())];
    fs::write(&path, safetensors::serialize(f64s, None).unwrap()).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let found = sentence(weights.read_into("y", &[1], &mut Vec::new()));
    assert!(found.contains("y is stored as F64; supported are F32, F16 and BF16"), "{found}");
}

#[test]
fn broken_files_say_what_to_do() {
    let dir = temp();
    assert!(sentence(Weights::open(&dir.path().join("absent"))).contains("is not a directory"));
    assert!(sentence(Weights::open(dir.path())).contains("has neither model.safetensors nor"));
    fs::write(dir.path().join("pytorch_model-00001-of-00002.bin"), b"x").unwrap();
    let pickled = sentence(Weights::open(dir.path()));
    assert!(pickled.contains("pickles can run code") && pickled.contains("save_pretrained"), "{pickled}");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(fixture("llama-tiny/model.safetensors")).unwrap();
    for length in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let found = sentence(Weights::open(dir.path()));
        assert!(found.contains(&format!("({length} bytes) is truncated")), "{found}");
    }
    fs::write(&path, [0xff; 64]).unwrap();
    assert!(sentence(Weights::open(dir.path())).contains("truncated or not safetensors"));
}

#[test]
fn broken_indices_are_refused() {
    let dir = temp();
    let index = dir.path().join("model.safetensors.index.json");
    Held::of(&[("w", &[1], &[1.0])]).write(&dir.path().join("a.safetensors"));
    for (map, expected) in [
        (r#"{"weight_map": {"w": "b.safetensors"}}"#, "b.safetensors: is missing, though"),
        (r#"{"weight_map": {"w": "../a.safetensors"}}"#, "is no file of this directory"),
        (r#"{"weight_map": {"w": "/etc/passwd"}}"#, "is no file of this directory"),
        (r#"{"weight_map": {"w": 3}}"#, "is no file of this directory"),
        (r#"{"weight_map": {"w": "a.safetensors", "v": "a.safetensors"}}"#, "says that v is in"),
        ("{}", "has no weight_map"),
        ("{", "is not JSON"),
    ] {
        fs::write(&index, map).unwrap();
        let found = sentence(Weights::open(dir.path()));
        assert!(found.contains(expected), "{map}: {found}");
    }
    fs::write(&index, r#"{"weight_map": {"w": "a.safetensors"}}"#).unwrap();
    assert_eq!(Weights::open(dir.path()).unwrap().names(), ["w"]);
}

#[test]
fn a_tied_head_may_be_there_if_it_is_the_embedding() {
    let (config, mut held) = Held::model("llama-tiny");
    let dir = temp();
    let path = dir.path().join("model.safetensors");
    let check = |held: &Held, config: &Config| {
        held.write(&path);
        Weights::open(dir.path()).unwrap().check_table(&table(config))
    };
    let untied = Config { tie_word_embeddings: false, ..config.clone() };
    assert!(sentence(check(&held, &untied)).contains("set tie_word_embeddings to true"));
    held.specs.push(TensorSpec { name: "lm_head.weight".into(), ..held.specs[0].clone() });
    held.bytes.push(held.bytes[0].clone());
    let head = held.specs.len() - 1;
    held.bytes[head][0] ^= 1;
    assert!(
        sentence(check(&held, &config)).contains("lm_head.weight differs from model.embed_tokens.weight")
    );
}

#[test]
fn what_no_parameter_takes_is_a_constant_or_refused() {
    let (config, mut held) = Held::model("llama-tiny");
    let dir = temp();
    let path = dir.path().join("model.safetensors");
    let check = |held: &Held| {
        held.write(&path);
        Weights::open(dir.path()).unwrap().check_table(&table(&config))
    };
    let passed = [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "score.weight",
        "transformer.h.0.attn.bias",
        "transformer.h.0.attn.masked_bias",
    ];
    for name in passed {
        held.specs.push(TensorSpec { name: name.into(), shape: vec![1], dtype: Dtype::F32.into() });
        held.bytes.push(vec![0; 4]);
    }
    assert_eq!(check(&held).unwrap(), passed);
    for name in ["model.layers.0.self_attn.q_proj.bias", "model.layers.99.input_layernorm.weight"] {
        held.specs.last_mut().unwrap().name = name.into();
        let refused = sentence(check(&held));
        assert!(refused.contains(&format!("{name} has no place in the model")), "{refused}");
    }
}

#[test]
fn a_failed_save_leaves_nothing() {
    let dir = temp();
    let target = dir.path().join("m");
    let (config, held) = Held::model("llama-tiny");
    let attempt = |config: &Config, source: &dyn TensorSource| {
        let staging = Staging::create(&target, Existing::Refuse).unwrap();
        let result = write_model(&staging, config, source, None, SHARD_BYTES);
        drop(staging);
        assert_eq!(entries(dir.path()), Vec::<String>::new());
        sentence(result)
    };
    let mut short = Held::model("llama-tiny").1;
    short.bytes[2].truncate(10);
    assert!(attempt(&config, &short).contains("gave 10 bytes"));
    let mut absent = Held::model("llama-tiny").1;
    absent.specs[1].name = "other".into();
    assert!(attempt(&config, &absent).contains("was not given to save"));
    let deeper = Config { num_hidden_layers: 3, ..config.clone() };
    assert!(attempt(&deeper, &held).contains("parameters"));
    assert_eq!(attempt(&config, &Failing(held)), "device cuda:0: is lost");
}

#[test]
fn an_existing_directory_is_never_overwritten_unasked() {
    let dir = temp();
    let target = dir.path().join("m");
    fs::create_dir(&target).unwrap();
    // an empty one is as good as none
    save(&target, "llama-tiny", SHARD_BYTES);
    let refused = sentence(Staging::create(&target, Existing::Refuse));
    assert!(refused.contains("never overwritten unasked"), "{refused}");
    assert!(refuse_existing(&target).is_err() && refuse_existing(&dir.path().join("new")).is_ok());
    let staging = Staging::create(&target, Existing::Replace).unwrap();
    staging.write("only", b"1").unwrap();
    verify(&target).expect("the old one stands until the new one is complete");
    staging.commit().unwrap();
    assert_eq!(entries(&target), ["manifest.json", "only"]);
    assert_eq!(entries(dir.path()), ["m"]);
    assert!(Staging::create(Path::new("/"), Existing::Refuse).is_err());
    // a refusal of the operating system names the path
    fs::write(dir.path().join("file"), b"").unwrap();
    let found = sentence(Staging::create(&dir.path().join("file/below"), Existing::Refuse));
    assert!(found.contains("file: making the directory failed"), "{found}");
}

#[test]
fn verify_finds_every_kind_of_damage() {
    let dir = temp();
    let target = dir.path().join("m");
    save(&target, "llama-tiny", SHARD_BYTES);
    let path = target.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&path, &changed).unwrap();
    assert!(sentence(verify(&target)).contains("its hash differs"));
    fs::write(&path, &whole[..100]).unwrap();
    assert!(sentence(verify(&target)).contains("is 100 bytes long where the manifest says"));
    fs::remove_file(&path).unwrap();
    assert!(sentence(verify(&target)).contains("is missing, though the manifest names it"));
    fs::write(&path, &whole).unwrap();
    verify(&target).unwrap();
    let manifest = target.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("config.json", "../x")).unwrap();
    assert!(sentence(verify(&target)).contains("its hash of itself differs"));
    // as earlier versions wrote it
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(old.as_object_mut().unwrap().remove("blake3").is_some());
    let old = old.to_string();
    fs::write(&manifest, &old).unwrap();
    verify(&target).unwrap();
    fs::write(&manifest, old.replace("config.json", "../x")).unwrap();
    assert!(sentence(verify(&target)).contains("lies outside"));
    fs::write(&manifest, text.replace("manifest 1", "manifest 9")).unwrap();
    assert!(sentence(verify(&target)).contains("manifest 9"));
    fs::write(&manifest, &text[..20]).unwrap();
    assert!(sentence(verify(&target)).contains("is not a manifest"));
    fs::remove_file(&manifest).unwrap();
    assert!(sentence(verify(&target)).contains("is incomplete"));
}

/// Of a checkpoint as a run writes it: its small files bit by bit, of the others every 9973rd.
#[test]
fn any_flipped_bit_of_a_checkpoint_is_found() {
    let dir = temp();
    let target = dir.path().join("checkpoint-000001");
    let held = Held::of(&[("a", &[2, 3], &[1.0, -2.0, 0.5, 0.0, f32::MAX, 3.0])]);
    let staging = Staging::create(&target, Existing::Refuse).unwrap();
    let (config, model) = Held::model("llama-tiny");
    write_model(&staging, &config, &model, None, SHARD_BYTES).unwrap();
    write_resume(&staging, &ResumeState::new(1, 64, 7, "abc".into()), &held).unwrap();
    staging.commit().unwrap();
    verify(&target).unwrap();
    let mut files: Vec<PathBuf> = ["", "resume"]
        .iter()
        .flat_map(|below| fs::read_dir(target.join(below)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    for path in files {
        let whole = fs::read(&path).unwrap();
        let every = if whole.len() < 4096 { 1 } else { 9973 };
        for bit in (0..8 * whole.len()).step_by(every) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            let found = verify(&target).expect_err(&format!("{}, bit {bit}", path.display())).to_string();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(found.contains(name) || name == "manifest.json", "{name}: {found}");
        }
        fs::write(&path, &whole).unwrap();
    }
    verify(&target).unwrap();
}

#[test]
fn leftovers_of_dead_processes_go_and_a_lost_predecessor_comes_back() {
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    // no process has a number this large
    fs::create_dir(at(".m.tmp-4000000000")).unwrap();
    fs::write(at(".m.tmp-4000000000").join("half"), b"x").unwrap();
    // our own number: containers number from 1 every time
    fs::create_dir(at(&format!(".m.tmp-{}", std::process::id()))).unwrap();
    // process 1 lives
    fs::create_dir(at(".m.tmp-1")).unwrap();
    fs::create_dir(at(".other.tmp-4000000000")).unwrap();
    drop(Staging::create(&at("m"), Existing::Refuse).unwrap());
    assert_eq!(entries(dir.path()), [".m.tmp-1", ".other.tmp-4000000000"]);
    // died between moving the old one aside and bringing the new one
    fs::create_dir(at(".m.old-4000000000")).unwrap();
    fs::write(at(".m.old-4000000000").join("kept"), b"x").unwrap();
    assert!(sentence(Staging::create(&at("m"), Existing::Refuse)).contains("exists already"));
    assert_eq!(entries(&at("m")), ["kept"]);
}

#[test]
fn the_latest_complete_checkpoint_is_found() {
    let dir = temp();
    let out = dir.path();
    assert!(latest(&out.join("nowhere")).unwrap().is_none());
    assert!(latest(out).unwrap().is_none());
    for step in [20, 120, 1_000_000, 1_500_000] {
        save(&checkpoint_dir(out, step), "llama-tiny", SHARD_BYTES);
    }
    assert!(out.join("checkpoint-000120").exists());
    fs::create_dir(out.join("checkpoint-notes")).unwrap();
    assert_eq!(latest(out).unwrap().unwrap().step, 1_500_000);
    fs::remove_file(out.join("checkpoint-1500000/manifest.json")).unwrap();
    fs::write(out.join("checkpoint-1000000/config.json"), b"{}").unwrap();
    let found = latest(out).unwrap().unwrap();
    assert_eq!((found.step, found.path, found.skipped.len()), (120, out.join("checkpoint-000120"), 2));
    for step in [20, 120] {
        fs::remove_file(checkpoint_dir(out, step).join("manifest.json")).unwrap();
    }
    assert!(sentence(latest(out)).contains("none is complete; the newest:"));
}

fn fill(name: &'static str, shard_bytes: u64) -> impl FnOnce(&Staging) -> Result<()> {
    let (config, held) = Held::model(name);
    move |staging| write_model(staging, &config, &held, None, shard_bytes).map(|_| ())
}

#[test]
fn the_final_model_stands_among_the_checkpoints() {
    let dir = temp();
    let out = dir.path();
    save(&checkpoint_dir(out, 5), "llama-tiny", SHARD_BYTES);
    publish(out, Existing::Refuse, fill("llama-tiny", 20_000)).unwrap();
    verify(out).unwrap();
    assert!(Weights::open(out).is_ok() && Config::load(out).is_ok());
    assert!(!out.join("final.ready").exists());
    let refused = sentence(publish(out, Existing::Refuse, fill("llama-tiny", SHARD_BYTES)));
    assert!(refused.contains("never overwritten unasked"), "{refused}");
    verify(out).expect("a refusal changes nothing");
    publish(out, Existing::Replace, fill("llama-tiny", SHARD_BYTES)).unwrap();
    verify(out).unwrap();
    assert_eq!(entries(out), ["checkpoint-000005", "config.json", "manifest.json", "model.safetensors"]);
    assert!(!finish_publishing(out).unwrap());
}

#[test]
fn a_publication_that_died_half_way_is_finished() {
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"];
    for moved in 0..=names.len() {
        let dir = temp();
        let out = dir.path();
        let ready = out.join("final.ready");
        save(&ready, "llama-tiny", 40_000);
        for name in &names[..moved] {
            assert!(verify(out).is_err(), "not complete before its manifest is there");
            fs::rename(ready.join(name), out.join(name)).unwrap();
        }
        let problems = || examine(out).unwrap().into_iter().map(|e| e.problem).collect::<Vec<_>>();
        assert!(matches!(problems()[..], [None]), "{:?}", problems());
        for name in names {
            let path = if ready.join(name).exists() { ready.join(name) } else { out.join(name) };
            let good = fs::read(&path).unwrap();
            fs::write(&path, [&good[..], b" "].concat()).unwrap();
            assert!(matches!(&problems()[..], [Some(e)] if e.to_string().contains(name)), "{:?}", problems());
            fs::write(&path, good).unwrap();
        }
        assert!(finish_publishing(out).unwrap());
        verify(out).unwrap();
        assert!(!ready.exists() && Weights::open(out).is_ok());
        assert!(!finish_publishing(out).unwrap());
    }
}

#[test]
fn a_run_goes_on_from_what_it_wrote() {
    let dir = temp();
    let target = checkpoint_dir(dir.path(), 120);
    let (config, held) = Held::model("llama-tiny");
    let tiny = f32::MIN_POSITIVE / 4.0;
    let names = [Slot::Master, Slot::M, Slot::V].map(|slot| slot_name(slot, "model.norm.weight"));
    assert_eq!(names[1], "m.model.norm.weight");
    let moments = Held::of(&[
        (&names[0], &[2], &[1.0, -0.0]),
        (&names[1], &[2], &[tiny, 1e-30]),
        (&names[2], &[2], &[0.0, 3.0]),
    ]);
    let state = ResumeState::new(120, u64::MAX, 0x0123_4567_89ab_cdef, "abc".into());
    let staging = Staging::create(&target, Existing::Refuse).unwrap();
    write_model(&staging, &config, &held, None, SHARD_BYTES).unwrap();
    write_resume(&staging, &state, &moments).unwrap();
    let manifest = staging.commit().unwrap();
    assert!(manifest.files.iter().any(|f| f.path == "resume/optimizer.safetensors"));
    verify(&target).unwrap();
    let resume = Resume::open(&target, "abc").unwrap();
    assert_eq!(resume.state, state);
    let mut numbers = Vec::new();
    resume.tensors.read_into(&names[1], &[2], &mut numbers).unwrap();
    assert_eq!(numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [tiny.to_bits(), 1e-30f32.to_bits()]);
    resume.tensors.read_into(&names[0], &[2], &mut numbers).unwrap();
    assert_eq!(numbers[1].to_bits(), (-0.0f32).to_bits());
    assert!(sentence(Resume::open(&target, "abd")).contains("another recipe (abc, this one is abd)"));
    assert!(sentence(Resume::open(&fixture("llama-tiny"), "abc")).contains("has no resume/state.json"));
    let path = target.join("resume/state.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 2")).unwrap();
    assert!(sentence(Resume::open(&target, "abc")).contains("has format 2"));
}

#[test]
fn the_tokenizer_goes_along() {
    let (dir, from) = (temp(), temp());
    for name in ["tokenizer.json", "merges.txt", "README.md", "model.safetensors"] {
        fs::write(from.path().join(name), name).unwrap();
    }
    let (config, held) = Held::model("llama-tiny");
    let staging = Staging::create(&dir.path().join("m"), Existing::Refuse).unwrap();
    write_model(&staging, &config, &held, Some(from.path()), SHARD_BYTES).unwrap();
    staging.commit().unwrap();
    let expected = ["config.json", "manifest.json", "merges.txt", "model.safetensors", "tokenizer.json"];
    assert_eq!(entries(&dir.path().join("m")), expected);
}

#[test]
fn npy_files_are_numpys() {
    let dir = temp();
    let path = dir.path().join("logits.npy");
    let mut writer = NpyWriter::create(&path, &[2, 3]).unwrap();
    writer.append(&[1.0, 2.0]).unwrap();
    assert!(!path.exists(), "it appears when it is finished");
    writer.append(&[3.0, 4.0, 5.0, -6.0]).unwrap();
    assert!(sentence(writer.append(&[0.0])).contains("1 numbers more"));
    writer.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    let (header, data) = bytes.split_at(128);
    assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
    let text = std::str::from_utf8(&header[10..]).unwrap();
    assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3,), }"), "{text}");
    assert!(text.ends_with(" \n"));
    let numbers: Vec<f32> = data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(numbers, [1.0, 2.0, 3.0, 4.0, 5.0, -6.0]);
    assert!(sentence(NpyWriter::create(&path, &[1])).contains("never overwritten"));
    let short = NpyWriter::create(&dir.path().join("short.npy"), &[2]).unwrap();
    assert!(sentence(short.finish()).contains("2 numbers fewer"));
    assert_eq!(entries(dir.path()), ["logits.npy"]);
}
