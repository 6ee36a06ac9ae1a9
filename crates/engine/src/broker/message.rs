//! What goes between a server and its broker: one message a packet, the first byte says which.

use silt_export::fuse::Mounted;
use silt_format::PackEntry;
use silt_store::{Allowed, DeltaSpace, PackPlace, SpaceAsked, WhenFull};
use silt_types::{ChunkId, Error, ErrorKind, PackId, Result};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// The longest message in bytes: a path as long as the kernel takes, or an error.
pub(super) const MESSAGE_LEN_MAX: usize = 8192;

/// From the server to the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// When the server has ended, remove the name of this socket, or the server's folder in `run`.
    RemoveAtEnd(PathBuf),
    /// When the server has ended, undo this mount.
    UndoAtEnd(Mounted),
    /// From now on only what is below counts. Answered, with nothing found, once the store is open.
    Begin,
    /// Leave the names of sockets, and mounts, since somebody else goes on with them. No answer.
    Leave,
    /// Undo all mounts that are to be undone at the end. No answer: the server may have to help until it is done.
    Undo,
    /// Where is this chunk? Answered with a [`Reply`].
    Find(ChunkId),
    /// How much may be added to the store? Answered with a [`Reply`].
    Space(SpaceAsked),
}

/// As a size: none.
const NONE: u64 = u64::MAX;

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Request::RemoveAtEnd(path) => tagged(b'R', path.as_os_str().as_bytes()),
            Request::UndoAtEnd(mounted) => {
                let path = mounted.path.as_os_str().as_bytes();
                tagged(b'M', &[mounted.source.as_bytes(), &[0], path].concat())
            }
            Request::Leave => tagged(b'L', &[]),
            Request::Begin => tagged(b'B', &[]),
            Request::Undo => tagged(b'U', &[]),
            Request::Find(id) => tagged(b'F', id.as_bytes()),
            Request::Space(asked) => {
                let delta = asked.delta;
                let taken = delta.map_or(NONE, |delta| delta.bytes);
                let max = delta.and_then(|delta| delta.bytes_max).unwrap_or(NONE);
                tagged(b'S', &[asked.bytes, taken, max].map(u64::to_le_bytes).concat())
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Request> {
        match bytes.split_first() {
            Some((b'R', path)) => {
                Ok(Request::RemoveAtEnd(Path::new(OsStr::from_bytes(path)).into()))
            }
            Some((b'M', words)) => {
                let mut words = words.splitn(2, |byte| *byte == 0);
                let invalid = || Error::invalid("a mount to be undone is none");
                let source = words.next().and_then(|source| String::from_utf8(source.into()).ok());
                let path = words.next().map(|path| Path::new(OsStr::from_bytes(path)).into());
                let (source, path) = source.zip(path).ok_or_else(invalid)?;
                Ok(Request::UndoAtEnd(Mounted { path, source }))
            }
            Some((b'L', [])) => Ok(Request::Leave),
            Some((b'B', [])) => Ok(Request::Begin),
            Some((b'U', [])) => Ok(Request::Undo),
            Some((b'F', id)) if id.len() == 32 => {
                let id = id.first_chunk().expect("its length was compared");
                Ok(Request::Find(ChunkId::from_bytes(*id)))
            }
            Some((b'S', sizes)) if sizes.len() == 24 => {
                let [bytes, taken, max] = [0, 8, 16].map(|at| u64_at(sizes, at));
                let delta = taken.map(|bytes| DeltaSpace { bytes, bytes_max: max });
                let bytes = bytes.unwrap_or(NONE);
                Ok(Request::Space(SpaceAsked { bytes, delta }))
            }
            _ => Err(Error::invalid("a message to the broker is none")),
        }
    }
}

/// A size in a message, if it is one; within what was looked at.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let size = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied();
    size.map(u64::from_le_bytes).filter(|size| *size != NONE)
}

/// From the broker to the server.
pub(super) type Reply = Result<Answer>;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing was, or it is not there.
    Nothing,
    /// Where a chunk is.
    Place(PackPlace),
    /// What may be added to the store.
    Space(Allowed),
}

pub(super) fn encode_reply(reply: &Reply) -> Vec<u8> {
    match reply {
        Ok(Answer::Nothing) => vec![0],
        Ok(Answer::Space(allowed)) => encode_allowed(allowed),
        Ok(Answer::Place(place)) => {
            let mut bytes = tagged(1, place.pack.as_bytes());
            place.entry.encode_into(&mut bytes);
            bytes
        }
        Err(error) => {
            let mut bytes = tagged(2, &[error.kind().exit_code()]);
            bytes.extend(error.chain().bytes().take(MESSAGE_LEN_MAX - bytes.len()));
            bytes
        }
    }
}

