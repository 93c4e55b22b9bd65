//! A needle in a haystack: a sentence that tells a number, put between two sentences of a natural text, and asked for at the
//! end. Every length with every depth.

use super::Partial;
use super::retrieval::{Asker, Question, Report, Trial, continuation, opening};
use crate::backend::Backend;
use crate::data::{Corpus, Tokenizer};
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::random::{Purpose, Stream};
use serde::Serialize;
use std::collections::HashMap;

const CITIES: [&str; 16] = [
    "Lisbon", "Nairobi", "Oslo", "Quito", "Hanoi", "Dublin", "Lima", "Cairo", "Prague", "Kyoto", "Boston",
    "Delhi", "Accra", "Perth", "Geneva", "Havana",
];

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NeedleProtocol {
    /// Prompt lengths in tokens.
    pub lengths: Vec<usize>,
    /// Where the needle is put, as fractions of the haystack; it goes to the last sentence end before.
    pub depths: Vec<f64>,
    /// Trials for each length and depth. Trial t has its own haystack, the same for all lengths and depths.
    pub trials: usize,
    pub seed: u64,
    pub bos: Option<u32>,
}

impl NeedleProtocol {
    /// One sentence for people.
    pub fn describe(&self) -> String {
        let NeedleProtocol { trials, seed, .. } = self;
        let opening = opening(self.bos);
        format!(
            "{trials} trials a length and depth, seed {seed}, {opening}; greedy, right if the seven digits come"
        )
    }
}

/// Natural text as tokens, and after which of them a sentence ends.
struct Haystack {
    /// The first document's name, for errors.
    name: String,
    tokens: Vec<TokenId>,
    ends: Vec<bool>,
}

impl Haystack {
    fn new(corpus: &Corpus, tokenizer: &Tokenizer) -> Result<Haystack> {
        let tokens: Vec<TokenId> = corpus.documents.iter().flat_map(|d| d.tokens.iter().copied()).collect();
        let mut known: HashMap<u32, bool> = HashMap::new();
        let mut ends = Vec::with_capacity(tokens.len());
        for token in &tokens {
            ends.push(match known.get(&token.0) {
                Some(end) => *end,
                None => {
                    let end = ends_sentence(&tokenizer.decode(&[*token], true)?);
                    known.insert(token.0, end);
                    end
                }
            });
        }
        let name = corpus.documents.first().map_or(String::new(), |document| document.name.clone());
        Ok(Haystack { name, tokens, ends })
    }

    /// The first sentence that begins at or before `at`; 0 where there is none.
    fn sentence_before(&self, from: usize, at: usize) -> usize {
        (from..at).rev().find(|&i| self.ends[i]).map_or(from, |i| i + 1)
    }
}

fn ends_sentence(token: &str) -> bool {
    token.trim_end().ends_with(['.', '!', '?']) || token.ends_with('\n')
}

/// One trial, before its prompt is made.
struct Draw {
    length: usize,
    depth: f64,
    city: &'static str,
    key: u32,
    needle: Vec<TokenId>,
    question: Vec<TokenId>,
    /// Where in the text the haystack begins, how long it is, and how much of it comes before the needle.
    start: usize,
    tokens: usize,
    before: usize,
}

fn question_text(city: &str) -> String {
    format!("\n\nWhat is the special magic {city} number? The special magic {city} number is:")
}

impl Draw {
    /// City and number are functions of (seed, length, depth, trial), the haystack's begin of (seed, trial).
    fn new(
        tokenizer: &Tokenizer, protocol: &NeedleProtocol, haystack: &Haystack, length: usize, depth: usize,
        trial: usize,
    ) -> Result<Draw> {
        let row = (depth * protocol.trials + trial) as u32;
        let mut stream = Stream::new(protocol.seed, Purpose::Task, length as u64, row);
        let city = CITIES[stream.below_usize(CITIES.len())];
        let key = 1_000_000 + stream.below(9_000_000) as u32;
        let needle = tokenizer.encode(&format!(" The special magic {city} number is: {key}."))?;
        let question = tokenizer.encode(&question_text(city))?;
        let fixed = usize::from(protocol.bos.is_some()) + needle.len() + question.len();
        let Some(tokens) = length.checked_sub(fixed) else {
            let problem = format!("needle and question alone take {fixed} tokens; ask for at least that");
            return Err(Error::usage("--lengths", length, problem));
        };
        let longest = protocol.lengths.iter().copied().max().unwrap_or(length);
        let Some(spare) = haystack.tokens.len().checked_sub(longest) else {
            let have = haystack.tokens.len();
            let problem =
                format!("the texts have {have} tokens, the longest length is {longest}; give more text");
            return Err(Error::usage("--data", &haystack.name, problem));
        };
        let mut stream = Stream::new(protocol.seed, Purpose::Task, trial as u64, u32::MAX);
        let start = haystack.sentence_before(0, stream.below_usize(spare + 1));
        let depth = protocol.depths[depth];
        let aim = start + (depth * tokens as f64).round() as usize;
        let before = haystack.sentence_before(start, aim) - start;
        Ok(Draw { length, depth, city, key, needle, question, start, tokens, before })
    }

