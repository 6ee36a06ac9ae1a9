//! Queues as the monitor's messages see them: started, and stopped when their last request is answered.

use super::{
    limits::DRAIN_TIME_MAX,
    memory::Refused,
    queue::{Ending, Setup, run},
    ring::Ring,
};
use crate::StopSignal;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::Builder,
    time::{Duration, Instant},
};

/// A queue with its thread.
#[derive(Debug)]
pub(super) struct Running {
    ending: Ending,
    base: u16,
    ended: Receiver<u16>,
}

impl Running {
    /// Starts a queue. Refused where its ring or inflight record cannot be used.
    pub(super) fn start(setup: Setup, index: usize) -> Result<Running, Refused> {
        // Tried here, where the monitor hears of it, and opened again by the thread.
        let base = Ring::open(&setup.memory, &setup.place, setup.inflight.clone())?.base();
        let signal = StopSignal::new().map_err(|_| Refused("there is no room for a queue"))?;
        let ending = Ending { signal, is_wanted: Arc::new(AtomicBool::new(false)) };
        let (tell, ended) = channel();
        let builder = Builder::new().name(format!("vhost-queue-{index}"));
        let its_ending = ending.clone();
        let started = builder.spawn(move || {
            // Nobody listens any more if the queue took too long to end.
            let _ = run(setup, &its_ending).map(|base| tell.send(base));
        });
        started.map_err(|_| Refused("there is no room for a queue"))?;
        Ok(Running { ending, base, ended })
    }

    /// Asks it to end, without waiting.
    pub(super) fn ask_to_end(&self) {
        self.ending.is_wanted.store(true, Ordering::Relaxed);
        self.ending.signal.trigger();
    }

    /// Waits until every request that was taken is answered, and returns where the queue goes on. Waits as long as the
    /// device takes, but not beyond `patience`: then it is left to itself.
    pub(super) fn end(self, patience: &mut Patience) -> Result<u16, Refused> {
        self.ask_to_end();
        loop {
            match self.ended.recv_timeout(Duration::from_millis(50)) {
                Ok(base) => return Ok(base),
                // It could not begin, or the device panicked: it takes nothing more.
                Err(RecvTimeoutError::Disconnected) => return Ok(self.base),
                Err(RecvTimeoutError::Timeout) if patience.is_at_its_end() => {
                    return Err(Refused("requests in flight wait for the device"));
                }
                Err(RecvTimeoutError::Timeout) => (),
            }
        }
    }
}

/// How long queues that end are waited for: for ever, until the server is to stop.
#[derive(Debug)]
pub(super) struct Patience {
    server_stops: StopSignal,
    deadline: Option<Instant>,
}

impl Patience {
    pub(super) fn new(server_stops: StopSignal) -> Patience {
        Patience { server_stops, deadline: None }
    }

    /// Whether the server was to stop [`DRAIN_TIME_MAX`] ago.
    fn is_at_its_end(&mut self) -> bool {
        if self.deadline.is_none() && self.server_stops.is_triggered() {
            self.deadline = Some(Instant::now() + DRAIN_TIME_MAX);
        }
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}
