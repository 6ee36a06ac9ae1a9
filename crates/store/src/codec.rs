//! Compression of chunks: each by itself, stored as it is when compression does not pay.

use silt_format::Codec;
use silt_types::{Error, Result};
use std::{cell::RefCell, str::FromStr};

/// How new chunks are compressed. Chunks stored before stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Stored as they are.
    None,
    /// LZ4: fastest.
    Lz4,
    /// Zstandard at a level from 1 (fast) to 19 (small).
    Zstd(i32),
}

impl Default for Compression {
    /// Measured in `docs/design/0002-default-compression.md`.
    fn default() -> Self {
        Compression::Zstd(1)
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Compression> {
        let level = |level: &str| level.parse().ok().filter(|level| (1..=19).contains(level));
        match text.split_once(':') {
            None if text == "none" => Ok(Compression::None),
            None if text == "lz4" => Ok(Compression::Lz4),
            None if text == "zstd" => Ok(Compression::default()),
            Some(("zstd", number)) if level(number).is_some() => {
                Ok(Compression::Zstd(level(number).unwrap_or(1)))
            }
            _ => Err(Error::invalid(format!(
                "bad compression {text:?}: use none, lz4, zstd or zstd:1 to zstd:19"
            ))),
        }
    }
}

thread_local! {
    // Contexts are reused: making one costs more than compressing a small chunk.
    static ENCODER: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `content` into `out` (cleared first) and says how. Falls back to [`Codec::Raw`], with `out` left empty,
/// where less than one part in sixteen would be saved.
pub(crate) fn compress(
    content: &[u8],
    compression: Compression,
    out: &mut Vec<u8>,
) -> Result<Codec> {
    out.clear();
    let codec = match compression {
        Compression::None => return Ok(Codec::Raw),
        Compression::Lz4 => {
            out.resize(lz4_flex::block::get_maximum_output_size(content.len()), 0);
            let len = lz4_flex::block::compress_into(content, out);
            out.truncate(len.map_err(|error| {
                Error::with_source(silt_types::ErrorKind::Internal, "lz4", error)
            })?);
            Codec::Lz4
        }
        Compression::Zstd(level) => {
            compress_zstd(content, level, out)?;
            Codec::Zstd
        }
    };
    if out.len() > content.len() - content.len() / 16 {
        out.clear();
        return Ok(Codec::Raw);
    }
    Ok(codec)
}

fn compress_zstd(content: &[u8], level: i32, out: &mut Vec<u8>) -> Result<()> {
    let failed = |error| Error::io("cannot compress a chunk", error);
    ENCODER.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(of, _)| *of != level) {
            let mut encoder = zstd::bulk::Compressor::new(level).map_err(failed)?;
            // The index knows the length and the id checks the content: the frame needs neither.
            encoder.include_checksum(false).map_err(failed)?;
            encoder.include_contentsize(false).map_err(failed)?;
            *slot = Some((level, encoder));
        }
        let (_, encoder) = slot.as_mut().expect("filled above");
        out.reserve(zstd::zstd_safe::compress_bound(content.len()));
        encoder.compress_to_buffer(content, out).map_err(failed)?;
        Ok(())
    })
}

/// Decodes a stored chunk of `len` bytes of content. `Corrupt` if it holds another length or is no valid encoding;
/// the caller checks the id.
pub(crate) fn decompress(stored: &[u8], codec: Codec, len: usize) -> Result<Vec<u8>> {
    let content = match codec {
        Codec::Raw => stored.to_vec(),
        Codec::Lz4 => lz4_flex::block::decompress(stored, len).map_err(|error| {
            Error::with_source(silt_types::ErrorKind::Corrupt, "it is no LZ4 block", error)
        })?,
        Codec::Zstd => DECODER.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = Some(
                    zstd::bulk::Decompressor::new()
                        .map_err(|error| Error::io("cannot decompress", error))?,
                );
            }
            let decoder = slot.as_mut().expect("filled above");
            let mut content = Vec::with_capacity(len);
            let decoded = decoder.decompress_to_buffer(stored, &mut content);
            decoded.map_err(|error| {
                Error::with_source(
                    silt_types::ErrorKind::Corrupt,
                    "it is no Zstandard frame of its length",
                    error,
                )
            })?;
            Ok::<_, Error>(content)
        })?,
    };
    if content.len() != len {
        return Err(Error::corrupt(format!("it holds {} bytes instead of {len}", content.len())));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_it_got_and_noise_is_stored_as_it_is() {
        let text = b"silt stone ".repeat(5000);
        let noise: Vec<u8> =
            (0..65536u32).map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[0]).collect();
        let mut out = Vec::new();
        for compression in
            [Compression::None, Compression::Lz4, Compression::Zstd(1), Compression::Zstd(19)]
        {
            let codec = compress(&text, compression, &mut out).unwrap();
            assert_eq!(codec == Codec::Raw, compression == Compression::None);
            let stored = if codec == Codec::Raw { &text } else { &out };
            assert_eq!(decompress(stored, codec, text.len()).unwrap(), text);
            assert!(decompress(stored, codec, text.len() - 1).is_err());
            assert!(decompress(stored, codec, 0).is_err());
            assert_eq!(compress(&noise, compression, &mut out).unwrap(), Codec::Raw);
        }
        assert!(decompress(b"nonsense", Codec::Zstd, 65536).is_err());
        assert!(decompress(b"nonsense", Codec::Lz4, 65536).is_err());
    }

    #[test]
    fn compressions_are_read_as_documented() {
        assert_eq!("zstd:19".parse::<Compression>().unwrap(), Compression::Zstd(19));
        assert_eq!("none".parse::<Compression>().unwrap(), Compression::None);
        for bad in ["", "zstd:0", "zstd:20", "zstd:", "lz4:1", "gzip", "none:1"] {
            assert!(bad.parse::<Compression>().is_err(), "{bad}");
        }
    }
}
