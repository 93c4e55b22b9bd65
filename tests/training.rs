//! What a training does beside its steps, through the binary: several corpora, packed rows, rows cut by their text,
//! looking at held-out text, and what it writes for TensorBoard. A run that was stopped and resumed does the same.

mod common;

use common::cli::{Dir, words};
use pose_engine::train::events;
use serde_json::Value;

const RUN: &str = "train --preset tiny --train-len 32 --target-len 128 --rope yarn --rope-factor 2 --batch 2 \
                   --grad-accum 2 --lr 1e-3 --dtype f32";

/// A run in `whole`, and the same in `killed`, killed after `step` and resumed: both must have left the same.
#[track_caller]
fn resumes_to_the_same(dir: &Dir, flags: &str, step: u64, files: &[&str]) {
    for (out, threads) in [("whole", 1), ("killed", 2)] {
        dir.run(&format!("{RUN} {flags} --save-every 2 --quiet --threads {threads} --out {out}")).ok();
    }
    dir.kill_after("killed", step);
    let ran = dir.run("train --resume --out killed").ok();
    assert!(ran.stderr.contains(&format!("going on after step {step}")), "{}", ran.all());
    assert_eq!(dir.metrics("killed"), dir.metrics("whole"));
    for file in files {
        let of = |out: &str| dir.read(&format!("{out}/{file}"));
        assert!(of("killed") == of("whole"), "{file} differs");
    }
}

/// Documents of 3 to 31 bytes, a line each.
fn short_documents(count: usize) -> String {
    let text = words(80 * count);
    let line =
        |i: usize| serde_json::json!({ "text": text[i * 80..i * 80 + 3 + i * 7 % 29] }).to_string() + "\n";
    (0..count).map(line).collect()
}

#[test]
fn corpora_are_mixed_by_weight() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path("books")).unwrap();
    dir.write("books/b.txt", words(3000).to_uppercase());
    let flags = "--data books a.txt --mix 0.75,0.25 --steps 8";
    resumes_to_the_same(&dir, flags, 4, &["model.safetensors"]);
    let ran = dir.run(&format!("{RUN} {flags} --out told")).ok();
    assert!(
        ran.stderr.contains("books: 1 document, 3") && ran.stderr.contains("75.0% of the rows"),
        "{}",
        ran.all()
    );
    // other weights are another run, also by the last line of the recipe
    dir.run("train --resume --out whole --mix 0.5,0.5")
        .refused(2, &["--mix [0.5, 0.5]", "started with [0.75, 0.25]"]);
    // all weight on one corpus is that corpus alone
    dir.run(&format!("{RUN} --data books a.txt --mix 0,2 --steps 3 --quiet --out one")).ok();
    dir.run(&format!("{RUN} --data a.txt --steps 3 --quiet --out alone")).ok();
    assert_eq!(dir.read("one/model.safetensors"), dir.read("alone/model.safetensors"));
    // without weights the paths are one corpus, in which a document counts by its length
    dir.run(&format!("{RUN} --data books a.txt --steps 3 --quiet --out joined")).ok();
    assert_ne!(dir.metrics("joined"), dir.metrics("one"));
}

