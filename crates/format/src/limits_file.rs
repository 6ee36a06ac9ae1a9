//! The `limits` file at the top of a store: how large it may become, and what its guests meet when it is full.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::Result;

/// Magic of the `limits` file.
pub const LIMITS_MAGIC: [u8; 8] = *b"SILTLIMI";
/// Format version of the `limits` file.
pub const LIMITS_VERSION: u16 = 1;

/// As a size: none is set.
const UNSET: u64 = u64::MAX;

/// What a guest meets whose write needs space that there is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The write fails.
    #[default]
    Error,
    /// The write waits until there is space.
    Pause,
}

impl WhenFull {
    /// Every one, in the order of its number in the file.
    pub const ALL: [WhenFull; 2] = [WhenFull::Error, WhenFull::Pause];

    /// As the command line and JSON have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            WhenFull::Error => "error",
            WhenFull::Pause => "pause",
        }
    }

    /// The one that is written like this.
    pub fn from_word(word: &str) -> Option<WhenFull> {
        WhenFull::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

/// The bounds of a store, in bytes. A store without the file has the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsFile {
    /// What the store may take on its file system.
    pub quota: Option<u64>,
    /// What is to stay free there; unless set, as much as the store finds right.
    pub reserve: Option<u64>,
    /// What the deltas of a volume may take.
    pub delta: Option<u64>,
    /// What guests meet.
    pub when_full: WhenFull,
}

impl LimitsFile {
    /// Length of the whole file in bytes.
    pub const LEN: usize = FileHeader::LEN + Self::RECORD.len;

    /// The layout of the payload, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "limits payload",
        len: 32,
        fields: &[
            Field::new(0, 8, "quota", "bytes that the store may take; all ones for no bound"),
            Field::new(8, 8, "reserve", "bytes that stay free; all ones for the default"),
            Field::new(
                16,
                8,
                "delta",
                "bytes that the deltas of a volume may take; all ones for no bound",
            ),
            Field::new(24, 4, "when full", "0 a guest's write fails, 1 it waits"),
            Field::new(28, 4, "reserved", "zero"),
        ],
    };

    /// The encoded file of the store with this id.
    pub fn encode(&self, store: [u8; 16]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(Self::RECORD.len);
        for size in [self.quota, self.reserve, self.delta] {
            payload.put_u64(size.unwrap_or(UNSET));
        }
        payload.put_u32(self.when_full as u32);
        payload.put_u32(0);
        let header = FileHeader::of_payload(LIMITS_MAGIC, store, &payload);
        [header.encode().as_slice(), &payload].concat()
    }

    /// Decodes the file of the store with this id.
    pub fn decode(bytes: &[u8], store: [u8; 16]) -> Result<LimitsFile> {
        let (header, payload) = FileHeader::decode_file(bytes, LIMITS_MAGIC, LIMITS_VERSION)?;
        let mut wire = WireReader::new(payload, "limits file");
        if header.id != store {
            return Err(wire.corrupt("it is another store's"));
        }
        let mut size = || wire.u64().map(|size| (size != UNSET).then_some(size));
        let (quota, reserve, delta) = (size()?, size()?, size()?);
        let (when_full, _reserved) = (wire.u32()? as usize, wire.u32()?);
        let when_full = WhenFull::ALL.get(when_full).copied();
        let when_full = when_full.ok_or_else(|| wire.corrupt("it asks for something unknown"))?;
        wire.finish()?;
        Ok(LimitsFile { quota, reserve, delta, when_full })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limits_file_reads_back_and_its_bytes_stay_what_they_were() {
        let all = LimitsFile {
            quota: Some(1 << 40),
            reserve: Some(0),
            delta: Some(5),
            when_full: WhenFull::Pause,
        };
        for (limits, expected) in
            [(all, "5b89d735e535bba0"), (LimitsFile::default(), "98213dae5fd621dc")]
        {
            let mut bytes = limits.encode([7; 16]);
            assert_eq!(bytes.len(), LimitsFile::LEN);
            assert_eq!(LimitsFile::decode(&bytes, [7; 16]).unwrap(), limits);
            assert!(LimitsFile::decode(&bytes, [8; 16]).is_err());
            assert_eq!(&blake3::hash(&bytes).to_hex()[..16], expected);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(LimitsFile::decode(&bytes, [7; 16]).is_err(), "{bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
