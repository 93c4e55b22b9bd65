//! One seed of the experiment: its trainings and measures, and the file that keeps them.

use crate::runs::{CREAM_TARGET, RUNS, Run, TARGET, WINDOWS};
use pose_engine::error::Result;
use pose_engine::quickstart::recipe::{COST, COST_TARGETS, WINDOW};
use pose_engine::quickstart::{self, Measured, Stage, Trained, Watch, Workshop, documents};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// Documents that the adaptive sampler looks at: neither trained on nor measured.
const PROBE_DOCUMENTS: std::ops::Range<u32> = 2_000_000..2_000_016;

/// One way to extend, and what came of it.
#[derive(Serialize, Deserialize)]
pub struct RunResult {
    pub name: String,
    pub trained: Trained,
    pub measured: Measured,
    /// (step, perplexity at the target length) on held-out text as it went, where that was watched.
    pub watched: Vec<(u64, f64)>,
}

/// All of a seed.
#[derive(Serialize, Deserialize)]
pub struct SeedResults {
    pub seed: u64,
    /// Processor and number of its threads.
    pub machine: String,
    pub seconds: f64,
    pub base: Trained,
    pub before: Measured,
    pub runs: Vec<RunResult>,
}

/// Short runs of PoSE and full-length training at several target lengths, for time and memory of a step: no seed changes those.
#[derive(Serialize, Deserialize)]
pub struct Costs {
    pub machine: String,
    pub runs: Vec<Trained>,
}

/// Says on standard error where the experiment is.
struct Says(Instant);

impl Watch for Says {
    fn begin(&self, label: &str, _total: usize) {
        eprintln!("{:5.0} s  {label}", self.0.elapsed().as_secs_f64());
    }
    fn done(&self, _parts: usize, _message: &str) {}
    fn end(&self) {}
}

impl SeedResults {
    /// What `out/seed-N.json` has, or the whole seed from the beginning.
    pub fn load_or_run(out: &Path, program: &Path, seed: u64, threads: usize) -> SeedResults {
        kept(&out.join(format!("seed-{seed}.json")), || {
            let dir = tempfile::tempdir().expect("a directory for the trainings");
            run(&Workshop { program: Some(program), out: dir.path(), seed, threads })
                .expect("the seed's trainings")
        })
    }

    pub fn run(&self, name: &str) -> &RunResult {
        self.runs
            .iter()
            .find(|r| r.name == name)
            .unwrap_or_else(|| panic!("seed {}: no run {name}", self.seed))
    }

    /// A model's measures; "before" is the base model's.
    pub fn measured(&self, name: &str) -> &Measured {
        if name == "before" { &self.before } else { &self.run(name).measured }
    }
}

fn run(workshop: &Workshop<'_>) -> Result<SeedResults> {
    let start = Instant::now();
    let says = &Says(start);
    quickstart::prepare(workshop)?;
    write_probe(workshop);
    let train = |stage: &Stage| -> Result<Trained> {
        let trained = quickstart::train(workshop, &format!("train {}", stage.name), stage, says)?;
        // a hundred kilobytes of losses a seed, which no table needs
        Ok(Trained { losses: Vec::new(), ..trained })
    };
    let measure = |dir: &str| -> Result<Measured> {
        let measured = quickstart::measure(workshop, dir, dir, &WINDOWS, says)?;
        Ok(Measured { guesses: Vec::new(), ..measured })
    };
    let base = train(&Stage::base())?;
    let before = measure("base")?;
    let one = |run: &Run| -> Result<RunResult> {
        let trained = train(&run.stage())?;
        let watched = watched(&workshop.out.join(run.name));
        Ok(RunResult { name: run.name.into(), trained, measured: measure(run.name)?, watched })
    };
    let runs = RUNS.iter().map(one).collect::<Result<_>>()?;
    let (seed, seconds) = (workshop.seed, start.elapsed().as_secs_f64());
    Ok(SeedResults { seed, machine: machine(), seconds, base, before, runs })
}

impl Costs {
    /// What `out/costs.json` has, or measured anew: on a machine that does nothing else.
    pub fn load_or_run(out: &Path, program: &Path, threads: usize) -> Costs {
        kept(&out.join("costs.json"), || {
            let dir = tempfile::tempdir().expect("a directory for the trainings");
            costs(&Workshop { program: Some(program), out: dir.path(), seed: 1, threads })
                .expect("the trainings")
        })
    }
}

fn costs(workshop: &Workshop<'_>) -> Result<Costs> {
    let says = &Says(Instant::now());
    quickstart::prepare(workshop)?;
    let train = |stage: &Stage| quickstart::train(workshop, &format!("train {}", stage.name), stage, says);
    let few = Stage { steps: COST, ..Stage::base() };
    train(&few)?;
    let mut runs = Vec::new();
    for method in ["pose", "full"] {
        for target in COST_TARGETS {
            runs.push(train(&Stage::extend(&format!("cost-{method}-{target}"), method, target, COST))?);
        }
    }
    Ok(Costs { machine: machine(), runs })
}

/// What the file has, or what `make` gives, which is kept in it.
fn kept<T: Serialize + serde::de::DeserializeOwned>(path: &Path, make: impl FnOnce() -> T) -> T {
    if let Ok(text) = std::fs::read_to_string(path) {
        return serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let made = make();
    std::fs::write(path, serde_json::to_string(&made).expect("plain numbers")).expect("the results' file");
    made
}

/// probe.jsonl beside the quickstart's documents.
fn write_probe(workshop: &Workshop<'_>) {
    let longest = TARGET.max(CREAM_TARGET).max(WINDOW);
    let line = |i| {
        let text = documents::write(workshop.seed, i, longest + 1).text();
        serde_json::json!({ "text": text }).to_string() + "\n"
    };
    let text: String = PROBE_DOCUMENTS.map(line).collect();
    std::fs::write(workshop.out.join("probe.jsonl"), text).expect("room for the documents");
}

/// The evaluations in a run's metrics.jsonl.
fn watched(run: &Path) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let evaluation = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some((line["step"].as_u64()?, line["ppl"].as_f64()?))
    };
    text.lines().filter_map(evaluation).collect()
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} threads", name.map_or("unknown processor", |(_, name)| name.trim()))
}
