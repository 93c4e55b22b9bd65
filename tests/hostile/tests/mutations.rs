//! The short form of fuzzing: every reader on its seeds, on what fuzzing has found before, and on some thousand damaged files.
//! `scripts/fuzz` is the full form.

use hostile::budget::measured;
use hostile::mutate::mutate;
use hostile::{Desk, Target, targets};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Damaged files of each kind: `HOSTILE_RUNS` where it is set.
const RUNS: u64 = 3000;

fn found(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(target.name);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Reads a file and says what was wrong with how it was read.
fn wrong(target: &Target, desk: &Desk, bytes: &[u8]) -> Option<String> {
    let most = target.budget.bytes(bytes.len());
    let mut panicked = false;
    let cost = measured(most, || {
        panicked = catch_unwind(AssertUnwindSafe(|| (target.read)(desk, bytes))).is_err();
    });
    match () {
        () if panicked => Some("panicked".into()),
        () if cost.bytes > most => Some(format!("took {} bytes, {most} are allowed", cost.bytes)),
        () if cost.seconds > 1.0 => Some(format!("took {} seconds", cost.seconds)),
        () => None,
    }
}

/// The file is written down before it is read: what ends the process leaves it there.
fn check(target: &Target, desk: &Desk, what: &str, bytes: &[u8]) {
    let file = std::env::temp_dir().join(format!("hostile-{}-{}", target.name, std::process::id()));
    std::fs::write(&file, bytes).unwrap();
    if let Some(problem) = wrong(target, desk, bytes) {
        panic!("{}, {what}: {problem}; the file is {}", target.name, file.display());
    }
    std::fs::remove_file(&file).unwrap();
}

/// One test: the allocator counts the whole process, so readers run one after the other.
#[test]
fn every_reader_comes_back_from_damaged_files() {
    let runs = std::env::var("HOSTILE_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(RUNS);
    for target in targets::ALL {
        let (desk, seeds) = (Desk::new(), (target.seeds)());
        seeds.iter().for_each(|seed| check(target, &desk, "as it should be", seed));
        for (path, bytes) in found(target) {
            check(target, &desk, &path.display().to_string(), &bytes);
        }
        for number in 0..runs {
            check(target, &desk, &format!("damage {number}"), &mutate(&seeds, number));
        }
    }
}
