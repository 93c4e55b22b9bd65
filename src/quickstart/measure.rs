//! What a model of the quickstart can do: perplexity by window, recall by distance.

use super::documents::Story;
use super::recall::{self, Bucket, Guess};
use super::recipe::TARGET;
use crate::backend::Backend;
use crate::backend::device::Job;
use crate::checkpoint::Weights;
use crate::data::{Corpus, Document, Tokenizer};
use crate::error::Result;
use crate::eval::{self, Mode, Partial, Protocol};
use crate::infer::{Reads, Scorer};
use crate::memory::Ledger;
use crate::model::buffers::Reading;
use crate::model::{Config, Model};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One model, measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    pub windows: Vec<WindowMeasure>,
    /// Some recalls of the first story and what the model said.
    pub guesses: Vec<Guess>,
}

/// At one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WindowMeasure {
    pub window: usize,
    pub ppl: f64,
    pub recall: Vec<Bucket>,
}

impl Measured {
    pub fn at(&self, window: usize) -> Option<&WindowMeasure> {
        self.windows.iter().find(|w| w.window == window)
    }
}

/// Measures the model in `dir` on the stories.
pub struct MeasureJob<'a> {
    pub name: &'a str,
    pub dir: &'a Path,
    pub stories: &'a [Story],
    pub windows: &'a [usize],
    /// Told after each window.
    pub progress: &'a mut dyn FnMut(),
}

impl Job for MeasureJob<'_> {
    type Out = Measured;
    fn run<B: Backend>(self, b: &B) -> Result<Measured> {
        let (config, tokenizer) = (Config::load(self.dir)?, Tokenizer::load(self.dir)?);
        let ledger = &mut Ledger::live();
        let mut model = Model::allocate(b, ledger, &config, &config.rope)?;
        model.load(b, &Weights::open(self.dir)?)?;
        let reading = Reading::of(TARGET);
        b.reserve_scratch(Scorer::scratch_bytes(b, &model, reading))?;
        let mut scorer = Scorer::allocate(b, ledger, &model, reading)?;
        let document = |(i, story): (usize, &Story)| {
            Ok(Document { name: format!("story {i}"), tokens: tokenizer.encode(&story.text())? })
        };
        let corpus =
            Corpus { documents: self.stories.iter().enumerate().map(document).collect::<Result<_>>()? };
        let protocol = Protocol { mode: Mode::Sliding, stride: None, bos: None };
        let mut windows = Vec::new();
        for &window in self.windows {
            let partial = &mut Partial::none();
            let report =
                eval::perplexity(b, &model, &mut scorer, &corpus, &protocol, window, partial, &mut |_| {})?;
            let recall = recall::measure(b, &model, &mut scorer, &tokenizer, self.stories, window)?;
            windows.push(WindowMeasure { window, ppl: report.ppl, recall });
            (self.progress)();
        }
        let guesses = recall::guesses(b, &model, &mut scorer, &tokenizer, &self.stories[0], TARGET)?;
        Ok(Measured { name: self.name.into(), windows, guesses })
    }
}
