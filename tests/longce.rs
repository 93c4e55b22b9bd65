//! LongCE: the weights against windows that are read one by one, the gradients against finite differences, and a run
//! that goes on to the same bits.

mod common;

use common::cli::Dir;
use common::{Bench, relative, within};
use pose_engine::backend::Backend;
use pose_engine::backend::cpu::Cpu;
use pose_engine::backend::reference::Reference;
use pose_engine::data::BatchPlaces;
use pose_engine::index::{ChunkSpan, DocumentId, SeqIndex, TokenId};
use pose_engine::infer::{Reads, Scorer};
use pose_engine::memory::Ledger;
use pose_engine::model::buffers::Reading;
use pose_engine::model::{Config, LongCe, PlacedBatch, Weighing, scratch};

/// Two rows of 26 tokens, their third chunks of 12, 8 and 6 tokens far apart; and one token more of each row.
const WINDOW: usize = 26;
const SHORT: usize = 4;

fn rows(vocab: u32) -> [Vec<TokenId>; 2] {
    // the second half repeats the first, so that far context is worth something or misleads
    let row =
        |seed: u32| (0..=WINDOW as u32).map(move |t| TokenId((t % 13 * 37 + seed * 11 + t / 20) % vocab));
    [row(1).collect(), row(2).collect()]
}

fn places() -> BatchPlaces {
    let row =
        |skip: u32| [(0, 0), (12, skip), (20, 90)].map(|(at, bias)| ChunkSpan { start: SeqIndex(at), bias });
    BatchPlaces::Spans { spans: [row(5), row(40)].concat(), per_row: 3 }
}

fn positions(row: usize) -> Vec<u32> {
    let skip = [5, 40][row];
    (0..=WINDOW as u32)
        .map(|t| {
            t + if t < 12 {
                0
            } else if t < 20 {
                skip
            } else {
                90
            }
        })
        .collect()
}

fn config() -> Config {
    let mut config = Config::preset("tiny").unwrap();
    config.max_position_embeddings = 128;
    config
}

/// A model whose weights are large enough for its predictions to differ.
fn initialised<B: Backend>(bench: &mut Bench<'_, B>) {
    bench.model.initialise(bench.b, 5).unwrap();
    for (spec, param) in bench.model.specs.iter().zip(&mut bench.model.params) {
        if spec.shape.len() > 1 {
            bench.b.scale(param, 4.0, spec.elements()).unwrap();
        }
    }
    bench.model.refresh(bench.b).unwrap();
}

/// One weighed step; weights, and losses as they are.
fn weighed<B: Backend>(
    bench: &mut Bench<'_, B>, documents: Option<&[DocumentId]>, how: LongCe, scale: f64,
) -> (Vec<f32>, Vec<f64>) {
    let b = bench.b;
    let [first, second] = rows(bench.model.config.vocab_size as u32);
    let ids = [&first[..WINDOW], &second[..WINDOW]].concat();
    let targets = [&first[1..], &second[1..]].concat();
    if let Some(documents) = documents {
        let batch = PlacedBatch::new(b, &mut Ledger::live(), 2, WINDOW, 3).unwrap();
        bench.batch = batch.packing(b, &mut Ledger::live()).unwrap();
        bench.batch.fill_documents(b, documents).unwrap();
    }
    bench.batch.fill(b, 2, &ids, &targets, &places()).unwrap();
    bench.grads.zero(b, &bench.model.specs).unwrap();
    let mut weighing = Weighing::allocate(b, &mut Ledger::live(), how, 2, WINDOW).unwrap();
    let Bench { model, buffers, grads, batch, .. } = &mut *bench;
    let weights =
        model.forward_backward_weighed(b, buffers, grads, batch, documents, scale, &mut weighing).unwrap();
    assert_eq!(batch.documents.is_some(), documents.is_some(), "the batch has its own documents again");
    model.finish_gradients(b, grads).unwrap();
    (weights, bench.token_losses(2 * WINDOW))
}

/// exp(short − long) of a row's tokens by the definition: each window read by itself, token by token.
fn by_windows<B: Backend>(bench: &Bench<'_, B>, row: usize, gamma: f64) -> Vec<f64> {
    let (b, model) = (bench.b, &bench.model);
    let (ids, positions) = (&rows(model.config.vocab_size as u32)[row], positions(row));
    let reading = Reading { spans: WINDOW + 1, ..Reading::of(WINDOW + 1) };
    let mut scorer = Scorer::allocate(b, &mut Ledger::live(), model, reading).unwrap();
    let mut loss = |from: usize, t: usize| {
        let (ids, positions) = (&ids[from..=t + 1], &positions[from..=t + 1]);
        let scored = scorer.score(b, model, ids, Some(positions), t + 1 - from, &mut |_| {}).unwrap();
        f64::from(scored.nll[0])
    };
    let weight = |t: usize| {
        let from = (t / SHORT).saturating_sub(1) * SHORT;
        (loss(from, t) - loss(0, t)).exp().min(gamma)
    };
    (0..WINDOW).map(weight).collect()
}

