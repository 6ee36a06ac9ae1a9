//! Streams of bytes: how they begin, and what they hold once decompressed.

use silt_types::{Context as _, Result};
use std::io::{self, Cursor, Read};

/// Bytes that tell what follows: the header of a tar is the longest of what is looked for.
pub(crate) const HEAD_LEN: usize = 512;
/// A decompressor may want this much memory at most: xz -9 and zstd --ultra -22 (without --long) need less.
const WINDOW_LOG_MAX: u32 = 27;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packed {
    Gzip,
    Zstd,
    Xz,
}

impl Packed {
    /// What a stream that begins like this is packed with, if it is. Sources: RFC 1952, RFC 8878, the xz file format 1.1.
    pub(crate) fn of(head: &[u8]) -> Option<Packed> {
        match head {
            [0x1F, 0x8B, 8, ..] => Some(Packed::Gzip),
            // A frame, or one that decoders skip, which some put first.
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => {
                Some(Packed::Zstd)
            }
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Some(Packed::Xz),
            _ => None,
        }
    }

    /// What the stream holds: of several parts one after the other, all of them. Errors in it are of kind `InvalidData`,
    /// `InvalidInput`, `UnexpectedEof` or `Other`.
    pub(crate) fn unpack<'a>(self, reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
        let doing = || "cannot begin to decompress".to_owned();
        Ok(match self {
            Packed::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
            Packed::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(reader).context(doing)?;
                decoder.window_log_max(WINDOW_LOG_MAX).context(doing)?;
                Box::new(decoder)
            }
            Packed::Xz => {
                let concatenated = liblzma::stream::CONCATENATED;
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(1 << WINDOW_LOG_MAX, concatenated);
                let stream = stream.map_err(io::Error::from).context(doing)?;
                Box::new(liblzma::read::XzDecoder::new_stream(reader, stream))
            }
        })
    }
}

/// A stream whose first bytes were looked at.
pub(crate) type Peeked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// Looks at the first [`HEAD_LEN`] bytes of a stream, fewer where it ends before. Answers them, and the whole stream.
pub(crate) fn peek<R: Read>(mut reader: R) -> io::Result<(Vec<u8>, Peeked<R>)> {
    let mut head = Vec::with_capacity(HEAD_LEN);
    reader.by_ref().take(HEAD_LEN as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head).chain(reader)))
}

/// Reads until the buffer is full or the stream ends. Answers the bytes read.
pub(crate) fn fill(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A stream that may not go on for ever: more bytes than are left are an error.
pub(crate) struct Limited<R> {
    pub(crate) reader: R,
    pub(crate) left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(len as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "it is longer than --max-size allows")
        })?;
        Ok(len)
    }
}
