//! Writes the seeds of every target to DIR/TARGET/: `cargo run --release -p hostile --example seeds -- DIR`.

fn main() -> std::io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1).map(std::path::PathBuf::from) else {
        eprintln!("seeds: name a directory");
        std::process::exit(2);
    };
    for target in hostile::targets::ALL {
        let dir = dir.join(target.name);
        std::fs::create_dir_all(&dir)?;
        for (i, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{i}")), seed)?;
        }
    }
    Ok(())
}
