//! The core of the retrieval measures: a prompt with something told in it, a question at its end, and an answer that is right or
//! not. What is told and asked is the business of [`passkey`](super::passkey()) and [`needle`](super::needle()).
//!
//! Prompts that begin alike are read once: what a prompt shares with the one before it is left in the cache. Only whole
//! chunks are, since a chunk that is cut elsewhere is summed in another order: so answers have the same bits with and without.
//! After a prompt in which something is told at place p, one that tells at place q shares min(p, q) tokens, so the sum over a
//! run of prompts is largest when they are sorted by place; the deepest come first.

use super::kept::{Kept, chunk_ends};
use super::perplexity::bos_text;
use super::{Partial, mean_and_error};
use crate::backend::Backend;
use crate::data::Tokenizer;
use crate::error::Result;
use crate::index::TokenId;
use crate::infer::{Sampling, Session, generate, likeliest, log_probability};
use crate::model::Model;
use serde::{Deserialize, Serialize};

/// New tokens that an answer may take: seven digits, each at worst a token of its own, and some for what stands around them.
pub const ROOM_FOR_ANSWER: usize = 12;

/// A prompt and what is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub ids: Vec<TokenId>,
    /// Tokens asked for, which the prompt fills as well as it can.
    pub length: usize,
    /// Where it is told, as a fraction of the text around it.
    pub depth: f64,
    pub key: u32,
    /// The right answer, as it goes on after the prompt.
    pub answer: Vec<TokenId>,
}

/// One question and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Tokens of the prompt, at most the length asked for.
    pub tokens: usize,
    pub length: usize,
    /// Where the key is told, as a fraction of the text around it.
    pub depth: f64,
    pub key: u32,
    /// What the model says, greedily.
    pub answer: String,
    pub correct: bool,
    /// Of the right answer after the prompt, all its tokens, in nats.
    pub log_probability: f64,
}

/// Tokens of prompts and right answers that went through the model, and of prompts that were in the cache already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub read: usize,
    pub reused: usize,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, more: Spent) {
        self.read += more.read;
        self.reused += more.reused;
    }
}

/// All trials of a measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report<P> {
    pub protocol: P,
    pub trials: Vec<Trial>,
    pub spent: Spent,
}

impl<P> Report<P> {
    /// What was measured in several parts.
    pub fn joined(protocol: P, parts: Vec<Report<P>>) -> Report<P> {
        let mut whole = Report { protocol, trials: Vec::new(), spent: Spent::default() };
        for part in parts {
            whole.trials.extend(part.trials);
            whole.spent += part.spent;
        }
        whole
    }

    /// Share of correct answers among the trials that `select` picks, and how many those are.
    pub fn accuracy(&self, select: impl Fn(&Trial) -> bool) -> (f64, usize) {
        let picked: Vec<&Trial> = self.trials.iter().filter(|t| select(t)).collect();
        let right = picked.iter().filter(|t| t.correct).count();
        (right as f64 / picked.len().max(1) as f64, picked.len())
    }

    /// Mean log-probability of the right answers of some trials, and its standard error.
    pub fn log_probability(&self, select: &dyn Fn(&Trial) -> bool) -> (f64, Option<f64>) {
        let picked = self.trials.iter().filter(|t| select(t)).map(|t| t.log_probability);
        mean_and_error(&picked.collect::<Vec<_>>())
    }
}

/// Asks questions of a model, in a session that must hold the longest prompt and [`ROOM_FOR_ANSWER`] tokens more.
pub struct Asker<'a, B: Backend> {
    pub b: &'a B,
    pub model: &'a Model<B>,
    pub session: &'a mut Session<B>,
    pub tokenizer: &'a Tokenizer,
    /// Whether what a prompt shares with the last one is left in the cache.
    pub reuse: bool,
    /// The prompt that is in the cache.
    kept: Kept,
    /// On the question that is being asked, and on all of them.
    asking: Spent,
    spent: Spent,
}

