//! Passkey retrieval (the paper's section 4.3 and Figure 2a, after Mohtashami & Jaggi 2305.16300): a five-digit number is
//! told somewhere in a long stretch of filler, and asked for at the end.

use super::Partial;
use super::retrieval::{Asker, Question, Report, Trial, continuation, opening};
use crate::backend::Backend;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::random::{Purpose, Stream};
use serde::Serialize;

const TASK: &str = "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz \
                    you about the important information there.\n";
const FILLER: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
const QUESTION: &str = "What is the pass key? The pass key is";

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PasskeyProtocol {
    /// Prompt lengths in tokens.
    pub lengths: Vec<usize>,
    /// Trials for each length.
    pub trials: usize,
    pub seed: u64,
    pub bos: Option<u32>,
}

/// What is drawn for one trial, before its prompt is made.
struct Draw {
    length: usize,
    key: u32,
    /// Lines of filler, and how many of them come before the key.
    lines: usize,
    before: usize,
}

fn told(key: u32) -> String {
    format!("The pass key is {key}. Remember it. {key} is the pass key.\n")
}

/// The text with `before` and `after` filler lines around the key.
fn text(key: u32, before: usize, after: usize) -> String {
    let (before, after) = (FILLER.repeat(before), FILLER.repeat(after));
    format!("{TASK}{before}{}{after}{QUESTION}", told(key))
}

/// Numbers of five digits, of which one is the key.
const KEYS: u64 = 90_000;

impl PasskeyProtocol {
    /// Log-probability of the key to one who knows that it has five digits, and no more.
    pub fn guess() -> f64 {
        -(KEYS as f64).ln()
    }

    /// One sentence for people.
    pub fn describe(&self) -> String {
        let PasskeyProtocol { trials, seed, .. } = self;
        format!(
            "{trials} trials a length, seed {seed}, {}; greedy, right if the five digits come",
            opening(self.bos)
        )
    }

    fn opening(&self) -> Vec<TokenId> {
        self.bos.map(TokenId).into_iter().collect()
    }
}

impl Draw {
    /// Trial `trial` of a length: key and depth are drawn as functions of (seed, length, trial).
    fn new(tokenizer: &Tokenizer, protocol: &PasskeyProtocol, length: usize, trial: usize) -> Result<Draw> {
        let mut stream = Stream::new(protocol.seed, Purpose::Task, length as u64, trial as u32);
        let key = 10_000 + stream.below(KEYS) as u32;
        let tokens_of = |lines| Ok::<_, Error>(tokenizer.encode(&text(key, 0, lines))?.len());
        let (bare, per_line) = (tokens_of(0)?, (tokens_of(9)? - tokens_of(1)?) / 8);
        if bare == 0 {
            let problem = "none of the question's characters is a token of the model; it cannot be asked";
            return Err(Error::usage("--lengths", length, problem));
        }
        let room = length.saturating_sub(protocol.opening().len());
        if bare > room {
            let problem = format!("the question alone takes {bare} tokens; ask for at least that");
            return Err(Error::usage("--lengths", length, problem));
        }
        let lines = (room - bare) / per_line.max(1);
        Ok(Draw { length, key, lines, before: stream.below(lines as u64 + 1) as usize })
    }

    /// A prompt that fills the length as well as whole filler lines can.
    fn question(&self, tokenizer: &Tokenizer, protocol: &PasskeyProtocol) -> Result<Question> {
        let (mut lines, mut before, key) = (self.lines, self.before, self.key);
        let opening = protocol.opening();
        loop {
            let ids = tokenizer.encode(&text(key, before, lines - before))?;
            if opening.len() + ids.len() <= self.length || lines == 0 {
                return Ok(Question {
                    ids: opening.into_iter().chain(ids).collect(),
                    length: self.length,
                    depth: if lines == 0 { 0.0 } else { before as f64 / lines as f64 },
                    key,
                    answer: continuation(tokenizer, QUESTION, &format!(" {key}"))?,
                });
            }
            // the estimate of a line's tokens was a little low
            lines -= 1;
            before = before.min(lines);
        }
    }
}

/// Asks every trial of every length but those that `partial` has; all prompts begin with the same filler.
pub fn run<B: Backend>(
    asker: &mut Asker<'_, B>, protocol: &PasskeyProtocol, partial: &mut Partial,
    progress: &mut dyn FnMut(&Trial),
) -> Result<Report<PasskeyProtocol>> {
    let tokenizer = asker.tokenizer;
    let numbers = protocol.lengths.iter().flat_map(|&length| (0..protocol.trials).map(move |t| (length, t)));
    let draw = |(i, (length, trial))| {
        Ok(((i, ("passkey", length, trial)), Draw::new(tokenizer, protocol, length, trial)?))
    };
    let mut draws: Vec<((usize, _), Draw)> = numbers.enumerate().map(draw).collect::<Result<_>>()?;
    draws.sort_by_key(|(_, draw)| std::cmp::Reverse(draw.before));
    let mut trials = Vec::new();
    for ((i, key), draw) in &draws {
        trials.push((*i, asker.ask(partial, key, || draw.question(tokenizer, protocol))?));
        progress(&trials[trials.len() - 1].1);
    }
    trials.sort_by_key(|(i, _)| *i);
    let trials = trials.into_iter().map(|(_, trial)| trial).collect();
    Ok(Report { protocol: protocol.clone(), trials, spent: asker.take_spent() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_fill_their_length_and_hold_the_key_at_their_depth() {
        let tokenizer = Tokenizer::bytes();
        for bos in [None, Some(256)] {
            let protocol = PasskeyProtocol { lengths: vec![], trials: 20, seed: 3, bos };
            let mut depths = Vec::new();
            for length in [400, 1000, 4096] {
                for trial in 0..20 {
                    let draw = Draw::new(&tokenizer, &protocol, length, trial).unwrap();
                    let prompt = draw.question(&tokenizer, &protocol).unwrap();
                    assert!(prompt.ids.len() <= length && prompt.ids.len() + FILLER.len() > length);
                    assert_eq!(prompt.ids[0] == TokenId(256), bos.is_some());
                    assert_eq!(tokenizer.decode(&prompt.answer, true).unwrap(), format!(" {}", prompt.key));
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
        let protocol = PasskeyProtocol { lengths: vec![], trials: 1, seed: 0, bos: None };
        assert!(Draw::new(&tokenizer, &protocol, 99, 0).is_err());
    }
}