pub(super) fn decode_reply(bytes: &[u8]) -> Reply {
    let invalid = || Error::internal("the broker answered something that is no answer");
    match bytes.split_first().ok_or_else(invalid)? {
        (0, []) => Ok(Answer::Nothing),
        (1, rest) => {
            let (pack, entry) = rest.split_first_chunk().ok_or_else(invalid)?;
            let entry = PackEntry::decode(entry.try_into().map_err(|_| invalid())?)?;
            Ok(Answer::Place(PackPlace { pack: PackId::from_bytes(*pack), entry }))
        }
        (2, [kind, message @ ..]) => {
            let kind = ErrorKind::ALL.into_iter().find(|known| known.exit_code() == *kind);
            let message = String::from_utf8_lossy(message);
            Err(Error::new(kind.unwrap_or(ErrorKind::Internal), message))
        }
        (3, rest) => decode_allowed(rest).map(Answer::Space).ok_or_else(invalid),
        _ => Err(invalid()),
    }
}

fn encode_allowed(allowed: &Allowed) -> Vec<u8> {
    let mut bytes = tagged(3, &[allowed.when_full as u8, u8::from(allowed.bytes.is_ok())]);
    bytes.extend(allowed.delta_max.unwrap_or(NONE).to_le_bytes());
    match &allowed.bytes {
        Ok(granted) => bytes.extend(granted.to_le_bytes()),
        Err(why) => bytes.extend(why.bytes().take(MESSAGE_LEN_MAX - bytes.len())),
    }
    bytes
}

fn decode_allowed(bytes: &[u8]) -> Option<Allowed> {
    let (when_full, is_granted) = (usize::from(*bytes.first()?), *bytes.get(1)?);
    let (delta_max, rest) = (u64_at(bytes, 2), bytes.get(10..)?);
    let bytes = match is_granted {
        0 => Err(String::from_utf8_lossy(rest).into_owned()),
        _ => Ok(u64::from_le_bytes(rest.try_into().ok()?)),
    };
    Some(Allowed { bytes, delta_max, when_full: *WhenFull::ALL.get(when_full)? })
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    [&[tag], rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_format::Codec;

    #[test]
    fn what_is_said_is_understood() {
        let id = ChunkId::from_bytes([7; 32]);
        let mounted = Mounted { path: "/run/a b".into(), source: "silt-01".into() };
        for request in [
            Request::RemoveAtEnd("/run/a b".into()),
            Request::UndoAtEnd(mounted),
            Request::Begin,
            Request::Leave,
            Request::Undo,
            Request::Find(id),
            Request::Space(SpaceAsked { bytes: 9, delta: None }),
            Request::Space(SpaceAsked {
                bytes: 9,
                delta: Some(DeltaSpace { bytes: 7, bytes_max: Some(8) }),
            }),
        ] {
            assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        }
        let entry =
            PackEntry { id, offset: 1 << 40, stored_len: 9, len: 10, kind: 2, codec: Codec::Zstd };
        let place = PackPlace { pack: PackId::from_bytes([3; 16]), entry };
        let allowed = |bytes| {
            Answer::Space(Allowed { bytes, delta_max: Some(3), when_full: WhenFull::Pause })
        };
        let full = || allowed(Err("the quota".to_owned()));
        for (answer, same) in [
            (Answer::Nothing, Answer::Nothing),
            (allowed(Ok(1 << 40)), allowed(Ok(1 << 40))),
            (full(), full()),
        ] {
            assert_eq!(decode_reply(&encode_reply(&Ok(answer))).unwrap(), same);
        }
        let found = decode_reply(&encode_reply(&Ok(Answer::Place(place)))).unwrap();
        assert_eq!(found, Answer::Place(place));
        let error = decode_reply(&encode_reply(&Err(Error::corrupt("a row is bad")))).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Corrupt, "a row is bad")
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &b""[..],
            b"F",
            b"Bx",
            b"Ux",
            b"M",
            b"Mx",
            b"M\xff\0/",
            b"?",
            b"S",
            &[b'S'; 24],
            &[b'F'; 34],
        ] {
            assert!(Request::decode(bytes).is_err(), "{bytes:?}");
        }
        for bytes in
            [&[][..], &[0, 0], &[1], &[1; 66], &[2], &[3], &[3, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[9]]
        {
            assert!(decode_reply(bytes).is_err(), "{bytes:?}");
        }
    }
}
