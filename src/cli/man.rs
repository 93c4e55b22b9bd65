//! `pose-engine man`.

use super::Cli;
use super::common::Common;
use crate::error::{Error, Result};
use crate::names;
use clap::{Args, Command, CommandFactory};
use std::path::PathBuf;

/// Print a manual page, or write those of all commands, made of the same definitions as --help
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pose-engine man train | man -l -
  pose-engine man --out ~/.local/share/man/man1")]
pub struct Man {
    /// The command that the page is of, as in plan eval-ppl [default: the program as a whole]
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    command: Vec<String>,
    /// Write the pages of all commands into this directory, in the place of earlier ones
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

/// Stands in the foot of each page: the program, whatever command the page is of.
const SOURCE: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));

impl Man {
    pub fn run(self) -> Result<()> {
        let mut program = Cli::command().disable_help_subcommand(true);
        program.build();
        let Some(out) = &self.out else {
            out!("{}", String::from_utf8_lossy(&page(find(&program, &self.command)?)?.1));
            return Ok(());
        };
        let mut pages = Vec::new();
        all_pages(&program, &mut pages)?;
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, "making the directory", e))?;
        for (name, text) in &pages {
            let path = out.join(name);
            std::fs::write(&path, text).map_err(|e| Error::io(&path, "writing the page", e))?;
        }
        self.common.note(&format!("{} in {}", names::counted(pages.len(), "page"), out.display()));
        Ok(())
    }
}

/// The command that some words name.
fn find<'a>(program: &'a Command, words: &[String]) -> Result<&'a Command> {
    words.iter().try_fold(program, |command, word| {
        command.find_subcommand(word).ok_or_else(|| {
            let known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            if known.is_empty() {
                let problem = format!("{} has no subcommands; leave the word out", command.get_name());
                return Error::usage("COMMAND", word, problem);
            }
            Error::usage("COMMAND", word, names::unknown("command", word, &known))
        })
    })
}

/// A command's page and the name of its file, as in pose-engine-train.1.
fn page(command: &Command) -> Result<(String, Vec<u8>)> {
    let page = clap_mangen::Man::new(command.clone()).source(SOURCE);
    let (name, mut text) = (page.get_filename(), Vec::new());
    page.render(&mut text).map_err(|e| Error::io(&name, "writing the page", e))?;
    Ok((name, text))
}

fn all_pages(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    pages.push(page(command)?);
    command.get_subcommands().try_for_each(|sub| all_pages(sub, pages))
}
