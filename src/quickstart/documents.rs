//! Long documents in which distance matters: facts are noted and recalled later, among filler.
//!
//! "note bird: heron ." states a fact, "recall bird: heron ." asks for it again, up to [`FAR`] tokens later; the last word of
//! a recall can only be known by looking back. A topic is not noted anew as long as anyone within reach could mean the
//! old fact, so every question has one answer.

use super::words::{PLACES, STATES, TOPICS};
use crate::random::{Purpose, Stream};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The largest distance, in tokens, from a fact to a question about it.
pub const FAR: usize = 1020;
const NEAR: usize = 48;
const CLOSEST: usize = 6;
/// Tokens before a topic may be noted anew.
const REST: usize = 1050;

/// Where a question is answered in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Index of the answer's token.
    pub answer: usize,
    /// Tokens back to where the fact was last told or recalled.
    pub distance: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    pub words: Vec<&'static str>,
    pub questions: Vec<Question>,
}

impl Story {
    pub fn text(&self) -> String {
        self.words.join(" ")
    }
}

/// A fact that will be asked for: when, topic, value, where it was last told.
type Due = Reverse<(usize, usize, usize, usize)>;

struct Writer {
    stream: Stream,
    story: Story,
    due: BinaryHeap<Due>,
    /// Topics that may be noted.
    free: Vec<usize>,
    /// Topics that rest, by when they are free again.
    resting: BinaryHeap<Reverse<(usize, usize)>>,
}

/// Document number `index` of a seed: at least `tokens` words, cut to that many.
pub fn write(seed: u64, index: u32, tokens: usize) -> Story {
    let stream = Stream::new(seed, Purpose::Task, 1 << 32, index);
    let story = Story { words: Vec::with_capacity(tokens + 8), questions: Vec::new() };
    let mut writer =
        Writer { stream, story, due: BinaryHeap::new(), free: (0..TOPICS.len()).collect(), resting: BinaryHeap::new() };
    while writer.story.words.len() < tokens {
        writer.sentence();
    }
    let mut story = writer.story;
    story.words.truncate(tokens);
    story.questions.retain(|q| q.answer < tokens);
    story
}

impl Writer {
    fn pick(&mut self, words: &'static str) -> &'static str {
        let count = words.split(' ').count();
        let n = self.stream.below_usize(count);
        words.split(' ').nth(n).unwrap_or(words)
    }

    fn say(&mut self, words: [&'static str; 4]) {
        self.story.words.extend(words);
    }

    /// Log-uniform: every doubling of the distance is equally likely; three in ten stay near.
    fn distance(&mut self) -> usize {
        let far = if self.stream.unit_f64() < 0.3 { NEAR } else { FAR };
        let (low, high) = ((CLOSEST as f64).ln(), (far as f64).ln());
        (low + (high - low) * self.stream.unit_f64()).exp() as usize
    }

    fn sentence(&mut self) {
        let now = self.story.words.len();
        while let Some(&Reverse((free_at, topic))) = self.resting.peek() {
            if free_at > now {
                break;
            }
            self.resting.pop();
            self.free.push(topic);
        }
        match self.due.peek() {
            Some(&Reverse((when, topic, value, told))) if when <= now + 2 => {
                self.due.pop();
                self.recall(now, topic, value, told);
            }
            _ if !self.free.is_empty() && self.stream.unit_f64() < 0.3 => self.note(now),
            _ => {
                let (place, state) = (self.pick(PLACES), self.pick(STATES));
                self.story.words.push("the");
                self.say([place, "is", state, "."]);
            }
        }
    }

    fn note(&mut self, now: usize) {
        let n = self.stream.below_usize(self.free.len());
        let topic = self.free.swap_remove(n);
        let value = self.stream.below_usize(TOPICS[topic].1.split(' ').count());
        let when = now + 2 + self.distance();
        self.due.push(Reverse((when, topic, value, now + 2)));
        self.say(["note", TOPICS[topic].0, word(topic, value), "."]);
    }

    fn recall(&mut self, now: usize, topic: usize, value: usize, told: usize) {
        self.story.questions.push(Question { answer: now + 2, distance: now + 2 - told });
        self.say(["recall", TOPICS[topic].0, word(topic, value), "."]);
        if self.stream.unit_f64() < 0.85 {
            let when = now + 2 + self.distance();
            self.due.push(Reverse((when, topic, value, now + 2)));
        } else {
            self.resting.push(Reverse((now + REST, topic)));
        }
    }
}

fn word(topic: usize, value: usize) -> &'static str {
    TOPICS[topic].1.split(' ').nth(value).unwrap_or(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_is_answered_by_what_stands_at_its_distance() {
        let story = write(3, 0, 8192);
        assert_eq!(story.words.len(), 8192);
        assert!(story.questions.len() > 300, "{} questions", story.questions.len());
        for q in &story.questions {
            let told = q.answer - q.distance;
            assert_eq!(story.words[q.answer], story.words[told]);
            assert_eq!(story.words[q.answer - 1], story.words[told - 1], "the topic");
            let between = &story.words[told + 1..q.answer - 1];
            assert!(!between.contains(&story.words[q.answer - 1]), "nothing nearer says anything of the topic");
        }
        assert!(story.questions.iter().any(|q| q.distance > 512) && story.questions.iter().any(|q| q.distance < 32));
    }

    #[test]
    fn a_document_is_a_function_of_seed_and_number() {
        assert_eq!(write(1, 2, 500), write(1, 2, 500));
        assert_ne!(write(1, 2, 500), write(1, 3, 500));
        assert_ne!(write(1, 2, 500), write(2, 2, 500));
    }
}
