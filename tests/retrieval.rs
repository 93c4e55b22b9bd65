//! Passkeys and needles: what is asked, what is told of it, and that the beginnings that prompts share are read once without
//! changing an answer.

mod common;

use common::cli::Dir;
use common::{allocate, untrained};
use half::bf16;
use pose_engine::backend::Backend;
use pose_engine::backend::cpu::Cpu;
use pose_engine::data::{Corpus, Document, Tokenizer};
use pose_engine::eval::{
    self, Asker, Haystack, NeedleProtocol, Partial, PasskeyProtocol, ROOM_FOR_ANSWER, Spent, Trial,
};
use pose_engine::model::buffers::Reading;
use pose_engine::model::cache::CacheFormat;

const CHUNK: usize = 16;

/// Both measures, with a model that has learnt nothing but whose answers differ; `lengths` in parts.
fn trials_in<B: Backend>(
    b: &B, cache: CacheFormat, reuse: bool, parts: &[&[usize]],
) -> [(Vec<Trial>, Spent); 2] {
    let model = untrained(b);
    let reading = Reading { chunk: CHUNK, cache, ..Reading::of(700 + ROOM_FOR_ANSWER) };
    let mut session = allocate(b, &model, reading);
    let tokenizer = Tokenizer::bytes();
    let tokens = tokenizer.encode(&"A fox slept. Who saw it? Nobody did, that night. ".repeat(40)).unwrap();
    let corpus = Corpus { documents: vec![Document { name: "text".into(), tokens }] };
    let mut asker = Asker::new(b, &model, &mut session, &tokenizer);
    asker.reuse = reuse;
    let (seed, bos, partial) = (4, Some(256), &mut Partial::none());
    let haystack = Haystack::new(&corpus, &tokenizer, 700).unwrap();
    let mut all: [(Vec<Trial>, Spent); 2] = Default::default();
    for lengths in parts.iter().map(|part| part.to_vec()) {
        let passkey = PasskeyProtocol { lengths: lengths.clone(), trials: 4, seed, bos };
        let passkey = eval::passkey(&mut asker, &passkey, partial, &mut |_| {}).unwrap();
        let needle = NeedleProtocol { lengths, depths: vec![0.0, 0.5, 1.0], trials: 2, seed, bos };
        let needle = eval::needle(&mut asker, &haystack, &needle, partial, &mut |_| {}).unwrap();
        for (all, (trials, spent)) in
            all.iter_mut().zip([(passkey.trials, passkey.spent), (needle.trials, needle.spent)])
        {
            all.0.extend(trials);
            all.1 += spent;
        }
    }
    all
}

fn trials<B: Backend>(b: &B, cache: CacheFormat, reuse: bool) -> [(Vec<Trial>, Spent); 2] {
    trials_in(b, cache, reuse, &[&[450, 700]])
}

fn reuse_changes_nothing<B: Backend>(b: &B, cache: CacheFormat) {
    let (with, without) = (trials(b, cache, true), trials(b, cache, false));
    for ((with, spent), (without, all)) in with.iter().zip(&without) {
        // log-probabilities among them, to the last bit
        assert_eq!(with, without);
        assert!(with.len() >= 8 && with.iter().any(|t| t.answer != with[0].answer));
        assert_eq!(all.reused, 0);
        assert_eq!(spent.read + spent.reused, all.read);
        assert!(spent.reused > all.read / 10, "{spent:?} of {all:?}");
        assert_eq!(spent.reused % CHUNK, 0);
    }
}

#[test]
fn prompts_that_begin_alike_are_read_once_and_answered_with_the_same_bits() {
    reuse_changes_nothing(&Cpu::<f32>::new(1).unwrap(), CacheFormat::Act);
    reuse_changes_nothing(&Cpu::<bf16>::new(1).unwrap(), CacheFormat::Act);
    reuse_changes_nothing(&Cpu::<bf16>::new(1).unwrap(), CacheFormat::Int8);
}

/// As lengths that a scaling by length rotates otherwise are asked.
#[test]
fn lengths_that_are_asked_in_parts_get_the_same_prompts() {
    let b = Cpu::<f32>::new(1).unwrap();
    let ask = |parts: &[&[usize]]| trials_in(&b, CacheFormat::Act, true, parts).map(|(trials, _)| trials);
    assert_eq!(ask(&[&[450], &[700]]), ask(&[&[450, 700]]));
}

#[test]
fn trials_come_in_the_order_of_the_protocol() {
    let [(passkey, _), (needle, _)] = trials(&Cpu::<f32>::new(1).unwrap(), CacheFormat::Act, true);
    assert!(passkey[..4].iter().all(|t| t.length == 450) && passkey[4..].iter().all(|t| t.length == 700));
    let places: Vec<(usize, f64)> = needle.iter().map(|t| (t.length, t.depth)).collect();
    let want = [450, 700].map(|l| [0.0, 0.5, 1.0].map(|d| [(l, d); 2]));
    assert_eq!(places, want.as_flattened().as_flattened());
}

#[test]
fn needles_are_counted_by_length_and_depth() {
    let dir = Dir::with_model();
    dir.write("book.txt", "It rained. A fox slept under the old bridge. Nobody came by. ".repeat(60));
    let args =
        "eval-needle --model m --data book.txt --lengths 300,1k --depths 3 --trials 2 --seed 5 --json n.json";
    let ran = dir.run(&format!("{args} --svg n.svg --kv-cache int8")).ok();
    for part in ["depth", "1k", "50%", "log p", "tokens read", "reused from the cache"] {
        assert!(ran.stdout.contains(part), "no \"{part}\"\n{}", ran.all());
    }
    let told = dir.json("n.json");
    assert_eq!((&told["kv_cache"], told["trials"].as_array().unwrap().len()), (&"int8".into(), 12));
    let cells = told["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 6);
    for cell in cells {
        assert_eq!((&cell["trials"], &cell["accuracy"]), (&2.into(), &0.0.into()), "{cell}");
        assert!(cell["log_probability"].as_f64().unwrap() < -5.0, "{cell}");
        assert!(cell["log_probability_error"].is_number(), "{cell}");
    }
    let svg = String::from_utf8(dir.read("n.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("tokens of the prompt"), "{svg}");
    dir.run(&format!("{args} --quiet")).ok();
    let told = dir.json("n.json");
    // a map that cannot be written is seen before anything is measured
    dir.run(&format!("{args} --quiet --svg gone/n.svg"))
        .refused(2, &["--svg gone/n.svg", "no directory gone"]);
    assert_eq!(dir.json("n.json")["cells"], told["cells"]);
}
