//! Answering commands while a disk is served: a thread that accepts, and one for each connection.
//!
//! A connection that is slow, silent or hostile takes a place from others for a second, and holds up nobody else. When the
//! server ends, questions that were not received whole are not answered; those that were are.

use super::{
    CLIENTS_MAX, QUESTION_TIME_MAX, ServedDisk,
    lines::Lines,
    message::{Answer, Question},
    status::Samples,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use silt_export::{SocketFile, StopSignal};
use silt_types::{Error, Result};
use std::{
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How long accepting rests after it failed: descriptors run out for moments.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers commands until it is dropped.
pub(crate) struct ControlServer {
    stop: StopSignal,
    thread: Option<thread::JoinHandle<()>>,
}

impl ControlServer {
    /// Answers whoever connects to `socket`.
    pub(crate) fn start(socket: SocketFile, served: Arc<ServedDisk>) -> Result<ControlServer> {
        let stop = StopSignal::new()?;
        let until = stop.clone();
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || accept_until(&until, &socket, &served))
            .map_err(|error| Error::io("cannot start the thread that answers commands", error))?;
        Ok(ControlServer { stop, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.trigger();
        if let Some(thread) = self.thread.take() {
            // A panic there was told by its thread; the volume is closed all the same.
            let _ = thread.join();
        }
    }
}

fn accept_until(stop: &StopSignal, socket: &SocketFile, served: &Arc<ServedDisk>) {
    let clients = Arc::new(Clients::default());
    let period = Samples::PERIOD;
    let period = Timespec { tv_sec: period.as_secs() as i64, tv_nsec: 0 };
    loop {
        let listener = socket.as_fd();
        let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        let polled = poll(&mut fds, Some(&period));
        if !fds[0].revents().is_empty() {
            break;
        }
        served.sample();
        match polled {
            Ok(0) => {}
            Ok(_) => match socket.accept() {
                Ok(stream) => clients.admit(stream, served, stop),
                Err(_) => thread::sleep(PAUSE),
            },
            Err(_) => thread::sleep(PAUSE),
        }
    }
    clients.wait_until_none();
}

/// Connections that are open.
#[derive(Default)]
struct Clients {
    count: Mutex<usize>,
    fewer: Condvar,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a connection its thread. Beyond what one user's commands need it is closed, and so it is where there is no thread
    /// to be had.
    fn admit(self: &Arc<Self>, stream: UnixStream, served: &Arc<ServedDisk>, stop: &StopSignal) {
        {
            let mut count = self.lock();
            if *count == CLIENTS_MAX {
                return;
            }
            *count += 1;
        }
        let (place, served, stop) = (Place(self.clone()), served.clone(), stop.clone());
        // If this fails, the closure and with it the place and the stream are dropped.
        let _ = thread::Builder::new().name("control-client".into()).spawn(move || {
            // Whoever asked and went away is not told; what was done for it the next one finds.
            let _ = answer_all(&stream, &served, &stop);
            // Not before: what is waited for at the end is that the disk is let go of, too.
            drop(served);
            drop(place);
        });
    }

    fn wait_until_none(&self) {
        let count = self.lock();
        drop(self.fewer.wait_while(count, |count| *count > 0));
    }
}

/// A connection's place, given back however its thread ends.
struct Place(Arc<Clients>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.fewer.notify_all();
    }
}

fn answer_all(stream: &UnixStream, served: &ServedDisk, stop: &StopSignal) -> Result<()> {
    let mut lines = Lines::new(stream, Some(stop));
    loop {
        let (result, is_last) = match lines.receive::<Question>(Some(QUESTION_TIME_MAX)) {
            Ok(None) => return Ok(()),
            Ok(Some(Question::TakeOver)) => match served.answer(Question::TakeOver) {
                Ok(answer) => {
                    lines.send(&answer, QUESTION_TIME_MAX)?;
                    let failed = |error| Error::io("cannot keep a control socket", error);
                    served.pass_on_to(stream.try_clone().map_err(failed)?);
                    return Ok(());
                }
                refused => (refused, false),
            },
            Ok(Some(question)) => (served.answer(question), false),
            // What follows cannot be trusted to be a question.
            Err(error) => (Err(error), true),
        };
        lines.send(&Answer::from(result), QUESTION_TIME_MAX)?;
        if is_last {
            return Ok(());
        }
    }
}
