//! The numbers and byte layouts of the NBD protocol. Everything is big-endian.
//!
//! Source: `doc/proto.md` of the NBD project, the sections named at each group. No I/O here.

use silt_types::{Error, ErrorKind};

/// First word of the greeting, and with [`OPTION_MAGIC`] all of it ("Fixed newstyle negotiation").
pub(super) const GREETING_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Second word of the greeting, and the start of every option.
pub(super) const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Start of every reply to an option.
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request.
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a request with extended headers (branch `extension-ext-header` of the specification, as QEMU 8.2 speaks it).
pub(super) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a simple reply.
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a chunk of a structured reply.
pub(super) const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Start of a chunk with extended headers.
pub(super) const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flags, of server and client alike: fixed newstyle.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no 124 zeroes after the answer to `EXPORT_NAME`.
pub(super) const NO_ZEROES: u16 = 2;

/// Option types ("Option types").
pub(super) mod option {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const INFO: u32 = 6;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
    pub(in crate::nbd) const EXTENDED_HEADERS: u32 = 11;
}

/// Option reply types ("Option reply types").
pub(super) mod answer {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const SERVER: u32 = 2;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const META_CONTEXT: u32 = 4;
    pub(in crate::nbd) const UNSUPPORTED: u32 = 0x8000_0001;
    pub(in crate::nbd) const POLICY: u32 = 0x8000_0002;
    pub(in crate::nbd) const INVALID: u32 = 0x8000_0003;
    pub(in crate::nbd) const UNKNOWN: u32 = 0x8000_0006;
    pub(in crate::nbd) const TOO_BIG: u32 = 0x8000_0009;
    pub(in crate::nbd) const EXTENDED_REQUIRED: u32 = 0x8000_000a;
}

/// Kinds of information in the answer to `INFO` and `GO`.
pub(super) const INFO_EXPORT: u16 = 0;
/// Block sizes, as [`INFO_EXPORT`].
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags ("Transmission flags"): what the export can do.
pub(super) mod can {
    pub(in crate::nbd) const HAS_FLAGS: u16 = 1;
    pub(in crate::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::nbd) const FLUSH: u16 = 1 << 2;
    pub(in crate::nbd) const FUA: u16 = 1 << 3;
    pub(in crate::nbd) const TRIM: u16 = 1 << 5;
    pub(in crate::nbd) const WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::nbd) const DF: u16 = 1 << 7;
    pub(in crate::nbd) const MULTI_CONN: u16 = 1 << 8;
    pub(in crate::nbd) const CACHE: u16 = 1 << 10;
    pub(in crate::nbd) const FAST_ZERO: u16 = 1 << 11;
}

/// Request types ("Request types").
pub(super) mod command {
    pub(in crate::nbd) const READ: u16 = 0;
    pub(in crate::nbd) const WRITE: u16 = 1;
    pub(in crate::nbd) const DISCONNECT: u16 = 2;
    pub(in crate::nbd) const FLUSH: u16 = 3;
    pub(in crate::nbd) const TRIM: u16 = 4;
    pub(in crate::nbd) const CACHE: u16 = 5;
    pub(in crate::nbd) const WRITE_ZEROES: u16 = 6;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 7;
}

/// Request flags ("Command flags").
pub(super) mod flag {
    pub(in crate::nbd) const FUA: u16 = 1;
    pub(in crate::nbd) const NO_HOLE: u16 = 1 << 1;
    pub(in crate::nbd) const DF: u16 = 1 << 2;
    pub(in crate::nbd) const REQ_ONE: u16 = 1 << 3;
    pub(in crate::nbd) const FAST_ZERO: u16 = 1 << 4;
    pub(in crate::nbd) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Chunk types of structured replies ("Structured reply types").
pub(super) mod chunk {
    pub(in crate::nbd) const DONE: u16 = 1;
    pub(in crate::nbd) const NONE: u16 = 0;
    pub(in crate::nbd) const OFFSET_DATA: u16 = 1;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 5;
    pub(in crate::nbd) const BLOCK_STATUS_EXT: u16 = 6;
    pub(in crate::nbd) const ERROR: u16 = 0x8001;
}

/// The one metadata context there is ("Metadata querying").
pub(super) const ALLOCATION_CONTEXT: &[u8] = b"base:allocation";
/// The id that its extents carry.
pub(super) const ALLOCATION_CONTEXT_ID: u32 = 1;
/// Extent flag: takes no space.
pub(super) const EXTENT_HOLE: u32 = 1;
/// Extent flag: reads as zero.
pub(super) const EXTENT_ZERO: u32 = 2;

/// Error values ("Error values").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
    NotPermitted = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSupported = 95,
}

