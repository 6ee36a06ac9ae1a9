//! The handshake: fixed newstyle, until the client asks for the export or leaves.
//!
//! Bounded in time, options and bytes, since a client that never gets to the end keeps a place. There is one export,
//! the default one with the empty name. TLS is not offered: an unknown option, like all others.

use super::{
    limits::{
        BLOCK_BYTES_PREFERRED, CLIENTS_MAX, HANDSHAKE_BYTES_MAX, HANDSHAKE_TIME_MAX,
        OPTION_BYTES_MAX, OPTIONS_MAX, PAYLOAD_BYTES_MAX,
    },
    options::{ContextQueries, export_name},
    request::Session,
    wire::{
        ALLOCATION_CONTEXT, ALLOCATION_CONTEXT_ID, FIXED_NEWSTYLE, Fields, GREETING_MAGIC, Headers,
        INFO_BLOCK_SIZE, INFO_EXPORT, NO_ZEROES, OPTION_MAGIC, OPTION_REPLY_MAGIC, answer, can,
        option,
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    net::{RecvFlags, SendFlags, recv, send},
};
use silt_volume::Geometry;
use std::{
    io::{Error, ErrorKind, Result},
    os::fd::BorrowedFd,
    time::Instant,
};

/// Whether there is a place for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is served.
    Served,
    /// It is told that there are too many.
    Refused,
}

/// Talks to a new client until it is to be served, or `None` when it leaves as it may; an error when it broke the
/// protocol or a bound, or is gone.
pub(super) fn negotiate(
    socket: BorrowedFd<'_>,
    geometry: Geometry,
    admission: Admission,
) -> Result<Option<Session>> {
    let session = Session { geometry, headers: Headers::Simple, allocation: false };
    let deadline = Instant::now() + HANDSHAKE_TIME_MAX;
    let wire = Wire { socket, deadline, bytes_left: HANDSHAKE_BYTES_MAX };
    let mut handshake =
        Handshake { wire, session, admission, zeroes: true, only_export_name: true };
    handshake.greet()?;
    for _ in 0..OPTIONS_MAX {
        match handshake.answer_option()? {
            Next::Option => (),
            Next::Transmission => return Ok(Some(handshake.session)),
            Next::End => return Ok(None),
        }
    }
    Err(broken("too many options"))
}

struct Handshake<'a> {
    wire: Wire<'a>,
    session: Session,
    admission: Admission,
    /// 124 zeroes follow the answer to `EXPORT_NAME`.
    zeroes: bool,
    /// The client is from before fixed newstyle: it would not understand the answer to any other option.
    only_export_name: bool,
}

enum Next {
    Option,
    Transmission,
    End,
}

fn broken(how: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, how)
}

