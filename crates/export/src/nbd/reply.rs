//! Replies as bytes, several behind each other in one reused buffer.
//!
//! After structured replies were negotiated, reads, block status and errors are answered with chunks (errors carry a
//! message), plain success with the shorter simple reply, as the specification allows.

use super::{
    limits::MESSAGE_BYTES_MAX,
    request::Refusal,
    wire::{
        ALLOCATION_CONTEXT_ID, CHUNK_HEADER_LEN, EXTENT_HOLE, EXTENT_ZERO, Errno, SIMPLE_REPLY_LEN,
        chunk, chunk_header, simple_reply,
    },
};
use silt_types::{Error, Result};
use silt_volume::BlockStatus;

/// The longest reply that carries no data: an error with its message.
pub(super) const SHORT_REPLY_BYTES_MAX: usize = CHUNK_HEADER_LEN + 6 + MESSAGE_BYTES_MAX;

/// A part of what a read asked for.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: usize,
    /// Nothing follows for this request.
    pub(super) is_last: bool,
}

/// Replies that were not sent yet.
pub(super) struct Replies {
    bytes: Vec<u8>,
    len: usize,
    structured: bool,
}

impl Replies {
    /// An empty buffer that grows to what is put in and keeps that size.
    pub(super) fn new(structured: bool) -> Replies {
        Replies { bytes: Vec::new(), len: 0, structured }
    }

    /// What is to be sent.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Forgets what was sent.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// The bytes that a reply with `len` bytes of data takes.
    pub(super) fn data_reply_len(&self, len: usize) -> usize {
        len + if self.structured { CHUNK_HEADER_LEN + 8 } else { SIMPLE_REPLY_LEN }
    }

    /// The request was done.
    pub(super) fn done(&mut self, cookie: u64) {
        self.push(&simple_reply(cookie, 0));
    }

    /// A read of nothing was done.
    pub(super) fn no_data(&mut self, cookie: u64) {
        if self.structured {
            self.push(&chunk_header(chunk::DONE, chunk::NONE, cookie, 0));
        } else {
            self.done(cookie);
        }
    }

    /// The request was refused.
    pub(super) fn refused(&mut self, cookie: u64, refusal: Refusal) {
        self.error(cookie, refusal.errno, refusal.reason);
    }

    /// The request failed, or part of it did.
    pub(super) fn failed(&mut self, cookie: u64, error: &Error) {
        self.error(cookie, Errno::of(error), &error.chain());
    }

    fn error(&mut self, cookie: u64, errno: Errno, message: &str) {
        if !self.structured {
            return self.push(&simple_reply(cookie, errno as u32));
        }
        let mut end = message.len().min(MESSAGE_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = &message.as_bytes()[..end];
        let len = 6 + message.len() as u32;
        self.push(&chunk_header(chunk::DONE, chunk::ERROR, cookie, len));
        self.push(&(errno as u32).to_be_bytes());
        self.push(&(message.len() as u16).to_be_bytes());
        self.push(message);
    }

    /// A reply with the data that `fill` puts in place. If `fill` says false or fails, there is no reply. Without
    /// structured replies a piece is the whole of a read.
    pub(super) fn data(
        &mut self,
        piece: Piece,
        fill: impl FnOnce(&mut [u8]) -> Result<bool>,
    ) -> Result<bool> {
        let start = self.len;
        let end = start + self.data_reply_len(piece.len);
        self.reserve(end);
        if !fill(&mut self.bytes[end - piece.len..end])? {
            return Ok(false);
        }
        if self.structured {
            let flags = if piece.is_last { chunk::DONE } else { 0 };
            let len = piece.len as u32 + 8;
            self.push(&chunk_header(flags, chunk::OFFSET_DATA, piece.cookie, len));
            self.push(&piece.offset.to_be_bytes());
        } else {
            self.push(&simple_reply(piece.cookie, 0));
        }
        self.len = end;
        Ok(true)
    }

    /// A reply with extents; neighbours of one status become one. Together they are at most `len` long, which the
    /// caller has seen to.
    pub(super) fn extents(&mut self, cookie: u64, runs: &[BlockStatus]) {
        let mut extents: Vec<(u32, u32)> = Vec::with_capacity(runs.len());
        for run in runs {
            let flags = u32::from(run.hole) * EXTENT_HOLE + u32::from(run.zero) * EXTENT_ZERO;
            match extents.last_mut() {
                Some((len, same)) if *same == flags => *len += run.len_bytes as u32,
                _ => extents.push((run.len_bytes as u32, flags)),
            }
        }
        let len = 4 + 8 * extents.len() as u32;
        self.push(&chunk_header(chunk::DONE, chunk::BLOCK_STATUS, cookie, len));
        self.push(&ALLOCATION_CONTEXT_ID.to_be_bytes());
        for (len, flags) in extents {
            self.push(&len.to_be_bytes());
            self.push(&flags.to_be_bytes());
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.reserve(end);
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    fn reserve(&mut self, end: usize) {
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
    }
}
