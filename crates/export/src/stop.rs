//! How a server is told to end, from another thread or by a signal, or to pass on its clients.
//!
//! A pipe that becomes readable and stays so, since nobody empties it: any number of servers can wait for it in `poll`
//! beside their sockets, and asking twice is asking once.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
};
use silt_types::{Context as _, Error, Result};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A request to end, shared by whoever asks and whoever obeys. Clones are the same signal.
#[derive(Clone, Debug)]
pub struct StopSignal(Arc<Pipe>);

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    passes_on: AtomicBool,
}

impl StopSignal {
    /// A signal that was not given yet. Fails only when the process is out of file descriptors.
    pub fn new() -> Result<StopSignal> {
        let what = || "cannot make a stop signal".to_owned();
        let (read, write) = io::pipe().context(what)?;
        ioctl_fionbio(&write, true).map_err(io::Error::from).context(what)?;
        Ok(StopSignal(Arc::new(Pipe {
            read: read.into(),
            write: write.into(),
            passes_on: AtomicBool::new(false),
        })))
    }

    /// Asks every server that runs with this signal to end. Never waits.
    pub fn trigger(&self) {
        // A full pipe means that the signal was given long ago.
        let _ = rustix::io::write(&self.0.write, &[1]);
    }

    /// Asks the servers that run with this signal to end in another way, unless they are ending already: clients stay connected,
    /// between two requests, for a server that takes over. See [`crate::Export::passed_on`].
    pub fn pass_on(&self) {
        if !self.is_triggered() {
            self.0.passes_on.store(true, Ordering::Release);
            self.trigger();
        }
    }

    /// Whether clients are to be passed on.
    pub fn is_passing_on(&self) -> bool {
        self.0.passes_on.load(Ordering::Acquire)
    }

    /// Waits for the signal, at most so long. Whether it was given.
    pub fn wait(&self, at_most: Duration) -> bool {
        let at_most = Timespec {
            tv_sec: at_most.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.0.read, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&at_most)), Ok(1))
    }

    /// Whether the signal was given.
    pub fn is_triggered(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Gives the signal whenever the process gets SIGTERM, SIGINT or SIGHUP, for the rest of its life. These no longer end the
    /// process by themselves.
    pub fn trigger_on_termination(&self) -> Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            let failed = |error: io::Error| {
                Error::io(format!("cannot listen to the process signal {signal}"), error)
            };
            let write = self.0.write.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, write).map_err(failed)?;
        }
        Ok(())
    }
}

impl AsFd for StopSignal {
    /// Readable from the moment the signal is given, for ever: for `poll` only.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.read.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_once_given_stays_given_for_every_clone() {
        let signal = StopSignal::new().unwrap();
        let other = signal.clone();
        assert!(!other.is_triggered());
        (0..100_000).for_each(|_| signal.trigger());
        assert!(other.is_triggered() && other.is_triggered() && signal.is_triggered());
    }

    #[test]
    fn sigterm_gives_the_signal_instead_of_ending_the_process() {
        let signal = StopSignal::new().unwrap();
        signal.trigger_on_termination().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .unwrap();
        let mut fds = [PollFd::new(&signal, PollFlags::IN)];
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
    }
}
