//! Rows of several documents: each is trained on as if it were alone.

mod common;

use common::{Bench, MODELS, cases, fixture_dir, relative, within};
use pose_engine::backend::Backend;
use pose_engine::backend::cpu::Cpu;
use pose_engine::backend::reference::Reference;
use pose_engine::data::{Batch, BatchPlaces, Corpus, Document, Loader, Share};
use pose_engine::index::TokenId;
use pose_engine::memory::Ledger;
use pose_engine::model::{Config, PlacedBatch, places_at};
use pose_engine::positions::{ChunkLengths, Content, Method, Sampler};
use std::collections::HashMap;

fn sampler(method: Method, window: usize, target: usize, chunks: usize) -> Sampler {
    let sampler = Sampler::new(method, window, target, chunks, ChunkLengths::Paper, Content::Uniform);
    sampler.unwrap().packing().unwrap()
}

/// Documents of these lengths; every token tells its document and place.
fn corpus(lengths: &[u32], vocab: u32) -> Corpus {
    let token = |d: usize, t: u32| TokenId((d as u32 * 31 + t * 7) % vocab);
    let document = |(d, &len): (usize, &u32)| Document {
        name: format!("{d}.txt"),
        tokens: (0..len).map(|t| token(d, t)).collect(),
    };
    Corpus { documents: lengths.iter().enumerate().map(document).collect() }
}

/// Loss of every token of a packed batch; the gradients of their sum are in the bench afterwards.
fn step_packed<B: Backend>(bench: &mut Bench<'_, B>, batch: &Batch) -> Vec<f64> {
    let b = bench.b;
    bench.model.refresh(b).unwrap();
    let ledger = &mut Ledger::live();
    let placed = PlacedBatch::new(b, ledger, batch.rows, batch.window, 0).unwrap();
    bench.batch = placed.packing(b, ledger).unwrap();
    bench.batch.fill(b, batch.rows, &batch.tokens, &batch.targets, &batch.places).unwrap();
    bench.batch.fill_documents(b, batch.document_ids.as_ref().unwrap()).unwrap();
    bench.grads.zero(b, &bench.model.specs).unwrap();
    bench.model.forward_backward(b, &mut bench.buffers, &mut bench.grads, &bench.batch, 1.0).unwrap();
    bench.model.finish_gradients(b, &mut bench.grads).unwrap();
    bench.token_losses(batch.tokens.len())
}

fn gradients<B: Backend>(bench: &Bench<'_, B>) -> Vec<Vec<f64>> {
    (0..bench.model.specs.len()).map(|p| bench.gradient(p)).collect()
}

/// Losses and gradients of two packed rows against those of their documents, one by one.
fn as_if_alone<B: Backend>(b: &B, model: &str, config: &Config, bound: f64) {
    const WINDOW: usize = 24;
    let corpus = corpus(&[9, 14, 2, 5, 21, 3, 11], config.vocab_size as u32);
    let sampler = sampler(Method::Pose, WINDOW, 64, 3);
    let (loader, _) = Loader::new(corpus, sampler, 3).unwrap();
    let batch = loader.batch(1, 0..2).unwrap();
    let dir = fixture_dir(model);
    let mut packed = Bench::new(b, config, 2, WINDOW, 0).load(&dir);
    let together = step_packed(&mut packed, &batch);
    let together_gradients = gradients(&packed);

    let mut sums: Vec<Vec<f64>> = together_gradients.iter().map(|g| vec![0.0; g.len()]).collect();
    let mut documents = 0;
    for row in 0..2 {
        let example = loader.example(1, row).unwrap();
        let positions: Vec<u32> = example.placement.positions(WINDOW).iter().map(|p| p.0).collect();
        let mut at = 0;
        for piece in &example.packed.as_ref().unwrap().pieces {
            let range = at..at + piece.tokens.len();
            at = range.end;
            documents += 1;
            // positions are the document's own
            assert_eq!(positions[range.start], 0, "{model}");
            let (ids, targets) = (&example.tokens[range.clone()], &example.targets[range.clone()]);
            let mut alone = Bench::new(b, config, 1, ids.len(), 0).load(&dir);
            alone.step(1, ids, targets, &places_at(&positions[range.clone()]));
            let row_losses = &together[row as usize * WINDOW..][range];
            within(relative(row_losses, &alone.token_losses(ids.len())), bound, &format!("{model}: losses"));
            // the bench divides by the tokens that are scored, all of them
            let scale = ids.len() as f64;
            for (sum, gradient) in sums.iter_mut().zip(gradients(&alone)) {
                sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += scale * g);
            }
        }
        // what is left over is not trained on
        assert!(example.targets[at..].iter().all(|&t| t == TokenId::IGNORED), "{model}");
        assert!(together[row as usize * WINDOW..][at..WINDOW].iter().all(|&l| l == 0.0), "{model}");
    }
    assert!(documents > 2, "{model}: {documents} documents are no packing");
    for (spec, (ours, sum)) in packed.model.specs.iter().zip(together_gradients.iter().zip(&sums)) {
        within(relative(ours, sum), bound, &format!("{model}: gradient of {}", spec.name));
    }
}

