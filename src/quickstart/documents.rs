//! Long documents in which distance matters: a diary that comes back to its facts.
//!
//! Each document settles for each of 24 topics on one of twelve words and then mentions topics again and again, among
//! filler: "the mill is calm . note bird: heron . the lake is wide . note metal: zinc . note bird: heron ." The first
//! mention of a topic tells a fact that nothing predicts; the word of every later one can be known, but only by looking
//! back to an earlier mention. Which topic comes next does not depend on anything further back than `RECENT` mentions, so
//! a long window helps with the facts and with nothing else.

use super::words::{PLACES, STATES, TOPICS};
use crate::random::{Purpose, Stream};

/// Sentences that mention a topic rather than say filler.
const MENTION: f64 = 0.5;
/// Mentions that come back to one of the last few topics.
const AGAIN: f64 = 0.3;
/// How many mentions that reaches back.
const RECENT: usize = 1;

/// A word of a document that an earlier one tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// Index of the word.
    pub at: usize,
    /// Words back to the nearest earlier mention.
    pub distance: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    pub words: Vec<&'static str>,
    pub recalls: Vec<Recall>,
}

impl Story {
    pub fn text(&self) -> String {
        self.words.join(" ")
    }
}

/// Document number `index` of a seed, of `words` words.
pub fn write(seed: u64, index: u32, words: usize) -> Story {
    let mut stream = Stream::new(seed, Purpose::Task, 1 << 32, index);
    let values: Vec<&str> = TOPICS.iter().map(|(_, values)| pick(&mut stream, values)).collect();
    let mut told: Vec<Option<usize>> = vec![None; TOPICS.len()];
    let mut recent: Vec<usize> = Vec::new();
    let mut story = Story { words: Vec::with_capacity(words + 4), recalls: Vec::new() };
    while story.words.len() < words {
        if stream.unit_f64() >= MENTION {
            story.words.extend(["the", pick(&mut stream, PLACES), "is", pick(&mut stream, STATES), "."]);
            continue;
        }
        let topic = if !recent.is_empty() && stream.unit_f64() < AGAIN {
            recent[stream.below_usize(recent.len())]
        } else {
            stream.below_usize(TOPICS.len())
        };
        recent.push(topic);
        if recent.len() > RECENT {
            recent.remove(0);
        }
        let at = story.words.len() + 2;
        if let Some(before) = told[topic].replace(at) {
            story.recalls.push(Recall { at, distance: at - before });
        }
        story.words.extend(["note", TOPICS[topic].0, values[topic], "."]);
    }
    story.words.truncate(words);
    story.recalls.retain(|r| r.at < words);
    story
}

fn pick(stream: &mut Stream, words: &'static str) -> &'static str {
    let n = stream.below_usize(words.split(' ').count());
    words.split(' ').nth(n).unwrap_or(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recall_is_told_at_its_distance_and_nowhere_nearer() {
        let story = write(3, 0, 8192);
        assert_eq!(story.words.len(), 8192);
        assert!(story.recalls.len() > 300, "{} recalls", story.recalls.len());
        for r in &story.recalls {
            let told = r.at - r.distance;
            assert_eq!(story.words[r.at], story.words[told]);
            assert_eq!(story.words[r.at - 1], story.words[told - 1], "the topic");
            let between = &story.words[told + 1..r.at - 1];
            assert!(!between.contains(&story.words[r.at - 1]), "something nearer speaks of the topic");
        }
        assert!(
            story.recalls.iter().any(|r| r.distance > 512) && story.recalls.iter().any(|r| r.distance < 32)
        );
    }

    #[test]
    fn a_document_is_a_function_of_seed_and_number() {
        assert_eq!(write(1, 2, 500), write(1, 2, 500));
        assert_ne!(write(1, 2, 500), write(1, 3, 500));
        assert_ne!(write(1, 2, 500), write(2, 2, 500));
    }
}
