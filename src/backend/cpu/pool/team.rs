//! Threads that one job after the other is handed to, fast enough for operations of a few microseconds.
//!
//! Waking a sleeping thread takes 50 µs and more, which for a token that is decoded alone (hundreds of operations of some
//! 20 µs each) is longer than the work. So a thread that has nothing to do looks out for the next job for a while
//! before it sleeps; and the caller does not wait for a thread that has not begun by the time the work is done.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks out for a job before it sleeps: longer than what lies between two operations of a pass.
const LOOKOUT: Duration = Duration::from_micros(200);

/// Looks between two glances at the clock. (Not giving the core away in between: on a busy machine it would be gone for
/// milliseconds, and the caller go on alone.)
const LOOKS: usize = 256;

/// The gate to a job, in one word: how many threads are inside, whether it is closed, and which job it is.
const ONE: u64 = 1;
const CLOSED: u64 = 1 << 16;
const INSIDE: u64 = CLOSED - 1;
const NEXT: u64 = 1 << 17;

/// More than any machine has cores, and few enough for the gate to count them.
const MOST_THREADS: usize = 4095;

/// What the threads run; `'static` only in name, see [`Team::run`].
type Job = *const (dyn Fn() + Sync);

/// `threads` threads beside the caller's.
#[derive(Debug)]
pub(super) struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held while a job runs: there is one at a time.
    busy: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    gate: AtomicU64,
    /// Written with the gate closed and nobody inside, read by those who have come in.
    job: UnsafeCell<Option<Job>>,
    /// What a thread panicked with in this job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    quit: AtomicBool,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

// SAFETY: all but `job` is Sync by itself, and `job` is written and read as its comment says, with the gate's acquire and
// release between; what it points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to something Sync, which any thread may use.
unsafe impl Send for Shared {}

impl Team {
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        if threads > MOST_THREADS {
            return Err(std::io::Error::other(format!("at most {} are possible", MOST_THREADS + 1)));
        }
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(CLOSED),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            quit: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut team = Team { shared, threads: Vec::with_capacity(threads), busy: Mutex::new(()) };
        for i in 1..=threads {
            let shared = team.shared.clone();
            let name = format!("pose-cpu-{i}");
            team.threads.push(std::thread::Builder::new().name(name).spawn(move || shared.serve())?);
        }
        Ok(team)
    }

    /// Runs `job` on the calling thread and, at the same time, on those others that come before it is done here. It must do
    /// all there is to do whoever runs it: draw from a queue until that is empty. A panic in it is passed on.
    pub(super) fn run(&self, job: &(dyn Fn() + Sync)) {
        let _busy = match self.busy.try_lock() {
            Ok(busy) => busy,
            // A job that panicked is over.
            Err(TryLockError::Poisoned(busy)) => busy.into_inner(),
            // Another job is under way: this one was called from inside it, or from another thread of the program.
            Err(TryLockError::WouldBlock) => return job(),
        };
        // SAFETY: only the lifetime is changed. Nobody reads the pointer who has not come in, nobody comes in after
        // `close`, and `close` waits for those inside before this function, and so the borrow, ends.
        let job_for_all: Job = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), Job>(job) };
        let shared = &*self.shared;
        // SAFETY: the gate is closed and nobody is inside: so `close` left it, and `busy` keeps other callers out.
        unsafe { *shared.job.get() = Some(job_for_all) };
        let next = (shared.gate.load(Ordering::Relaxed) & !(CLOSED | INSIDE)) + NEXT;
        shared.gate.store(next, Ordering::SeqCst);
        shared.wake_sleepers();
        let mine = catch_unwind(AssertUnwindSafe(job));
        shared.close();
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        self.shared.wake_sleepers();
        for thread in self.threads.drain(..) {
            // A panic of its job has been passed on already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A thread's life.
    fn serve(&self) {
        let mut last = CLOSED;
        while let Some(gate) = self.look_out(last) {
            last = gate & !INSIDE;
            if self.enter(last) {
                // SAFETY: inside, where the pointer is not written and what it points to is alive.
                let job = unsafe { (*self.job.get()).map(|job| &*job) };
                if let Some(Err(panic)) = job.map(|job| catch_unwind(AssertUnwindSafe(job))) {
                    self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                }
                self.gate.fetch_sub(ONE, Ordering::Release);
            }
        }
    }

    /// Waits for an open gate other than the `last` one; none when it is time to go.
    fn look_out(&self, last: u64) -> Option<u64> {
        let news = || {
            let gate = self.gate.load(Ordering::SeqCst);
            (gate & CLOSED == 0 && gate & !INSIDE != last).then_some(gate)
        };
        let quits = || self.quit.load(Ordering::SeqCst);
        let begun = Instant::now();
        while begun.elapsed() < LOOKOUT && !quits() {
            for _ in 0..LOOKS {
                if let Some(gate) = news() {
                    return Some(gate);
                }
                std::hint::spin_loop();
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        // Said before the last look: a caller that has not seen it has opened the gate before that look.
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let mut found = news();
        while found.is_none() && !quits() {
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
            found = news();
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        found
    }

    fn wake_sleepers(&self) {
        if self.asleep.load(Ordering::SeqCst) > 0 {
            let _bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }

    /// Comes in if the gate is still that of the `open` job.
    fn enter(&self, open: u64) -> bool {
        let mut gate = open;
        while gate & !INSIDE == open {
            match self.gate.compare_exchange_weak(gate, gate + ONE, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
        false
    }

    /// Lets nobody in any more and waits until all have gone.
    fn close(&self) {
        let mut gate = self.gate.fetch_or(CLOSED, Ordering::AcqRel);
        let mut looks = 0;
        while gate & INSIDE > 0 {
            std::hint::spin_loop();
            looks += 1;
            if looks % LOOKS == 0 {
                std::thread::yield_now();
            }
            gate = self.gate.load(Ordering::Acquire);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many short jobs, with pauses in which the threads fall asleep: everything is done, exactly once, before `run` returns.
    #[test]
    fn does_all_the_work_of_each_job() {
        let team = Team::new(3).expect("threads");
        for job in 0..2000usize {
            let next = AtomicUsize::new(0);
            let done: Vec<AtomicUsize> = (0..job % 50).map(|_| AtomicUsize::new(0)).collect();
            team.run(&|| {
                while let Some(done) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1), "job {job}");
            if job % 500 == 0 {
                std::thread::sleep(3 * LOOKOUT);
            }
        }
    }

    /// Sleeping threads are woken, and take part.
    #[test]
    fn all_threads_come() {
        let team = Team::new(2).expect("threads");
        std::thread::sleep(5 * LOOKOUT);
        let barrier = std::sync::Barrier::new(3);
        team.run(&|| {
            barrier.wait();
        });
    }

    #[test]
    fn a_job_inside_a_job_runs_where_it_is_called() {
        let team = Team::new(1).expect("threads");
        let (outer, inner) = (AtomicUsize::new(0), AtomicUsize::new(0));
        team.run(&|| {
            outer.fetch_add(1, Ordering::Relaxed);
            team.run(&|| {
                inner.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(outer.load(Ordering::Relaxed), inner.load(Ordering::Relaxed));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(1).expect("threads");
        let barrier = std::sync::Barrier::new(2);
        let caller = std::thread::current().id();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|| {
                barrier.wait();
                assert!(std::thread::current().id() == caller, "planted");
            });
        }));
        let message = caught.expect_err("a panic");
        assert!(message.downcast_ref::<&str>().is_some_and(|m| m.contains("planted")));
        team.run(&|| {
            barrier.wait();
        });
    }
}