#[test]
fn short_documents_are_packed() {
    let dir = Dir::new();
    dir.write("short.jsonl", short_documents(60) + "{\"text\": \"x\"}\n");
    dir.run(&format!("{RUN} --data short.jsonl --steps 8 --out alone")).refused(2, &["--train-len"]);
    let flags = "--data short.jsonl --pack --steps 8";
    resumes_to_the_same(&dir, flags, 4, &["model.safetensors"]);
    let ran = dir.run(&format!("{RUN} {flags} --out told")).ok();
    assert!(
        ran.stderr.contains("60 documents packed into") && ran.stderr.contains("% full"),
        "{}",
        ran.all()
    );
    assert!(ran.stderr.contains("1 of 61 documents have fewer than two tokens"), "{}", ran.all());
    let losses = dir.losses("told");
    assert!(losses[7] < losses[0], "{losses:?}");
    // places without a target are no tokens: of two documents of 21 each has a row, and 20 places of it
    dir.write("odd.jsonl", format!("{{\"text\": \"{}\"}}\n", &words(80)[..21]).repeat(2));
    let ran = dir.run(&format!("{RUN} --data odd.jsonl --pack --steps 2 --out odd")).ok();
    assert!(ran.stderr.contains("2 documents packed into 2 rows of 32, 62.5% full"), "{}", ran.all());
    let tokens: Vec<u64> = dir.metrics("odd").iter().map(|line| line["tokens"].as_u64().unwrap()).collect();
    assert_eq!(tokens, [4 * 20, 8 * 20]);
    // said to be off it is off
    dir.run(&format!("{RUN} --data a.txt --pack=false --steps 2 --quiet --out off")).ok();
    dir.run(&format!("{RUN} --data a.txt --steps 2 --quiet --out none")).ok();
    assert_eq!(
        dir.read("off/recipe.toml"),
        String::from_utf8(dir.read("none/recipe.toml")).unwrap().replace("none", "off").into_bytes()
    );
    // the plan has the documents' ids
    dir.run("plan --preset tiny --train-len 32 --pack --json plan.json").ok();
    let buffers = dir.json("plan.json")["buffers"].as_array().unwrap().clone();
    assert!(buffers.iter().any(|b| b["name"] == "batch.documents" && b["bytes"] == 4 * 32));
}

#[test]
fn mixed_and_packed_rows_go_together() {
    let dir = Dir::new();
    dir.write("short.jsonl", short_documents(60));
    let flags = "--data short.jsonl a.txt --mix 1,3 --pack --method randpos --steps 6";
    resumes_to_the_same(&dir, flags, 2, &["model.safetensors"]);
}

#[test]
fn a_run_ends_when_the_perplexity_no_longer_falls() {
    let dir = Dir::new();
    dir.write("held.txt", words(300).to_uppercase());
    // what learns nothing is never better than at first: evaluations after 2 (the best), 4, 6, 8
    let flags =
        "--data a.txt --eval-data held.txt --eval-every 2 --early-stop 3 --save-best --steps 30 --lr 0";
    let run = RUN.replace(" --lr 1e-3", "");
    let run = |out: &str| format!("{run} {flags} --save-every 1 --out {out} --json {out}.json");
    let ran = dir.run(&run("whole")).ok();
    assert!(ran.stderr.contains("not better 3 times in a row"), "{}", ran.all());
    assert!(
        ran.stdout.contains("trained 8 steps") && ran.stdout.contains("after step 2: whole/best"),
        "{}",
        ran.all()
    );
    let summary = dir.json("whole.json");
    assert_eq!((&summary["steps"], &summary["best"]["step"]), (&8.into(), &2.into()));
    let lines = dir.metrics("whole");
    let marked: Vec<u64> =
        lines.iter().filter(|line| line["best"] == true).map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!((marked, lines.last().unwrap()["step"].as_u64()), (vec![2], Some(8)));
    // in the middle of the patience, and where it is over already
    for step in [5, 8] {
        let out = format!("killed-{step}");
        dir.run(&run(&out)).ok();
        dir.kill_after(&out, step);
        let ran = dir.run(&format!("train --resume --out {out} --json {out}.json")).ok();
        assert_eq!(ran.stderr.contains("--early-stop ended this run there"), step == 8, "{}", ran.all());
        assert_eq!(dir.metrics(&out), lines);
        assert_eq!(dir.json(&format!("{out}.json"))["best"], summary["best"]);
    }
    // a finished run tells of its end again
    dir.run("train --resume --out whole --quiet --json again.json").ok();
    assert_eq!(dir.json("again.json")["best"], summary["best"]);
    for flag in ["--early-stop 4", "--eval-every 3"] {
        dir.run(&format!("train --resume --out whole {flag}")).refused(2, &[flag, "started with"]);
    }
}

