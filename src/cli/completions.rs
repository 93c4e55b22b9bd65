//! `pose-engine completions`.

use super::Cli;
use super::common::Common;
use crate::error::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print the completions of a shell, made of the same definitions as --help
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pose-engine completions bash > ~/.local/share/bash-completion/completions/pose-engine
  pose-engine completions zsh > ~/.zfunc/_pose-engine
  pose-engine completions fish > ~/.config/fish/completions/pose-engine.fish")]
pub struct Completions {
    /// The shell to complete in
    shell: Shell,
    #[command(flatten)]
    pub common: Common,
}

impl Completions {
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "pose-engine", &mut script);
        out!("{}", String::from_utf8_lossy(&script));
        Ok(())
    }
}
