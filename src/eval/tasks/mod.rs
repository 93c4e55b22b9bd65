//! Multiple choice: which of several continuations of a context the model gives the highest probability.
//!
//! What questions of one file share at their beginning (examples, a preamble) is read once, and what a question's
//! choices share too: each context is read but for its last token, then that token with a choice, then the session is
//! wound back. Where the parts end depends on the question alone, so its figures have the same bits whatever was read
//! before it.

mod format;
mod prompt;
mod question;

pub use format::Format;
pub use prompt::{Choice, Context, Encoder, Examples, Prompt, fingerprint, read};
pub use question::Question;

use super::kept::{Kept, chunk_ends};
use super::{Partial, Spent, mean_and_error};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::infer::Session;
use crate::model::Model;
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskProtocol {
    pub format: Format,
    /// Examples before each question.
    pub shots: usize,
    /// Of which examples are drawn.
    pub seed: u64,
    /// Between context and choice.
    pub delimiter: String,
    pub bos: Option<u32>,
}

impl TaskProtocol {
    /// One sentence for people.
    pub fn describe(&self) -> String {
        let TaskProtocol { shots, seed, delimiter, .. } = self;
        let format = clap::ValueEnum::to_possible_value(&self.format);
        let format = format.map_or(String::new(), |value| value.get_name().to_string());
        let bos = super::retrieval::opening(self.bos);
        let drawn = if *shots > 0 { format!(" drawn by seed {seed}") } else { String::new() };
        format!(
            "format {format}, {shots} examples{drawn}, {delimiter:?} before a choice, {bos}; right if the likeliest \
             choice is; acc_norm by log p / characters, acc_bytes by log p / bytes, mc2 = share of the right choices in \
             the probability of all"
        )
    }
}

/// One question and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answered {
    pub line: u64,
    /// log p of each choice after the context, all its tokens, in nats.
    pub log_probabilities: Vec<f64>,
    /// Whether the likeliest choice is right, as it is and by its length.
    pub acc: bool,
    pub acc_norm: bool,
    pub acc_bytes: bool,
    /// Σ p(right) / Σ p.
    pub mc2: f64,
}

/// A mean over questions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    pub mean: f64,
    pub standard_error: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    pub acc: Mean,
    pub acc_norm: Mean,
    pub acc_bytes: Mean,
    pub mc2: Mean,
    pub spent: Spent,
    pub questions: Vec<Answered>,
}

/// Asks all questions but those that `partial` has.
pub fn run<B: Backend>(
    b: &B, model: &Model<B>, session: &mut Session<B>, prompts: &[Prompt], partial: &mut Partial,
    progress: &mut dyn FnMut(&Answered),
) -> Result<TaskReport> {
    let mut chooser = Chooser::new(b, model, session);
    let (mut questions, mut spent) = (Vec::new(), Spent::default());
    for (i, prompt) in prompts.iter().enumerate() {
        let unit = partial.unit(&("question", i), || chooser.weigh(prompt))?;
        spent += unit.result.1;
        questions.push(Answered::new(prompt, unit.result.0));
        progress(&questions[i]);
    }
    Ok(TaskReport::new(questions, spent))
}

struct Chooser<'a, B: Backend> {
    b: &'a B,
    model: &'a Model<B>,
    session: &'a mut Session<B>,
    /// The context that is in the cache, but for its last token.
    kept: Kept,
}

impl<'a, B: Backend> Chooser<'a, B> {
    fn new(b: &'a B, model: &'a Model<B>, session: &'a mut Session<B>) -> Self {
        session.rewind(0);
        Chooser { b, model, session, kept: Kept::default() }
    }

    /// log p of each choice.
    fn weigh(&mut self, prompt: &Prompt) -> Result<(Vec<f64>, Spent)> {
        let (mut logs, mut spent) = (Vec::new(), Spent::default());
        for (i, choice) in prompt.choices.iter().enumerate() {
            let context = prompt.context(i);
            spent += self.read(context)?;
            let last = context.ids[context.ids.len() - 1];
            let fed: Vec<_> = std::iter::once(last).chain(choice.ids.iter().copied()).collect();
            let losses = self.session.losses(self.b, self.model, &fed)?;
            spent.read += fed.len();
            if let Some(loss) = losses.iter().find(|loss| !loss.is_finite()) {
                let line = prompt.line;
                return Err(Error::NonFinite(format!(
                    "the loss of a token of choice {i} of line {line} is {loss}: the model is broken"
                )));
            }
            logs.push(-losses.iter().map(|&loss| f64::from(loss)).sum::<f64>());
        }
        Ok((logs, spent))
    }

