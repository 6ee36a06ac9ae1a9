//! What a client may ask: every request is held against what was negotiated and against the device's size, before
//! anything is done about it.

use super::{
    limits::{PAYLOAD_BYTES_MAX, READ_PIECE_BYTES_MAX},
    wire::{Errno, Headers, RequestHeader, command, flag},
};
use silt_types::BLOCK_SIZE_BYTES;
use silt_volume::Geometry;

/// What client and server agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The device, as the client was told.
    pub(super) geometry: Geometry,
    /// How headers and replies look.
    pub(super) headers: Headers,
    /// The client may ask for `base:allocation`.
    pub(super) allocation: bool,
}

/// A request that may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read { unfragmented: bool },
    Write,
    Flush,
    Trim,
    Cache,
    WriteZeroes { may_unmap: bool, only_fast: bool },
    BlockStatus { one_extent: bool },
    Disconnect,
}

/// Why a request may not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) reason: &'static str,
}

const fn invalid(reason: &'static str) -> Refusal {
    Refusal { errno: Errno::Invalid, reason }
}

/// The request that a header asks for. The payload of a refused write still has to be read.
pub(super) fn check(header: &RequestHeader, session: &Session) -> Result<Request, Refusal> {
    let (request, flags) = request_and_flags(header, session)?;
    if request == Request::Disconnect {
        return Ok(request);
    }
    if header.flags & !flags != 0 {
        return Err(invalid("this request does not take these flags"));
    }
    check_rights(request, session)?;
    if request != Request::Flush {
        check_range(request, header, session)?;
    }
    Ok(request)
}

/// The request, and the flags it takes: FUA is valid, if without effect, on all of them.
fn request_and_flags(header: &RequestHeader, session: &Session) -> Result<(Request, u16), Refusal> {
    let has = |flag| header.flags & flag != 0;
    Ok(match header.command {
        command::READ => {
            let is_simple = session.headers == Headers::Simple;
            let flags = if is_simple { flag::FUA } else { flag::FUA | flag::DF };
            (Request::Read { unfragmented: has(flag::DF) || is_simple }, flags)
        }
        // Extended headers say of a write what it has anyway; one that does not say so is taken all the same.
        command::WRITE if session.headers == Headers::Extended => {
            (Request::Write, flag::FUA | flag::PAYLOAD_LEN)
        }
        command::WRITE => (Request::Write, flag::FUA),
        command::DISCONNECT => (Request::Disconnect, 0),
        command::FLUSH => (Request::Flush, flag::FUA),
        command::TRIM => (Request::Trim, flag::FUA),
        command::CACHE => (Request::Cache, flag::FUA),
        command::WRITE_ZEROES => {
            let (may_unmap, only_fast) = (!has(flag::NO_HOLE), has(flag::FAST_ZERO));
            let flags = flag::FUA | flag::NO_HOLE | flag::FAST_ZERO;
            (Request::WriteZeroes { may_unmap, only_fast }, flags)
        }
        command::BLOCK_STATUS => {
            (Request::BlockStatus { one_extent: has(flag::REQ_ONE) }, flag::FUA | flag::REQ_ONE)
        }
        _ => return Err(invalid("this request is not known")),
    })
}

fn check_rights(request: Request, session: &Session) -> Result<(), Refusal> {
    match request {
        Request::Write | Request::Trim | Request::WriteZeroes { .. }
            if session.geometry.read_only =>
        {
            Err(Refusal { errno: Errno::NotPermitted, reason: "the export is read-only" })
        }
        Request::BlockStatus { .. } if !session.allocation => {
            Err(invalid("no metadata context was negotiated"))
        }
        _ => Ok(()),
    }
}

fn check_range(request: Request, header: &RequestHeader, session: &Session) -> Result<(), Refusal> {
    let end = header.offset.checked_add(header.len);
    if end.is_none_or(|end| end > session.geometry.size_bytes) {
        let errno = match request {
            Request::Write | Request::WriteZeroes { .. } => Errno::NoSpace,
            _ => Errno::Invalid,
        };
        return Err(Refusal { errno, reason: "the range ends beyond the export" });
    }
    match request {
        Request::Read { .. } if header.len > u64::from(PAYLOAD_BYTES_MAX) => {
            Err(invalid("the read is longer than the largest block"))
        }
        Request::Read { unfragmented: true }
            if session.headers != Headers::Simple
                && header.len > u64::from(READ_PIECE_BYTES_MAX) =>
        {
            Err(Refusal { errno: Errno::Overflow, reason: "too long for one chunk" })
        }
        Request::BlockStatus { .. } if header.len == 0 => Err(invalid("the range is empty")),
        Request::WriteZeroes { only_fast: true, .. } if !is_whole_blocks(header) => {
            let reason = "parts of blocks would have to be read and written";
            Err(Refusal { errno: Errno::NotSupported, reason })
        }
        _ => Ok(()),
    }
}