impl<'a, B: Backend> Asker<'a, B> {
    pub fn new(b: &'a B, model: &'a Model<B>, session: &'a mut Session<B>, tokenizer: &'a Tokenizer) -> Self {
        let (reuse, kept, spent) = (true, Kept::default(), Spent::default());
        session.rewind(0);
        Asker { b, model, session, tokenizer, reuse, kept, asking: spent, spent }
    }

    /// What was spent since the last time this was asked.
    pub(super) fn take_spent(&mut self) -> Spent {
        std::mem::take(&mut self.spent)
    }

    /// Asks the question called `key`, unless `partial` has its answer.
    pub(super) fn ask(
        &mut self, partial: &mut Partial, key: &impl Serialize, question: impl FnOnce() -> Result<Question>,
    ) -> Result<Trial> {
        let measure = || Ok((self.answer(&question()?)?, std::mem::take(&mut self.asking)));
        let (trial, spent) = partial.unit(key, measure)?.result;
        self.spent += spent;
        Ok(trial)
    }

    fn answer(&mut self, question: &Question) -> Result<Trial> {
        let logits = self.read(&question.ids)?;
        let log_probability = self.weigh(&logits, &question.answer)?;
        self.session.rewind(question.ids.len());
        let first = likeliest(&logits)?;
        let (most, greedy) = (ROOM_FOR_ANSWER - 1, Sampling::GREEDY);
        let rest =
            generate(self.b, self.model, self.session, &[first], most, &[], &greedy, &mut |_| Ok(true))?;
        let answer: Vec<TokenId> = std::iter::once(first).chain(rest).collect();
        let answer = self.tokenizer.decode(&answer, true)?;
        Ok(Trial {
            tokens: question.ids.len(),
            length: question.length,
            depth: question.depth,
            key: question.key,
            correct: is_right(&answer, question.key),
            answer,
            log_probability,
        })
    }

    /// The logits after a prompt.
    fn read(&mut self, ids: &[TokenId]) -> Result<Vec<f32>> {
        let cuts = chunk_ends(0..ids.len(), self.session.chunk());
        // at least one token is left to read
        let shared = if self.reuse { self.kept.shared(ids, &cuts[..cuts.len() - 1]) } else { 0 };
        self.session.rewind(shared);
        self.asking += Spent { read: ids.len() - shared, reused: shared };
        self.kept = Kept::default(); // nothing is kept if reading fails
        let logits = self.session.feed(self.b, self.model, &ids[shared..], &mut |_| {})?;
        self.kept = Kept { ids: ids.to_vec(), cuts };
        Ok(logits)
    }

    /// log Π p(answer_i | prompt, answer_0..i).
    fn weigh(&mut self, logits: &[f32], answer: &[TokenId]) -> Result<f64> {
        let Some((first, rest)) = answer.split_first() else { return Ok(0.0) };
        let (mut sum, mut last) = (log_probability(logits, *first), first);
        for token in rest {
            let logits = self.session.feed(self.b, self.model, std::slice::from_ref(last), &mut |_| {})?;
            self.asking.read += 1;
            sum += log_probability(&logits, *token);
            last = token;
        }
        Ok(sum)
    }
}

/// The tokens of `answer` where they follow `question`; the question is too short to change how its end is cut.
pub(super) fn continuation(tokenizer: &Tokenizer, question: &str, answer: &str) -> Result<Vec<TokenId>> {
    let (asked, whole) = (tokenizer.encode(question)?, tokenizer.encode(&format!("{question}{answer}"))?);
    match whole.strip_prefix(asked.as_slice()) {
        Some(rest) => Ok(rest.to_vec()),
        None => tokenizer.encode(answer),
    }
}

/// What opens a prompt, in words.
pub(super) fn opening(bos: Option<u32>) -> String {
    bos_text(bos, "opens each prompt")
}

/// Whether an answer begins with the key, and with no digit more.
fn is_right(answer: &str, key: u32) -> bool {
    let digits: String = answer.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits == key.to_string()
}

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
}
