//! What may reach a terminal: names and texts out of files from strangers come along in messages and tables, and must not move
//! the cursor, change colours or reverse what is read.

use std::borrow::Cow;

/// Characters that steer a terminal or the direction of text, but for line's end and tab.
fn steers(c: char) -> bool {
    let direction =
        matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let line = matches!(c, '\u{2028}' | '\u{2029}');
    direction || line || (c.is_control() && c != '\n' && c != '\t')
}

/// The text with every steering character spelled out, as `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return text.into();
    }
    let spelled = |c: char| if steers(c) { c.escape_default().to_string() } else { c.into() };
    text.chars().map(spelled).collect::<String>().into()
}

/// As [`printable`], on one line: an error is one sentence, whatever a file is called.
pub fn sentence(text: &str) -> String {
    printable(text).replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_spelled_out() {
        assert_eq!(printable("a\u{1b}[2Jb\r\u{9b}1m\u{7f}"), "a\\u{1b}[2Jb\\r\\u{9b}1m\\u{7f}");
        assert_eq!(printable("txt\u{202e}cod"), "txt\\u{202e}cod");
        assert_eq!(printable("Zoë\t終\n"), "Zoë\t終\n");
        assert_eq!(sentence("a\nb"), "a\\nb");
    }
}
