//! Reading is training's forward pass: in chunks of any size, token by token, by sliding windows, and through the
//! command line.

mod common;

use common::cli::Dir;
use common::{Bench, allocate, cases, fixture_dir, relative, untrained, within};
use half::bf16;
use pose_engine::backend::Backend;
use pose_engine::backend::cpu::Cpu;
use pose_engine::data::{Corpus, Document};
use pose_engine::eval::{self, Mode, Partial, Protocol};
use pose_engine::index::TokenId;
use pose_engine::infer::{Scorer, Session};
use pose_engine::memory::Ledger;
use pose_engine::model::buffers::{Order, ReadBuffers, Reading};
use pose_engine::model::{Config, Model, PlacedBatch, download_f32, places_from};
use serde_json::json;

type B = Cpu<f32>;

fn text(n: u32, seed: u32) -> Vec<TokenId> {
    (0..n).map(|i| TokenId((i * i * 31 + i * (seed + 7) + seed) % 256)).collect()
}

fn reading(chunk: usize, capacity: usize) -> Reading {
    Reading { chunk, ..Reading::of(capacity) }
}

fn session(b: &B, model: &Model<B>, chunk: usize, capacity: usize) -> Session<B> {
    allocate(b, model, reading(chunk, capacity))
}

/// Logits after every token, read in pieces of these lengths, each in chunks of at most `chunk` tokens.
fn last_logits(b: &B, model: &Model<B>, ids: &[TokenId], chunk: usize, piece: usize) -> Vec<f64> {
    let mut session = session(b, model, chunk, ids.len());
    let pieces = ids.chunks(piece).map(|ids| session.feed(b, model, ids, &mut |_| {}).unwrap());
    pieces.last().unwrap().into_iter().map(f64::from).collect()
}

#[test]
fn a_text_reads_the_same_in_chunks_of_any_size_and_token_by_token() {
    let b = B::new(2).unwrap();
    let (model, ids) = (untrained(&b), text(150, 1));
    let whole = last_logits(&b, &model, &ids, 150, 150);
    for (chunk, piece) in [(1, 150), (7, 150), (64, 150), (149, 150), (150, 1), (64, 33)] {
        let logits = last_logits(&b, &model, &ids, chunk, piece);
        within(relative(&logits, &whole), 1e-5, &format!("chunks of {chunk}, pieces of {piece}"));
    }
    let mut other = ids.clone();
    other[..100].fill(TokenId(1));
    let other = last_logits(&b, &model, &other, 150, 150);
    assert!(relative(&other, &whole) > 1e-3, "the first chunks made no difference to the last");
}

/// Losses of tokens 1.. of a text whose chunks go through all layers, one after the other.
fn losses_by_chunk<B: Backend>(b: &B, model: &Model<B>, ids: &[TokenId], reading: Reading) -> Vec<f32> {
    let (ledger, c) = (&mut Ledger::live(), &model.config);
    let mut buffers = ReadBuffers::new(b, ledger, c, reading, Order::ByChunk).unwrap();
    let mut batch = PlacedBatch::new(b, ledger, 1, buffers.chunk, 1).unwrap();
    let targets: Vec<TokenId> = ids[1..].iter().copied().chain([TokenId::IGNORED]).collect();
    let (mut nll, mut past) = (Vec::new(), 0);
    for (ids, targets) in ids.chunks(buffers.chunk).zip(targets.chunks(buffers.chunk)) {
        batch.fill(b, 1, ids, targets, &places_from(1, past)).unwrap();
        model.read(b, &mut buffers, &batch, past).unwrap();
        let (work, head, bias) = (&mut buffers.work, model.head(), model.head_bias());
        b.head_loss(&mut work.nll, &work.normed, head, bias, &batch.targets, None, c.head_shape(ids.len()))
            .unwrap();
        nll.extend(download_f32::<B, B::Stat>(b, &work.nll, 0, ids.len()).unwrap());
        past += ids.len();
    }
    nll.truncate(ids.len() - 1);
    nll
}

