//! Passkey retrieval (the paper's section 4.3 and Figure 2a, after Mohtashami & Jaggi 2305.16300): a five-digit number is
//! told somewhere in a long stretch of filler, and asked for at the end.

use crate::backend::Backend;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::infer::{Sampling, Session, generate};
use crate::model::Model;
use crate::random::{Purpose, Stream};
use serde::Serialize;

const TASK: &str = "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz \
                    you about the important information there.\n";
const FILLER: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
const QUESTION: &str = "What is the pass key? The pass key is";

/// New tokens that an answer may take: five digits, each at worst a token of its own, and a space.
const ANSWER_TOKENS: usize = 8;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PasskeyProtocol {
    /// Prompt lengths in tokens.
    pub lengths: Vec<usize>,
    /// Trials for each length.
    pub trials: usize,
    pub seed: u64,
    pub bos: Option<u32>,
}

/// One question and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PasskeyTrial {
    /// Tokens of the prompt, at most the length asked for.
    pub tokens: usize,
    pub length: usize,
    /// Where the key is told, as a fraction of the prompt.
    pub depth: f64,
    pub key: u32,
    pub answer: String,
    pub correct: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PasskeyReport {
    pub protocol: PasskeyProtocol,
    pub trials: Vec<PasskeyTrial>,
}

impl PasskeyReport {
    /// Share of correct answers among the trials that `select` picks, and how many those are.
    pub fn accuracy(&self, select: impl Fn(&PasskeyTrial) -> bool) -> (f64, usize) {
        let picked: Vec<&PasskeyTrial> = self.trials.iter().filter(|t| select(t)).collect();
        let right = picked.iter().filter(|t| t.correct).count();
        (right as f64 / picked.len().max(1) as f64, picked.len())
    }
}

/// A prompt that fills `length` tokens as well as whole filler sentences can.
struct Prompt {
    ids: Vec<TokenId>,
    depth: f64,
    key: u32,
}

fn told(key: u32) -> String {
    format!("The pass key is {key}. Remember it. {key} is the pass key.\n")
}

/// The text with `before` and `after` filler lines around the key.
fn text(key: u32, before: usize, after: usize) -> String {
    let (before, after) = (FILLER.repeat(before), FILLER.repeat(after));
    format!("{TASK}{before}{}{after}{QUESTION}", told(key))
}

impl Prompt {
    /// Trial `trial` of a length: key and depth are drawn as functions of (seed, length, trial).
    fn draw(
        tokenizer: &Tokenizer, protocol: &PasskeyProtocol, length: usize, trial: usize,
    ) -> Result<Prompt> {
        let mut stream = Stream::new(protocol.seed, Purpose::Task, length as u64, trial as u32);
        let key = 10_000 + stream.below(90_000) as u32;
        let tokens_of = |lines| Ok::<_, Error>(tokenizer.encode(&text(key, 0, lines))?.len());
        let (bare, per_line) = (tokens_of(0)?, (tokens_of(9)? - tokens_of(1)?) / 8);
        let opening: Vec<TokenId> = protocol.bos.map(TokenId).into_iter().collect();
        let room = length.saturating_sub(opening.len());
        if bare > room {
            let problem = format!("the question alone takes {bare} tokens; ask for at least that");
            return Err(Error::usage("--lengths", length, problem));
        }
        let mut lines = (room - bare) / per_line.max(1);
        let mut before = stream.below(lines as u64 + 1) as usize;
        loop {
            let ids = tokenizer.encode(&text(key, before, lines - before))?;
            if ids.len() <= room || lines == 0 {
                let depth = if lines == 0 { 0.0 } else { before as f64 / lines as f64 };
                return Ok(Prompt { ids: opening.into_iter().chain(ids).collect(), depth, key });
            }
            // the estimate of a line's tokens was a little low
            lines -= 1;
            before = before.min(lines);
        }
    }
}

/// Whether an answer begins with the key, and with no digit more.
fn is_right(answer: &str, key: u32) -> bool {
    let digits: String = answer.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits == key.to_string()
}

/// Asks every trial of every length. The session must hold the longest length and eight tokens more.
pub fn run<B: Backend>(
    b: &B, model: &Model<B>, session: &mut Session<B>, tokenizer: &Tokenizer, protocol: &PasskeyProtocol,
    progress: &mut dyn FnMut(&PasskeyTrial),
) -> Result<PasskeyReport> {
    let mut trials = Vec::new();
    for &length in &protocol.lengths {
        for trial in 0..protocol.trials {
            let prompt = Prompt::draw(tokenizer, protocol, length, trial)?;
            session.rewind(0);
            let ids =
                generate(b, model, session, &prompt.ids, ANSWER_TOKENS, &[], &Sampling::GREEDY, &mut |_| {
                    Ok(true)
                })?;
            let answer = tokenizer.decode(&ids, true)?;
            trials.push(PasskeyTrial {
                tokens: prompt.ids.len(),
                length,
                depth: prompt.depth,
                key: prompt.key,
                correct: is_right(&answer, prompt.key),
                answer,
            });
            progress(&trials[trials.len() - 1]);
        }
    }
    Ok(PasskeyReport { protocol: protocol.clone(), trials })
}

/// Tokens that a session needs beyond the longest prompt.
pub const ROOM_FOR_ANSWER: usize = ANSWER_TOKENS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_key_and_nothing_but_the_key() {
        for right in ["12345", " 12345", " 12345. Remember", "\n12345 is"] {
            assert!(is_right(right, 12345), "{right:?}");
        }
        for wrong in ["", " 1234", " 123456", " 12 345", "the 12345", " 54321", "１２３４５"] {
            assert!(!is_right(wrong, 12345), "{wrong:?}");
        }
    }

    #[test]
    fn prompts_fill_their_length_and_hold_the_key_at_their_depth() {
        let tokenizer = Tokenizer::bytes();
        for bos in [None, Some(256)] {
            let protocol = PasskeyProtocol { lengths: vec![], trials: 20, seed: 3, bos };
            let mut depths = Vec::new();
            for length in [400, 1000, 4096] {
                for trial in 0..20 {
                    let prompt = Prompt::draw(&tokenizer, &protocol, length, trial).unwrap();
                    assert!(prompt.ids.len() <= length && prompt.ids.len() + FILLER.len() > length);
                    assert_eq!(prompt.ids[0] == TokenId(256), bos.is_some());
                    let text = tokenizer.decode(&prompt.ids, true).unwrap();
                    assert_eq!(text.matches(&prompt.key.to_string()).count(), 2, "the key is told twice");
                    assert!((10_000..100_000).contains(&prompt.key) && text.ends_with(QUESTION));
                    let filler = text.matches(FILLER).count();
                    let before = text.split(&told(prompt.key)).next().unwrap().matches(FILLER).count();
                    assert_eq!((prompt.depth * filler as f64).round() as usize, before);
                    depths.push(prompt.depth);
                }
            }
            assert!(depths.iter().any(|&d| d < 0.2) && depths.iter().any(|&d| d > 0.8), "{depths:?}");
        }
        assert!(
            Prompt::draw(
                &tokenizer,
                &PasskeyProtocol { lengths: vec![], trials: 1, seed: 0, bos: None },
                99,
                0
            )
            .is_err()
        );
    }
}
