//! The evaluations as commands: what they print, that they go on from where they were stopped, and what they refuse.

mod common;

use common::cli::Dir;
use serde_json::{Value, json};

const QUIZ: &str = r#"{"context": "the red fox ran over", "choices": ["a hill", "an old bridge"], "answer": 0}
{"context": "the old bridge and", "choices": ["fox", "the red hill", "saw"], "labels": [0, 1, 1]}

{"context": "a hill saw", "choices": ["the fox", "bridge"], "answers": [1]}
"#;

fn with_texts() -> Dir {
    let dir = Dir::with_model();
    std::fs::create_dir(dir.path("d")).unwrap();
    for (name, bytes) in [("d/1.txt", 900), ("d/2.txt", 700), ("d/3.txt", 400)] {
        dir.write(name, common::cli::words(bytes));
    }
    dir.write("quiz.jsonl", QUIZ);
    dir
}

/// A run of each evaluation, and how many units it has.
const COMMANDS: [(&str, usize); 6] = [
    ("eval-ppl --model m --data d --windows 64,200", 6),
    ("eval-passkey --model m --lengths 300,400 --trials 2 --seed 5", 4),
    ("eval-needle --model m --data d --lengths 300,400 --depths 2 --trials 1 --seed 5", 4),
    ("eval-shift --model m --data d --offsets 50,200 --length 32 --passages 3", 15),
    (
        "eval-longppl --model m --data d --windows 64,200 --short 16 --short-stride 8 --min-gain 0.001 --min-log-likelihood=-6",
        6,
    ),
    ("eval-tasks --model m --data quiz.jsonl --shots 1", 3),
];

/// What was measured, without what it cost.
fn measured(dir: &Dir, name: &str) -> Value {
    fn drop_costs(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.retain(|key, _| {
                    !["seconds", "spent", "planned_bytes", "peak_bytes"].contains(&key.as_str())
                });
                object.values_mut().for_each(drop_costs);
            }
            Value::Array(list) => list.iter_mut().for_each(drop_costs),
            _ => (),
        }
    }
    let mut value = dir.json(name);
    drop_costs(&mut value);
    value
}