    fn question(
        &self, tokenizer: &Tokenizer, protocol: &NeedleProtocol, haystack: &Haystack,
    ) -> Result<Question> {
        let (before, after) = haystack.tokens[self.start..][..self.tokens].split_at(self.before);
        let opening: Vec<TokenId> = protocol.bos.map(TokenId).into_iter().collect();
        Ok(Question {
            ids: [&opening, before, &self.needle, after, &self.question].concat(),
            length: self.length,
            depth: self.depth,
            key: self.key,
            answer: continuation(tokenizer, &question_text(self.city), &format!(" {}", self.key))?,
        })
    }
}

/// Asks every trial of every length and depth but those that `partial` has; the prompts of a trial begin with the same
/// haystack.
pub fn run<B: Backend>(
    asker: &mut Asker<'_, B>, corpus: &Corpus, protocol: &NeedleProtocol, partial: &mut Partial,
    progress: &mut dyn FnMut(&Trial),
) -> Result<Report<NeedleProtocol>> {
    let tokenizer = asker.tokenizer;
    let haystack = Haystack::new(corpus, tokenizer)?;
    let mut trials = Vec::new();
    for trial in 0..protocol.trials {
        let mut draws = Vec::new();
        for (l, &length) in protocol.lengths.iter().enumerate() {
            for depth in 0..protocol.depths.len() {
                let draw = Draw::new(tokenizer, protocol, &haystack, length, depth, trial)?;
                draws.push(((l, depth, trial), draw));
            }
        }
        draws.sort_by_key(|(_, draw)| std::cmp::Reverse(draw.before));
        for (place, draw) in &draws {
            let key = ("needle", draw.length, draw.depth, trial);
            let question = || draw.question(tokenizer, protocol, &haystack);
            trials.push((*place, asker.ask(partial, &key, question)?));
            progress(&trials[trials.len() - 1].1);
        }
    }
    trials.sort_by_key(|(place, _)| *place);
    let trials = trials.into_iter().map(|(_, trial)| trial).collect();
    Ok(Report { protocol: protocol.clone(), trials, spent: asker.take_spent() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Document;

    fn haystack(tokenizer: &Tokenizer) -> Haystack {
        let text =
            "It rained. Did it? It did! A fox slept under the old bridge.\nNobody came by. ".repeat(60);
        let tokens = tokenizer.encode(&text).unwrap();
        Haystack::new(&Corpus { documents: vec![Document { name: "t".into(), tokens }] }, tokenizer).unwrap()
    }

    #[test]
    fn needles_lie_between_sentences_at_their_depth() {
        let tokenizer = Tokenizer::bytes();
        let haystack = haystack(&tokenizer);
        let (lengths, depths) = (vec![400, 2000], vec![0.0, 0.3, 1.0]);
        for bos in [None, Some(256)] {
            let protocol =
                NeedleProtocol { lengths: lengths.clone(), depths: depths.clone(), trials: 3, seed: 5, bos };
            for (length, depth, trial) in [(400, 0, 0), (400, 1, 2), (2000, 1, 1), (2000, 2, 0)] {
                let draw = Draw::new(&tokenizer, &protocol, &haystack, length, depth, trial).unwrap();
                let question = draw.question(&tokenizer, &protocol, &haystack).unwrap();
                assert_eq!(question.ids.len(), length);
                assert_eq!(question.ids[0] == TokenId(256), bos.is_some());
                let text = tokenizer.decode(&question.ids, true).unwrap();
                let told = format!(" The special magic {} number is: {}.", draw.city, draw.key);
                let (before, after) = text.split_once(&told).expect("the needle is told");
                assert!(before.is_empty() || before.ends_with(['.', '?', '!', '\n']), "{before:?}");
                assert!(after.ends_with(&question_text(draw.city)));
                let wanted = depths[depth] * draw.tokens as f64;
                assert!(before.len() as f64 <= wanted && before.len() as f64 > wanted - 45.0, "{depth}");
                assert_eq!(tokenizer.decode(&question.answer, true).unwrap(), format!(" {}", draw.key));
            }
        }
    }

    #[test]
    fn what_is_too_short_is_refused() {
        let tokenizer = Tokenizer::bytes();
        let haystack = haystack(&tokenizer);
        let refused = |length| {
            let protocol =
                NeedleProtocol { lengths: vec![length], depths: vec![0.5], trials: 1, seed: 5, bos: None };
            Draw::new(&tokenizer, &protocol, &haystack, length, 0, 0).err().unwrap().to_string()
        };
        assert!(refused(99).contains("needle and question alone take"));
        assert!(refused(1 << 20).contains("give more text"));
    }
}
