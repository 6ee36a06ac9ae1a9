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

/// Where the memory that deltas write from without a copy begins: at a page.
const ALIGNMENT: usize = 4096;

/// A buffer of [`INPUT_BYTES`] in front of a socket.
///
/// What comes into an empty one lies so that the payload behind a first header begins at a page.
pub(super) struct Input {
    /// As long, and two pages more.
    bytes: Box<[u8]>,
    unread: Range<usize>,
    /// Where an empty buffer begins to be filled: with a header, or in the midst of a payload.
    header_at: usize,
    payload_at: usize,
}

impl Input {
    /// For headers of this length; with what was received elsewhere, less than one.
    pub(super) fn new(header_len: usize, received: &[u8]) -> Input {
        let mut bytes: Box<[u8]> = vec![0; INPUT_BYTES + 2 * ALIGNMENT].into();
        let page = bytes.as_ptr().align_offset(ALIGNMENT);
        // Where there is no room for a header before it, the next one.
        let payload_at = if page < header_len { page + ALIGNMENT } else { page };
        let header_at = payload_at - header_len;
        bytes[header_at..header_at + received.len()].copy_from_slice(received);
        Input { bytes, unread: header_at..header_at + received.len(), header_at, payload_at }
    }

    /// What was received and not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.unread.clone()]
    }

    /// Forgets the first `len` unread bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.unread.start += len.min(self.unread.len());
    }

    /// Takes the bytes that are there, for a header; none when the client has ended its side, `None` when it has only not sent
    /// any.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Option<usize>> {
        match self.receive_at(socket, self.header_at, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            received => received.map(Some),
        }
    }

    /// `start` is where the buffer begins if it is empty.
    fn receive_at(
        &mut self,
        socket: BorrowedFd<'_>,
        start: usize,
        flags: RecvFlags,
    ) -> Result<usize> {
        if self.unread.is_empty() {
            self.unread = start..start;
        } else if self.unread.end == self.bytes.len() {
            self.bytes.copy_within(self.unread.clone(), start);
            self.unread = start..start + self.unread.len();
        }
        let room = &mut self.bytes[self.unread.end..];
        let (received, _) = retry_on_intr(|| recv(socket, &mut *room, flags))?;
        self.unread.end += received;
        Ok(received)
    }

    /// Waits until at least `len` bytes are unread; an error when the client ends before. `len` is at most
    /// [`INPUT_BYTES`].
    pub(super) fn require(&mut self, socket: BorrowedFd<'_>, len: usize) -> Result<()> {
        debug_assert!(len <= INPUT_BYTES);
        if self.bytes.len() - self.unread.start < len {
            self.bytes.copy_within(self.unread.clone(), self.payload_at);
            self.unread = self.payload_at..self.payload_at + self.unread.len();
        }
        while self.unread.len() < len {
            if self.receive_at(socket, self.payload_at, RecvFlags::empty())? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the client left mid-request"));
            }
        }
        Ok(())
    }
}
