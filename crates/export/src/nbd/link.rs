//! The sending side of one connection, shared by its own thread and its workers.
//!
//! Replies go out whole and one after the other: whoever sends holds the lock until the last byte is with the kernel.

use crate::StopSignal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    net::{SendFlags, Shutdown, send, shutdown},
};
use silt_volume::BlockDevice;
use std::{
    io::{ErrorKind, Result},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::request::Session;

/// A client in the transmission phase, and the device it works on.
pub(super) struct Link {
    socket: Arc<OwnedFd>,
    sending: Mutex<()>,
    broken: AtomicBool,
    /// What was negotiated.
    pub(super) session: Session,
    /// What is served.
    pub(super) device: Arc<dyn BlockDevice>,
    /// When to end.
    stop: StopSignal,
}

impl Link {
    pub(super) fn new(
        socket: Arc<OwnedFd>,
        session: Session,
        device: Arc<dyn BlockDevice>,
        stop: StopSignal,
    ) -> Link {
        let (sending, broken) = (Mutex::new(()), AtomicBool::new(false));
        Link { socket, sending, broken, session, device, stop }
    }

    /// Whether the client is to go on elsewhere after this request.
    pub(super) fn is_to_be_passed_on(&self) -> bool {
        self.stop.is_passing_on()
    }

    /// Waits until the client has sent something or is gone, or the server is to end.
    pub(super) fn wait_for_client(&self) -> Result<()> {
        let mut fds =
            [PollFd::new(&*self.socket, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        retry_on_intr(|| poll(&mut fds, None))?;
        Ok(())
    }

    /// The socket, for receiving: that is done by one thread alone.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends all of `replies`. Waits as long as the client does not read: its own requests then stand still, nobody
    /// else's. An error breaks the link.
    pub(super) fn send(&self, replies: &[u8]) -> Result<()> {
        self.exclusively().send(replies)
    }

    /// The sending side for a reply that is sent in pieces.
    pub(super) fn exclusively(&self) -> Sender<'_> {
        Sender { _lock: self.sending.lock().unwrap_or_else(PoisonError::into_inner), link: self }
    }

    /// Ends both directions at once: for a client that is gone or has to be let go mid-reply.
    pub(super) fn hang_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }

    /// Whether nobody can be answered any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The same, or its client has closed it, which the connection's own thread may be too busy to hear of.
    pub(super) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let closed = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let heard = poll(&mut fds, Some(&Timespec::default())).is_ok();
        self.is_broken() || (heard && fds[0].revents().intersects(closed))
    }
}

/// The right to send.
pub(super) struct Sender<'a> {
    _lock: MutexGuard<'a, ()>,
    link: &'a Link,
}

impl Sender<'_> {
    /// As [`Link::send`].
    pub(super) fn send(&mut self, mut replies: &[u8]) -> Result<()> {
        while !replies.is_empty() {
            let sent = retry_on_intr(|| send(&*self.link.socket, replies, SendFlags::NOSIGNAL));
            let sent = sent.inspect_err(|_| self.link.hang_up())?;
            replies = replies.get(sent..).filter(|_| sent > 0).ok_or(ErrorKind::WriteZero)?;
        }
        Ok(())
    }
}
