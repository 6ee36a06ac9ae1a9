//! A bounded queue of slow requests and a few threads that do them.
//!
//! Threads start when there is work that no idle one can take, and end when the queue is closed. When the queue is full,
//! whoever brings a job does it: so a flood slows down who sends it, and memory stays bounded.

use super::limits::{JOBS_MAX, WORKERS_MAX};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::Builder,
    time::{Duration, Instant},
};

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It writes, and may wait long, when the disk has no space for it. One worker does none of those.
    Write,
    /// Anything else.
    Other,
}

/// A request with everything that it takes to do and to answer it. Dropped undone it is answered with an error.
type Job = Box<dyn FnOnce() + Send>;

/// The workers of one mount. Clones are the same ones.
#[derive(Clone, Default)]
pub(super) struct Workers(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// There is a job, or there will be none any more.
    work: Condvar,
    /// A job ended.
    done: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Kind, Job)>,
    running: usize,
    /// Writes among those.
    running_writes: usize,
    threads: usize,
    idle_threads: usize,
    is_closed: bool,
}

impl Workers {
    /// Has a job done, by a worker or, where that cannot be, right here.
    pub(super) fn submit(&self, kind: Kind, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        if state.is_closed || state.waiting.len() >= JOBS_MAX {
            drop(state);
            return job();
        }
        state.waiting.push_back((kind, Box::new(job)));
        let wants_thread = state.waiting.len() > state.idle_threads && state.threads < WORKERS_MAX;
        if wants_thread {
            state.threads += 1;
        }
        drop(state);
        self.0.work.notify_one();
        if wants_thread && !self.start_thread() {
            self.do_without_a_thread();
        }
    }

    /// Waits until nothing waits or runs; false if that takes longer than `time`.
    pub(super) fn wait_until_idle(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.0.lock();
        while !state.waiting.is_empty() || state.running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.done.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lets the threads end once nothing waits any more.
    pub(super) fn close(&self) {
        self.0.lock().is_closed = true;
        self.0.work.notify_all();
    }

    fn start_thread(&self) -> bool {
        let queue = self.0.clone();
        let started = Builder::new().name("fuse-worker".into()).spawn(move || queue.work());
        started.is_ok()
    }

    /// Where the system gives no thread, and no other is there to take the job.
    fn do_without_a_thread(&self) {
        let mut state = self.0.lock();
        state.threads -= 1;
        if state.threads == 0
            && let Some((_, job)) = state.waiting.pop_front()
        {
            drop(state);
            job();
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some((kind, job)) = self.take() {
            // A job that panics has dropped what it was to answer, which is an answer; the panic was reported.
            let _ = catch_unwind(AssertUnwindSafe(job));
            let mut state = self.lock();
            state.running -= 1;
            state.running_writes -= usize::from(kind == Kind::Write);
            drop(state);
            self.done.notify_all();
        }
    }

    /// The next job, waited for; none when there will be no more.
    fn take(&self) -> Option<(Kind, Job)> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.pop() {
                return Some(job);
            }
            if state.is_closed {
                state.threads -= 1;
                return None;
            }
            state.idle_threads += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle_threads -= 1;
        }
    }
}

impl State {
    /// The next job that a worker may do, which counts as running from now on.
    fn pop(&mut self) -> Option<(Kind, Job)> {
        let may_write = self.running_writes < WORKERS_MAX - 1 || self.is_closed;
        let is_allowed = |(kind, _): &(Kind, Job)| may_write || *kind == Kind::Other;
        let job =
            self.waiting.iter().position(is_allowed).and_then(|at| self.waiting.remove(at))?;
        self.running += 1;
        self.running_writes += usize::from(job.0 == Kind::Write);
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn jobs_are_done_whatever_others_do() {
        let (workers, done) = (Workers::default(), Arc::new(AtomicUsize::new(0)));
        for number in 0..1000 {
            let done = done.clone();
            workers.submit(Kind::Other, move || {
                done.fetch_add(1, Ordering::Relaxed);
                assert!(number != 7, "this job panics, as the test wants it");
            });
        }
        assert!(workers.wait_until_idle(LONG));
        assert_eq!(done.load(Ordering::Relaxed), 1000);
        workers.close();
    }

    #[test]
    fn a_full_queue_makes_those_who_bring_work_do_it() {
        let (workers, mut gates) = (Workers::default(), Vec::new());
        for _ in 0..WORKERS_MAX {
            let (gate, wait) = mpsc::channel::<()>();
            let (begin, begun) = mpsc::channel();
            workers.submit(Kind::Other, move || {
                begin.send(()).unwrap();
                let _ = wait.recv();
            });
            begun.recv().unwrap();
            gates.push(gate);
        }
        let here = std::thread::current().id();
        let done_here = Arc::new(AtomicUsize::new(0));
        for _ in 0..JOBS_MAX + 5 {
            let done_here = done_here.clone();
            workers.submit(Kind::Other, move || {
                let is_here = std::thread::current().id() == here;
                done_here.fetch_add(usize::from(is_here), Ordering::Relaxed);
            });
        }
        assert_eq!(done_here.load(Ordering::Relaxed), 5);
        assert!(!workers.wait_until_idle(Duration::ZERO));
        drop(gates);
        assert!(workers.wait_until_idle(LONG));
        workers.close();
    }
}
