//! How many devices the states of a training would need if they were split evenly, as ZeRO-3 does (1910.02054). This is
//! arithmetic on a plan: the program itself runs on one device.

use super::{Kind, Ledger, bytes_text};

/// What ZeRO-3 splits: everything that there is one of for each parameter.
const STATES: [Kind; 4] = [Kind::Weights, Kind::MasterWeights, Kind::Moments, Kind::Gradients];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    pub devices: usize,
    /// Bytes of states on each device.
    pub states: usize,
    /// Bytes of everything else, which each device has in full.
    pub rest: usize,
}

impl Split {
    /// The fewest devices of `limit` bytes; None where what is not split fills one alone.
    pub fn of(plan: &Ledger, limit: usize) -> Option<Split> {
        let states: usize = STATES.into_iter().map(|kind| plan.of(kind)).sum();
        let rest = plan.total() - states;
        let room = limit.checked_sub(rest).filter(|&room| room > 0)?;
        let devices = states.div_ceil(room).max(1);
        Some(Split { devices, states: states.div_ceil(devices), rest })
    }
}

/// One sentence about [`Split`].
pub fn split_text(plan: &Ledger, limit: usize) -> String {
    let device = bytes_text(limit);
    match Split::of(plan, limit) {
        Some(Split { devices, states, rest }) => format!(
            "arithmetic (this program runs on one device): split evenly as ZeRO-3 does, weights, master weights, moments and \
             gradients take {devices} devices of {device}, {} on each beside {} of everything else",
            bytes_text(states),
            bytes_text(rest)
        ),
        None => format!("what ZeRO-3 would not split does not fit a device of {device} either"),
    }
}
