//! What happens while a run goes: what it asks of held-out text, what of it stays, what a loss that leaps does.

use super::checks::{at_least_one, counted, number};
use super::defaults::filled;
use super::{OnSpike, Settings};
use crate::error::{Error, Result};
use crate::positions::Method;

/// When and how far distances are drawn by what a probe finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapt {
    /// Steps between probes.
    pub every: u64,
    /// Share of the rows that no probe takes from a distance.
    pub floor: f64,
}

/// Which checkpoints of a run stay: the newest `last`, and those of steps that `every` divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub last: usize,
    pub every: Option<u64>,
}

/// When a loss has leapt, and what is done then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpikeRule {
    pub action: OnSpike,
    /// Standard deviations above the mean of the steps before.
    pub z: f64,
    /// How many those are.
    pub window: usize,
}

/// What goes by held-out text needs some, and needs to be told when to look.
pub(super) fn held_out(s: &Settings, need_data: bool) -> Result<()> {
    let no_text = need_data && s.eval_data.as_ref().is_none_or(Vec::is_empty);
    let early_stop = s.early_stop.map(|n| ("--early-stop", n.to_string()));
    let save_best = s.save_best.filter(|on| *on).map(|_| ("--save-best", "true".to_string()));
    let probe = s.probe_every.map(|n| ("--probe-every", n.to_string()));
    let eval = s.eval_every.map(|n| ("--eval-every", n.to_string()));
    let mut asked = early_stop.iter().chain(&save_best).chain(&probe).chain(&eval);
    if let Some((flag, value)) = asked.next().filter(|_| no_text) {
        let problem = "goes by held-out text, and there is none; name some with --eval-data";
        return Err(Error::usage(flag, value, problem));
    }
    if let Some((flag, value)) = early_stop.or(save_best).filter(|_| s.eval_every.or(s.probe_every).is_none())
    {
        let problem =
            "goes by evaluations during the training; say how often: --eval-every 50, or --probe-every 50";
        return Err(Error::usage(flag, value, problem));
    }
    Ok(())
}

/// Tokens read of each held-out document; a single one has nothing to predict.
pub(super) fn eval_tokens(s: &Settings, target_len: usize) -> Result<usize> {
    match s.eval_tokens {
        Some(n) if n.0 < 2 => Err(Error::usage("--eval-tokens", n, "must be at least 2")),
        asked => Ok(asked.map_or(target_len, |n| n.0)),
    }
}

pub(super) fn adapt(s: &Settings, need_data: bool) -> Result<Option<Adapt>> {
    let (method, no_eval) = (filled(s.method), s.eval_data.as_ref().is_none_or(Vec::is_empty));
    if method == Method::Adaptive && need_data && no_eval {
        let problem = "--method adaptive goes by a probe on held-out text, and there is none; name some of at least the \
                       target length";
        return Err(Error::usage("--eval-data", "(missing)", problem));
    }
    match (method, s.adapt_every, s.adapt_floor) {
        (Method::Adaptive, every, floor) => Ok(Some(Adapt {
            every: at_least_one("--adapt-every", filled(every))? as u64,
            floor: number("--adapt-floor", filled(floor), 0.0, 1.0)?,
        })),
        (_, None, None) => Ok(None),
        (_, Some(every), _) => {
            Err(Error::usage("--adapt-every", every, format!("is for --method adaptive and not {method}")))
        }
        (_, None, Some(floor)) => {
            Err(Error::usage("--adapt-floor", floor, format!("is for --method adaptive and not {method}")))
        }
    }
}

/// Which checkpoints stay.
pub(super) fn keep(s: &Settings) -> Result<Option<Keep>> {
    let every = counted("--keep-every", s.keep_every)?;
    match (counted("--keep-last", s.keep_last)?, every) {
        (None, None) => Ok(None),
        (None, Some(n)) => {
            let problem =
                "says which checkpoints stay beside the newest; say how many of those with --keep-last";
            Err(Error::usage("--keep-every", n, problem))
        }
        (Some(last), every) => Ok(Some(Keep { last: last as usize, every })),
    }
}

pub(super) fn on_spike(s: &Settings) -> Result<Option<SpikeRule>> {
    let (z, window) = (s.spike_z, counted("--spike-window", s.spike_window)?);
    let Some(action) = s.on_spike else {
        let flag = z.map(|z| ("--spike-z", z.to_string()));
        return match flag.or(window.map(|n| ("--spike-window", n.to_string()))) {
            None => Ok(None),
            Some((flag, value)) => {
                Err(Error::usage(flag, value, "says what a spike is; say what it does: --on-spike skip"))
            }
        };
    };
    if action == OnSpike::Rollback && s.save_every.is_none() {
        let problem =
            "goes back to the last checkpoint, and none is written; say how often: --save-every 100";
        return Err(Error::usage("--on-spike", "rollback", problem));
    }
    let window = window.unwrap_or(64) as usize;
    if window < 2 {
        return Err(Error::usage("--spike-window", window, "must be at least 2: one loss has no deviation"));
    }
    Ok(Some(SpikeRule { action, z: number("--spike-z", z.unwrap_or(6.0), 1.0, 1e6)?, window }))
}