#[test]
fn weights_are_those_of_windows_read_one_by_one() {
    let b = Cpu::<f32>::new(2).unwrap();
    let config = config();
    let how = LongCe { short: SHORT, gamma: 1.5 };
    let kinds = [("plain", 0), ("lodging", 0), ("recomputed", 9)];
    let mut all = Vec::new();
    for (kind, recompute) in kinds {
        let mut bench = match kind {
            "lodging" => Bench::lodging(&b, &config, 2, WINDOW, recompute),
            _ => Bench::new(&b, &config, 2, WINDOW, recompute),
        };
        initialised(&mut bench);
        // a second step finds the buffers as a first left them
        let first = weighed(&mut bench, None, how, 0.1);
        let second = weighed(&mut bench, None, how, 0.1);
        assert!(first == second, "{kind}: the second step differs");
        let gradients: Vec<Vec<f64>> = (0..bench.model.specs.len()).map(|p| bench.gradient(p)).collect();
        all.push((first, gradients));
    }
    assert!(all[0] == all[1] && all[0] == all[2], "where gradients lie changes the numbers");

    let mut bench = Bench::new(&b, &config, 2, WINDOW, 0);
    b.reserve_scratch(scratch::reading(&b, &config, Reading::of(WINDOW + 1))).unwrap();
    initialised(&mut bench);
    let weights: Vec<f64> = all[0].0.0.iter().map(|&w| w.into()).collect();
    for row in 0..2 {
        let ours = &weights[row * WINDOW..][..WINDOW];
        within(relative(ours, &by_windows(&bench, row, how.gamma)), 1e-4, &format!("weights of row {row}"));
        assert!(ours[..2 * SHORT].iter().all(|&w| w == 1.0), "{ours:?}");
    }
    let count = |what: &dyn Fn(f64) -> bool| weights.iter().filter(|&&w| what(w)).count();
    let (clipped, above, below) =
        (count(&|w| w == 1.5), count(&|w| w > 1.01 && w < 1.5), count(&|w| w < 0.99));
    assert!(clipped > 2 && above > 2 && below > 2, "{weights:?} say little");
}

#[test]
fn gradients_are_those_of_the_weighted_sum() {
    let b = Reference;
    let mut bench = Bench::new(&b, &config(), 2, WINDOW, 0);
    initialised(&mut bench);
    let (weights, _) = weighed(&mut bench, None, LongCe { short: SHORT, gamma: 3.0 }, 0.1);
    let names = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"];
    for (id, spec) in bench.model.specs.clone().iter().enumerate().filter(|(_, s)| names.contains(&&*s.name))
    {
        let gradient = bench.gradient(id);
        // along the gradient the sum, its weights as they are, rises by |gradient|² for each unit
        let square: f64 = gradient.iter().map(|g| g * g).sum();
        let old: Vec<f64> = bench.model.params[id].0.clone();
        let mut sum = |step: f64| {
            let moved = old.iter().zip(&gradient).map(|(p, g)| p + step * g);
            bench.model.params[id].0 = moved.collect();
            bench.model.refresh(&b).unwrap();
            bench.model.forward_loss(&b, &mut bench.buffers, &bench.batch).unwrap();
            let sum = bench
                .token_losses(2 * WINDOW)
                .iter()
                .zip(&weights)
                .map(|(l, &w)| 0.1 * l * f64::from(w))
                .sum::<f64>();
            bench.model.params[id].0.clone_from(&old);
            sum
        };
        let h = 1e-5 / square.sqrt();
        let slope = (sum(h) - sum(-h)) / (2.0 * h);
        assert!((slope / square - 1.0).abs() < 1e-5, "{}: {slope} and {square}", spec.name);
    }
}

