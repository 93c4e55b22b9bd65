//! A recipe is keys with plain values: no tables, nor keys of dots, which are tables too.
//!
//! It is looked at before it is parsed into values, since a key of a thousand dots is a thousand tables inside each other, and each
//! takes 900 bytes.

use std::ops::Range;
use toml_parser::Source;
use toml_parser::parser::{Event, EventKind, RecursionGuard, parse_document};

/// Lists within lists, as many as the TOML reader allows.
const MOST_DEPTH: u32 = 80;

/// Where the first table of `text` is, in bytes; what else is wrong with it is left for the parser to say.
pub(super) fn first_table(text: &str) -> Option<Range<usize>> {
    let tokens = Source::new(text).lex().into_vec();
    let mut first = None;
    let mut look = |event: Event| {
        use EventKind::{ArrayTableOpen, InlineTableOpen, KeySep, StdTableOpen};
        if first.is_none() && matches!(event.kind(), StdTableOpen | ArrayTableOpen | InlineTableOpen | KeySep)
        {
            first = Some(event.span().start()..event.span().end());
        }
    };
    parse_document(&tokens, &mut RecursionGuard::new(&mut look, MOST_DEPTH), &mut ());
    first
}

#[cfg(test)]
mod tests {
    use super::first_table;

    #[test]
    fn tables_and_keys_of_dots_are_found() {
        for (text, place) in [
            ("lr = 1e-3\nout = \"a.b\" # c.d\nmix = [0.7, 0.3]", None),
            ("steps = 1\n[rope]", Some(10)),
            ("[[data]]", Some(0)),
            ("rope = { kind = \"yarn\" }", Some(7)),
            ("rope.factor = 4", Some(4)),
            ("x = [[{}]]", Some(6)),
        ] {
            assert_eq!(first_table(text).map(|span| span.start), place, "{text}");
        }
    }

    #[test]
    fn lists_within_lists_do_not_end_the_program() {
        assert_eq!(first_table(&format!("a = {}", "[".repeat(100_000))), None);
    }
}
