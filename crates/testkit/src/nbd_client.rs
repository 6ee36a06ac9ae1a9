//! A small NBD client for tests: [`NbdSession`] to say odd things to a server, and [`NbdClient`], a
//! [`BlockDevice`] over the wire, so that what is asked of every device can be asked through an export.
//!
//! Written from the protocol's specification apart from the server, so that a number which one of them has wrong is
//! seen. Slow and simple: one request at a time, a buffer for each. Not for production: it trusts the server's lengths.

use crate::block_device::{read_through_private_memory, write_through_private_memory};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::{Context as _, Error, ErrorKind, Result};
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a server may take to answer before a test is taken to hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest request, unless a server says otherwise.
const REQUEST_BYTES_MAX: u64 = 32 << 20;

/// A byte stream to a server.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One answer to an option: its type and data.
pub type OptionAnswer = (u32, Vec<u8>);

/// What a server said to a request, all chunks of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NbdReply {
    /// Of the request.
    pub cookie: u64,
    /// An errno of Linux, or 0.
    pub error: u32,
    /// What the server says of the error.
    pub message: String,
    /// Data with its offset on the disk (in a simple reply: unknown, and 0), in the order received.
    pub data: Vec<(u64, Vec<u8>)>,
    /// Lengths and flags.
    pub extents: Vec<(u64, u64)>,
    /// It came in chunks.
    pub is_structured: bool,
}

/// A connection at any stage of the protocol.
pub struct NbdSession {
    stream: Box<dyn Stream>,
    /// Headers are the extended ones, with lengths of 64 bits.
    extended: bool,
    /// Lengths of reads under way.
    reads: HashMap<u64, usize>,
    /// Replies of which a chunk is still to come.
    partial: HashMap<u64, NbdReply>,
}

impl NbdSession {
    /// Connects to a Unix socket and says nothing.
    pub fn connect(path: &Path) -> Result<NbdSession> {
        let what = || format!("cannot connect to {}", path.display());
        let stream = UnixStream::connect(path).context(what)?;
        stream.set_read_timeout(Some(PATIENCE)).context(what)?;
        Ok(NbdSession::over(stream))
    }

    /// Connects to a TCP port and says nothing.
    pub fn connect_tcp(address: SocketAddr) -> Result<NbdSession> {
        let what = || format!("cannot connect to {address}");
        let stream = TcpStream::connect(address).context(what)?;
        stream.set_read_timeout(Some(PATIENCE)).context(what)?;
        stream.set_nodelay(true).context(what)?;
        Ok(NbdSession::over(stream))
    }

    /// A session over a stream of one's own.
    pub fn over(stream: impl Stream + 'static) -> NbdSession {
        NbdSession {
            stream: Box::new(stream),
            extended: false,
            reads: HashMap::new(),
            partial: HashMap::new(),
        }
    }