#[test]
fn a_measure_that_was_stopped_goes_on_and_gives_the_same_bits() {
    let dir = with_texts();
    for (command, units) in COMMANDS {
        let whole = dir.run(&format!("{command} --json whole.json")).ok();
        assert!(whole.stderr.contains("protocol: "), "{}", whole.all());
        dir.run(&format!("{command} --json kept.json --partial p.jsonl")).ok();
        assert_eq!(measured(&dir, "kept.json"), measured(&dir, "whole.json"), "{command}");
        let text = String::from_utf8(dir.read("p.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1 + units, "{command}:\n{text}");
        // stopped within a line, half-way
        let half: Vec<&str> = text.split_inclusive('\n').take(1 + units / 2).collect();
        let next = text.lines().nth(1 + units / 2).unwrap();
        dir.write("p.jsonl", format!("{}{}", half.concat(), &next[..next.len() / 2]));
        dir.run(&format!("{command} --json resumed.json --partial p.jsonl --quiet")).ok();
        assert_eq!(measured(&dir, "resumed.json"), measured(&dir, "whole.json"), "{command}");
        let again = String::from_utf8(dir.read("p.jsonl")).unwrap();
        assert_eq!(again.lines().count(), 1 + units, "{command}:\n{again}");
        assert!(again.starts_with(&half.concat()), "{command}: what was finished was measured again");
        // another protocol, another model, another command
        for other in ["--bos on", "--dtype f32", "--rope linear --rope-factor 2"] {
            dir.run(&format!("{command} --partial p.jsonl {other}"))
                .refused(2, &["--partial p.jsonl", "is of another measure"]);
        }
        dir.run(&format!("{command} --partial p.jsonl --rope linear --rope-factor 2"))
            .refused(2, &["its model.rope is \"theta 10000, no scaling\"", "\"theta 10000, linear by 2\""]);
        assert_eq!(dir.read("p.jsonl"), again.as_bytes());
        std::fs::remove_file(dir.path("p.jsonl")).unwrap();
    }
}

#[test]
fn shift_tells_what_is_alone_from_what_is_after_its_text() {
    let dir = with_texts();
    let ran = dir.run(&format!("{} --json s.json", COMMANDS[3].0)).ok();
    for part in ["offset", "alone", "after text", "nll - at 0", "+/- s.e."] {
        assert!(ran.stdout.contains(part), "no \"{part}\"\n{}", ran.all());
    }
    let results = dir.json("s.json")["results"].as_array().unwrap().clone();
    assert_eq!(results.iter().map(|r| r["offset"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 50, 200]);
    assert_eq!(results[0]["alone"], results[0]["after"]);
    for result in &results {
        assert!(result["alone"]["difference"].as_f64().unwrap().abs() < 0.02, "{result}");
        assert_eq!(result["after"]["passages"], 3);
    }
}

#[test]
fn a_judge_needs_the_same_tokens() {
    let dir = with_texts();
    dir.copy("m", "other");
    let command = format!("{} --json l.json", COMMANDS[4].0);
    dir.run(&command).ok();
    let own = measured(&dir, "l.json");
    assert!(own["results"][0]["keys"].as_u64().unwrap() > 0, "{own}");
    dir.run(&format!("{command} --judge other")).ok();
    let same = measured(&dir, "l.json");
    // the same model as a judge chooses the same tokens
    assert_eq!((&same["results"], &same["judged"]), (&own["results"], &own["judged"]));
    assert_eq!(same["protocol"]["other_judge"], true);
    let mut tokenizer: Value = dir.json("other/tokenizer.json");
    tokenizer["normalizer"] = json!({"type": "Lowercase"});
    dir.write("other/tokenizer.json", tokenizer.to_string());
    // other bytes, the same tokens of this text
    dir.run(&format!("{command} --judge other")).ok();
    dir.write("d/1.txt", format!("{} UPPER", common::cli::words(600)));
    dir.run(&format!("{command} --judge other")).refused(2, &["--judge other", "same tokenizer"]);
}

#[test]
fn tasks_count_what_is_right() {
    let dir = with_texts();
    let ran = dir.run("eval-tasks --model m --data quiz.jsonl --json t.json").ok();
    for part in ["acc", "acc_norm", "acc_bytes", "mc2", "tokens read", "reused from the cache"] {
        assert!(ran.stdout.contains(part), "no \"{part}\"\n{}", ran.all());
    }
    let told = dir.json("t.json");
    let questions = told["results"]["questions"].as_array().unwrap();
    assert_eq!(questions.iter().map(|q| q["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 4]);
    for (name, value) in [("acc", "acc"), ("acc_norm", "acc_norm"), ("acc_bytes", "acc_bytes")] {
        let right = questions.iter().filter(|q| q[value] == true).count() as f64;
        assert_eq!(told["results"][name]["mean"].as_f64().unwrap(), right / 3.0, "{told}");
    }
    dir.run("eval-tasks --model m --data quiz.jsonl --limit 2 --json t.json --quiet").ok();
    assert_eq!(dir.json("t.json")["results"]["questions"].as_array().unwrap()[..], questions[..2]);
    let line = json!({"question": "Is it?", "mc2_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]}});
    dir.write("truth.jsonl", line.to_string());
    dir.run("eval-tasks --model m --data truth.jsonl --format truthfulqa-mc2 --json t.json --quiet").ok();
    // the six examples, the question, and " Yes."
    assert_eq!(dir.json("t.json")["longest_prompt"], 575 + 12 + 5);
}

#[test]
fn what_evaluations_refuse() {
    let dir = with_texts();
    dir.write("bad.jsonl", QUIZ.replace("\"labels\": [0, 1, 1]", "\"labels\": [0, 1]"));
    dir.write("torn.jsonl", &QUIZ[..QUIZ.len() - 9]);
    for (args, code, parts) in [
        ("eval-shift --offsets 0,2k", 2, &["--data (missing)"][..]),
        ("eval-shift --data d", 2, &["--offsets"]),
        ("eval-shift --data d --offsets x", 2, &["--offsets", "x"]),
        ("eval-shift --data d --offsets 5000000k", 2, &["--offsets 5120000000", "positions go up to"]),
        (
            "eval-shift --data d --offsets 100 --length 4097M",
            2,
            &["--length 4296015872", "positions go up to"],
        ),
        ("eval-shift --data d --offsets 100 --length 1", 2, &["--length 1", "at least 2"]),
        ("eval-shift --data d --offsets 100 --length 300 --passages 9", 2, &["--passages 9", "room for"]),
        ("eval-longppl --windows 64", 2, &["--data (missing)"]),
        ("eval-longppl --data d --windows 2k", 2, &["--short 4096", "longest of --windows, 2048"]),
        ("eval-longppl --data d --windows 8k", 2, &["--data d: the longest document has 9", "--short"]),
        ("eval-longppl --data d --windows 64 --short 16 --short-stride 8 --stride 65", 2, &["--stride 65"]),
        (
            "eval-longppl --data d --windows 64 --short 16 --short-stride 8 --min-gain=-1",
            2,
            &["--min-gain -1"],
        ),
        (
            "eval-longppl --data d --windows 64 --short 16 --short-stride 8 --min-log-likelihood 1",
            2,
            &["--min-log-likelihood 1", "at most 0"],
        ),
        (
            "eval-longppl --data d --windows 64 --short 16 --short-stride 8 --judge gone",
            1,
            &["gone", "config.json"],
        ),
        (
            "eval-longppl --data d --windows 48 --short 32 --short-stride 16",
            2,
            &["--short 32", "begin every 24", "may be 24 tokens"],
        ),
        (
            "eval-tasks --data quiz.jsonl --shots-data quiz.jsonl --shots 1",
            2,
            &["--shots-data quiz.jsonl", "answered before themselves"],
        ),
        ("eval-tasks", 2, &["--data"]),
        ("eval-tasks --data d/1.txt", 1, &["d/1.txt", "is not a task file"]),
        ("eval-tasks --data d", 1, &["is not a task file"]),
        ("eval-tasks --data bad.jsonl", 1, &["bad.jsonl", "line 2", "for each of the 3 choices"]),
        ("eval-tasks --data torn.jsonl", 1, &["torn.jsonl", "line 4", "not valid JSON"]),
        ("eval-tasks --data quiz.jsonl --format piqa", 1, &["quiz.jsonl", "line 1", "no field \"goal\""]),
        ("eval-tasks --data quiz.jsonl --format mmlu", 2, &["mmlu", "hellaswag"]),
        ("eval-tasks --data quiz.jsonl --shots 3", 2, &["--shots 3", "2 questions"]),
        ("eval-tasks --data quiz.jsonl --shots-data gone.jsonl --shots 1", 1, &["gone.jsonl"]),
        ("eval-tasks --data quiz.jsonl --format arc --delimiter x", 2, &["--delimiter x", "plain"]),
        ("eval-tasks --data quiz.jsonl --format truthfulqa-mc1 --shots 1", 2, &["--shots 1", "of its own"]),
        (
            "eval-tasks --data quiz.jsonl --partial quiz.jsonl",
            2,
            &["--partial quiz.jsonl", "nothing is overwritten"],
        ),
        ("eval-ppl --data d --windows 64 --partial gone/p.jsonl", 1, &["gone/p.jsonl"]),
    ] {
        let (command, rest) = args.split_once(' ').unwrap_or((args, ""));
        let before = dir.names();
        dir.run(&format!("{command} --model m {rest}")).refused(code, parts);
        assert_eq!(dir.names(), before, "pose-engine {args}: something half-written was left behind");
    }
    assert_eq!(dir.read("quiz.jsonl"), QUIZ.as_bytes());
}
