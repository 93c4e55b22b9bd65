//! argv → command → exit code.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match pose_engine::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pose-engine: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
