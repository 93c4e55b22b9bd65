//! Threads: a queue of tasks that all of them draw from, and memory that tasks write disjoint parts of.

mod disjoint;
mod team;

use crate::error::{Error, Result};
pub(super) use disjoint::Disjoint;
use std::sync::{Mutex, PoisonError};
use team::Team;

/// Below this much work the calling thread does it alone: handing it over takes about as long.
const ALONE_NS: f64 = 5_000.0;

/// The threads of a backend: the caller's and those of a team.
#[derive(Debug)]
pub(super) struct Workers {
    /// `threads - 1` of them; none when there is only the caller.
    team: Option<Team>,
    threads: usize,
}

impl Workers {
    pub(super) fn new(threads: usize) -> Result<Self> {
        let refuse = |problem| Error::Device { device: "cpu".into(), problem };
        let team = match threads {
            0 => return Err(refuse("0 threads: at least 1 is needed".into())),
            1 => None,
            _ => Some(
                Team::new(threads - 1).map_err(|e| refuse(format!("cannot start {threads} threads: {e}")))?,
            ),
        };
        Ok(Workers { team, threads })
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task` on every item. Each worker has one of `states` (as many as threads, at least one) and draws the next
    /// item when it is done with the last, so that all are busy to the end. `ns`: about how long it takes one thread.
    pub(super) fn each_with<S, I, States>(
        &self, ns: f64, states: States, items: impl Iterator<Item = I> + Send,
        task: impl Fn(&mut S, I) + Sync,
    ) where
        States: IntoIterator<Item = S, IntoIter: Send>,
    {
        let mut states = states.into_iter().take(self.threads);
        let Some(team) = self.team.as_ref().filter(|_| ns >= ALONE_NS) else {
            let Some(mut state) = states.next() else { return };
            begin_job();
            return items.for_each(|item| task(&mut state, item));
        };
        let (states, queue) = (Mutex::new(states), Mutex::new(items));
        team.run(&|| {
            let Some(mut state) = draw(&states) else { return };
            begin_job();
            while let Some(item) = draw(&queue) {
                task(&mut state, item);
            }
        });
    }

    /// [`Self::each_with`] for tasks that need no state.
    pub(super) fn each<I: Send>(
        &self, ns: f64, items: impl Iterator<Item = I> + Send, task: impl Fn(I) + Sync,
    ) {
        self.each_with(ns, std::iter::repeat_n((), self.threads), items, |(), item| task(item));
    }

    /// How long a run of consecutive units (rows, tokens) a task should take: about eight tasks a thread, and of
    /// `cost_ns` per unit at least a few microseconds.
    pub(super) fn run_length(&self, units: usize, cost_ns: f64) -> usize {
        let fair = units.div_ceil(8 * self.threads);
        let worth = (4000.0 / cost_ns.max(0.01)).ceil() as usize;
        fair.max(worth).max(1)
    }
}

/// What a thread does before a job's first task.
fn begin_job() {
    #[cfg(target_arch = "x86_64")]
    super::matmul::amx::forget_configuration();
}

/// The next one of what several threads draw from.
fn draw<I>(queue: &Mutex<impl Iterator<Item = I>>) -> Option<I> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}
