//! Lines of JSON over a socket whose other end may be slow, silent, endless or gone.
//!
//! Every line has one deadline for all of it, so that sending a byte now and then keeps nobody waiting.

use super::LINE_LEN_MAX;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use serde::{Serialize, de::DeserializeOwned};
use silt_export::StopSignal;
use silt_types::{Error, ErrorKind, Result};
use std::{
    os::{fd::AsFd as _, unix::net::UnixStream},
    time::{Duration, Instant},
};

/// A connection, line by line.
pub(super) struct Lines<'a> {
    stream: &'a UnixStream,
    /// Whoever waits for the other end gives up when this is given.
    stop: Option<&'a StopSignal>,
    /// What was received behind the last line.
    received: Vec<u8>,
}

/// Why there is no line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Yes,
    TooLate,
    Stopped,
}

impl<'a> Lines<'a> {
    pub(super) fn new(stream: &'a UnixStream, stop: Option<&'a StopSignal>) -> Lines<'a> {
        Lines { stream, stop, received: Vec::new() }
    }

    /// The next message. `None` if the other end is done, or is to be left. `time_max` is for all of it; without one it is
    /// waited for.
    pub(super) fn receive<T: DeserializeOwned>(
        &mut self,
        time_max: Option<Duration>,
    ) -> Result<Option<T>> {
        let deadline = time_max.map(|time| Instant::now() + time);
        let mut piece = [0; 4096];
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    let message = "a message on a control socket is none";
                    Error::with_source(ErrorKind::Invalid, message, error)
                });
            }
            if self.received.len() > LINE_LEN_MAX {
                return Err(Error::invalid("a message on a control socket is too long"));
            }
            match self.wait(PollFlags::IN, deadline)? {
                Ready::Yes => {}
                Ready::Stopped => return Ok(None),
                Ready::TooLate => return Err(too_late()),
            }
            match recv(self.stream, &mut piece, RecvFlags::DONTWAIT) {
                // What ends without the end of its line is a line.
                Ok((0, _)) if !self.received.is_empty() => self.received.push(b'\n'),
                Ok((0, _)) => return Ok(None),
                Ok((len, _)) => self.received.extend_from_slice(&piece[..len]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(failed("read from", errno)),
            }
        }
    }

    /// Sends a message.
    pub(super) fn send(&mut self, message: &impl Serialize, time_max: Duration) -> Result<()> {
        let mut line = serde_json::to_vec(message).map_err(|error| {
            Error::with_source(ErrorKind::Internal, "cannot say it in JSON", error)
        })?;
        line.push(b'\n');
        let deadline = Instant::now() + time_max;
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match send(self.stream, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::INTR) => {}
                // An answer is owed even by a server that is to end.
                Err(Errno::AGAIN) => match wait(self.stream, None, PollFlags::OUT, Some(deadline))?
                {
                    Ready::Yes => {}
                    Ready::TooLate | Ready::Stopped => return Err(too_late()),
                },
                Err(errno) => return Err(failed("write to", errno)),
            }
        }
        Ok(())
    }

    fn wait(&self, flags: PollFlags, deadline: Option<Instant>) -> Result<Ready> {
        wait(self.stream, self.stop, flags, deadline)
    }
}

fn wait(
    stream: &UnixStream,
    stop: Option<&StopSignal>,
    flags: PollFlags,
    deadline: Option<Instant>,
) -> Result<Ready> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let mut fds = vec![PollFd::new(stream, flags)];
        fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for", errno)),
            Ok(0) => return Ok(Ready::TooLate),
            Ok(_) if fds[1..].iter().any(|stop| !stop.revents().is_empty()) => {
                return Ok(Ready::Stopped);
            }
            Ok(_) => return Ok(Ready::Yes),
        }
    }
}

fn too_late() -> Error {
    Error::new(ErrorKind::Busy, "the other end of a control socket takes too long")
}

fn failed(doing: &str, errno: Errno) -> Error {
    Error::io(format!("cannot {doing} a control socket"), errno.into())
}
