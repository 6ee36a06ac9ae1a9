//! What goes between a server and its broker: one message a packet, the first byte says which.

use silt_export::fuse::Mounted;
use silt_format::PackEntry;
use silt_store::PackPlace;
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
}

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
            _ => Err(Error::invalid("a message to the broker is none")),
        }
    }
}

/// From the broker to the server.
pub(super) type Reply = Result<Option<PackPlace>>;

pub(super) fn encode_reply(reply: &Reply) -> Vec<u8> {
    match reply {
        Ok(None) => vec![0],
        Ok(Some(place)) => {
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
        (0, []) => Ok(None),
        (1, rest) => {
            let (pack, entry) = rest.split_first_chunk().ok_or_else(invalid)?;
            let entry = PackEntry::decode(entry.try_into().map_err(|_| invalid())?)?;
            Ok(Some(PackPlace { pack: PackId::from_bytes(*pack), entry }))
        }
        (2, [kind, message @ ..]) => {
            let kind = ErrorKind::ALL.into_iter().find(|known| known.exit_code() == *kind);
            let message = String::from_utf8_lossy(message);
            Err(Error::new(kind.unwrap_or(ErrorKind::Internal), message))
        }
        _ => Err(invalid()),
    }
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
        ] {
            assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        }
        let entry =
            PackEntry { id, offset: 1 << 40, stored_len: 9, len: 10, kind: 2, codec: Codec::Zstd };
        let place = PackPlace { pack: PackId::from_bytes([3; 16]), entry };
        assert_eq!(decode_reply(&encode_reply(&Ok(Some(place)))).unwrap(), Some(place));
        assert_eq!(decode_reply(&encode_reply(&Ok(None))).unwrap(), None);
        let error = decode_reply(&encode_reply(&Err(Error::corrupt("a row is bad")))).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Corrupt, "a row is bad")
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&b""[..], b"F", b"Bx", b"Ux", b"M", b"Mx", b"M\xff\0/", b"?", &[b'F'; 34]] {
            assert!(Request::decode(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [&[][..], &[0, 0], &[1], &[1; 66], &[2], &[9]] {
            assert!(decode_reply(bytes).is_err(), "{bytes:?}");
        }
    }
}
