//! Numbers that cannot be: beyond bf16, beyond the vocabulary, a loss over nothing.

mod common;

use common::cli::Dir;
use pose_engine::data::Tokenizer;
use pose_engine::data::cache::{self, Entry, Key, Lookup};
use pose_engine::data::documents::Source;
use pose_engine::index::TokenId;

/// The model of m with its last norm set to `value`, as from elsewhere.
fn with_norm(dir: &Dir, name: &str, value: f32) {
    dir.copy("m", name);
    let mut bytes = dir.read("m/model.safetensors");
    let (at, len) = {
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let norm = file.tensor("model.norm.weight").unwrap();
        (norm.data().as_ptr() as usize - bytes.as_ptr() as usize, norm.data().len())
    };
    bytes[at..at + len].chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&value.to_le_bytes()));
    dir.write(&format!("{name}/model.safetensors"), bytes);
}

#[test]
fn what_overflows_is_said() {
    let dir = Dir::with_model();
    // a number of f32 that rounds to infinity in bf16
    with_norm(&dir, "big", f32::MAX);
    dir.run("eval-ppl --model big --data a.txt --tokens 64 --windows 32")
        .refused(1, &["a.txt", "the model is broken"]);
    dir.run("generate --model big --prompt x").refused(1, &["no finite number", "the model is broken"]);
    dir.run("train --model big --data a.txt --train-len 32 --steps 2 --out o --quiet")
        .refused(1, &["step 1", "the loss is"]);
    assert!(!dir.path("o/model.safetensors").exists());
}

#[test]
fn ids_out_of_range_are_no_cache() {
    let dir = Dir::with_model();
    dir.write("b.txt", "a text of some words, again and again and again and again and again");
    let read = "eval-ppl --model m --data b.txt --windows 32";
    let good = dir.run(read).ok();
    let source = Source::of(&dir.path("b.txt")).unwrap();
    let tokenizer = Tokenizer::load(&dir.path("m")).unwrap();
    let key = Key::of(&source, &tokenizer, "text", None, None).unwrap();
    let path = dir.path("cache");
    let vocab = tokenizer.vocab_size();
    let Lookup::Hit(mut entries) = cache::read(&path, key, vocab) else { panic!("the text is not cached") };
    entries[0].tokens[5] = TokenId(vocab as u32);
    cache::write(&path, key, &entries).unwrap();
    let again = dir.run(read).ok();
    assert!(again.stderr.contains("token cache made anew: it has token ids"), "{}", again.all());
    let table = |ran: &str| ran.lines().take(3).map(|l| l[..l.len().min(40)].to_string()).collect::<Vec<_>>();
    assert_eq!(table(&again.stdout), table(&good.stdout));
    assert!(
        matches!(cache::read(&path, key, vocab), Lookup::Hit(made) if made != entries && made != Vec::<Entry>::new())
    );
}

#[test]
fn documents_of_one_token_are_left_out() {
    let dir = Dir::new();
    let single = "{\"text\": \"a\"}\n".repeat(20);
    dir.write("single.jsonl", &single);
    dir.write("mixed.jsonl", single.clone() + "{\"text\": \"one of a few words\"}\n");
    let train = "train --preset tiny --train-len 32 --steps 3 --pack --out";
    dir.run(&format!("{train} o --data single.jsonl"))
        .refused(2, &["a document of one token has nothing to predict"]);
    let ran = dir.run(&format!("{train} o --data mixed.jsonl")).ok();
    assert!(ran.stderr.contains("20 of 21 documents have fewer than two tokens"), "{}", ran.all());
    let losses = dir.lines("o/metrics.jsonl");
    assert!(losses.iter().all(|line| line["loss"].as_f64().is_some_and(f64::is_finite)), "{losses:?}");
    dir.run("eval-ppl --model o --data single.jsonl --windows 32")
        .refused(2, &["there is no token to score"]);
}