fn layer_by_layer_is_chunk_by_chunk<B: Backend>(b: &B) {
    let (model, ids) = (untrained(b), text(150, 8));
    for chunk in [1, 16, 64, 75, 149, 150, 512] {
        let reading = reading(chunk, 160);
        let mut scorer: Scorer<B> = allocate(b, &model, reading);
        let mut told = 0;
        let scored = scorer.score(b, &model, &ids, None, 1, &mut |tokens| told += tokens).unwrap();
        let want = losses_by_chunk(b, &model, &ids, reading);
        assert_eq!((scored.nll.len(), told), (149, 150));
        let bits = |nll: &[f32]| nll.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&scored.nll), bits(&want), "chunks of {chunk}");
        // the same buffers again, for a text that ends within a chunk
        let again = scorer.score(b, &model, &ids[..97], None, 33, &mut |_| {}).unwrap().nll;
        let want = losses_by_chunk(b, &model, &ids[..97], reading);
        within(relative(&f64s(&again), &f64s(&want[32..])), 1e-5, "the tail of a shorter text");
    }
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[test]
fn reading_layer_by_layer_gives_the_bits_of_reading_chunk_by_chunk() {
    layer_by_layer_is_chunk_by_chunk(&Cpu::<f32>::new(2).unwrap());
    layer_by_layer_is_chunk_by_chunk(&Cpu::<bf16>::new(2).unwrap());
}

#[test]
fn a_scorer_says_what_it_has_no_room_for() {
    let b = B::new(1).unwrap();
    let model = untrained(&b);
    let mut scorer: Scorer<B> = allocate(&b, &model, reading(16, 40));
    let refused = scorer.score(&b, &model, &text(41, 2), None, 1, &mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains("room for 40 tokens") && refused.contains("41"), "{refused}");
}

#[test]
fn rewinding_forgets() {
    let b = B::new(1).unwrap();
    let (model, ids) = (untrained(&b), text(60, 2));
    let mut session = session(&b, &model, 16, 80);
    session.feed(&b, &model, &ids[..40], &mut |_| {}).unwrap();
    session.feed(&b, &model, &text(20, 9), &mut |_| {}).unwrap();
    session.rewind(40);
    let again: Vec<f64> =
        session.feed(&b, &model, &ids[40..], &mut |_| {}).unwrap().into_iter().map(f64::from).collect();
    within(relative(&again, &last_logits(&b, &model, &ids, 16, 60)), 1e-5, "after rewinding");
    let full = session.feed(&b, &model, &ids, &mut |_| {}).unwrap_err().to_string();
    assert!(full.contains("holds 80 tokens"), "{full}");
}

/// Perplexity by the protocol's own words: every window by a full pass, every token taken from the first window that
/// predicts it.
fn naive(
    bench: &mut Bench<'_, B>, texts: &[Vec<TokenId>], window: usize, protocol: &Protocol,
) -> (f64, usize) {
    let (mut sum, mut scored) = (0.0, 0);
    let opening: Vec<TokenId> = protocol.bos.map(TokenId).into_iter().collect();
    let room = window - opening.len();
    let stride = protocol.windows(window).stride.min(room);
    for text in texts {
        let mut of_token = vec![None; text.len()];
        for begin in (0..text.len()).step_by(stride) {
            let end = (begin + room).min(text.len());
            let ids: Vec<TokenId> = opening.iter().chain(&text[begin..end]).copied().collect();
            for (i, loss) in bench.losses(&ids).into_iter().enumerate() {
                // the first token of a later window has been scored before, with more to go by
                of_token[begin + 1 + i - opening.len()].get_or_insert(loss);
            }
            if end == text.len() || protocol.mode == Mode::Truncate {
                break;
            }
        }
        sum += of_token.iter().flatten().sum::<f64>();
        scored += of_token.iter().flatten().count();
    }
    ((sum / scored as f64).exp(), scored)
}