#[test]
fn short_documents_of_a_row_weigh_as_without_weights() {
    let b = Cpu::<f32>::new(1).unwrap();
    let config = config();
    let step = |how: LongCe, lengths: &[usize]| {
        let row = lengths.iter().enumerate().flat_map(|(d, &len)| vec![DocumentId(d as u32); len]);
        let row: Vec<DocumentId> = row.collect();
        let mut bench = Bench::new(&b, &config, 2, WINDOW, 0);
        initialised(&mut bench);
        let (weights, losses) = weighed(&mut bench, Some(&[&row[..], &row[..]].concat()), how, 0.1);
        let gradients: Vec<Vec<f64>> = (0..bench.model.specs.len()).map(|p| bench.gradient(p)).collect();
        bench.grads.zero(&b, &bench.model.specs).unwrap();
        let Bench { model, buffers, grads, batch, .. } = &mut bench;
        model.forward_backward(&b, buffers, grads, batch, 0.1).unwrap();
        model.finish_gradients(&b, grads).unwrap();
        let plain: Vec<Vec<f64>> = (0..bench.model.specs.len()).map(|p| bench.gradient(p)).collect();
        assert!(losses == bench.token_losses(2 * WINDOW), "losses are not weighted");
        (weights, gradients == plain)
    };
    let how = LongCe { short: SHORT, gamma: 3.0 };
    // none is longer than a window is at least
    let (weights, same) = step(how, &[5, 5, 4, 5, 5, 2]);
    assert!(same && weights.iter().all(|&w| w == 1.0), "{weights:?}");
    let (weights, same) = step(how, &[5, 21]);
    assert!(!same, "{weights:?}");
    // block 3 is the first whose window begins after the second document does
    let other: Vec<bool> = weights[..WINDOW].iter().map(|&w| w != 1.0).collect();
    assert!(
        other[..12].iter().all(|&o| !o) && other[12..].iter().filter(|&&o| o).count() > 10,
        "{weights:?}"
    );
}

const RUN: &str = "train --preset tiny --data a.txt --train-len 32 --target-len 128 --rope yarn --rope-factor 2 --batch 2 \
                   --lr 1e-3 --dtype f32 --quiet --steps 6 --save-every 2";

#[test]
fn a_stopped_run_goes_on_to_the_same() {
    let dir = Dir::new();
    for (what, flags) in [("all", "--grad-accum 2"), ("lora", "--lora-rank 2"), ("pack", "--pack")] {
        let run = format!("{RUN} {flags} --loss longce --longce-short 3");
        let (whole, killed) = (format!("{what}-whole"), format!("{what}-killed"));
        dir.run(&format!("{run} --threads 1 --out {whole}")).ok();
        dir.run(&format!("{run} --threads 2 --out {killed}")).ok();
        dir.kill_after(&killed, 4);
        dir.run(&format!("train --resume --out {killed}")).ok();
        let lines = dir.metrics(&whole);
        assert_eq!(dir.metrics(&killed), lines, "{what}");
        let state = |out: &str| dir.read(&format!("{out}/checkpoint-000006/resume/optimizer.safetensors"));
        assert!(state(&killed) == state(&whole), "{what}: the moments differ");
        // both losses, of which the weighted one is another number
        let of = |name: &str| lines.iter().map(|line| line[name].as_f64().unwrap()).collect::<Vec<_>>();
        let pairs: Vec<(f64, f64)> = of("loss").into_iter().zip(of("weighted_loss")).collect();
        assert!(
            pairs.iter().all(|(plain, weighted)| plain != weighted && *weighted > 0.0),
            "{what}: {pairs:?}"
        );
    }
    dir.run("train --resume --out all-whole --longce-gamma 4")
        .refused(2, &["--longce-gamma 4", "started with 5.0"]);
    dir.run("train --resume --out all-whole --loss ce").refused(2, &["--longce-short 3", "the loss is ce"]);
    // said to be ce it is what it always was
    dir.run(&format!("{RUN} --loss ce --out said")).ok();
    dir.run(&format!("{RUN} --out unsaid")).ok();
    assert_eq!(dir.read("said/model.safetensors"), dir.read("unsaid/model.safetensors"));
    assert!(dir.lines("said/metrics.jsonl").iter().all(|line| line.get("weighted_loss").is_none()));
    dir.run("train --resume --out unsaid --loss longce").refused(2, &["--lo", "was started without it"]);
    // what weighing takes is planned
    dir.run("plan --preset tiny --train-len 64 --batch 2 --loss longce --json plan.json").ok();
    let plan = dir.json("plan.json");
    for name in ["longce.windows", "longce.weights"] {
        let row = plan["buffers"].as_array().unwrap().iter().find(|b| b["name"] == name);
        assert_eq!(row.map(|row| row["bytes"].as_u64()), Some(Some(4 * 2 * 64)), "{name}");
    }
}