/// Whether nothing but whole blocks is asked for: zeroing those never reads or writes data.
fn is_whole_blocks(header: &RequestHeader) -> bool {
    (header.offset | header.len).is_multiple_of(BLOCK_SIZE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let geometry = Geometry { size_bytes: 1 << 30, read_only: false };
        Session { geometry, headers: Headers::Structured, allocation: true }
    }

    fn ask(command: u16, flags: u16, offset: u64, len: u32) -> RequestHeader {
        RequestHeader { flags, command, cookie: 7, offset, len: len.into() }
    }

    #[test]
    fn what_is_not_offered_is_refused_with_the_error_of_the_specification() {
        let simple = Session { headers: Headers::Simple, allocation: false, ..session() };
        let extended = Session { headers: Headers::Extended, ..session() };
        let longer = RequestHeader { len: 1 << 33, ..ask(command::TRIM, 0, 0, 0) };
        let geometry = Geometry { read_only: true, ..session().geometry };
        let read_only = Session { geometry, ..session() };
        let end = 1 << 30;
        let cases = [
            (session(), ask(command::READ, 0, end - 1, 2), Errno::Invalid),
            (session(), ask(command::READ, 0, u64::MAX, 1), Errno::Invalid),
            (session(), ask(command::READ, 0, 0, PAYLOAD_BYTES_MAX + 1), Errno::Invalid),
            (session(), ask(command::READ, flag::DF, 0, 2 << 20), Errno::Overflow),
            (session(), ask(command::READ, flag::REQ_ONE, 0, 1), Errno::Invalid),
            (simple, ask(command::READ, flag::DF, 0, 1), Errno::Invalid),
            (session(), ask(command::WRITE, 0, end, 1), Errno::NoSpace),
            (session(), ask(command::WRITE, 0, u64::MAX, u32::MAX), Errno::NoSpace),
            (session(), ask(command::WRITE_ZEROES, 0, end, 1), Errno::NoSpace),
            (session(), ask(command::WRITE_ZEROES, flag::DF, 0, 1), Errno::Invalid),
            (session(), ask(command::WRITE_ZEROES, flag::FAST_ZERO, 0, 1), Errno::NotSupported),
            (session(), ask(command::CACHE, 0, end, 1), Errno::Invalid),
            (session(), ask(command::WRITE, flag::PAYLOAD_LEN, 0, 1), Errno::Invalid),
            (extended, ask(command::TRIM, flag::PAYLOAD_LEN, 0, 1), Errno::Invalid),
            (extended, longer, Errno::Invalid),
            (session(), ask(command::TRIM, 0, end, 1), Errno::Invalid),
            (session(), ask(command::BLOCK_STATUS, 0, 0, 0), Errno::Invalid),
            (session(), ask(command::BLOCK_STATUS, 0, end, 1), Errno::Invalid),
            (simple, ask(command::BLOCK_STATUS, 0, 0, 1), Errno::Invalid),
            (read_only, ask(command::WRITE, 0, 0, 1), Errno::NotPermitted),
            (read_only, ask(command::TRIM, 0, 0, 1), Errno::NotPermitted),
            (read_only, ask(command::WRITE_ZEROES, 0, 0, 1), Errno::NotPermitted),
            (session(), ask(8, 0, 0, 1), Errno::Invalid),
            (session(), ask(0xffff, 0xffff, u64::MAX, u32::MAX), Errno::Invalid),
        ];
        for (session, header, errno) in cases {
            let refusal = check(&header, &session).unwrap_err();
            assert_eq!(refusal.errno, errno, "{header:?}: {}", refusal.reason);
        }
    }

    #[test]
    fn what_is_offered_is_accepted_to_the_last_byte() {
        let last = (1 << 30) - 1;
        for header in [
            ask(command::READ, flag::DF | flag::FUA, last, 1),
            ask(command::READ, 0, 0, PAYLOAD_BYTES_MAX),
            ask(command::WRITE, flag::FUA, last, 1),
            ask(command::FLUSH, flag::FUA, 0, 0),
            ask(command::TRIM, flag::FUA, 0, 1 << 30),
            ask(command::WRITE_ZEROES, flag::FUA | flag::NO_HOLE, 0, 1 << 30),
            ask(command::WRITE_ZEROES, flag::FAST_ZERO, 4096, 8192),
            ask(command::CACHE, flag::FUA, last, 1),
            ask(command::BLOCK_STATUS, flag::REQ_ONE, 0, 1 << 30),
            ask(command::DISCONNECT, 0xffff, u64::MAX, u32::MAX),
        ] {
            check(&header, &session()).unwrap_or_else(|refusal| panic!("{header:?}: {refusal:?}"));
        }
    }
}
