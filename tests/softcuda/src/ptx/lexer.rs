//! Words, numbers and signs, each with its line.

/// A word keeps its dots: `ld.global.u32`, `%tid.x`, `.reg`.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Word(String),
    Sign(char),
    Text(String),
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

pub fn tokens(text: &str) -> Vec<(Token, u32)> {
    let mut out = Vec::new();
    let (mut line, mut chars) = (1, text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            '\0' => break,
            c if c.is_whitespace() => {}
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            '/' if chars.peek() == Some(&'*') => {
                let mut last = ' ';
                for c in chars.by_ref() {
                    line += u32::from(c == '\n');
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            '"' => {
                let mut word = String::new();
                for c in chars.by_ref().take_while(|c| *c != '"') {
                    word.push(c);
                }
                out.push((Token::Text(word), line));
            }
            c if in_word(c) => {
                let mut word = c.to_string();
                loop {
                    if let Some(c) = chars.next_if(|c| in_word(*c)) {
                        word.push(c);
                        continue;
                    }
                    // `.L2::128B` is one word, `label:` is not
                    let mut ahead = chars.clone();
                    if ahead.next() == Some(':') && ahead.next() == Some(':') {
                        word.push_str("::");
                        chars.nth(1);
                        continue;
                    }
                    break;
                }
                out.push((Token::Word(word), line));
            }
            c => out.push((Token::Sign(c), line)),
        }
    }
    out
}
