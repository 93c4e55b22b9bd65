//! What clap says of a command line that cannot be, as the one sentence that every other error is too.

use clap::error::ErrorKind;

/// Whether this is no error: help or version were asked for.
pub fn is_help(error: &clap::Error) -> bool {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
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