    /// Sends any bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Receives exactly `len` bytes.
    pub fn receive(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads whatever comes until the server closes; an error if it does not.
    pub fn receive_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            // Closed with something of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(bytes),
            other => other.map(|_| bytes),
        }
    }

    /// Takes the greeting and answers with `flags`; returns the server's flags.
    pub fn greet(&mut self, flags: u32) -> Result<u16> {
        let greeting = self.receive(18).context(|| "no greeting".into())?;
        if &greeting[..16] != b"NBDMAGICIHAVEOPT" {
            return Err(Error::invalid(format!("not an NBD greeting: {greeting:?}")));
        }
        self.send(&flags.to_be_bytes()).context(|| "cannot answer the greeting".into())?;
        Ok(u16::from_be_bytes([greeting[16], greeting[17]]))
    }

    /// Sends an option without waiting for answers.
    pub fn send_option(&mut self, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut option = b"IHAVEOPT".to_vec();
        option.extend(kind.to_be_bytes());
        option.extend((data.len() as u32).to_be_bytes());
        option.extend(data);
        self.send(&option)
    }

    /// Sends an option and collects the answers: the last one is an acknowledgement (1) or an error (bit 31).
    pub fn option(&mut self, kind: u32, data: &[u8]) -> Result<Vec<OptionAnswer>> {
        self.send_option(kind, data).context(|| format!("cannot send option {kind}"))?;
        let mut answers = Vec::new();
        loop {
            let header = self.receive(20).context(|| format!("no answer to option {kind}"))?;
            let (magic, echo) = (number(&header[..8]), number(&header[8..12]));
            if magic != 0x0003_e889_0455_65a9 || echo != u64::from(kind) {
                return Err(Error::invalid(format!("not an answer to {kind}: {header:?}")));
            }
            let (answer, len) = (number(&header[12..16]) as u32, number(&header[16..]) as usize);
            let data = self.receive(len).context(|| format!("no answer to option {kind}"))?;
            answers.push((answer, data));
            if answer == 1 || answer & 1 << 31 != 0 {
                return Ok(answers);
            }
        }
    }

    /// The usual way in: structured replies and `base:allocation` if `structured`, then the default export. Returns its
    /// size and transmission flags.
    pub fn enter(&mut self, structured: bool) -> Result<(u64, u16)> {
        self.enter_with(if structured { Some(8) } else { None })
    }

    /// The same with extended headers.
    pub fn enter_extended(&mut self) -> Result<(u64, u16)> {
        self.extended = true;
        self.enter_with(Some(11))
    }

    fn enter_with(&mut self, headers: Option<u32>) -> Result<(u64, u16)> {
        self.greet(3)?;
        if let Some(headers) = headers {
            self.option(headers, b"")?;
            self.option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation")?;
        }
        let answers = self.option(7, &[0; 6])?;
        let export = answers.iter().find(|(kind, data)| *kind == 3 && data.starts_with(&[0, 0]));
        match export {
            Some((_, data)) if data.len() == 12 => {
                Ok((number(&data[2..10]), number(&data[10..]) as u16))
            }
            _ => Err(Error::invalid(format!("the server did not let us in: {answers:?}"))),
        }
    }

    /// The bytes of a request without payload.
    pub fn header(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
        let mut header = 0x2560_9513u32.to_be_bytes().to_vec();
        header.extend(flags.to_be_bytes());
        header.extend(command.to_be_bytes());
        header.extend(cookie.to_be_bytes());
        header.extend(offset.to_be_bytes());
        header.extend(len.to_be_bytes());
        header
    }

    fn header_of(&self, flags: u16, command: u16, cookie: u64, range: (u64, u64)) -> Vec<u8> {
        let (offset, len) = range;
        if !self.extended {
            let len = len.try_into().unwrap_or(u32::MAX);
            return NbdSession::header(flags, command, cookie, offset, len);
        }
        let mut header = 0x21e4_1c71u32.to_be_bytes().to_vec();
        // A write says that its length is that of a payload.
        header.extend((flags | if command == 1 { 1 << 5 } else { 0 }).to_be_bytes());
        header.extend(command.to_be_bytes());
        header.extend(cookie.to_be_bytes());
        header.extend(offset.to_be_bytes());
        header.extend(len.to_be_bytes());
        header
    }

    /// Sends a request; `payload` goes along with a write.
    pub fn request(
        &mut self,
        (flags, command): (u16, u16),
        cookie: u64,
        (offset, len): (u64, u64),
        payload: &[u8],
    ) -> io::Result<()> {
        if command == 0 {
            self.reads.insert(cookie, len as usize);
        }
        let mut request = self.header_of(flags, command, cookie, (offset, len));
        request.extend(payload);
        self.send(&request)
    }

    /// The next reply that is complete, of whatever request.
    pub fn reply(&mut self) -> Result<NbdReply> {
        let what = || "no reply".to_owned();
        loop {
            let magic = self.receive(4).context(what)?;
            match number(&magic) {
                0x6744_6698 if !self.extended => return self.simple_reply().context(what),
                0x668e_33ef | 0x6e8a_278c if self.extended == (number(&magic) == 0x6e8a_278c) => {
                    if let Some(reply) = self.chunk().context(what)? {
                        return Ok(reply);
                    }
                }
                _ => return Err(Error::invalid(format!("no reply starts like {magic:?}"))),
            }
        }
    }

    /// Sends a request and takes the next reply, which has to be its own.
    pub fn ask(
        &mut self,
        command: (u16, u16),
        range: (u64, u64),
        payload: &[u8],
    ) -> Result<NbdReply> {
        let cookie = 0xc00c_1e00_0000_0000 | u64::from(command.1);
        self.request(command, cookie, range, payload).context(|| "cannot send".into())?;
        let reply = self.reply()?;
        if reply.cookie == cookie {
            Ok(reply)
        } else {
            Err(Error::invalid(format!("a reply to another request: {:x}", reply.cookie)))
        }
    }

    fn simple_reply(&mut self) -> io::Result<NbdReply> {
        let rest = self.receive(12)?;
        let (error, cookie) = (number(&rest[..4]) as u32, number(&rest[4..]));
        let mut reply = NbdReply { cookie, error, ..NbdReply::default() };
        if let Some(len) = self.reads.remove(&cookie).filter(|_| error == 0) {
            reply.data.push((0, self.receive(len)?));
        }
        Ok(reply)
    }

    /// One chunk, and with the last one of a reply the whole of it.
    fn chunk(&mut self) -> io::Result<Option<NbdReply>> {
        let rest = self.receive(if self.extended { 28 } else { 16 })?;
        let (flags, kind) = (number(&rest[..2]), number(&rest[2..4]));
        let len = number(&rest[if self.extended { 20 } else { 12 }..]) as usize;
        let cookie = number(&rest[4..12]);
        let payload = self.receive(len)?;
        let reply = self.partial.entry(cookie).or_default();
        (reply.cookie, reply.is_structured) = (cookie, true);
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "a chunk does not add up");
        match kind {
            0 if len == 0 => (),
            1 if len > 8 => reply.data.push((number(&payload[..8]), payload[8..].to_vec())),
            5 if !self.extended && len >= 12 && len % 8 == 4 => reply.extents.extend(
                payload[4..]
                    .chunks_exact(8)
                    .map(|extent| (number(&extent[..4]), number(&extent[4..]))),
            ),
            6 if self.extended && len % 16 == 8 && number(&payload[4..8]) as usize == len / 16 => {
                let extents = payload[8..].chunks_exact(16);
                reply
                    .extents
                    .extend(extents.map(|extent| (number(&extent[..8]), number(&extent[8..]))));
            }
            0x8001 if len >= 6 && number(&payload[4..6]) as usize == len - 6 => {
                reply.error = number(&payload[..4]) as u32;
                reply.message = String::from_utf8(payload[6..].to_vec()).map_err(|_| broken())?;
            }
            _ => return Err(broken()),
        }
        if flags & 1 == 0 {
            return Ok(None);
        }
        self.reads.remove(&cookie);
        Ok(self.partial.remove(&cookie))
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The default export of a server as a device. Structured replies, one request at a time.
pub struct NbdClient {
    session: Mutex<NbdSession>,
    geometry: Geometry,
}

