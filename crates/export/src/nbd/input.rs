//! What a client sent and nobody read yet: one buffer for the life of a connection, many requests per receive.

use super::limits::INPUT_BYTES;
use rustix::{
    io::retry_on_intr,
    net::{RecvFlags, recv},
};
use std::{
    io::{Error, ErrorKind, Result},
    ops::Range,
    os::fd::BorrowedFd,
};

/// A buffer of [`INPUT_BYTES`] in front of a socket.
pub(super) struct Input {
    bytes: Box<[u8]>,
    unread: Range<usize>,
}

impl Input {
    /// With what was received elsewhere, of which there is less than fits.
    pub(super) fn new(received: &[u8]) -> Input {
        let mut bytes = vec![0; INPUT_BYTES];
        bytes[..received.len()].copy_from_slice(received);
        Input { bytes: bytes.into(), unread: 0..received.len() }
    }

    /// What was received and not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.unread.clone()]
    }

    /// Forgets the first `len` unread bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.unread.start += len.min(self.unread.len());
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
    }

    /// Waits for more bytes; false when the client has ended its side.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<bool> {
        if self.unread.end == self.bytes.len() {
            self.bytes.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let room = &mut self.bytes[self.unread.end..];
        let (received, _) = retry_on_intr(|| recv(socket, &mut *room, RecvFlags::empty()))?;
        self.unread.end += received;
        Ok(received > 0)
    }

    /// Waits until at least `len` bytes are unread; an error when the client ends before. `len` is at most
    /// [`INPUT_BYTES`].
    pub(super) fn require(&mut self, socket: BorrowedFd<'_>, len: usize) -> Result<()> {
        debug_assert!(len <= self.bytes.len());
        while self.unread.len() < len {
            if !self.receive(socket)? {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the client left mid-request"));
            }
        }
        Ok(())
    }
}