#[test]
fn a_run_that_probes_end_is_evaluated_at_its_end() {
    let dir = Dir::new();
    dir.write("held.txt", words(300).to_uppercase());
    let flags = "--data a.txt --eval-data held.txt --probe-every 1 --early-stop 2 --steps 30 --lr 0 --quiet";
    dir.run(&format!("{} {flags} --out m", RUN.replace(" --lr 1e-3", ""))).ok();
    let (lines, summary) = (dir.metrics("m"), dir.json("m/summary.json"));
    let evaluations: Vec<&Value> = lines.iter().filter(|line| line["ppl"].is_number()).collect();
    assert_eq!(evaluations.iter().map(|e| e["step"].as_u64().unwrap()).collect::<Vec<_>>(), [3]);
    assert_eq!((&summary["steps"], &summary["ppl"]), (&3.into(), &evaluations[0]["ppl"]));
    // a text in which nothing can be scored is no text to go by
    dir.write("one.txt", "a");
    dir.run(&format!("{RUN} --data a.txt --eval-data one.txt --steps 2 --out n"))
        .refused(2, &["--eval-data one.txt", "2 tokens or more"]);
    assert!(!dir.path("n").exists());
}

#[test]
fn the_best_model_is_kept_beside_the_last() {
    let dir = Dir::new();
    dir.write("held.txt", words(400));
    // a rate at which the perplexity first falls and then rises
    let flags = "--data a.txt --eval-data held.txt --eval-every 1 --save-best --steps 10 --warmup 6";
    let run = RUN.replace("--lr 1e-3", "--lr 0.3");
    dir.run(&format!("{run} {flags} --quiet --out out --json out.json")).ok();
    let all: Vec<(f64, u64)> = dir
        .metrics("out")
        .iter()
        .filter_map(|line| Some((line["ppl"].as_f64()?, line["step"].as_u64()?)))
        .collect();
    let least = all.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert!(all.len() == 10 && least.1 < 10, "{all:?}");
    let summary = dir.json("out.json");
    assert_eq!(
        (summary["best"]["ppl"].as_f64(), summary["best"]["step"].as_u64()),
        (Some(least.0), Some(least.1))
    );
    // it is a model that reads as well as was said, and no checkpoint to go on from
    let ppl = |model: &str| {
        let flags = "--data held.txt --windows 128 --tokens 128 --dtype f32 --quiet --json e.json";
        dir.run(&format!("eval-ppl --model {model} {flags}")).ok();
        dir.json("e.json")["results"][0]["ppl"].as_f64().unwrap()
    };
    assert_eq!(ppl("out/best"), least.0);
    assert_eq!(ppl("out"), all[9].0);
    assert!(!dir.path("out/best/resume").exists());
}