#[test]
fn perplexity_is_what_full_forward_passes_give() {
    let b = B::new(2).unwrap();
    let (model, mut bench) = (untrained(&b), Bench::untrained(&b, 150));
    let texts = [text(150, 3), text(40, 4), text(2, 5), text(1, 6)];
    let documents = texts.iter().map(|t| Document { name: "text".into(), tokens: t.clone() }).collect();
    let corpus = Corpus { documents };
    let protocol = |mode, stride, bos| Protocol { mode, stride, bos };
    for (window, protocol) in [
        (64, protocol(Mode::Sliding, None, None)),
        (64, protocol(Mode::Sliding, Some(63), None)),
        (64, protocol(Mode::Sliding, Some(64), None)),
        (64, protocol(Mode::Sliding, Some(64), Some(256))),
        (64, protocol(Mode::Sliding, Some(5), Some(256))),
        (17, protocol(Mode::Sliding, Some(1), None)),
        (2, protocol(Mode::Sliding, None, None)),
        (64, protocol(Mode::Truncate, None, None)),
        (1000, protocol(Mode::Sliding, None, Some(256))),
    ] {
        let mut scorer: Scorer<B> = allocate(&b, &model, reading(13, window.min(151)));
        let partial = &mut Partial::none();
        let report =
            eval::perplexity(&b, &model, &mut scorer, &corpus, &protocol, window, partial, &mut |_| {})
                .unwrap();
        let (ppl, scored) = naive(&mut bench, &texts, window, &protocol);
        let what = format!("window {window}, {protocol:?}");
        assert_eq!(report.scored, scored, "{what}");
        within((report.ppl / ppl - 1.0).abs(), 1e-5, &what);
        // of a document of one token nothing can be scored but after a BOS
        let of_documents: Vec<f64> = report.documents.iter().filter_map(|d| d.ppl).collect();
        assert_eq!(of_documents.len(), if protocol.bos.is_some() { 4 } else { 3 }, "{what}");
        let mean = of_documents.iter().sum::<f64>() / of_documents.len() as f64;
        within((report.mean_ppl / mean - 1.0).abs(), 1e-9, &what);
    }
}

#[test]
fn train_and_eval_ppl_measure_the_same() {
    let dir = Dir::new();
    dir.write("held.txt", common::cli::words(900));
    let args = "train --preset tiny --data a.txt --eval-data held.txt --train-len 32 --target-len 128 --rope linear \
                --rope-factor 2 --eval-tokens 500 --steps 4 --eval-every 2 --dtype f32 --quiet --out m --json t.json";
    dir.run(args).ok();
    dir.run("eval-ppl --model m --data held.txt --windows 128 --tokens 500 --dtype f32 --json e.json").ok();
    let (train, read) = (dir.json("t.json")["ppl"].clone(), dir.json("e.json")["results"][0].clone());
    assert_eq!(train, read["ppl"], "train says {train}, eval-ppl {read}");
    let evaluated: Vec<u64> = dir
        .lines("m/metrics.jsonl")
        .iter()
        .filter(|line| line["ppl"].is_number())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(evaluated, [2, 4]);
}

#[test]
fn the_logits_command_gives_what_transformers_gave() {
    let (dir, model) = (Dir::new(), fixture_dir("llama-tiny"));
    let own = Config::load(&model).unwrap().rope;
    let mut compared = 0;
    for case in cases("llama-tiny").iter().filter(|case| case.config.rope == own) {
        let ids: Vec<u32> = case.ids.iter().map(|id| id.0).collect();
        dir.write("ids.json", json!([ids, ids]).to_string());
        dir.write("at.json", json!([case.positions, case.positions]).to_string());
        let (out, model) = (format!("{}.npy", case.key.replace('/', "-")), model.display());
        let args =
            format!("logits --model {model} --ids ids.json --positions at.json --dtype f32 --out {out}");
        dir.run(&args).ok();
        let file = dir.read(&out);
        let header = u16::from_le_bytes([file[8], file[9]]) as usize;
        let shape = format!("'shape': (2, {}, {},)", ids.len(), case.config.vocab_size);
        assert!(String::from_utf8_lossy(&file[10..10 + header]).contains(&shape), "{out}: not {shape}");
        let numbers: Vec<f64> = file[10 + header..]
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect();
        for row in numbers.chunks_exact(numbers.len() / 2) {
            within(relative(row, &case.logits), 1e-5, &case.key);
        }
        compared += 1;
    }
    assert!(compared > 1, "only {compared} cases have the model's own rope");
}

