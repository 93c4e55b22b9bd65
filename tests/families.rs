//! Every family of models, beside what tests/model.rs holds each fixture to: its directory is written as it was read,
//! it reads token by token, takes adapters, and trains and evaluates from the command line as planned.

mod common;

use common::cli::Dir;
use common::{Bench, MODELS, allocate, cases, fixture_dir, relative, within};
use pose_engine::backend::Backend;
use pose_engine::backend::cpu::Cpu;
use pose_engine::backend::reference::Reference;
use pose_engine::checkpoint::{Existing, ModelTensors, SHARD_BYTES, Staging, Weights, write_model};
use pose_engine::data::{BatchPlaces, bytes_as_json};
use pose_engine::index::{ChunkSpan, SeqIndex, TokenId};
use pose_engine::infer::Session;
use pose_engine::memory::Ledger;
use pose_engine::model::buffers::Reading;
use pose_engine::model::cache::CacheFormat;
use pose_engine::model::family::FAMILIES;
use pose_engine::model::lora::Target;
use pose_engine::model::{Config, Lora, Model};
use serde_json::{Value, json};
use std::path::Path;

fn model<B: Backend>(b: &B, fixture: &str) -> Model<B> {
    let config = Config::load(&fixture_dir(fixture)).unwrap();
    let mut model = Model::allocate(b, &mut Ledger::live(), &config, &config.rope).unwrap();
    model.load(b, &Weights::open(&fixture_dir(fixture)).unwrap()).unwrap();
    model
}

fn save<B: Backend>(b: &B, model: &Model<B>, to: &Path) {
    let staging = Staging::create(to, Existing::Refuse).unwrap();
    write_model(&staging, &model.config, &ModelTensors::whole(b, model), None, SHARD_BYTES).unwrap();
    staging.commit().unwrap();
}

#[test]
fn every_family_has_a_fixture() {
    for family in FAMILIES {
        let mut configs = MODELS.iter().map(|name| Config::load(&fixture_dir(name)).unwrap());
        assert!(configs.any(|config| config.family == family), "{family:?} has none");
    }
}

#[test]
fn a_directory_is_written_as_it_was_read() {
    let b = &Cpu::<f32>::new(1).unwrap();
    for name in MODELS {
        let dir = Dir::new();
        save(b, &model(b, name), &dir.path("m"));
        let theirs = std::fs::read(fixture_dir(name).join("model.safetensors")).unwrap();
        let ours = dir.read("m/model.safetensors");
        let [theirs, ours] =
            [&theirs, &ours].map(|file| safetensors::SafeTensors::deserialize(file).unwrap());
        let names = |file: &safetensors::SafeTensors<'_>| {
            let mut names: Vec<String> = file.names().into_iter().map(String::from).collect();
            names.sort();
            names
        };
        assert_eq!(names(&ours), names(&theirs), "{name}");
        for tensor in names(&ours) {
            let [ours, theirs] = [&ours, &theirs].map(|file| file.tensor(&tensor).unwrap());
            assert_eq!((ours.shape(), ours.data()), (theirs.shape(), theirs.data()), "{name} {tensor}");
        }
        let config = dir.json("m/config.json");
        let theirs = std::fs::read(fixture_dir(name).join("config.json")).unwrap();
        let theirs: Value = serde_json::from_slice(&theirs).unwrap();
        for (key, value) in theirs.as_object().unwrap() {
            assert_eq!(&config[key], value, "{name} {key}");
        }
        assert_eq!(
            Config::load(&dir.path("m")).unwrap().arch,
            Config::load(&fixture_dir(name)).unwrap().arch
        );
    }
}

/// The last logits of a text that is read in pieces, each in chunks.
fn last_logits(
    b: &Cpu<f32>, model: &Model<Cpu<f32>>, ids: &[TokenId], (chunk, piece): (usize, usize),
    cache: CacheFormat,
) -> Vec<f64> {
    let reading = Reading { chunk, cache, ..Reading::of(ids.len()) };
    let mut session: Session<Cpu<f32>> = allocate(b, model, reading);
    let logits = ids.chunks(piece).map(|ids| session.feed(b, model, ids, &mut |_| {}).unwrap());
    logits.last().unwrap().into_iter().map(f64::from).collect()
}

