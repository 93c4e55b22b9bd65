//! argv → command → exit code.

use clap::Parser;
use pose_engine::cli::{Cli, usage};
use pose_engine::printable::sentence;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words = usage::words(std::env::args_os());
    if let Some(problem) = usage::no_text(&words) {
        eprintln!("pose-engine: {}", sentence(&problem));
        return ExitCode::from(2);
    }
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(help) if usage::is_help(&help) => help.exit(),
        Err(error) => {
            eprintln!("pose-engine: {}", sentence(&usage::sentence(&error)));
            return ExitCode::from(2);
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pose-engine: {}", sentence(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}