#[test]
fn probes_tell_what_the_far_context_is_worth() {
    let dir = Dir::new();
    dir.write("held.txt", words(400));
    let flags = "--data a.txt --eval-data held.txt --probe-every 3 --early-stop 2 --save-best --steps 9";
    resumes_to_the_same(&dir, flags, 4, &["model.safetensors", "best/model.safetensors"]);
    let lines = dir.metrics("whole");
    let probes: Vec<&Value> = lines.iter().filter(|line| line["probe_ppl"].is_number()).collect();
    assert_eq!(probes.iter().map(|p| p["step"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 6, 9]);
    for probe in &probes {
        // the excess is by bin, and its mean is the difference of the two perplexities' logarithms
        let (long, short) =
            (probe["probe_ppl"].as_f64().unwrap(), probe["probe_short_ppl"].as_f64().unwrap());
        let excess: Vec<f64> =
            probe["probe_excess"].as_array().unwrap().iter().map(|e| e.as_f64().unwrap()).collect();
        // 127 tokens in 16 bins: all have 8 but one, which has 7
        let mean = excess.iter().sum::<f64>() / excess.len() as f64;
        assert!((mean - (long / short).ln()).abs() < 0.01, "{probe}");
        assert!(probe["distance_weights"].is_null());
    }
    // of one window of the target length this is what an evaluation says
    assert_eq!(lines.last().unwrap()["step"], 9);
    let eval = lines.iter().find_map(|line| line["ppl"].as_f64()).unwrap();
    assert!((probes[2]["probe_ppl"].as_f64().unwrap() / eval - 1.0).abs() < 1e-6, "{eval}");
}

/// The losses of two steps on the same rows, placed in some way. A sentence ends in every window.
fn losses_of_sentences(method: &str) -> Vec<f64> {
    let dir = Dir::new();
    dir.write("a.txt", "The fox ran. A hill saw an old bridge. ".repeat(500));
    let flags = "--data a.txt --content contiguous --steps 2 --quiet --out m";
    dir.run(&format!("{RUN} {flags} --method {method}")).ok();
    dir.losses("m")
}

#[test]
fn longrecipe_moves_sentences() {
    let sentences = losses_of_sentences("longrecipe");
    assert_ne!(sentences, losses_of_sentences("plain"));
    // here they end with full stops alone, and not with the letter l
    assert_eq!(sentences, losses_of_sentences("longrecipe --split-ids 46"));
    assert_ne!(sentences, losses_of_sentences("longrecipe --split-ids 108"));
}

#[test]
fn axolotl_skips_between_equal_chunks_or_at_given_tokens() {
    let [plain, equal, stops] = ["plain", "axolotl", "axolotl --split-ids 46"].map(losses_of_sentences);
    assert!(equal != plain && stops != plain && stops != equal, "{plain:?} {equal:?} {stops:?}");
}

/// A run whose steps have `scalars_of_step` numbers each.
fn tensorboard(dir: &Dir, flags: &str, scalars_of_step: usize) {
    dir.write("held.txt", words(400));
    let flags = format!(
        "--data a.txt --eval-data held.txt --eval-every 3 --probe-every 3 --steps 7 --tensorboard {flags}"
    );
    resumes_to_the_same(dir, &flags, 4, &["model.safetensors"]);
    for out in ["whole", "killed"] {
        let found = events::read(&dir.read(&format!("{out}/{}", events::NAME)));
        assert_eq!(found[0].file_version.as_deref(), Some("brain.Event:2"));
        let mut scalars = Vec::new();
        for event in &found[1..] {
            assert!(event.wall_time >= found[0].wall_time && event.file_version.is_none());
            for value in &event.summary.as_ref().unwrap().value {
                scalars.push((event.step as u64, value.tag.clone(), value.simple_value.unwrap()));
            }
        }
        let expected: Vec<(u64, String, f32)> = dir
            .lines(&format!("{out}/metrics.jsonl"))
            .iter()
            .flat_map(|line| {
                let step = line["step"].as_u64().unwrap();
                let names = ["loss", "lr", "grad_norm", "tokens_per_second", "weighted_loss"]
                    .map(|key| (key, format!("train/{key}")));
                let held = [
                    ("ppl", "eval/perplexity"),
                    ("probe_ppl", "probe/perplexity"),
                    ("probe_short_ppl", "probe/short_perplexity"),
                ];
                let held = held.map(|(key, tag)| (key, tag.to_string()));
                let value = |(key, tag): (&str, String)| Some((step, tag, line[key].as_f64()? as f32));
                names.into_iter().chain(held).filter_map(value).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(scalars, expected, "{out}");
        // after steps 3, 6 and 7 an evaluation and the two of a probe
        assert_eq!(expected.len(), 7 * scalars_of_step + 3 * (1 + 2));
    }
}

#[test]
fn tensorboard_has_what_the_metrics_have() {
    let dir = Dir::new();
    tensorboard(&dir, "", 4);
    tensorboard(&Dir::new(), "--loss longce", 5);
    // and without the flag there is none
    dir.run(&format!("{RUN} --data a.txt --steps 1 --quiet --out bare")).ok();
    assert!(!dir.names().iter().any(|name| name.contains("bare") && name.contains("tfevents")));
}
