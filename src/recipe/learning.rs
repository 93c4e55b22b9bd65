//! How the weights are trained: schedule, loss, optimizer, adapters.

use super::checks::{at_least_one, number};
use super::defaults::filled;
use super::{Settings, Size};
use crate::error::{Error, Result};
use crate::model::{LongCe, Lora, Loss};
use crate::optim::{AdamHyper, Schedule};

pub(super) fn schedule(s: &Settings) -> Result<Schedule> {
    let steps = at_least_one("--steps", filled(s.steps))? as u64;
    Ok(Schedule {
        kind: filled(s.schedule),
        peak: number("--lr", filled(s.lr), 0.0, 1e3)?,
        warmup: (filled(s.warmup).0 as u64).min(steps),
        steps,
    })
}

/// How tokens of rows of `window` are weighed. The short context is by default an eighth of it: in the paper's fine-tuning
/// it is 4k of 32k.
pub(super) fn longce(s: &Settings, window: usize) -> Result<Option<LongCe>> {
    if s.loss != Some(Loss::LongCe) {
        let short = s.longce_short.map(|n| ("--longce-short", n.to_string()));
        let gamma = s.longce_gamma.map(|x| ("--longce-gamma", x.to_string()));
        return match short.or(gamma) {
            None => Ok(None),
            Some((flag, value)) => {
                Err(Error::usage(flag, value, "is for --loss longce, and the loss is ce; add --loss longce"))
            }
        };
    }
    let short = at_least_one("--longce-short", s.longce_short.unwrap_or(Size((window / 8).max(1))))?;
    if short.checked_mul(2).is_none_or(|both| both >= window) {
        let problem = format!(
            "leaves no token of a row of {window} that sees more in the row than in its short context, which goes up to \
             twice that; ask for less than half of the row"
        );
        return Err(Error::usage("--longce-short", short, problem));
    }
    let gamma = number("--longce-gamma", s.longce_gamma.unwrap_or(5.0), 1.0, 1e6)?;
    Ok(Some(LongCe { short, gamma }))
}

pub(super) fn adam(s: &Settings) -> Result<AdamHyper> {
    Ok(AdamHyper {
        beta1: number("--beta1", filled(s.beta1), 0.0, 0.999_999)?,
        beta2: number("--beta2", filled(s.beta2), 0.0, 0.999_999_9)?,
        eps: 1e-8,
        weight_decay: number("--weight-decay", filled(s.weight_decay), 0.0, 1e3)?,
        clip: number("--clip", filled(s.clip), 0.0, f64::MAX)?,
        seed: filled(s.seed),
    })
}

/// The adapters that are asked for; whether the rank fits is known when the model is.
pub(super) fn lora(s: &Settings) -> Result<Option<Lora>> {
    let Some(rank) = s.lora_rank else {
        let given = s.as_table().keys().find(|key| key.starts_with("lora-")).cloned();
        return match given {
            None => Ok(None),
            Some(key) => Err(Error::usage(
                &format!("--{key}"),
                s.as_table()[&key].to_string(),
                "is for adapters, and none are trained; add --lora-rank, as in --lora-rank 16",
            )),
        };
    };
    if rank == 0 {
        return Err(Error::usage(
            "--lora-rank",
            0,
            "must be at least 1; leave it out to train the whole model",
        ));
    }
    let mut targets = filled(s.lora_targets.clone());
    targets.sort_unstable();
    targets.dedup();
    if targets.is_empty() {
        return Err(Error::usage(
            "--lora-targets",
            "",
            "must name a projection: q, k, v, o, gate, up or down",
        ));
    }
    let alpha = filled(s.lora_alpha);
    if !(alpha.is_finite() && alpha > 0.0) {
        return Err(Error::usage("--lora-alpha", alpha, "must be a finite number above 0"));
    }
    Ok(Some(Lora {
        rank,
        alpha,
        targets,
        also: s.lora_train.clone().unwrap_or_default(),
        rank_stabilised: s.lora_rs.unwrap_or(false),
    }))
}
