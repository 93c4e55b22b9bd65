//! The paper's tables and figures in miniature, on the quickstart's model and documents:
//! `cargo bench --bench paper -- --out DIR [--seeds 1,2,3] [--threads N] [--program POSE-ENGINE]`.
//!
//! For each seed a base model is trained at windows of 64 and extended in every way of [`runs::RUNS`], each by a command that
//! `seed-N.json` keeps; then every model is measured at windows up to 1024. A seed whose file is in DIR already is
//! not run again, so a broken experiment goes on where it was. `costs.json` has time and memory of a step by target length. At the end DIR has tables.md and the figures as SVG, with means
//! over the seeds and how far they are apart.

mod figures;
#[path = "../flags.rs"]
mod flags;
mod runs;
mod seed;
mod spread;
mod tables;

use flags::{flag, number, numbers};
use seed::{Costs, SeedResults};
use std::path::PathBuf;

fn main() {
    // `cargo test --benches` asks for nothing
    let Some(out) = flag("--out").map(PathBuf::from) else {
        println!("give --out DIR: the whole experiment takes some four minutes a seed on 2 cores");
        return;
    };
    std::fs::create_dir_all(&out).expect("the directory of the results");
    let program = flag("--program").unwrap_or(env!("CARGO_BIN_EXE_pose-engine").into());
    let (program, threads) = (PathBuf::from(program), number("--threads", 0));
    let of_seed = |seed: usize| SeedResults::load_or_run(&out, &program, seed as u64, threads);
    let seeds: Vec<SeedResults> = numbers("--seeds", "1,2,3").into_iter().map(of_seed).collect();
    let costs = Costs::load_or_run(&out, &program, threads);
    let tables = tables::all(&seeds, &costs);
    println!("{tables}");
    std::fs::write(out.join("tables.md"), tables).expect("tables.md");
    for (name, plot) in figures::all(&seeds, &costs) {
        plot.write(&out.join(name)).expect("the figure's file");
    }
}
