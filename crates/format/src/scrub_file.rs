//! The scrub file: how far the verification that goes on in the background has come, and what it found.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::Result;

/// Magic of the scrub file.
pub const SCRUB_MAGIC: [u8; 8] = *b"SILTSCRB";
/// Format version of the scrub file.
pub const SCRUB_VERSION: u16 = 1;

/// What the scrub file says. A pass looks at every pack in the order of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubFile {
    /// Passes that were finished.
    pub passes: u64,
    /// Number of the last pack that the pass under way has looked at; 0 before the first.
    pub pack: u64,
    /// Bytes of packs that it has looked at.
    pub bytes: u64,
    /// What it has found damaged.
    pub damages: u64,
    /// When it began, in nanoseconds since 1970; 0 if none did.
    pub started_ns: i64,
    /// When the pass before ended; 0 if none did.
    pub finished_ns: i64,
    /// What that one found damaged.
    pub damages_before: u64,
}

impl ScrubFile {
    /// Length of the whole file in bytes.
    pub const LEN: usize = FileHeader::LEN + Self::RECORD.len;

    /// The layout of the payload, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "scrub payload",
        len: 56,
        fields: &[
            Field::new(0, 8, "passes", "finished"),
            Field::new(8, 8, "pack", "number of the last one that this pass has looked at"),
            Field::new(16, 8, "bytes", "of packs that it has looked at"),
            Field::new(24, 8, "damages", "that it has found"),
            Field::new(32, 8, "started", "when it began, in nanoseconds since 1970; 0: never"),
            Field::new(40, 8, "finished", "when the pass before ended; 0: never"),
            Field::new(48, 8, "damages before", "that that one found"),
        ],
    };

    /// The encoded file of the store with this id.
    pub fn encode(&self, store: [u8; 16]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(Self::RECORD.len);
        for value in [self.passes, self.pack, self.bytes, self.damages] {
            payload.put_u64(value);
        }
        payload.put_u64(self.started_ns as u64);
        payload.put_u64(self.finished_ns as u64);
        payload.put_u64(self.damages_before);
        let header = FileHeader::of_payload(SCRUB_MAGIC, store, &payload);
        [header.encode().as_slice(), &payload].concat()
    }

    /// Decodes the file. `Corrupt` if it is none.
    pub fn decode(bytes: &[u8]) -> Result<ScrubFile> {
        let (_, payload) = FileHeader::decode_file(bytes, SCRUB_MAGIC, SCRUB_VERSION)?;
        let mut wire = WireReader::new(payload, "scrub file");
        let file = ScrubFile {
            passes: wire.u64()?,
            pack: wire.u64()?,
            bytes: wire.u64()?,
            damages: wire.u64()?,
            started_ns: wire.u64()? as i64,
            finished_ns: wire.u64()? as i64,
            damages_before: wire.u64()?,
        };
        wire.finish()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_file_reads_back_and_its_bytes_stay_what_they_were() {
        assert!(ScrubFile::RECORD.is_contiguous());
        let file = ScrubFile {
            passes: 1,
            pack: 2,
            bytes: 3,
            damages: 4,
            started_ns: 5,
            finished_ns: 6,
            damages_before: 7,
        };
        let mut bytes = file.encode([8; 16]);
        assert_eq!((bytes.len(), ScrubFile::decode(&bytes).unwrap()), (ScrubFile::LEN, file));
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "ee6e6f167005282a");
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ScrubFile::decode(&bytes).is_err(), "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
