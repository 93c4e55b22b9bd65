//! The matrix that gives the logits, which some families bring to rows of unit length first (2309.10305).

use super::{Config, Gradients, Model};
use crate::backend::Backend;
use crate::error::Result;
use crate::memory::{Kind, Ledger};

/// The head's rows at unit length, made anew whenever the head changes ([`Model::refresh`]).
pub struct UnitHead<B: Backend> {
    rows: B::Buf<B::Act>,   // [vocab, d]
    scale: B::Buf<B::Stat>, // [vocab], 1/length of each row
}

impl<B: Backend> UnitHead<B> {
    /// None where the family has no such head.
    pub(super) fn new(b: &B, ledger: &mut Ledger, c: &Config) -> Result<Option<Self>> {
        if !c.arch.unit_head {
            return Ok(None);
        }
        let rows = ledger.buf(b, Kind::Weights, "head at unit length", &[c.vocab_size, c.hidden_size])?;
        Ok(Some(UnitHead { rows, scale: ledger.buf(b, Kind::Weights, "head scales", &[c.vocab_size])? }))
    }
}

impl<B: Backend> Model<B> {
    /// What the final states meet, `[vocab, d]`.
    pub fn head(&self) -> &B::Buf<B::Act> {
        self.unit_head.as_ref().map_or(self.param(self.ids.head_weight()), |unit| &unit.rows)
    }

    /// What is added to the logits, `[vocab]`.
    pub fn head_bias(&self) -> Option<&B::Buf<B::Act>> {
        self.ids.head_bias.map(|id| self.param(id))
    }

    /// Makes anew what is kept of the parameters in another form; to be called when they have changed. All functions of
    /// a model and of an optimizer that change them do so.
    pub fn refresh(&mut self, b: &B) -> Result<()> {
        let Some(unit) = &mut self.unit_head else { return Ok(()) };
        let (head, c) = (&self.params[self.ids.head_weight().0], &self.config);
        b.unit_rows(&mut unit.rows, &mut unit.scale, head, c.vocab_size, c.hidden_size)
    }

    /// Ends the passes of a step: what they summed as the gradient of the head at unit length becomes the gradient of
    /// the head itself. It is linear, so once for all passes is enough.
    pub fn finish_gradients(&self, b: &B, grads: &mut Gradients<B>) -> Result<()> {
        let (Some(unit), Some(d)) = (&self.unit_head, grads.of(self.ids.head_weight())) else {
            return Ok(());
        };
        b.unit_rows_backward(d, &unit.rows, &unit.scale, self.config.vocab_size, self.config.hidden_size)
    }
}