#[test]
fn a_text_reads_the_same_in_chunks_and_token_by_token() {
    let b = &Cpu::<f32>::new(2).unwrap();
    for name in MODELS {
        let model = model(b, name);
        let vocab = model.config.vocab_size as u32;
        let ids: Vec<TokenId> = (0..70).map(|i| TokenId((i * i * 31 + i * 7) % vocab)).collect();
        let whole = last_logits(b, &model, &ids, (70, 70), CacheFormat::Act);
        for (chunk, piece) in [(7, 70), (64, 33), (1, 1)] {
            let logits = last_logits(b, &model, &ids, (chunk, piece), CacheFormat::Act);
            within(relative(&logits, &whole), 2e-5, &format!("{name}, chunks of {chunk}, pieces of {piece}"));
        }
        let narrow = last_logits(b, &model, &ids, (7, 1), CacheFormat::Int8);
        within(relative(&narrow, &whole), 0.1, &format!("{name}, keys and values in 8 bits"));
    }
}

/// What is further back than two windows, one for each layer, cannot reach the last token; what is nearer does.
#[test]
fn a_window_is_counted_in_tokens_and_not_in_positions() {
    let b = &Reference;
    let case = cases("mistral-tiny").into_iter().find(|case| case.key == "none/pose").unwrap();
    let window = case.config.arch.window.unwrap();
    let reach = case.config.num_hidden_layers * (window - 1);
    let last_loss = |changed: usize| {
        let mut ids = case.ids.clone();
        ids[changed] = TokenId((ids[changed].0 + 1) % case.config.vocab_size as u32);
        let mut targets = vec![TokenId::IGNORED; ids.len()];
        targets[ids.len() - 1] = TokenId(3);
        let mut bench = Bench::new(b, &case.config, 1, ids.len(), 0).load(&fixture_dir("mistral-tiny"));
        bench.loss(1, &ids, &targets, &pose_engine::model::places_at(&case.positions))
    };
    let last = case.ids.len() - 1;
    let far = last_loss(last - reach - 1);
    assert_eq!(far, last_loss(0), "what is out of reach made a difference");
    assert_ne!(far, last_loss(last - reach), "what is in reach made none");
    // a window of positions would end at the skip before the third chunk, which begins at token 16
    assert!(last - reach <= 15 && case.positions[16] - case.positions[15] > 1000);
}

/// Adapters on every projection that the family has.
fn adapted(config: &Config) -> Config {
    let all = [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];
    let targets = all.into_iter().filter(|target| target.exists(config)).collect();
    let lora = Lora { rank: 3, alpha: 4.2, targets, also: vec![], rank_stabilised: false };
    lora.check(config).unwrap();
    Config { lora: Some(lora), ..config.clone() }
}

/// Gradients of the adapters of a fixture's model, which have numbers in them.
fn adapters<B: Backend>(b: &B, name: &str) -> Vec<(String, Vec<f64>)> {
    let config = adapted(&Config::load(&fixture_dir(name)).unwrap());
    let mut bench = Bench::new(b, &config, 2, 12, 1).load(&fixture_dir(name));
    bench.fill_adapters();
    let vocab = config.vocab_size as u32;
    let text = |a: u32| (0..24).map(|i| TokenId((i * i + i * a) % vocab)).collect::<Vec<_>>();
    let span = |start, bias| ChunkSpan { start: SeqIndex(start), bias };
    let spans = vec![span(0, 0), span(4, 57), span(0, 0), span(11, 200)];
    bench.step(2, &text(29), &text(13), &BatchPlaces::Spans { spans, per_row: 2 });
    let trained: Vec<_> = bench.model.trained().map(|(id, spec)| (id.0, spec.name.clone())).collect();
    trained.into_iter().map(|(p, name)| (name, bench.gradient(p))).collect()
}

