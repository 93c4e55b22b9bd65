//! What clap says of a command line that cannot be, as the one sentence that every other error is too.

use clap::error::ErrorKind;
use std::ffi::OsString;

/// Whether this is no error: help or version were asked for.
pub fn is_help(error: &clap::Error) -> bool {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

/// The words of the command line, with what follows from them filled in: `plan` with windows is a plan of eval-ppl.
pub fn words(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = args.collect();
    let is_windows =
        |word: &OsString| word.to_str().is_some_and(|w| w == "--windows" || w.starts_with("--windows="));
    let plan = words.get(1).is_some_and(|word| word == "plan");
    let named = words.get(2).is_some_and(|word| word == "train" || word == "eval-ppl");
    if plan && !named && words.iter().any(is_windows) {
        words.insert(2, "eval-ppl".into());
    }
    words
}

/// What is wrong with a word that is no text: recipes and results, which are TOML and JSON, could not name such a file.
pub fn no_text(words: &[OsString]) -> Option<String> {
    let word = words.iter().find(|word| word.to_str().is_none())?;
    Some(format!(
        "{}: is not UTF-8, and recipes and results can name nothing else; rename it",
        word.display()
    ))
}

/// The message without its usage lines: what was given, what is possible, what may have been meant.
pub fn sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let mut sentence = String::new();
    for line in said.map(str::trim).filter(|line| !line.is_empty()) {
        let joint = match sentence.chars().last() {
            None => "",
            Some(':') => " ",
            Some('>') => ", ",
            Some(_) => "; ",
        };
        sentence += joint;
        sentence += line.strip_prefix("error: ").unwrap_or(line);
    }
    sentence + "; --help shows what there is"
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn said(args: &[&str]) -> String {
        sentence(&super::super::Cli::try_parse_from(args).unwrap_err())
    }

    #[test]
    fn a_plan_with_windows_is_one_of_an_evaluation() {
        let filled = |line: &str| words(line.split(' ').map(OsString::from)).len() - line.split(' ').count();
        assert_eq!(filled("pose-engine plan --model m --windows 2k"), 1);
        assert_eq!(filled("pose-engine plan --windows=2k"), 1);
        assert_eq!(filled("pose-engine plan eval-ppl --windows 2k"), 0);
        assert_eq!(filled("pose-engine plan --preset tiny"), 0);
        assert_eq!(filled("pose-engine eval-ppl --windows 2k"), 0);
    }

    #[test]
    fn errors_are_one_line() {
        assert_eq!(
            said(&["pose-engine", "train", "--steps", "0"]),
            "invalid value '0' for '--steps <N>': must be at least 1; --help shows what there is"
        );
        assert_eq!(
            said(&["pose-engine", "coverage"]),
            "the following required arguments were not provided: --train-len <N>, --target-len <N>; --help shows what \
             there is"
        );
        assert_eq!(
            said(&["pose-engine", "train", "--schedule", "sine"]),
            "invalid value 'sine' for '--schedule <SCHEDULE>'; [possible values: constant, linear, cosine]; tip: a \
             similar value exists: 'cosine'; --help shows what there is"
        );
    }
}
