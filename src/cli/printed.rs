//! Lines for people: on standard output for results, on standard error for notes.

use crate::printable::printable;
use std::io::Write;

/// Writes to standard output for a reader that may have gone.
pub(super) fn out(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stdout().write_all(printable(&text.to_string()).as_bytes());
}

/// A note on standard error.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}
