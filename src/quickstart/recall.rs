//! Recall by distance: of the words that only an earlier mention tells, how many does the model predict?

use super::documents::Story;
use crate::backend::Backend;
use crate::data::Tokenizer;
use crate::error::Result;
use crate::index::TokenId;
use crate::infer::{Sampling, Session};
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

/// Buckets that double in width, up to `far` words back: 0..16, 16..32, 32..64, ...
fn buckets(far: usize) -> Vec<Bucket> {
    let mut buckets = vec![Bucket { from: 0, to: 16, asked: 0, right: 0 }];
    while buckets[buckets.len() - 1].to < far {
        let from = buckets[buckets.len() - 1].to;
        buckets.push(Bucket { from, to: 2 * from, asked: 0, right: 0 });
    }
    buckets
}

/// Reads the first `window` words of each story in one window and asks for every word that an earlier one tells.
pub fn measure<B: Backend>(
    b: &B,
    model: &Model<B>,
    session: &mut Session<B>,
    tokenizer: &Tokenizer,
    stories: &[Story],
    window: usize,
) -> Result<Vec<Bucket>> {
    let mut buckets = buckets(window);
    for story in stories {
        let words = &story.words[..window.min(story.words.len())];
        let ids: Vec<TokenId> = tokenizer.encode(&words.join(" "))?;
        let asked: Vec<_> = story.recalls.iter().filter(|r| r.at < words.len()).collect();
        let wanted: Vec<usize> = asked.iter().map(|r| r.at - 1).collect();
        let mut questions = asked.iter();
        session.logits_at(b, model, &ids, None, &wanted, &mut |logits| {
            let Some(recall) = questions.next() else { return Ok(()) };
            let guess = Sampling::GREEDY.choose(&mut logits.to_vec(), 0)?;
            if let Some(bucket) = buckets.iter_mut().find(|b| recall.distance < b.to) {
                bucket.asked += 1;
                bucket.right += usize::from(guess == ids[recall.at]);
            }
            Ok(())
        })?;
    }
    Ok(buckets)
}
