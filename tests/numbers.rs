//! Numbers that cannot be: beyond bf16, beyond the vocabulary, a loss over nothing.

mod common;

use common::cli::Dir;
use pose_engine::data::Tokenizer;
use pose_engine::data::cache::{self, Entry, Key, Lookup};
use pose_engine::data::documents::Source;
use pose_engine::index::TokenId;

#[test]
fn what_overflows_is_said() {
    let dir = Dir::with_model();
    // a number of f32 that rounds to infinity in bf16
    dir.copy_with("big", &[("model.norm.weight", &|_| f32::MAX)]);
    dir.run("eval-ppl --model big --data a.txt --tokens 64 --windows 32")
        .refused(1, &["a.txt", "the model is broken"]);
    dir.run("generate --model big --prompt x").refused(1, &["no finite number", "the model is broken"]);
    dir.run("train --model big --data a.txt --train-len 32 --steps 2 --out o --quiet")
        .refused(1, &["step 1", "the loss is"]);
    assert!(!dir.path("o/model.safetensors").exists());
}

const TRAIN: &str = "train --data a.txt --train-len 32 --batch 2 --steps 50 --dtype f32 --quiet";

/// The two matrices around a gated unit, one 2^110 times as large and the other as much smaller: all that is computed forward is as it
/// was. The gradient of the second is a product of the first's output and of the loss's gradient, which a large last norm makes large.
#[test]
fn a_finite_loss_with_a_gradient_that_is_no_number_updates_nothing() {
    let dir = Dir::with_model();
    let (up, down) = ("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight");
    let (larger, smaller) = (|x: f32| x * 2f32.powi(110), |x: f32| x * 2f32.powi(-110));
    dir.copy_with("same", &[(up, &larger), (down, &smaller)]);
    let ppl = |model: &str| {
        let run = format!(
            "eval-ppl --model {model} --data a.txt --tokens 64 --windows 32 --dtype f32 --json {model}.json"
        );
        dir.run(&run).ok();
        dir.json(&format!("{model}.json"))["results"][0]["nll"].as_f64().unwrap()
    };
    assert_eq!(ppl("same"), ppl("m"));
    dir.copy_with("steep", &[(up, &larger), (down, &smaller), ("model.norm.weight", &|x| x * 1e10)]);

    dir.run(&format!("{TRAIN} --model steep --out stopped")).refused(
        1,
        &[
            "step 1: the loss is",
            "the gradient norm inf",
            "nothing was updated",
            "the sample is batch 1, row",
            "a.txt",
        ],
    );
    assert!(!dir.path("stopped/model.safetensors").exists());

    dir.run(&format!("{TRAIN} --model steep --out skipped --on-spike skip"))
        .refused(1, &["step 11", "the gradient norm inf", "so did the 10 before it"]);
    let lines = dir.lines("skipped/metrics.jsonl");
    assert_eq!(lines.len(), 11, "{lines:?}");
    for (step, line) in (1..).zip(&lines) {
        let decided = if step == 11 { "stop" } else { "skip" };
        assert_eq!((&line["spike"], &line["step"]), (&decided.into(), &step.into()), "{line}");
        assert!(line["loss"].as_f64().is_some_and(f64::is_finite), "{line}");
        // infinity is null in JSON
        assert!(line["z"].is_null() && line["not_finite"]["grad_norm"] == "inf", "{line}");
    }
}

/// One layer's numbers overflow in the forward pass, on the way to infinities of both signs: what follows is no number, and every
/// command says whose.
#[test]
fn a_layer_that_overflows_is_found_where_its_numbers_arrive() {
    let dir = Dir::with_model();
    for (what, tensor) in [
        ("the gated unit", "model.layers.1.mlp.up_proj.weight"),
        ("attention's scores", "model.layers.0.self_attn.q_proj.weight"),
        ("attention's values", "model.layers.2.self_attn.v_proj.weight"),
    ] {
        println!("{what}");
        dir.copy_with("broken", &[(tensor, &|x| if x < 0.0 { -3e38 } else { 3e38 })]);
        dir.run(&format!("{TRAIN} --model broken --out o")).refused(
            1,
            &["step 1: the loss is NaN", "nothing was updated", "the sample is batch 1, row", "a.txt"],
        );
        assert!(!dir.path("o/model.safetensors").exists());
        std::fs::remove_dir_all(dir.path("o")).unwrap();
        dir.run("eval-ppl --model broken --data a.txt --tokens 64 --windows 32")
            .refused(1, &["a.txt", "the model is broken"]);
        dir.run("generate --model broken --prompt words").refused(1, &["the model is broken"]);
    }
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