impl NbdClient {
    /// Enters the default export of the server behind a Unix socket.
    pub fn connect(path: &Path) -> Result<NbdClient> {
        NbdClient::enter(path, |session| session.enter(true))
    }

    /// The same with extended headers.
    pub fn connect_extended(path: &Path) -> Result<NbdClient> {
        NbdClient::enter(path, NbdSession::enter_extended)
    }

    fn enter(
        path: &Path,
        way: impl FnOnce(&mut NbdSession) -> Result<(u64, u16)>,
    ) -> Result<NbdClient> {
        let mut session = NbdSession::connect(path)?;
        let (size_bytes, flags) = way(&mut session)?;
        let geometry = Geometry { size_bytes, read_only: flags & 2 != 0 };
        Ok(NbdClient { session: Mutex::new(session), geometry })
    }

    fn lock(&self) -> MutexGuard<'_, NbdSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.geometry.size_bytes => Ok(()),
            _ => Err(Error::invalid(format!("{len} bytes at {offset} are beyond the disk"))),
        }
    }

    fn ask(&self, command: (u16, u16), range: (u64, u64), payload: &[u8]) -> Result<NbdReply> {
        let reply = self.lock().ask(command, range, payload)?;
        let kind = match reply.error {
            0 => return Ok(reply),
            22 => ErrorKind::Invalid,
            28 => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        let message = format!("the server answered {}: {}", reply.error, reply.message);
        Err(Error::new(kind, message))
    }

    /// Sends a command without payload for all of a range.
    fn ask_range(&self, command: (u16, u16), mut offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        let end = offset + len;
        while offset < end {
            let part = (end - offset).min(REQUEST_BYTES_MAX);
            self.ask(command, (offset, part), b"")?;
            offset += part;
        }
        Ok(())
    }
}

impl BlockDevice for NbdClient {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        read_through_private_memory(self, buf, offset)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        write_through_private_memory(self, buf, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        for (index, part) in buf.chunks_mut(REQUEST_BYTES_MAX as usize).enumerate() {
            let start = offset + index as u64 * REQUEST_BYTES_MAX;
            let reply = self.ask((0, 0), (start, part.len() as u64), b"")?;
            let mut filled = 0;
            for (at, data) in &reply.data {
                let place = at
                    .checked_sub(start)
                    .and_then(|at| part.get_mut(at as usize..)?.get_mut(..data.len()));
                place
                    .ok_or_else(|| Error::invalid("data that nobody asked for"))?
                    .copy_from_slice(data);
                filled += data.len();
            }
            if filled != part.len() {
                return Err(Error::invalid(format!("{filled} of {} bytes came", part.len())));
            }
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        for (index, part) in buf.chunks(REQUEST_BYTES_MAX as usize).enumerate() {
            let start = offset + index as u64 * REQUEST_BYTES_MAX;
            self.ask((0, 1), (start, part.len() as u64), part)?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.ask((0, 3), (0, 0), b"").map(drop)
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.ask_range((0, 4), offset, len_bytes)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        let no_hole = if may_unmap { 0 } else { 2 };
        self.ask_range((no_hole, 6), offset, len_bytes)
    }

    fn block_status(
        &self,
        offset: u64,
        len_bytes: u64,
        runs_max: usize,
    ) -> Result<Vec<BlockStatus>> {
        self.check(offset, len_bytes)?;
        let only_one = if runs_max == 1 { 8 } else { 0 };
        let len = len_bytes.min(REQUEST_BYTES_MAX);
        let reply = self.ask((only_one, 7), (offset, len), b"")?;
        let runs = reply.extents.iter().take(runs_max).map(|(len, flags)| BlockStatus {
            len_bytes: *len,
            hole: flags & 1 != 0,
            zero: flags & 2 != 0,
        });
        Ok(runs.collect())
    }
}