impl Errno {
    /// The value that tells a client about an error of the device.
    pub(super) fn of(error: &Error) -> Errno {
        match error.kind() {
            ErrorKind::NoSpace => Errno::NoSpace,
            ErrorKind::Invalid => Errno::Invalid,
            _ => Errno::Io,
        }
    }
}

/// How headers and replies look, by what was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Headers {
    /// Simple replies only.
    Simple,
    /// Replies may come in chunks.
    Structured,
    /// Lengths have 64 bits, and every reply is a chunk.
    Extended,
}

/// A request as it came, of any content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHeader {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl RequestHeader {
    /// Length in bytes.
    pub(super) const fn len_of(headers: Headers) -> usize {
        match headers {
            Headers::Simple | Headers::Structured => 28,
            Headers::Extended => 32,
        }
    }

    /// Decodes [`RequestHeader::len_of`] bytes. `None` if the magic is not that of a request: then nothing that follows can
    /// be trusted.
    pub(super) fn decode(bytes: &[u8], headers: Headers) -> Option<RequestHeader> {
        let mut fields = Fields(bytes);
        let magic = fields.u32()?;
        let (flags, command) = (fields.u16()?, fields.u16()?);
        let (cookie, offset) = (fields.u64()?, fields.u64()?);
        let (expected, len) = match headers {
            Headers::Simple | Headers::Structured => (REQUEST_MAGIC, fields.u32()?.into()),
            Headers::Extended => (EXTENDED_REQUEST_MAGIC, fields.u64()?),
        };
        (magic == expected).then_some(RequestHeader { flags, command, cookie, offset, len })
    }

    /// What its replies are told apart by.
    pub(super) fn asked(&self) -> Asked {
        Asked { cookie: self.cookie, offset: self.offset }
    }

    /// Bytes that follow it: of a write always, of other requests if an extended header says so.
    pub(super) fn payload_len(&self, headers: Headers) -> u64 {
        let says_so = headers == Headers::Extended && self.flags & flag::PAYLOAD_LEN != 0;
        if self.command == command::WRITE || says_so { self.len } else { 0 }
    }
}

/// The request that a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) cookie: u64,
    /// Where the request began; extended headers repeat it.
    pub(super) offset: u64,
}

/// Reads numbers off the front of bytes; `None` when they end early.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Length of the header of a simple reply.
pub(super) const SIMPLE_REPLY_LEN: usize = 16;

/// The header of a simple reply; `error` is 0 for success.
pub(super) fn simple_reply(cookie: u64, error: u32) -> [u8; SIMPLE_REPLY_LEN] {
    let mut bytes = [0; SIMPLE_REPLY_LEN];
    bytes[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// The longest header of a chunk.
pub(super) const CHUNK_HEADER_LEN_MAX: usize = 32;

/// Length of the header of a chunk.
pub(super) const fn chunk_header_len(headers: Headers) -> usize {
    match headers {
        Headers::Simple | Headers::Structured => 20,
        Headers::Extended => CHUNK_HEADER_LEN_MAX,
    }
}

/// The header of a chunk with `len` bytes of payload: the first [`chunk_header_len`] bytes count.
pub(super) fn chunk_header(
    headers: Headers,
    (flags, kind): (u16, u16),
    asked: Asked,
    len: usize,
) -> [u8; CHUNK_HEADER_LEN_MAX] {
    let mut bytes = [0; CHUNK_HEADER_LEN_MAX];
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&asked.cookie.to_be_bytes());
    if headers == Headers::Extended {
        bytes[0..4].copy_from_slice(&EXTENDED_CHUNK_MAGIC.to_be_bytes());
        bytes[16..24].copy_from_slice(&asked.offset.to_be_bytes());
        bytes[24..32].copy_from_slice(&(len as u64).to_be_bytes());
    } else {
        bytes[0..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        bytes[16..20].copy_from_slice(&(len as u32).to_be_bytes());
    }
    bytes
}
