//! One client after its handshake: requests in, answers out.
//!
//! The connection's own thread reads many requests at a time and answers at once whatever takes no longer than handing
//! it over would: hot reads and whole-block writes. Their replies leave together when the received requests are used
//! up. Everything else goes to [`Workers`], whose replies may overtake. Nothing is allocated for a request on the fast
//! path.

use super::{
    input::Input,
    jobs::{Job, Task},
    limits::{
        AWAKE_TIME_MAX, INPUT_BYTES, PAYLOAD_BYTES_MAX, READ_INLINE_BYTES_MAX, REPLY_BYTES,
        WAITING_WRITE_BYTES_MAX, WRITE_HANDOVER_BYTES_MAX,
    },
    link::Link,
    reply::{Piece, Replies, SHORT_REPLY_BYTES_MAX},
    request::{Request, check},
    wire::{RequestHeader, command, flag},
    workers::Workers,
};
use silt_types::BLOCK_SIZE_BYTES;
use std::{
    io::{Error, ErrorKind, Result},
    sync::Arc,
    time::Instant,
};

/// Serves a client until it leaves, breaks the protocol or is cut off; then everything it asked for was done, and
/// answered if it still listens. Or until it is to be passed on: then that is so too, it stays connected, and the answer is
/// what it has sent of its next request.
pub(super) fn serve(link: Arc<Link>, received: &[u8]) -> Option<Vec<u8>> {
    let mut connection = Connection {
        input: Input::new(RequestHeader::len_of(link.session.headers), received),
        replies: Replies::new(link.session.headers),
        workers: Workers::new(link.clone()),
        waits_awake: false,
        link: link.clone(),
    };
    // Why a connection ended is the client's business: what it was owed is sent, the rest it sees for itself.
    let ended = connection.answer_all();
    let _ = connection.send_replies();
    connection.workers.finish();
    if let Ok(Ended::PassedOn) = ended
        && !link.is_broken()
    {
        return Some(connection.input.unread().to_vec());
    }
    link.hang_up();
    None
}

/// Why a connection is served no longer.
enum Ended {
    ByClient,
    PassedOn,
}

struct Connection {
    link: Arc<Link>,
    input: Input,
    replies: Replies,
    workers: Workers,
    /// Whether its last request came soon.
    waits_awake: bool,
}

impl Connection {
    fn answer_all(&mut self) -> Result<Ended> {
        loop {
            while let Some(header) = self.next_header()? {
                if header.command == command::DISCONNECT {
                    return Ok(Ended::ByClient);
                }
                if header.command == command::WRITE {
                    self.write(&header)?;
                } else {
                    self.skip_payload(&header)?;
                    self.answer(&header)?;
                }
            }
            self.send_replies()?;
            match self.receive()? {
                None => return Ok(Ended::PassedOn),
                Some(0) => return Ok(Ended::ByClient),
                Some(_) => (),
            }
        }
    }

    /// Waits for the client; `None` if it is to be passed on. Who has always asked again at once is waited for awake for a moment:
    /// a thread that sleeps takes longer to wake than most requests to be done.
    fn receive(&mut self) -> Result<Option<usize>> {
        let began = Instant::now();
        loop {
            if self.link.is_to_be_passed_on() {
                return Ok(None);
            }
            if let Some(received) = self.input.receive(self.link.socket())? {
                self.waits_awake = began.elapsed() < AWAKE_TIME_MAX;
                return Ok(Some(received));
            }
            if self.waits_awake && began.elapsed() < AWAKE_TIME_MAX {
                std::thread::yield_now();
                continue;
            }
            self.waits_awake = false;
            self.link.wait_for_client()?;
        }
    }

