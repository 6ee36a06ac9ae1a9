//! A queue of slow requests and the few threads that do them, for one virtqueue.
//!
//! Threads start when there is work that no idle one can take, and end with the virtqueue. The queue is bounded: when it
//! is full, nothing more is taken from the guest.
//!
//! Writes may wait long, when the disk has no space for them: so one thread does none, and what else is asked goes on. Those
//! that wait keep nothing in memory but pointers into the guest's, and there are no more of them than the virtqueue has places.

use super::{
    jobs::{Job, Task, perform},
    limits::{JOBS_MAX, WORKERS_MAX},
    pending::Shared,
};
use silt_volume::is_wanted_while;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, Scope, ScopedJoinHandle},
};

/// The workers of one virtqueue.
pub(super) struct Workers<'scope, 'env, 'q, 'm> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'q Shared<'m>,
    /// Set when the queue is to end: then nobody waits for space any more.
    is_ending: Arc<AtomicBool>,
    jobs: Arc<Jobs<'q, 'm>>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
}

#[derive(Default)]
struct Jobs<'q, 'm> {
    state: Mutex<State<'q, 'm>>,
    /// There is a job, or there will be none any more.
    work: Condvar,
    /// A job ended.
    room: Condvar,
}

#[derive(Default)]
struct State<'q, 'm> {
    waiting: VecDeque<Job<'q, 'm>>,
    /// Writes among them.
    waiting_writes: usize,
    running: usize,
    /// Writes among those.
    running_writes: usize,
    idle_threads: usize,
    is_closed: bool,
}

impl<'scope, 'env, 'q: 'scope, 'm: 'scope> Workers<'scope, 'env, 'q, 'm> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        shared: &'q Shared<'m>,
        is_ending: Arc<AtomicBool>,
    ) -> Workers<'scope, 'env, 'q, 'm> {
        Workers { scope, shared, is_ending, jobs: Arc::default(), threads: Vec::new() }
    }

    /// Whether [`Workers::submit`] would wait.
    pub(super) fn is_full(&self) -> bool {
        self.jobs.lock().is_full()
    }

    /// Whether no job waits or runs.
    pub(super) fn are_idle(&self) -> bool {
        self.jobs.lock().is_empty()
    }

    /// Takes on a job; waits while too many wait or run. Where no thread can be had at all, it is done on this one.
    pub(super) fn submit(&mut self, job: Job<'q, 'm>) {
        let mut state = self.jobs.lock();
        while state.is_full() {
            state = wait(&self.jobs.room, state);
        }
        state.waiting_writes += usize::from(job.task.is_write());
        state.waiting.push_back(job);
        let wants_thread = state.waiting.len() > state.idle_threads;
        drop(state);
        self.jobs.work.notify_one();
        if wants_thread && self.threads.len() < WORKERS_MAX {
            let started = self.start_thread();
            if started.is_err() && self.threads.is_empty() {
                let job = self.jobs.lock().pop();
                let _done = job.as_ref().map(|job| Done::of(&self.jobs, std::slice::from_ref(job)));
                perform(job.into_iter().collect(), self.shared);
            }
        }
    }

    /// Waits until every job was done and every thread has ended.
    pub(super) fn finish(self) {
        self.jobs.lock().is_closed = true;
        self.jobs.work.notify_all();
        for thread in self.threads {
            // A worker that panicked has answered its request as failed; the panic was reported where it happened.
            let _ = thread.join();
        }
    }

    fn start_thread(&mut self) -> io::Result<()> {
        let (shared, jobs) = (self.shared, self.jobs.clone());
        let is_ending = self.is_ending.clone();
        let work = move || {
            is_wanted_while(move || !is_ending.load(Ordering::Relaxed));
            while let Some(taken) = jobs.take() {
                let _done = Done::of(&jobs, &taken);
                perform(taken, shared);
            }
        };
        let builder = Builder::new().name("vhost-worker".into());
        self.threads.push(builder.spawn_scoped(self.scope, work)?);
        Ok(())
    }
}

/// Takes jobs off the count of those that run, even when the device panics.
struct Done<'a, 'q, 'm> {
    jobs: &'a Jobs<'q, 'm>,
    count: usize,
    is_write: bool,
}

impl<'a, 'q, 'm> Done<'a, 'q, 'm> {
    fn of(jobs: &'a Jobs<'q, 'm>, taken: &[Job<'q, 'm>]) -> Done<'a, 'q, 'm> {
        let is_write = taken.first().is_some_and(|job| job.task.is_write());
        Done { jobs, count: taken.len(), is_write }
    }
}

impl Drop for Done<'_, '_, '_> {
    fn drop(&mut self) {
        let mut state = self.jobs.lock();
        state.running -= self.count;
        state.running_writes -= usize::from(self.is_write);
        drop(state);
        self.jobs.room.notify_one();
    }
}

impl<'q, 'm> Jobs<'q, 'm> {
    fn lock(&self) -> MutexGuard<'_, State<'q, 'm>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, waited for; with a flush come all others that wait, since one flush of the device covers what
    /// was written before each of them. `None` when there will be no more.
    fn take(&self) -> Option<Vec<Job<'q, 'm>>> {
        let mut state = self.lock();
        let first = loop {
            if let Some(job) = state.pop() {
                break job;
            }
            if state.is_closed {
                return None;
            }
            state.idle_threads += 1;
            state = wait(&self.work, state);
            state.idle_threads -= 1;
        };
        let mut jobs = vec![first];
        if is_flush(&jobs[0]) {
            let waiting = std::mem::take(&mut state.waiting).into_iter();
            let (flushes, others) = waiting.partition::<VecDeque<_>, _>(is_flush);
            state.waiting = others;
            jobs.extend(flushes);
            state.running += jobs.len() - 1;
        }
        Some(jobs)
    }
}

fn is_flush(job: &Job<'_, '_>) -> bool {
    matches!(job.task, Task::Flush)
}

impl<'q, 'm> State<'q, 'm> {
    /// The next job that a thread may do, which counts as running from now on.
    fn pop(&mut self) -> Option<Job<'q, 'm>> {
        let may_write = self.running_writes < WORKERS_MAX - 1 || self.is_closed;
        let is_allowed = |job: &Job<'_, '_>| may_write || !job.task.is_write();
        let job =
            self.waiting.iter().position(is_allowed).and_then(|at| self.waiting.remove(at))?;
        self.waiting_writes -= usize::from(job.task.is_write());
        self.running_writes += usize::from(job.task.is_write());
        self.running += 1;
        Some(job)
    }

    fn is_empty(&self) -> bool {
        self.waiting.len() + self.running == 0
    }

    fn is_full(&self) -> bool {
        self.waiting.len() - self.waiting_writes + self.running >= JOBS_MAX
    }
}

fn wait<'a, 'q, 'm>(
    condition: &Condvar,
    state: MutexGuard<'a, State<'q, 'm>>,
) -> MutexGuard<'a, State<'q, 'm>> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}
