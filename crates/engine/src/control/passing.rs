//! What a server sends to the one that takes over from it: for each of its exports a message in JSON, with descriptors beside
//! its first bytes, and an empty message at the end.
//!
//! The two are processes of one user. What comes is bounded and checked all the same.

use super::{PASSED_LEN_MAX, PASSED_TIME_MAX};
use rustix::{
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize};
use silt_export::{ExportAddress, PassedOn};
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
};

/// Descriptors in one message, the kernel's own bound: a listening socket and its clients are fewer.
const DESCRIPTORS_MAX: usize = 253;

/// One export of a server.
#[derive(Serialize, Deserialize)]
struct Words {
    protocol: String,
    address: String,
    words: String,
    descriptors: usize,
}

/// Sends what exports passed on to whoever has asked for it, once that says that it is listening.
pub(crate) fn send(stream: &UnixStream, passed: Vec<(ExportAddress, PassedOn)>) -> Result<()> {
    let what = || "cannot pass clients on".to_owned();
    stream.set_read_timeout(Some(PASSED_TIME_MAX)).context(what)?;
    stream.set_write_timeout(Some(PASSED_TIME_MAX)).context(what)?;
    let mut stream_in = stream;
    stream_in.read_exact(&mut [0]).context(what)?;
    for (address, PassedOn { words, descriptors }) in passed {
        let (protocol, address) = (address.protocol().to_owned(), address.to_string());
        let words = Words { protocol, address, words, descriptors: descriptors.len() };
        let words = serde_json::to_vec(&words)
            .map_err(|error| Error::with_source(ErrorKind::Internal, what(), error))?;
        send_message(stream, &words, &descriptors).context(what)?;
    }
    send_message(stream, b"", &[]).context(what)
}

fn send_message(
    mut stream: &UnixStream,
    words: &[u8],
    descriptors: &[OwnedFd],
) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(std::io::Error::other("too many descriptors for a message"));
    }
    let len = (words.len() as u32).to_le_bytes();
    let pieces = [IoSlice::new(&len)];
    retry_on_intr(|| sendmsg(stream, &pieces, &mut control, SendFlags::NOSIGNAL))?;
    stream.write_all(words)
}

/// Says that it is listening, and receives what exports passed on. `Io` if the server ends without.
pub(crate) fn receive(stream: &UnixStream) -> Result<Vec<(ExportAddress, PassedOn)>> {
    let what = || "the server did not pass its clients on".to_owned();
    stream.set_read_timeout(Some(PASSED_TIME_MAX)).context(what)?;
    let mut stream_out = stream;
    stream_out.write_all(&[1]).context(what)?;
    let mut exports = Vec::new();
    loop {
        let (words, descriptors) = receive_message(stream).context(what)?;
        if words.is_empty() {
            return Ok(exports);
        }
        let words: Words = serde_json::from_slice(&words)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, what(), error))?;
        if words.descriptors != descriptors.len() {
            return Err(Error::new(ErrorKind::Io, "some of its descriptors did not arrive"));
        }
        let address = ExportAddress::parse(&words.protocol, &words.address)?;
        exports.push((address, PassedOn { words: words.words, descriptors }));
    }
}

fn receive_message(mut stream: &UnixStream) -> std::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut len = [0; 4];
    let received = retry_on_intr(|| {
        let mut pieces = [IoSliceMut::new(&mut len)];
        recvmsg(stream, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(&mut len[received.bytes..])?;
    let len = u32::from_le_bytes(len) as usize;
    if len > PASSED_LEN_MAX {
        return Err(std::io::Error::other("a message is too long"));
    }
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    let mut words = vec![0; len];
    stream.read_exact(&mut words)?;
    Ok((words, descriptors))
}
