//! A queue of slow requests and the few threads that do them, for one connection.
//!
//! Threads start when there is work that no idle one can take, and end with the connection. The queue is bounded:
//! when it is full, the connection receives nothing more.
//!
//! Writes may wait long, when the disk has no space for them: so one thread does none, and what else is asked goes on.

use super::{
    jobs::{Job, Task, perform},
    limits::{JOBS_MAX, WAITING_BYTES_MAX, WORKERS_MAX},
    link::Link,
    reply::Replies,
};
use silt_types::BLOCK_SIZE_BYTES;
use silt_volume::is_wanted_while;
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
};

/// The workers of one connection.
pub(super) struct Workers {
    link: Arc<Link>,
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// There is a job, or there will be none any more.
    work: Condvar,
    /// A job ended.
    room: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Writes among them, and what they keep in memory.
    waiting_writes: usize,
    waiting_bytes: usize,
    running: usize,
    /// Writes among those.
    running_writes: usize,
    idle_threads: usize,
    is_closed: bool,
}

impl Workers {
    pub(super) fn new(link: Arc<Link>) -> Workers {
        Workers { link, queue: Arc::default(), threads: Vec::new() }
    }

    /// Whether [`Workers::submit`] would wait.
    pub(super) fn is_full(&self) -> bool {
        self.queue.lock().is_full()
    }

    /// Takes on a job; waits while too many wait or run. Fails if there is no thread and none can be had.
    pub(super) fn submit(&mut self, job: Job) -> io::Result<()> {
        let mut state = self.queue.lock();
        while state.is_full() {
            state = wait(&self.queue.room, state);
        }
        state.push(job);
        let wants_thread = state.waiting.len() > state.idle_threads;
        drop(state);
        self.queue.work.notify_one();
        if wants_thread && self.threads.len() < WORKERS_MAX {
            match self.start_thread() {
                Err(error) if self.threads.is_empty() => return Err(error),
                _ => (),
            }
        }
        Ok(())
    }

    /// Waits until every job was done and every thread has ended.
    pub(super) fn finish(self) {
        self.queue.lock().is_closed = true;
        self.queue.work.notify_all();
        for thread in self.threads {
            // A worker that panicked has cut the connection; the panic was reported where it happened.
            let _ = thread.join();
        }
    }

    fn start_thread(&mut self) -> io::Result<()> {
        let (link, queue) = (self.link.clone(), self.queue.clone());
        let client = link.clone();
        let thread = Builder::new().name("nbd-worker".into()).spawn(move || {
            is_wanted_while(move || !client.is_gone());
            work(&link, &queue);
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

fn work(link: &Link, queue: &Queue) {
    let mut replies = Replies::new(link.session.headers);
    while let Some(jobs) = queue.take() {
        let is_write = jobs.first().is_some_and(|job| job.bytes_held().is_some());
        let _done = Done { link, queue, jobs: jobs.len(), is_write };
        if !link.is_broken() {
            perform(&jobs, link, &mut replies);
        }
    }
}

/// Takes jobs off the count of those that run, even when the device panics; then the connection, which would wait for
/// an answer for ever, is cut.
struct Done<'a> {
    link: &'a Link,
    queue: &'a Queue,
    jobs: usize,
    is_write: bool,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.link.hang_up();
        }
        let mut state = self.queue.lock();
        state.running -= self.jobs;
        state.running_writes -= usize::from(self.is_write);
        drop(state);
        self.queue.room.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, waited for; with a flush come all others that wait, since one flush of the device covers what
    /// was written before each of them. `None` when there will be no more.
    fn take(&self) -> Option<Vec<Job>> {
        let mut state = self.lock();
        let first = loop {
            let was_full = state.is_full();
            if let Some(job) = state.pop() {
                if was_full {
                    self.room.notify_one();
                }
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
        if jobs[0].task == Task::Flush {
            let waiting = std::mem::take(&mut state.waiting).into_iter();
            let (flushes, others) =
                waiting.partition::<VecDeque<_>, _>(|job| job.task == Task::Flush);
            state.waiting = others;
            jobs.extend(flushes);
        }
        state.running += jobs.len();
        Some(jobs)
    }
}

impl State {
    fn push(&mut self, job: Job) {
        if let Some(bytes) = job.bytes_held() {
            self.waiting_writes += 1;
            self.waiting_bytes += bytes.max(BLOCK_SIZE_BYTES as usize);
        }
        self.waiting.push_back(job);
    }

    /// The next job that a thread may do.
    fn pop(&mut self) -> Option<Job> {
        let may_write = self.running_writes < WORKERS_MAX - 1 || self.is_closed;
        let is_allowed = |job: &Job| may_write || job.bytes_held().is_none();
        let job =
            self.waiting.iter().position(is_allowed).and_then(|at| self.waiting.remove(at))?;
        if let Some(bytes) = job.bytes_held() {
            self.waiting_writes -= 1;
            self.waiting_bytes -= bytes.max(BLOCK_SIZE_BYTES as usize);
            self.running_writes += 1;
        }
        Some(job)
    }

    fn is_full(&self) -> bool {
        self.waiting.len() - self.waiting_writes + self.running >= JOBS_MAX
            || self.waiting_bytes >= WAITING_BYTES_MAX
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}