    fn next_header(&mut self) -> Result<Option<RequestHeader>> {
        let headers = self.link.session.headers;
        let len = RequestHeader::len_of(headers);
        let Some(bytes) = self.input.unread().get(..len) else { return Ok(None) };
        let header = RequestHeader::decode(bytes, headers)
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, "no request starts like this"))?;
        self.input.consume(len);
        Ok(Some(header))
    }

    /// Passes over what an extended header says to follow a request that takes nothing; it is refused then.
    fn skip_payload(&mut self, header: &RequestHeader) -> Result<()> {
        match header.payload_len(self.link.session.headers) {
            0 => Ok(()),
            len if len > u64::from(PAYLOAD_BYTES_MAX) => Err(too_long()),
            _ => self.write_in_pieces(header, false).map(drop),
        }
    }

    /// Answers, or hands over, a request without payload.
    fn answer(&mut self, header: &RequestHeader) -> Result<()> {
        self.make_room(SHORT_REPLY_BYTES_MAX)?;
        let asked = header.asked();
        let task = match check(header, &self.link.session) {
            Err(refusal) => {
                self.replies.refused(asked, refusal);
                return Ok(());
            }
            Ok(Request::Read { .. }) => {
                if self.read_inline(header)? {
                    return Ok(());
                }
                Task::Read
            }
            Ok(Request::Flush) if self.link.session.geometry.read_only => {
                self.replies.done(asked);
                return Ok(());
            }
            Ok(Request::Flush) => Task::Flush,
            Ok(Request::Trim) => Task::Trim,
            Ok(Request::Cache) => Task::Cache,
            Ok(Request::WriteZeroes { may_unmap, .. }) => Task::WriteZeroes { may_unmap },
            Ok(Request::BlockStatus { one_extent }) => Task::BlockStatus { one_extent },
            Ok(Request::Write | Request::Disconnect) => return Ok(()),
        };
        self.hand_over(header, task)
    }

    /// Answers a read if that is quick; false when a worker has to.
    fn read_inline(&mut self, header: &RequestHeader) -> Result<bool> {
        if header.len == 0 {
            self.replies.no_data(header.asked());
            return Ok(true);
        }
        if header.len > u64::from(READ_INLINE_BYTES_MAX) {
            return Ok(false);
        }
        let (asked, offset, len) = (header.asked(), header.offset, header.len as usize);
        self.make_room(self.replies.data_reply_len(len))?;
        let piece = Piece { asked, offset, len, is_last: true };
        let device = &self.link.device;
        match self.replies.data(piece, |buf| device.read_hot(buf.into(), offset)) {
            Ok(answered) => Ok(answered),
            Err(error) => {
                self.replies.failed(asked, &error);
                Ok(true)
            }
        }
    }

    /// Takes the payload of a write, and does the write, or has it done, unless it is refused.
    fn write(&mut self, header: &RequestHeader) -> Result<()> {
        if header.len > u64::from(PAYLOAD_BYTES_MAX) {
            return Err(too_long());
        }
        let checked = check(header, &self.link.session);
        let may_wait = !is_whole_blocks(header.offset, header.len) || self.link.device.must_wait();
        if checked.is_ok() && may_wait && header.len <= u64::from(WRITE_HANDOVER_BYTES_MAX) {
            return self.hand_over_write(header, header.offset, header.len as usize);
        }
        let Some(written) = self.write_in_pieces(header, checked.is_ok())? else { return Ok(()) };
        self.make_room(SHORT_REPLY_BYTES_MAX)?;
        match (checked, written) {
            (Err(refusal), _) => self.replies.refused(header.asked(), refusal),
            (_, Err(error)) => self.replies.failed(header.asked(), &error),
            _ if header.flags & flag::FUA != 0 => return self.hand_over(header, Task::Flush),
            _ => self.replies.done(header.asked()),
        }
        Ok(())
    }

    /// Passes a payload to the device, or nowhere if it is not wanted or the device has failed. All of it is consumed
    /// in any case. None if what is left of it would have to wait, and was handed over.
    fn write_in_pieces(
        &mut self,
        header: &RequestHeader,
        is_wanted: bool,
    ) -> Result<Option<silt_types::Result<()>>> {
        let (mut offset, mut left) = (header.offset, header.len as usize);
        let mut outcome = Ok(());
        while left > 0 {
            let mut piece = left.min(INPUT_BYTES);
            self.payload(piece)?;
            if is_wanted && piece < left {
                // The next piece begins with a whole block.
                piece -= ((offset + piece as u64) % BLOCK_SIZE_BYTES) as usize;
            }
            if is_wanted && outcome.is_ok() {
                let bytes = &self.input.unread()[..piece];
                match self.link.device.write_hot(bytes.into(), offset) {
                    Ok(false) if left <= WAITING_WRITE_BYTES_MAX => {
                        self.hand_over_write(header, offset, left)?;
                        return Ok(None);
                    }
                    Ok(false) => {
                        self.send_replies()?;
                        let bytes = &self.input.unread()[..piece];
                        outcome = self.link.device.write_at(bytes, offset);
                    }
                    other => outcome = other.map(drop),
                }
            }
            self.input.consume(piece);
            offset = offset.wrapping_add(piece as u64);
            left -= piece;
        }
        Ok(Some(outcome))
    }

    /// Hands over what is left of a write, from `offset` on.
    fn hand_over_write(&mut self, header: &RequestHeader, offset: u64, len: usize) -> Result<()> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let piece = (len - bytes.len()).min(INPUT_BYTES);
            bytes.extend_from_slice(self.payload(piece)?);
            self.input.consume(piece);
        }
        self.hand_over(header, Task::Write { bytes: bytes.into(), offset })
    }

    /// The next `len` bytes, waited for if need be; nobody's answer waits for that.
    fn payload(&mut self, len: usize) -> Result<&[u8]> {
        if self.input.unread().len() < len {
            self.send_replies()?;
            self.input.require(self.link.socket(), len)?;
        }
        Ok(&self.input.unread()[..len])
    }

    fn hand_over(&mut self, header: &RequestHeader, task: Task) -> Result<()> {
        if self.workers.is_full() {
            self.send_replies()?;
        }
        let fua = header.flags & flag::FUA != 0;
        self.workers.submit(Job { asked: header.asked(), len: header.len, fua, task })
    }

    fn make_room(&mut self, len: usize) -> Result<()> {
        if self.replies.pending().len() + len > REPLY_BYTES { self.send_replies() } else { Ok(()) }
    }

    fn send_replies(&mut self) -> Result<()> {
        if self.replies.pending().is_empty() {
            return Ok(());
        }
        let sent = self.link.send(self.replies.pending());
        self.replies.clear();
        sent
    }
}

fn is_whole_blocks(offset: u64, len: u64) -> bool {
    offset.is_multiple_of(BLOCK_SIZE_BYTES) && len.is_multiple_of(BLOCK_SIZE_BYTES)
}

/// Probably not a length at all: what follows cannot be trusted to be a request.
fn too_long() -> Error {
    Error::new(ErrorKind::InvalidData, "no payload is as long")
}