impl Handshake<'_> {
    fn greet(&mut self) -> Result<()> {
        let mut greeting = [0; 18];
        greeting[0..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
        greeting[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        greeting[16..18].copy_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        self.wire.send(&greeting)?;
        let mut flags = [0; 4];
        self.wire.receive(&mut flags)?;
        let flags = u32::from_be_bytes(flags);
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(broken("unknown client flags"));
        }
        self.only_export_name = flags & u32::from(FIXED_NEWSTYLE) == 0;
        self.zeroes = flags & u32::from(NO_ZEROES) == 0;
        Ok(())
    }

    fn answer_option(&mut self) -> Result<Next> {
        let mut header = [0; 16];
        self.wire.receive(&mut header)?;
        let mut fields = Fields(&header);
        let (magic, kind, len) = (fields.u64(), fields.u32(), fields.u32());
        let (Some(OPTION_MAGIC), Some(kind), Some(len)) = (magic, kind, len) else {
            return Err(broken("no option starts like this"));
        };
        self.wire.charge(len)?;
        if len > OPTION_BYTES_MAX {
            self.wire.skip(len)?;
            self.reply(kind, answer::TOO_BIG, b"this option is too long")?;
            return if kind == option::EXPORT_NAME { Ok(Next::End) } else { Ok(Next::Option) };
        }
        let mut data = vec![0; len as usize];
        self.wire.receive(&mut data)?;
        if self.only_export_name && kind != option::EXPORT_NAME {
            return Err(broken("an option that this client cannot know"));
        }
        self.answer(kind, &data)
    }

    fn answer(&mut self, kind: u32, data: &[u8]) -> Result<Next> {
        match (kind, self.admission) {
            (option::ABORT, _) => {
                // The client may be gone before it reads this, and may.
                let _ = self.reply(kind, answer::ACK, b"");
                return Ok(Next::End);
            }
            (option::EXPORT_NAME, Admission::Refused) => return Ok(Next::End),
            (_, Admission::Refused) => {
                let reason = format!("{CLIENTS_MAX} clients are connected, no more are served");
                self.reply(kind, answer::POLICY, reason.as_bytes())?;
            }
            (option::EXPORT_NAME, _) => return self.answer_export_name(data),
            (option::INFO | option::GO, _) => {
                if self.answer_info(kind, data)? && kind == option::GO {
                    return Ok(Next::Transmission);
                }
            }
            (option::LIST, _) if data.is_empty() => {
                self.reply(kind, answer::SERVER, &[0; 4])?;
                self.reply(kind, answer::ACK, b"")?;
            }
            (option::STRUCTURED_REPLY | option::EXTENDED_HEADERS, _) if data.is_empty() => {
                self.answer_headers(kind)?;
            }
            (option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS, _) => {
                self.reply(kind, answer::INVALID, b"this option has no data")?;
            }
            (option::LIST_META_CONTEXT | option::SET_META_CONTEXT, _) => {
                self.answer_contexts(kind, data)?;
            }
            _ => self.reply(kind, answer::UNSUPPORTED, b"this option is not known")?,
        }
        Ok(Next::Option)
    }

    /// Headers only ever get longer.
    fn answer_headers(&mut self, kind: u32) -> Result<()> {
        let wanted = match kind {
            option::EXTENDED_HEADERS => Headers::Extended,
            _ => Headers::Structured,
        };
        if self.session.headers == Headers::Extended && wanted != Headers::Extended {
            let reason = b"extended headers were chosen, which have more";
            return self.reply(kind, answer::EXTENDED_REQUIRED, reason);
        }
        self.session.headers = wanted;
        self.reply(kind, answer::ACK, b"")
    }

    /// The old way in, whose only way to say no is to leave.
    fn answer_export_name(&mut self, name: &[u8]) -> Result<Next> {
        if !name.is_empty() {
            return Ok(Next::End);
        }
        let mut reply = self.session.geometry.size_bytes.to_be_bytes().to_vec();
        reply.extend(self.transmission_flags().to_be_bytes());
        reply.resize(reply.len() + if self.zeroes { 124 } else { 0 }, 0);
        self.wire.send(&reply)?;
        Ok(Next::Transmission)
    }

    /// Describes the export; false if that is not what the client named.
    fn answer_info(&mut self, kind: u32, data: &[u8]) -> Result<bool> {
        match export_name(data) {
            Some(b"") => (),
            Some(_) => return self.reply_unknown_export(kind).map(|()| false),
            None => return self.reply_lengths(kind).map(|()| false),
        }
        let mut info = INFO_EXPORT.to_be_bytes().to_vec();
        info.extend(self.session.geometry.size_bytes.to_be_bytes());
        info.extend(self.transmission_flags().to_be_bytes());
        self.reply(kind, answer::INFO, &info)?;
        let mut info = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [1, BLOCK_BYTES_PREFERRED, PAYLOAD_BYTES_MAX] {
            info.extend(size.to_be_bytes());
        }
        self.reply(kind, answer::INFO, &info)?;
        self.reply(kind, answer::ACK, b"")?;
        Ok(true)
    }

    fn answer_contexts(&mut self, kind: u32, data: &[u8]) -> Result<()> {
        let sets = kind == option::SET_META_CONTEXT;
        if sets {
            // Whatever comes of this one, an earlier choice holds no longer.
            self.session.allocation = false;
        }
        if self.session.headers == Headers::Simple {
            return self.reply(kind, answer::INVALID, b"structured replies come first");
        }
        let Some(queries) = ContextQueries::decode(data) else {
            return self.reply_lengths(kind);
        };
        if !queries.export_name.is_empty() {
            return self.reply_unknown_export(kind);
        }
        let matches = if sets { queries.selects_allocation() } else { queries.lists_allocation() };
        if matches {
            self.session.allocation |= sets;
            let id = if sets { ALLOCATION_CONTEXT_ID } else { 0 };
            let context = [&id.to_be_bytes()[..], ALLOCATION_CONTEXT].concat();
            self.reply(kind, answer::META_CONTEXT, &context)?;
        }
        self.reply(kind, answer::ACK, b"")
    }

    fn reply_lengths(&mut self, kind: u32) -> Result<()> {
        self.reply(kind, answer::INVALID, b"this option's lengths do not add up")
    }

    fn reply_unknown_export(&mut self, kind: u32) -> Result<()> {
        self.reply(kind, answer::UNKNOWN, b"there is one export, with the empty name")
    }

    fn reply(&mut self, kind: u32, answer: u32, data: &[u8]) -> Result<()> {
        let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        for number in [kind, answer, data.len() as u32] {
            reply.extend(number.to_be_bytes());
        }
        reply.extend(data);
        self.wire.send(&reply)
    }

    fn transmission_flags(&self) -> u16 {
        let df = if self.session.headers == Headers::Simple { 0 } else { can::DF };
        let writes = if self.session.geometry.read_only {
            can::READ_ONLY
        } else {
            can::FUA | can::TRIM | can::WRITE_ZEROES | can::FAST_ZERO
        };
        can::HAS_FLAGS | can::FLUSH | can::MULTI_CONN | can::CACHE | df | writes
    }
}

/// The socket within its bounds.
struct Wire<'a> {
    socket: BorrowedFd<'a>,
    deadline: Instant,
    bytes_left: u32,
}

impl Wire<'_> {
    /// Takes `len` bytes from what the client may still send in options.
    fn charge(&mut self, len: u32) -> Result<()> {
        self.bytes_left =
            self.bytes_left.checked_sub(len).ok_or_else(|| broken("too many bytes of options"))?;
        Ok(())
    }

    fn receive(&mut self, mut room: &mut [u8]) -> Result<()> {
        while !room.is_empty() {
            self.wait()?;
            let received = retry_on_intr(|| recv(self.socket, &mut *room, RecvFlags::DONTWAIT));
            match received {
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok((len, _)) => room = &mut room[len..],
                Err(Errno::AGAIN) => (),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn skip(&mut self, len: u32) -> Result<()> {
        let mut left = len as usize;
        let mut sink = [0; 4096];
        while left > 0 {
            let part = left.min(sink.len());
            self.receive(&mut sink[..part])?;
            left -= part;
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::TimedOut)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match retry_on_intr(|| poll(&mut fds, Some(&timeout)))? {
            0 => Err(ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Sends without waiting: the answers of a whole handshake fit a socket's buffer, so a client for which they do
    /// not does not read them.
    fn send(&self, bytes: &[u8]) -> Result<()> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match retry_on_intr(|| send(self.socket, bytes, flags))? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(broken("the client does not read its answers")),
        }
    }
}
