//! A queue of slow requests and the few threads that do them, for one connection.
//!
//! Threads start when there is work that no idle one can take, and end with the connection. The queue is bounded:
//! when it is full, the connection receives nothing more.

use super::{
    jobs::{Job, Task, perform},
    limits::{JOBS_MAX, WORKERS_MAX},
    link::Link,
    reply::Replies,
};
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
    running: usize,
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
        state.waiting.push_back(job);
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
        let thread = Builder::new().name("nbd-worker".into()).spawn(move || work(&link, &queue))?;
        self.threads.push(thread);
        Ok(())
    }
}

fn work(link: &Link, queue: &Queue) {
    let mut replies = Replies::new(link.session.headers);
    while let Some(jobs) = queue.take() {
        let _done = Done { link, queue, jobs: jobs.len() };
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
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.link.hang_up();
        }
        self.queue.lock().running -= self.jobs;
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
            if let Some(job) = state.waiting.pop_front() {
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
    fn is_full(&self) -> bool {
        self.waiting.len() + self.running >= JOBS_MAX
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}
