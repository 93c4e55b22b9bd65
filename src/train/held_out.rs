//! What is asked of the held-out text while a run goes, and what follows of it: how distances are drawn, which model is
//! the best, when to stop.

use super::metrics::Log;
use super::{Opened, State, Watch, probe};
use crate::backend::Backend;
use crate::checkpoint::{Best, Standing};
use crate::error::Result;
use crate::positions::DistanceWeights;
use crate::recipe::Recipe;

impl<B: Backend> State<B> {
    /// Whether no step is to follow: all are done, or the held-out text has said so.
    pub(super) fn is_over(&self, recipe: &Recipe) -> bool {
        let stopped = |patience: u64| self.standing.since_best >= patience;
        self.steps_done >= recipe.schedule.steps || recipe.early_stop.is_some_and(stopped)
    }

    /// Before the first step and after each: evaluates and probes where that is due. Whether the model is the best so
    /// far, in a run that goes by that: by its evaluations, or by its probes where only these are asked for.
    pub(super) fn look_at_held_out(
        &mut self, b: &B, recipe: &Recipe, opened: &mut Opened, log: &mut Log, watch: &dyn Watch,
    ) -> Result<bool> {
        if opened.eval.documents.is_empty() {
            return Ok(false);
        }
        let due = self.is_due(recipe, recipe.eval_every);
        let mut best = due && self.evaluate_and_tell(b, recipe, opened, log, watch)?;
        best |= self.probe_where_due(b, recipe, opened, log, watch)?;
        if !due && self.is_over(recipe) {
            // every run ends with one, whatever it went by
            self.evaluate_and_tell(b, recipe, opened, log, watch)?;
        }
        Ok(best)
    }

    /// Every so many steps, and after the last.
    fn is_due(&self, recipe: &Recipe, every: Option<u64>) -> bool {
        let done = self.steps_done;
        done > 0 && every.is_some_and(|n| done == recipe.schedule.steps || done.is_multiple_of(n))
    }

    fn evaluate_and_tell(
        &mut self, b: &B, recipe: &Recipe, opened: &Opened, log: &mut Log, watch: &dyn Watch,
    ) -> Result<bool> {
        let done = self.steps_done;
        let report = self.evaluate(b, recipe, opened)?;
        watch.note(&format!("step {done}: perplexity {:.4} at {} tokens", report.ppl, report.window));
        let best = recipe.eval_every.is_some() && self.judge(recipe, report.ppl, watch);
        log.eval(done, &report, best)?;
        Ok(best)
    }

    fn probe_where_due(
        &mut self, b: &B, recipe: &Recipe, opened: &mut Opened, log: &mut Log, watch: &dyn Watch,
    ) -> Result<bool> {
        let (done, asked) = (self.steps_done, self.is_due(recipe, recipe.probe_every));
        let adapt = recipe.adapt.filter(|adapt| done.is_multiple_of(adapt.every) && !self.is_over(recipe));
        if !asked && adapt.is_none() {
            return Ok(false);
        }
        let scorer = self.scorer.as_mut().expect("allocated whenever there is held-out text");
        let probe = probe::probe(b, &self.model, scorer, &opened.eval, recipe)?;
        watch.note(&format!("step {done}: {}", probe.sentence(recipe)));
        let best = asked && recipe.eval_every.is_none() && self.judge(recipe, probe.long_ppl(), watch);
        let weights = adapt.map(|adapt| DistanceWeights::by_need(&probe.excess(), adapt.floor));
        log.probe(done, &probe, weights.as_ref(), best)?;
        weights.into_iter().for_each(|weights| opened.loader.set_weights(weights));
        Ok(best)
    }

    /// Counts an evaluation; whether it is the best so far. One that is no number is not.
    fn judge(&mut self, recipe: &Recipe, ppl: f64, watch: &dyn Watch) -> bool {
        if !recipe.is_judged() {
            return false;
        }
        let (step, standing) = (self.steps_done, &mut self.standing);
        if ppl.is_finite() && standing.best.is_none_or(|best| ppl < best.ppl) {
            *standing = Standing { best: Some(Best { step, ppl }), since_best: 0 };
            return true;
        }
        standing.since_best += 1;
        if recipe.early_stop == Some(standing.since_best) {
            let n = standing.since_best;
            watch.note(&format!(
                "step {step}: the perplexity was not better {n} times in a row, so this is the last step"
            ));
        }
        false
    }
}