#[test]
fn a_packed_document_is_trained_on_as_if_it_were_alone() {
    for model in MODELS {
        let config = cases(model).swap_remove(0).config;
        as_if_alone(&Reference, model, &config, 1e-10);
    }
    let config = cases("llama-tiny").swap_remove(0).config;
    as_if_alone(&Cpu::<f32>::new(2).unwrap(), "llama-tiny", &config, 1e-5);
}

#[test]
fn what_other_documents_say_changes_no_bit() {
    let config = cases("llama-tiny").swap_remove(0).config;
    let (b, dir) = (Cpu::<f32>::new(2).unwrap(), fixture_dir("llama-tiny"));
    let corpus = corpus(&[9, 14, 2], config.vocab_size as u32);
    let (loader, _) = Loader::new(corpus, sampler(Method::Plain, 24, 24, 2), 3).unwrap();
    let mut batch = loader.batch(1, 0..1).unwrap();
    let lengths: Vec<usize> =
        loader.example(1, 0).unwrap().packed.unwrap().pieces.iter().map(|piece| piece.tokens.len()).collect();
    assert_eq!(lengths, [13, 8, 1]);
    let mut bench = Bench::new(&b, &config, 1, 24, 0).load(&dir);
    let before = step_packed(&mut bench, &batch);
    // the first document's second token
    batch.tokens[1].0 = (batch.tokens[1].0 + 1) % config.vocab_size as u32;
    let after = step_packed(&mut bench, &batch);
    assert_eq!(before[0], after[0]);
    assert!((1..13).all(|t| before[t] != after[t]), "{before:?} {after:?}");
    assert_eq!(before[13..], after[13..]);
}

#[test]
fn positions_of_a_document_are_those_of_a_row_of_its_own() {
    let lengths = [7usize, 1, 12, 2];
    let (window, target) = (24, 100);
    for method in [Method::Pose, Method::Plain, Method::Full, Method::RandPos] {
        let sampler = sampler(method, window, target, 3);
        let mut far = 0;
        for row in 0..2000 {
            let positions = sampler.pack(5, 1, row, &lengths);
            assert_eq!(positions, sampler.pack(5, 1, row, &lengths));
            let mut at = 0;
            for len in lengths {
                let own: Vec<u32> = positions[at..at + len].iter().map(|p| p.0).collect();
                at += len;
                assert!(own.windows(2).all(|w| w[0] < w[1]), "{method}: {own:?}");
                assert!(own[len - 1] < target as u32, "{method}: {own:?}");
                let jumps = own.windows(2).filter(|w| w[1] != w[0] + 1).count();
                match method {
                    Method::RandPos => (),
                    Method::Pose => assert!(own[0] == 0 && jumps <= 2.min(len - 1), "{own:?}"),
                    _ => assert!(own[0] == 0 && jumps == 0, "{own:?}"),
                }
                far = far.max(if len == 12 { own[len - 1] } else { 0 });
            }
            assert_eq!(at, positions.len());
        }
        let reaches = matches!(method, Method::Pose | Method::RandPos);
        assert_eq!(far, if reaches { target as u32 - 1 } else { 11 }, "{method}");
    }
    for method in [Method::Cream, Method::LongRecipe, Method::Axolotl, Method::Balanced, Method::Adaptive] {
        let sampler = Sampler::new(method, 24, 48, 2, ChunkLengths::Paper, Content::Uniform).unwrap();
        let error = sampler.packing().unwrap_err().to_string();
        assert!(error.contains("--pack") && error.contains(&method.to_string()), "{error}");
    }
}

