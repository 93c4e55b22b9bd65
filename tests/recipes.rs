//! The recipes that come with the program: each is one that `plan` takes, and fits where its comment says.

mod common;

use common::cli::Dir;
use std::path::Path;

const PRESETS: [&str; 3] = ["llama-7b", "llama-3-8b", "smollm2-135m"];

#[test]
fn every_recipe_fits_where_it_says() {
    let (dir, recipes) = (Dir::new(), Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes"));
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(recipes).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let name = name.strip_suffix(".toml").unwrap_or_else(|| panic!("{name} is no recipe"));
        let text = std::fs::read_to_string(&path).unwrap();
        // the model that the name begins with, and the context that it ends with
        let preset = PRESETS.into_iter().find(|preset| name.starts_with(preset)).unwrap();
        let target = name.rsplit('-').next().unwrap();
        assert!(text.contains(&format!("target-len = \"{target}\"")), "{name}");
        let comment: String =
            text.lines().filter_map(|line| line.strip_prefix("# ")).flat_map(|l| [l, " "]).collect();
        let memory = comment.split_once("one device of ").unwrap().1.split(" GiB").next().unwrap();
        // the command of the comment is this very file
        assert!(comment.contains(&format!("train --config recipes/{name}.toml --model ")), "{comment}");
        let args = format!("plan --config {} --preset {preset} --device-memory {memory}GiB", path.display());
        let ran = dir.run(&args).ok();
        assert!(ran.stdout.contains(&format!("fits in {memory}.00 GiB")), "{}", ran.all());
        seen.push(name.to_string());
    }
    seen.sort();
    assert_eq!(seen, ["llama-3-8b-64k", "llama-7b-128k", "llama-7b-16k", "smollm2-135m-32k"]);
}
