//! Progress bars on standard error; where that is no terminal, a line now and then.

use super::printed;
use crate::data;
use crate::eval::Trial;
use crate::printable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A bar with a label, or its stand-in.
pub struct Progress {
    bar: ProgressBar,
    label: String,
    /// When the last line was printed, where there is no terminal.
    lines: Option<Mutex<Instant>>,
}

/// The bars of text that becomes tokens, where there is much of it: one for each time that text is read.
pub struct Reading {
    now: Mutex<Option<(data::Progress, Progress)>>,
    quiet: bool,
}

impl Reading {
    pub fn new(quiet: bool) -> Reading {
        Reading { now: Mutex::new(None), quiet }
    }

    /// Files of so many bytes are read, of all; from any thread, so that what is said last may be less than before.
    pub fn tell(&self, read: data::Progress) {
        /// Less is tokens in a moment.
        const MUCH: u64 = 32 << 20;
        if read.total < MUCH {
            return;
        }
        let mebibytes = |bytes: u64| (bytes >> 20) as usize;
        let mut now = self.now.lock().unwrap_or_else(|e| e.into_inner());
        let same = now.take().filter(|(before, _)| before.total == read.total);
        let (before, bar) = same.unwrap_or_else(|| {
            let bar = Progress::new("tokens", mebibytes(read.total), "MiB", self.quiet);
            (data::Progress { done: 0, ..read }, bar)
        });
        if read.done > before.done {
            bar.reach(mebibytes(read.done), "");
            if read.done == read.total {
                bar.finish();
            }
        }
        *now = Some((data::Progress { done: read.done.max(before.done), ..read }, bar));
    }
}

/// How often a line is printed where there is no terminal; one more when all is done.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// `unit` follows the counts, as in "tokens".
    pub fn new(label: &str, total: usize, unit: &str, quiet: bool) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let template =
            format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {unit} {{msg}} {{elapsed}} ETA {{eta}}");
        bar.set_style(ProgressStyle::with_template(&template).expect("the template is a constant"));
        bar.set_prefix(label.to_string());
        if quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let lines = (!quiet && !std::io::stderr().is_terminal()).then(|| Mutex::new(Instant::now()));
        Progress { bar, label: label.into(), lines }
    }

    /// `by` more are done; `message` stands beside the count.
    pub fn advance(&self, by: usize, message: &str) {
        self.bar.inc(by as u64);
        self.tell(message);
    }

    /// `done` are done in all, which may be fewer than before.
    pub fn reach(&self, done: usize, message: &str) {
        self.bar.set_position(done as u64);
        self.tell(message);
    }

    fn tell(&self, message: &str) {
        if !message.is_empty() {
            self.bar.set_message(message.to_string());
        }
        let Some(lines) = &self.lines else { return };
        let mut last = lines.lock().unwrap_or_else(|e| e.into_inner());
        let all = self.bar.length() == Some(self.bar.position());
        if all || last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            printed::note(&format!("{} {done}/{all} {message}", self.label));
        }
    }

    /// Counts trials, and the right answers among them.
    pub fn trials(&self) -> impl FnMut(&Trial) + '_ {
        let mut right = 0;
        move |trial| {
            right += usize::from(trial.correct);
            self.advance(1, &format!("{right} right"));
        }
    }

    /// Sets how many are done already.
    pub fn start_at(&self, done: usize) {
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
    }

    /// A sentence above the bar.
    pub fn note(&self, sentence: &str) {
        let sentence = printable::sentence(sentence);
        match &self.lines {
            Some(_) => printed::note(&sentence),
            None => self.bar.println(sentence),
        }
    }

    /// Ends the bar and leaves it standing; where there is no terminal, a last line.
    pub fn keep(&self) {
        self.bar.abandon();
        if self.lines.is_some() {
            let seconds = self.bar.elapsed().as_secs_f64();
            let (done, message) = (self.bar.position(), self.bar.message());
            printed::note(&format!("{} {done} {message} {seconds:.1} s", self.label));
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