#[test]
fn gradients_of_adapters_are_the_references() {
    for name in MODELS {
        let (ours, truth) = (adapters(&Cpu::<f32>::new(2).unwrap(), name), adapters(&Reference, name));
        assert!(!ours.is_empty());
        for ((tensor, ours), (_, truth)) in ours.iter().zip(&truth) {
            within(relative(ours, truth), 5e-5, &format!("{name} {tensor}"));
        }
    }
}

/// A model in the vocabulary of bytes, with fresh weights, in the shape of a fixture.
fn write_byte_model(dir: &Dir, fixture: &str) {
    let b = &Cpu::<f32>::new(1).unwrap();
    let text = std::fs::read_to_string(fixture_dir(fixture).join("config.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [("vocab_size", 264), ("bos_token_id", 256), ("eos_token_id", 257)] {
        json[key] = json!(value);
    }
    json["auto_map"] = json!({ "AutoModelForCausalLM": "modeling.Model" });
    let config = Config::from_json(&json.to_string(), Path::new("config.json")).unwrap();
    let mut model = Model::allocate(b, &mut Ledger::live(), &config, &config.rope).unwrap();
    model.initialise(b, 7).unwrap();
    save(b, &model, &dir.path("m"));
    dir.write("m/tokenizer.json", bytes_as_json());
    dir.write("m/modeling.py", "class Model: ...\n");
}

#[test]
fn every_family_trains_and_evaluates_as_planned() {
    let run =
        "--model m --data a.txt --train-len 32 --target-len 512 --batch 4 --lr 1e-2 --dtype f32 --quiet";
    for name in MODELS.into_iter().filter(|name| *name != "llama-tiny") {
        let dir = Dir::new();
        write_byte_model(&dir, name);
        let run = format!("{run} --steps 12");
        dir.run(&format!("plan train {run} --json plan.json")).ok();
        dir.run(&format!("train {run} --out whole --json train.json")).ok();
        assert_eq!(dir.json("plan.json")["total"], dir.json("train.json")["planned_bytes"], "{name}");
        let learnt = dir.losses("whole");
        assert!(learnt.len() == 12 && learnt[11] < 0.9 * learnt[0], "{name}: {learnt:?}");
        let eval = "--data a.txt --windows 64 --tokens 300 --dtype f32 --quiet";
        dir.run(&format!("plan eval-ppl --model whole {eval} --json plan.json")).ok();
        dir.run(&format!("eval-ppl --model whole {eval} --json ppl.json")).ok();
        assert_eq!(dir.json("plan.json")["total"], dir.json("ppl.json")["planned_bytes"], "{name}");
        let ppl = dir.json("ppl.json")["results"][0]["ppl"].as_f64().unwrap();
        assert!(ppl < 264.0, "{name}: {ppl}");
        dir.run(&format!("train {run} --lora-rank 2 --out adapter")).ok();
        dir.run("merge --adapter adapter --out merged --dtype f32 --quiet").ok();
        // code that config.json names goes along
        for saved in ["whole", "adapter", "merged"] {
            assert!(dir.path(&format!("{saved}/modeling.py")).is_file(), "{name}: {saved}");
        }
        let evaluate = |model: &str| {
            dir.run(&format!("eval-ppl --model {model} {eval} --json ppl.json")).ok();
            dir.json("ppl.json")["results"][0]["ppl"].as_f64().unwrap()
        };
        assert_eq!(evaluate("adapter"), evaluate("merged"), "{name}");
    }
}

#[test]
fn an_unknown_family_is_refused_with_its_neighbour() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path("m")).unwrap();
    dir.write("m/config.json", r#"{"model_type":"qwen4","vocab_size":264}"#);
    dir.run("eval-ppl --model m --data a.txt --windows 64")
        .refused(1, &["qwen4", "llama, mistral", "the nearest is qwen"]);
}