#[test]
fn every_document_is_as_likely_as_any_other() {
    let lengths = [4, 9, 2, 17, 6, 3, 12, 40, 5];
    let window = 16;
    let (loader, note) =
        Loader::new(corpus(&lengths, 200), sampler(Method::Plain, window, window, 2), 9).unwrap();
    assert!(note.unwrap().contains("9 documents packed into"));
    let (mut counts, rows) = (HashMap::new(), 40_000u32);
    for row in 0..rows {
        let example = loader.example(2, row).unwrap();
        let packed = example.packed.unwrap();
        let mut at = 0;
        for piece in packed.pieces {
            *counts.entry((piece.document, piece.tokens.start)).or_insert(0u32) += 1;
            let text = &loader.corpus().documents[piece.document].tokens;
            let (place, len) = (at..at + piece.tokens.len(), piece.tokens.len());
            at = place.end;
            assert_eq!(example.tokens[place.clone()], text[piece.tokens.clone()]);
            assert_eq!(example.targets[place.clone()], text[piece.tokens.start + 1..piece.tokens.end + 1]);
            assert!(packed.documents[place.clone()].windows(2).all(|w| w[0] == w[1]));
            assert!(at == len || packed.documents[place.start] != packed.documents[place.start - 1]);
        }
        assert_eq!(loader.scored(2, row..row + 1), at);
    }
    // all pieces, of the document that is longer than two rows three
    assert_eq!(counts.len(), 9 + 2);
    let expected = counts.values().sum::<u32>() as f64 / counts.len() as f64;
    // five standard deviations of a binomial of this mean
    let spread = 5.0 * expected.sqrt();
    for (piece, &count) in &counts {
        assert!((f64::from(count) - expected).abs() < spread, "{piece:?}: {count}, {expected:.0} expected");
    }
}

#[test]
fn documents_of_one_token_are_left_out_or_refused() {
    let packing = || sampler(Method::Plain, 16, 16, 2);
    let (loader, note) = Loader::new(corpus(&[1, 5, 1, 0, 7], 100), packing(), 1).unwrap();
    let note = note.unwrap();
    assert!(note.contains("3 of 5 documents have fewer than two tokens"), "{note}");
    assert_eq!(loader.corpus().documents.len(), 2);
    let error = Loader::new(corpus(&[1, 1], 100), packing(), 1).unwrap_err().to_string();
    assert!(error.contains("--data 0.txt") && error.contains("nothing to predict"), "{error}");
}

#[test]
fn rows_are_of_each_corpus_as_often_as_its_weight_says() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config as Runs, TestRunner};
    let strategy = (prop::collection::vec(0.0f64..10.0, 1..5), any::<u64>(), any::<bool>());
    let mut runner = TestRunner::new(Runs::with_cases(24));
    let run = runner.run(&strategy, |(mut weights, seed, pack)| {
        weights[0] += 0.5;
        // one that is never drawn
        weights.push(0.0);
        let plain = Sampler::new(Method::Plain, 8, 8, 2, ChunkLengths::Paper, Content::Uniform).unwrap();
        let plain = if pack { plain.packing().unwrap() } else { plain };
        let shares =
            weights.iter().map(|&weight| Share { corpus: corpus(&[20, 9, 31], 50), weight }).collect();
        let (loader, _) = Loader::mixing(shares, plain, seed).unwrap();
        let (mut counts, rows) = (vec![0u32; weights.len()], 4000);
        for row in 0..rows {
            counts[loader.example(1 + u64::from(row % 7), row).unwrap().document / 3] += 1;
        }
        let sum: f64 = weights.iter().sum();
        for (weight, &count) in weights.iter().zip(&counts) {
            let (p, n) = (weight / sum, f64::from(rows));
            // six standard deviations, and nothing at all of what has no weight
            let bound = 6.0 * (n * p * (1.0 - p)).sqrt();
            prop_assert!((f64::from(count) - n * p).abs() <= bound + 1e-9, "{count} of {rows} at {p}");
        }
        Ok(())
    });
    run.unwrap();
}

#[test]
fn a_batch_says_of_which_document_each_token_is() {
    let (loader, _) = Loader::new(corpus(&[4, 9, 2, 6], 200), sampler(Method::Pose, 16, 64, 2), 9).unwrap();
    let batch = loader.batch(4, 0..3).unwrap();
    let examples: Vec<_> = (0..3).map(|row| loader.example(4, row).unwrap()).collect();
    let ids: Vec<_> = examples.iter().flat_map(|e| e.packed.as_ref().unwrap().documents.clone()).collect();
    assert_eq!(batch.document_ids, Some(ids));
    assert!(matches!(&batch.places, BatchPlaces::List(list) if list.len() == 48));
    assert!(loader.describe(4, 1).contains("packed of "), "{}", loader.describe(4, 1));
}