    /// Has all but the last token of a context in the cache.
    fn read(&mut self, context: &Context) -> Result<Spent> {
        let end = context.ids.len() - 1;
        let (ids, middle, chunk) = (&context.ids[..end], context.shared.min(end), self.session.chunk());
        let cuts = [chunk_ends(0..middle, chunk), chunk_ends(middle..end, chunk)].concat();
        let shared = self.kept.shared(ids, &cuts);
        self.session.rewind(shared);
        self.kept = Kept::default(); // nothing is kept if reading fails
        for part in [shared..middle, shared.max(middle)..end] {
            self.session.read(self.b, self.model, ids.get(part).unwrap_or_default(), &mut |_| {})?;
        }
        self.kept = Kept { ids: ids.to_vec(), cuts };
        Ok(Spent { read: end - shared, reused: shared })
    }
}

impl Answered {
    fn new(prompt: &Prompt, log_probabilities: Vec<f64>) -> Answered {
        let right = |length: &dyn Fn(&Choice) -> usize| {
            let score = |(choice, log): (&Choice, &f64)| log / length(choice) as f64;
            let scores: Vec<f64> = prompt.choices.iter().zip(&log_probabilities).map(score).collect();
            prompt.choices[first_of_largest(&scores)].right
        };
        let most = log_probabilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights = log_probabilities.iter().map(|log| (log - most).exp());
        let of_right = prompt.choices.iter().zip(weights.clone()).filter(|(choice, _)| choice.right);
        Answered {
            line: prompt.line,
            acc: right(&|_| 1),
            acc_norm: right(&|choice| choice.characters),
            acc_bytes: right(&|choice| choice.bytes),
            mc2: of_right.map(|(_, weight)| weight).sum::<f64>() / weights.sum::<f64>(),
            log_probabilities,
        }
    }
}

fn first_of_largest(values: &[f64]) -> usize {
    values.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i)
}

impl TaskReport {
    fn new(questions: Vec<Answered>, spent: Spent) -> TaskReport {
        let mean = |value: &dyn Fn(&Answered) -> f64| {
            let (mean, standard_error) = mean_and_error(&questions.iter().map(value).collect::<Vec<_>>());
            Mean { mean, standard_error }
        };
        TaskReport {
            acc: mean(&|q| f64::from(u8::from(q.acc))),
            acc_norm: mean(&|q| f64::from(u8::from(q.acc_norm))),
            acc_bytes: mean(&|q| f64::from(u8::from(q.acc_bytes))),
            mc2: mean(&|q| q.mc2),
            spent,
            questions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::TokenId;
    use approx::assert_relative_eq;

    #[test]
    fn lengths_decide_where_they_should() {
        let choice = |characters, bytes, right| Choice { ids: vec![TokenId(0)], characters, bytes, right };
        let context = Context { ids: vec![TokenId(0)], shared: 0 };
        let choices = vec![choice(2, 2, false), choice(4, 4, true), choice(3, 9, false)];
        let prompt = Prompt { line: 7, contexts: vec![context], choices };
        let answered = Answered::new(&prompt, vec![-4.0, -5.0, -6.0]);
        // -4, -5, -6; -2, -1.25, -2; -2, -1.25, -0.67
        assert_eq!((answered.acc, answered.acc_norm, answered.acc_bytes), (false, true, false));
        let all = (-4f64).exp() + (-5f64).exp() + (-6f64).exp();
        assert_relative_eq!(answered.mc2, (-5f64).exp() / all, max_relative = 1e-14);
        // far below what exp can hold
        let tiny = Answered::new(&prompt, vec![-4000.0, -4001.0, -4002.0]);
        assert_relative_eq!(tiny.mc2, answered.mc2, max_relative = 1e-12);
        let report =
            TaskReport::new(vec![answered, Answered::new(&prompt, vec![-4.0, -4.0, -1.0])], Spent::default());
        assert_eq!((report.acc.mean, report.acc_norm.mean), (0.0, 0.5));
        assert_relative_eq!(report.acc_norm.standard_error.unwrap(), 0.5);
        // of equals the first is taken
        assert!(!Answered::new(&prompt, vec![-4.0, -4.0, -4.0]).acc);
    }
}