#[test]
fn gradient_norms_are_those_of_the_loss() {
    let dir = Dir::with_model();
    let ids: Vec<u32> = text(40, 6).iter().map(|id| id.0).collect();
    dir.write("ids.json", json!(ids).to_string());
    dir.run("logits --model m --ids ids.json --dtype f32 --grad-norms --out o.npy").ok();
    let over = dir.run("logits --model m --ids ids.json --dtype f32 --grad-norms --out ids.npy");
    over.refused(1, &["ids.json", "--grad-norms", "another name"]);
    let told = dir.json("o.json");
    let b = B::new(2).unwrap();
    let config = Config::load(&dir.path("m")).unwrap();
    let mut bench = Bench::new(&b, &config, 1, 40, 0).load(&dir.path("m"));
    let ids: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
    let targets: Vec<TokenId> = ids[1..].iter().copied().chain([TokenId::IGNORED]).collect();
    let loss = bench.step(1, &ids, &targets, &places_from(1, 0));
    within((told["loss"].as_f64().unwrap() / loss - 1.0).abs(), 1e-6, "loss");
    let norms = told["grad_norms"].as_object().unwrap();
    assert_eq!(norms.len(), bench.model.specs.len());
    for (i, spec) in bench.model.specs.iter().enumerate() {
        let norm = bench.gradient(i).iter().map(|g| g * g).sum::<f64>().sqrt();
        within((norms[&spec.name].as_f64().unwrap() / norm - 1.0).abs(), 1e-5, &spec.name);
    }
}

#[test]
fn a_seed_says_what_is_drawn() {
    let dir = Dir::with_model();
    let ids = |name: &str, flags: &str| {
        let args = format!("generate --model m --prompt fox --max-new-tokens 20 --json {name}.json {flags}");
        let ran = dir.run(&args).ok();
        let told = dir.json(&format!("{name}.json"));
        assert!(!ran.stdout.trim().is_empty(), "{}", ran.all());
        (told["ids"].clone(), ran.stdout)
    };
    // seeds that do not draw the end of the text
    let one = ids("one", "--temperature 1 --seed 2");
    assert_eq!(ids("again", "--temperature 1 --seed 2 --threads 1"), one);
    assert_ne!(ids("two", "--temperature 1 --seed 3"), one);
    assert_eq!(ids("greedy", "--seed 1").0, ids("narrow", "--temperature 1 --top-p 1e-9 --seed 2").0);
    assert_eq!(one.0.as_array().unwrap().len(), 20);
}

#[test]
fn passkeys_are_asked_as_the_protocol_says() {
    let dir = Dir::with_model();
    let run = |name: &str| {
        let args = "eval-passkey --model m --lengths 300,1k --trials 3 --seed 5 --quiet --json";
        dir.run(&format!("{args} {name}")).ok();
        dir.json(name)
    };
    let report = run("one.json");
    let trials = report["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 6);
    for trial in trials {
        assert!(trial["tokens"].as_u64() <= trial["length"].as_u64(), "{trial}");
        assert_eq!(trial["correct"], false, "an untrained model cannot know {trial}");
    }
    let keys: std::collections::BTreeSet<u64> = trials.iter().filter_map(|t| t["key"].as_u64()).collect();
    assert_eq!(keys.len(), 6, "keys repeat");
    for of_length in report["by_length"].as_array().unwrap() {
        let logs = trials.iter().filter(|t| t["length"] == of_length["length"]);
        let logs: Vec<f64> = logs.map(|t| t["log_probability"].as_f64().unwrap()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        within((of_length["log_probability"].as_f64().unwrap() / mean - 1.0).abs(), 1e-12, "log p");
        let above = logs.iter().filter(|log| **log > -(90_000f64).ln()).count();
        assert_eq!(of_length["above_guess"], above, "{of_length}");
    }
    assert_eq!(run("two.json")["trials"], report["trials"]);
}
