//! Promise: `report` lays out what runs and evaluations left, and says which file is neither.

mod common;

use common::cli::{Dir, words};

const QUESTIONS: &str = r#"{"context": "the red fox ran over", "choices": ["a hill", "an old bridge"], "answer": 0}
{"context": "a hill saw", "choices": ["the fox", "bridge"], "answer": 1}
"#;

/// Two runs, one of them with held-out text, and every kind of result.
fn measured() -> Dir {
    let dir = Dir::new();
    dir.write("a.txt", words(20_000));
    dir.write("b.txt", words(400));
    let train = "train --preset tiny --data a.txt --train-len 32 --steps 6 --batch 2 --quiet";
    dir.run(&format!("{train} --out pose --target-len 128 --eval-data a.txt --eval-every 2")).ok();
    dir.run(&format!("{train} --out other/pose --target-len 64 --method randpos")).ok();
    let read = "--model pose --quiet";
    dir.run(&format!("eval-ppl {read} --data a.txt b.txt --windows 32,128 --tokens 512 --json ppl.json"))
        .ok();
    dir.run(&format!(
        "eval-shift {read} --data a.txt --offsets 64 --length 32 --passages 2 --json shift.json"
    ))
    .ok();
    let keys = "--short 16 --short-stride 8 --min-gain 0.001 --min-log-likelihood=-6";
    dir.run(&format!("eval-longppl {read} --data b.txt --windows 64,200 {keys} --json longppl.json")).ok();
    dir.write("questions.jsonl", QUESTIONS);
    dir.run(&format!("eval-tasks {read} --data questions.jsonl --json tasks.json")).ok();
    dir.run(&format!("eval-passkey {read} --lengths 512,1k --trials 2 --json passkey.json")).ok();
    dir.run(&format!(
        "eval-needle {read} --data a.txt --lengths 256,512 --depths 2 --trials 1 --json needle.json"
    ))
    .ok();
    dir
}

#[test]
fn runs_and_results_are_on_one_page() {
    let dir = measured();
    let summary = dir.json("pose/summary.json");
    assert_eq!((summary["steps"].as_u64(), summary["target_len"].as_u64()), (Some(6), Some(128)));
    let all = "pose other/pose ppl.json longppl.json passkey.json needle.json shift.json tasks.json";
    let ran = dir.run(&format!("report {all} --out report.html --svg figures")).ok();
    assert!(ran.stdout.contains("report: report.html"), "{}", ran.all());
    let page = String::from_utf8(dir.read("report.html")).unwrap();
    let ppl = &dir.json("ppl.json")["results"];
    let at_128 = |key: &str| ppl[1][key].as_f64().unwrap();
    let longppl = dir.json("longppl.json")["results"][1]["longppl"].as_f64().unwrap();
    let right = dir.json("tasks.json")["results"]["acc"]["mean"].as_f64().unwrap();
    let last = dir.lines("pose/metrics.jsonl").iter().filter_map(|m| m["ppl"].as_f64()).next_back().unwrap();
    let cells = [
        format!("<td>{last:.3}</td>"),
        format!(
            "<td>{:.3} ± {:.3} ({:.3} ± {:.3})</td>",
            at_128("ppl"),
            at_128("ppl_error"),
            at_128("mean_ppl"),
            at_128("mean_ppl_error")
        ),
        "in brackets the mean over documents".into(),
        "LongPPL by window".into(),
        format!("<td>{longppl:.3}</td>"),
        "Multiple choice".into(),
        format!("<td>tasks</td><td>2</td><td>{:.1}%", 100.0 * right),
        "<td>other/pose</td><td>randpos</td><td>32</td><td>64</td><td>none</td><td>6</td><td>384</td>".into(),
        "Training loss".into(),
        "The same passages at rising positions".into(),
        "Passkeys found".into(),
        "Needles found: needle".into(),
        "<summary>other/pose</summary>".into(),
        "method = &quot;randpos&quot;".into(),
    ];
    for cell in cells {
        assert!(page.contains(&cell), "no {cell}");
    }
    // self-contained: nothing is loaded from anywhere
    assert!(!page.contains("src=") && !page.contains("<link") && !page.contains("@import"));
    let mut figures: Vec<String> =
        dir.names().into_iter().filter_map(|name| name.strip_prefix("figures/").map(String::from)).collect();
    figures.sort();
    let expected = [
        "coverage.svg",
        "longppl.svg",
        "loss.svg",
        "memory.svg",
        "needles-needle.svg",
        "passkeys-found.svg",
        "passkeys-passkey.svg",
        "perplexity-by-step.svg",
        "perplexity.svg",
        "shift.svg",
        "time.svg",
    ];
    assert_eq!(figures, expected);
    for figure in expected {
        let svg = String::from_utf8(dir.read(&format!("figures/{figure}"))).unwrap();
        assert!(page.contains(&svg), "{figure} is not the page's");
    }
}

#[test]
fn what_is_neither_a_run_nor_a_result_is_named() {
    let dir = Dir::new();
    dir.write("x.json", "{\"a\": 1}");
    dir.write("broken.json", "{");
    std::fs::create_dir(dir.path("empty")).unwrap();
    dir.run("report").refused(2, &["RUN"]);
    dir.run("report missing").refused(1, &["missing", "reading what to compare"]);
    dir.run("report x.json").refused(1, &["x.json", "no result of eval-ppl"]);
    dir.run("report broken.json").refused(1, &["broken.json", "is not JSON"]);
    dir.run("report x.json x.json").refused(1, &["x.json"]);
    dir.run("report empty").refused(1, &["empty", "recipe.toml"]);
    assert!(!dir.path("report.html").exists());
}
