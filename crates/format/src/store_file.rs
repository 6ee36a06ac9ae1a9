//! The small files at the top of a store: `store`, which says what it is, and `commit`, which says how far its database
//! must have come.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{Error, ErrorKind, Result};

/// Magic of the `store` file.
pub const STORE_MAGIC: [u8; 8] = *b"SILTSTOR";
/// Format version of the store as a whole: 2 since images keep a configuration, 3 since packs are collected.
pub const STORE_VERSION: u16 = 3;

/// The `store` file: a file header whose id is the store's, and this payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFile {
    /// Random id of the store.
    pub id: [u8; 16],
    /// Secret of its dedup domain; all zero for the published one.
    pub domain_secret: [u8; 32],
}

impl StoreFile {
    /// Length of the whole file in bytes.
    pub const LEN: usize = FileHeader::LEN + 32;

    /// The layout of the payload, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "store file payload",
        len: 32,
        fields: &[Field::new(
            0,
            32,
            "domain secret",
            "dedup domain; all zero for the published one",
        )],
    };

    /// The encoded file.
    pub fn encode(&self) -> Vec<u8> {
        let header = FileHeader::of_payload(STORE_MAGIC, self.id, &self.domain_secret);
        let header = FileHeader { version: STORE_VERSION, ..header };
        [header.encode().as_slice(), &self.domain_secret].concat()
    }

    /// Decodes the file. `Unsupported` if the store is of another version: there is none that is read as an older one.
    pub fn decode(bytes: &[u8]) -> Result<StoreFile> {
        StoreFile::decode_since(bytes, STORE_VERSION).map(|(file, _)| file)
    }

    /// The same for stores of older versions too, down to `version_min`. Answers the version.
    pub fn decode_since(bytes: &[u8], version_min: u16) -> Result<(StoreFile, u16)> {
        let (header, payload) = FileHeader::decode_file(bytes, STORE_MAGIC, STORE_VERSION)?;
        if header.version < version_min {
            let message = format!(
                "the store has format version {}; this build knows version {STORE_VERSION}, and `silt store upgrade` from version 2 on",
                header.version
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut wire = WireReader::new(payload, "store file");
        let domain_secret = wire.array()?;
        wire.finish()?;
        Ok((StoreFile { id: header.id, domain_secret }, header.version))
    }
}

/// Magic of a slot of the `commit` file.
pub const COMMIT_MAGIC: [u8; 8] = *b"SILTCOMM";

/// A slot of the `commit` file, one disk sector: number `n` goes to slot `n % 2`, so a torn write leaves the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitSlot {
    /// Number of the last transaction that changed the catalog.
    pub number: u64,
}

impl CommitSlot {
    /// Length in bytes: a sector.
    pub const LEN: usize = 512;

    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "commit slot",
        len: Self::LEN,
        fields: &[
            Field::new(0, 8, "magic", "`SILTCOMM`"),
            Field::new(8, 8, "number", "last transaction that changed the catalog"),
            Field::new(16, 492, "reserved", "zero"),
            Field::new(508, 4, "checksum", "CRC-32C of bytes 0 to 507"),
        ],
    };

    /// The encoded slot.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_bytes(&COMMIT_MAGIC);
        out.put_u64(self.number);
        out.resize(Self::LEN - 4, 0);
        out.put_u32(crc32c::crc32c(&out));
        out.try_into().expect("the fields above are 512 bytes")
    }

    /// Decodes a slot; `None` for one that was never written.
    pub fn decode(bytes: &[u8]) -> Result<Option<CommitSlot>> {
        let mut wire = WireReader::new(bytes, "commit slot");
        if bytes.len() == Self::LEN && bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (magic, number) = (wire.array::<8>()?, wire.u64()?);
        wire.bytes(Self::LEN - 20)?;
        if magic != COMMIT_MAGIC || wire.u32()? != crc32c::crc32c(&bytes[..Self::LEN - 4]) {
            return Err(wire.corrupt("its checksum is wrong"));
        }
        wire.finish()?;
        Ok(Some(CommitSlot { number }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_read_back_and_any_flipped_bit_is_noticed() {
        let store = StoreFile { id: [1; 16], domain_secret: [2; 32] };
        let mut bytes = store.encode();
        assert_eq!((bytes.len(), StoreFile::decode(&bytes).unwrap()), (StoreFile::LEN, store));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(StoreFile::decode(&bytes).is_err(), "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let older = FileHeader::of_payload(STORE_MAGIC, store.id, &store.domain_secret).encode();
        let older = [older.as_slice(), &store.domain_secret].concat();
        assert_eq!(StoreFile::decode(&older).unwrap_err().kind(), ErrorKind::Unsupported);
        let slot = CommitSlot { number: 77 };
        let mut bytes = slot.encode();
        assert_eq!(CommitSlot::decode(&bytes).unwrap(), Some(slot));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(CommitSlot::decode(&bytes).is_err(), "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(CommitSlot::decode(&[0; 512]).unwrap(), None);
    }
}
