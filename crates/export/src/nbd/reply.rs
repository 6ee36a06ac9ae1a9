//! Replies as bytes, several behind each other in one reused buffer.
//!
//! After structured replies were negotiated, reads, block status and errors are answered with chunks (errors carry a
//! message), plain success with the shorter simple reply, as the specification allows.

use super::{
    limits::MESSAGE_BYTES_MAX,
    request::Refusal,
    wire::{
        ALLOCATION_CONTEXT_ID, Asked, CHUNK_HEADER_LEN_MAX, EXTENT_HOLE, EXTENT_ZERO, Errno,
        Headers, SIMPLE_REPLY_LEN, chunk, chunk_header, chunk_header_len, simple_reply,
    },
};
use silt_types::{Error, Result};
use silt_volume::BlockStatus;

/// The longest reply that carries no data: an error with its message.
pub(super) const SHORT_REPLY_BYTES_MAX: usize = CHUNK_HEADER_LEN_MAX + 6 + MESSAGE_BYTES_MAX;

/// A part of what a read asked for.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) asked: Asked,
    /// Where the part begins.
    pub(super) offset: u64,
    pub(super) len: usize,
    /// Nothing follows for this request.
    pub(super) is_last: bool,
}

/// Replies that were not sent yet.
pub(super) struct Replies {
    bytes: Vec<u8>,
    len: usize,
    headers: Headers,
}

impl Replies {
    /// An empty buffer that grows to what is put in and keeps that size.
    pub(super) fn new(headers: Headers) -> Replies {
        Replies { bytes: Vec::new(), len: 0, headers }
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
        len + match self.headers {
            Headers::Simple => SIMPLE_REPLY_LEN,
            _ => chunk_header_len(self.headers) + 8,
        }
    }

    /// The request was done.
    pub(super) fn done(&mut self, asked: Asked) {
        match self.headers {
            Headers::Extended => self.chunk((chunk::DONE, chunk::NONE), asked, 0),
            _ => self.push(&simple_reply(asked.cookie, 0)),
        }
    }

    /// A read of nothing was done.
    pub(super) fn no_data(&mut self, asked: Asked) {
        match self.headers {
            Headers::Simple => self.done(asked),
            _ => self.chunk((chunk::DONE, chunk::NONE), asked, 0),
        }
    }

    /// The request was refused.
    pub(super) fn refused(&mut self, asked: Asked, refusal: Refusal) {
        self.error(asked, refusal.errno, refusal.reason);
    }

    /// The request failed, or part of it did.
    pub(super) fn failed(&mut self, asked: Asked, error: &Error) {
        self.error(asked, Errno::of(error), &error.chain());
    }

    fn error(&mut self, asked: Asked, errno: Errno, message: &str) {
        if self.headers == Headers::Simple {
            return self.push(&simple_reply(asked.cookie, errno as u32));
        }
        let mut end = message.len().min(MESSAGE_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = &message.as_bytes()[..end];
        self.chunk((chunk::DONE, chunk::ERROR), asked, 6 + message.len());
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
        if self.headers == Headers::Simple {
            self.push(&simple_reply(piece.asked.cookie, 0));
        } else {
            let flags = if piece.is_last { chunk::DONE } else { 0 };
            self.chunk((flags, chunk::OFFSET_DATA), piece.asked, piece.len + 8);
            self.push(&piece.offset.to_be_bytes());
        }
        self.len = end;
        Ok(true)
    }

    /// A reply with extents; neighbours of one status become one. Together they are at most as long as was asked for, which
    /// the caller has seen to.
    pub(super) fn extents(&mut self, asked: Asked, runs: &[BlockStatus]) {
        let mut extents: Vec<(u64, u32)> = Vec::with_capacity(runs.len());
        for run in runs {
            let flags = u32::from(run.hole) * EXTENT_HOLE + u32::from(run.zero) * EXTENT_ZERO;
            match extents.last_mut() {
                Some((len, same)) if *same == flags => *len += run.len_bytes,
                _ => extents.push((run.len_bytes, flags)),
            }
        }
        if self.headers == Headers::Extended {
            let len = 8 + 16 * extents.len();
            self.chunk((chunk::DONE, chunk::BLOCK_STATUS_EXT), asked, len);
            self.push(&ALLOCATION_CONTEXT_ID.to_be_bytes());
            self.push(&(extents.len() as u32).to_be_bytes());
            for (len, flags) in extents {
                self.push(&len.to_be_bytes());
                self.push(&u64::from(flags).to_be_bytes());
            }
        } else {
            self.chunk((chunk::DONE, chunk::BLOCK_STATUS), asked, 4 + 8 * extents.len());
            self.push(&ALLOCATION_CONTEXT_ID.to_be_bytes());
            for (len, flags) in extents {
                // What was asked for fits 32 bits, and so do its parts.
                self.push(&(len as u32).to_be_bytes());
                self.push(&flags.to_be_bytes());
            }
        }
    }

    /// The header of a chunk.
    fn chunk(&mut self, flags_and_kind: (u16, u16), asked: Asked, len: usize) {
        let header = chunk_header(self.headers, flags_and_kind, asked, len);
        self.push(&header[..chunk_header_len(self.headers)]);
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
