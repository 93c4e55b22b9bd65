//! Recall by distance: of the words that only an earlier mention tells, how many does the model predict?

use super::documents::{Recall, Story};
use crate::backend::Backend;
use crate::data::Tokenizer;
use crate::error::Result;
use crate::index::TokenId;
use crate::infer::{Scorer, likeliest};
use crate::model::Model;
use serde::{Deserialize, Serialize};

/// Recalls whose fact lies `from..to` words back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    pub from: usize,
    pub to: usize,
    pub asked: usize,
    pub right: usize,
}

impl Bucket {
    pub fn share(&self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }
}

/// One word that an earlier one tells, and what the model predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// Index of the word.
    pub at: usize,
    pub distance: usize,
    pub word: String,
    pub guess: String,
}

/// Buckets that double in width, up to `far` words back: 0..16, 16..32, 32..64, ...
fn buckets(far: usize) -> Vec<Bucket> {
    let mut buckets = vec![Bucket { from: 0, to: 16, asked: 0, right: 0 }];
    while buckets[buckets.len() - 1].to < far {
        let from = buckets[buckets.len() - 1].to;
        buckets.push(Bucket { from, to: 2 * from, asked: 0, right: 0 });
    }
    buckets
}

/// Reads the first `window` words of a story in one window; each word that an earlier one tells, with the likeliest word.
fn ask<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, tokenizer: &Tokenizer, story: &Story, window: usize,
    visit: &mut dyn FnMut(Recall, TokenId, TokenId),
) -> Result<()> {
    let words = &story.words[..window.min(story.words.len())];
    let ids = tokenizer.encode(&words.join(" "))?;
    let asked: Vec<Recall> = story.recalls.iter().filter(|r| r.at < words.len()).copied().collect();
    let wanted: Vec<usize> = asked.iter().map(|r| r.at - 1).collect();
    let mut questions = asked.into_iter();
    scorer.logits_at(b, model, &ids, None, &wanted, &mut |logits| {
        if let Some(recall) = questions.next() {
            visit(recall, ids[recall.at], likeliest(logits)?);
        }
        Ok(())
    })
}

/// Shares of right answers by distance, over the first `window` words of all stories.
pub fn measure<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, tokenizer: &Tokenizer, stories: &[Story], window: usize,
) -> Result<Vec<Bucket>> {
    let mut buckets = buckets(window);
    for story in stories {
        ask(b, model, scorer, tokenizer, story, window, &mut |recall, truth, guess| {
            if let Some(bucket) = buckets.iter_mut().find(|b| recall.distance < b.to) {
                bucket.asked += 1;
                bucket.right += usize::from(guess == truth);
            }
        })?;
    }
    Ok(buckets)
}

/// The last few recalls of a story and what the model says.
pub fn guesses<B: Backend>(
    b: &B, model: &Model<B>, scorer: &mut Scorer<B>, tokenizer: &Tokenizer, story: &Story, window: usize,
) -> Result<Vec<Guess>> {
    let mut all = Vec::new();
    ask(b, model, scorer, tokenizer, story, window, &mut |recall, truth, guess| {
        all.push((recall, truth, guess))
    })?;
    let word = |id| Ok(tokenizer.decode(&[id], false)?.trim().to_string());
    let last = all.len().saturating_sub(20);
    all.split_off(last)
        .into_iter()
        .map(|(r, truth, guess)| {
            Ok(Guess { at: r.at, distance: r.distance, word: word(truth)?, guess: word(guess)? })
        })
        .collect()
}
