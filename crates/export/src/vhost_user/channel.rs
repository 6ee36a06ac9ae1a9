//! The way back: a socket on which the server may speak to the monitor first.
//!
//! Its one message here is that the configuration changed. The `vhost` crate has no call for that, and hides the socket
//! it is given; so the message that brings the socket is taken off the wire before the crate sees it.

use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recv, recvmsg, send},
};
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
};
use vhost::vhost_user::message::{BackendReq, FrontendReq, VhostUserHeaderFlag};

/// Length of a message's header: request, flags, length of what follows, in the machine's own order.
const HEADER_BYTES: usize = 12;

/// The version of the protocol, in the flags of every message.
const VERSION: u32 = 1;

/// What stands first in the monitor's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The monitor is gone.
    End,
    /// A channel.
    Channel,
    /// Something for the `vhost` crate.
    Message,
}

/// Looks at what stands first, and leaves it there.
pub(super) fn look(socket: &UnixStream) -> Next {
    let mut header = [0; HEADER_BYTES];
    match recv(socket, &mut header[..], RecvFlags::PEEK).map(|(_, len)| len) {
        Ok(0) => Next::End,
        Ok(HEADER_BYTES) if field(&header, 0) == FrontendReq::SET_BACKEND_REQ_FD as u32 => {
            Next::Channel
        }
        Ok(_) | Err(Errno::INTR) => Next::Message,
        Err(_) => Next::End,
    }
}

/// Takes the channel that stands first. `None` if what brings it is malformed. `reply_ack`: whether answers were agreed on.
pub(super) fn take_channel(socket: &UnixStream, reply_ack: bool) -> Option<Channel> {
    let mut header = [0; HEADER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut header)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let mut fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let (fd, more) = (fds.next()?, fds.next());
    let is_well_formed = received.is_ok_and(|received| received.bytes == HEADER_BYTES)
        && field(&header, 8) == 0
        && more.is_none();
    if !is_well_formed {
        return None;
    }
    if reply_ack && field(&header, 4) & VhostUserHeaderFlag::NEED_REPLY.bits() != 0 {
        let flags = VERSION | VhostUserHeaderFlag::REPLY.bits();
        let header = message(FrontendReq::SET_BACKEND_REQ_FD as u32, flags, 8);
        let answer = [&header[..], &0u64.to_ne_bytes()].concat();
        send(socket, &answer, SendFlags::NOSIGNAL).ok().filter(|sent| *sent == answer.len())?;
    }
    Some(Channel(fd))
}

/// A way to the monitor.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Tells the monitor to look at the configuration again. Never waits: a monitor that does not listen is not told.
    pub(super) fn config_changed(&self) {
        let message = message(BackendReq::CONFIG_CHANGE_MSG as u32, VERSION, 0);
        let _ = send(&self.0, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

fn field(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let bytes = header[at..].first_chunk().expect("fields lie in the header");
    u32::from_ne_bytes(*bytes)
}

fn message(request: u32, flags: u32, len: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    for (at, field) in [request, flags, len].into_iter().enumerate() {
        header[4 * at..4 * at + 4].copy_from_slice(&field.to_ne_bytes());
    }
    header
}
