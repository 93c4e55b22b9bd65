//! A needle in a haystack: a sentence that tells a number, put between two sentences of a natural text, and asked for at the
//! end. Every length with every depth.

use super::Partial;
use super::retrieval::{Asker, Question, Report, Trial, continuation, opening};
use crate::backend::Backend;
use crate::data::{Corpus, Tokenizer, ends_sentence};
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
pub struct Haystack {
    tokens: Vec<TokenId>,
    ends: Vec<bool>,
    /// Tokens behind the longest prompt's, so that each can begin at any of as many places.
    spare: usize,
}

impl Haystack {
    /// For prompts of up to `longest` tokens: those of a whole measure, so that parts of it draw alike.
    ///
    /// # Errors
    /// Less text than that.
    pub fn new(corpus: &Corpus, tokenizer: &Tokenizer, longest: usize) -> Result<Haystack> {
        let tokens: Vec<TokenId> = corpus.documents.iter().flat_map(|d| d.tokens.iter().copied()).collect();
        let Some(spare) = tokens.len().checked_sub(longest) else {
            let name = corpus.documents.first().map_or("", |document| &document.name);
            let have = tokens.len();
            let problem =
                format!("the texts have {have} tokens, the longest length is {longest}; give more text");
            return Err(Error::usage("--data", name, problem));
        };
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
        Ok(Haystack { tokens, ends, spare })
    }

    /// Where the last sentence begins that does so at or before `at`, but after `from`; `from` where none does.
    fn sentence_before(&self, from: usize, at: usize) -> usize {
        (from..at).rev().find(|&i| self.ends[i]).map_or(from, |i| i + 1)
    }
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
        let mut stream = Stream::new(protocol.seed, Purpose::Task, trial as u64, u32::MAX);
        let start = haystack.sentence_before(0, stream.below_usize(haystack.spare + 1));
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
/// stretch of the haystack, which has room for the longest.
pub fn run<B: Backend>(
    asker: &mut Asker<'_, B>, haystack: &Haystack, protocol: &NeedleProtocol, partial: &mut Partial,
    progress: &mut dyn FnMut(&Trial),
) -> Result<Report<NeedleProtocol>> {
    let tokenizer = asker.tokenizer;
    let mut trials = Vec::new();
    for trial in 0..protocol.trials {
        let mut draws = Vec::new();
        for (l, &length) in protocol.lengths.iter().enumerate() {
            for depth in 0..protocol.depths.len() {
                let draw = Draw::new(tokenizer, protocol, haystack, length, depth, trial)?;
                draws.push(((l, depth, trial), draw));
            }
        }
        draws.sort_by_key(|(_, draw)| std::cmp::Reverse(draw.before));
        for (place, draw) in &draws {
            let key = ("needle", draw.length, draw.depth, trial);
            let question = || draw.question(tokenizer, protocol, haystack);
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

    fn haystack(tokenizer: &Tokenizer, longest: usize) -> Result<Haystack> {
        let text =
            "It rained. Did it? It did! A fox slept under the old bridge.\nNobody came by. ".repeat(60);
        let tokens = tokenizer.encode(&text).unwrap();
        let corpus = Corpus { documents: vec![Document { name: "t".into(), tokens }] };
        Haystack::new(&corpus, tokenizer, longest)
    }

    #[test]
    fn needles_lie_between_sentences_at_their_depth() {
        let tokenizer = Tokenizer::bytes();
        let haystack = haystack(&tokenizer, 2000).unwrap();
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
        let protocol = NeedleProtocol { lengths: vec![99], depths: vec![0.5], trials: 1, seed: 5, bos: None };
        let short = haystack(&tokenizer, 99).unwrap();
        let refused = Draw::new(&tokenizer, &protocol, &short, 99, 0, 0).err().unwrap().to_string();
        assert!(refused.contains("needle and question alone take"), "{refused}");
        let refused = haystack(&tokenizer, 1 << 20).err().unwrap().to_string();
        assert!(refused.starts_with("--data t: ") && refused.contains("give more text"), "{refused}");
    }
}
