//! Packs: `file header | chunks as stored, back to back | footer | trailer`.
//!
//! The footer says what every chunk is, so the index can be made again from the packs alone, and carries the root
//! records of whatever was published with the pack, so the catalog can be made again too. The trailer is a file header
//! with a magic of its own that speaks for the footer. A pack without a whole trailer was never finished.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    root_record::RootRecord,
    wire::{WireReader, WireWrite},
};
use silt_types::{ChunkId, PackId, Result};

/// Magic of the file header at the start of a pack.
pub const PACK_MAGIC: [u8; 8] = *b"SILTPACK";
/// Magic of the trailer at its end.
pub const PACK_TRAILER_MAGIC: [u8; 8] = *b"SILTPEND";
/// Format version of both.
pub const PACK_VERSION: u16 = 1;

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One Zstandard frame (RFC 8878).
    Zstd = 1,
    /// One LZ4 block without a frame.
    Lz4 = 2,
}

impl Codec {
    /// The codec with this persisted number.
    pub fn from_u8(number: u8) -> Option<Codec> {
        [Codec::Raw, Codec::Zstd, Codec::Lz4].into_iter().find(|codec| *codec as u8 == number)
    }
}

/// Where a chunk lies in its pack and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// Name of the chunk.
    pub id: ChunkId,
    /// First byte in the pack.
    pub offset: u64,
    /// Bytes in the pack.
    pub stored_len: u32,
    /// Bytes of content, 1 to 65,536.
    pub len: u32,
    /// Kind of chunk, as numbered by the store.
    pub kind: u8,
    /// How it is stored.
    pub codec: Codec,
}

impl PackEntry {
    /// Encoded length in bytes.
    pub const LEN: usize = 50;

    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "pack entry",
        len: Self::LEN,
        fields: &[
            Field::new(0, 32, "chunk id", "keyed BLAKE3-256 of the content"),
            Field::new(32, 8, "offset", "first byte in the pack"),
            Field::new(40, 4, "stored length", "bytes in the pack"),
            Field::new(44, 4, "length", "bytes of content, 1 to 65,536"),
            Field::new(48, 1, "kind", "1 file data, 2 disk data, 3 map node, 4 tree node"),
            Field::new(49, 1, "codec", "0 as it is, 1 zstd, 2 lz4"),
        ],
    };

    /// Appends the encoded entry.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.id.as_bytes());
        out.put_u64(self.offset);
        out.put_u32(self.stored_len);
        out.put_u32(self.len);
        out.put_u8(self.kind);
        out.put_u8(self.codec as u8);
    }

    /// Decodes an entry by itself. `Corrupt` if it is none.
    pub fn decode(bytes: &[u8; PackEntry::LEN]) -> Result<PackEntry> {
        PackEntry::read(&mut WireReader::new(bytes, "a pack entry"))
    }

    fn read(wire: &mut WireReader<'_>) -> Result<PackEntry> {
        Ok(PackEntry {
            id: ChunkId::from_bytes(wire.array()?),
            offset: wire.u64()?,
            stored_len: wire.u32()?,
            len: wire.u32()?,
            kind: wire.u8()?,
            codec: {
                Codec::from_u8(wire.u8()?)
                    .ok_or_else(|| wire.corrupt("an entry has an unknown codec"))?
            },
        })
    }
}

/// Everything a finished pack says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackFooter {
    /// Its chunks, in the order in which they lie.
    pub entries: Vec<PackEntry>,
    /// What was published with it.
    pub roots: Vec<RootRecord>,
}

impl PackFooter {
    /// The most entries of a pack: bounds what a reader allocates for a footer to about 8 MiB.
    pub const ENTRIES_MAX: usize = 1 << 17;
    /// The most root records of a pack.
    pub const ROOTS_MAX: usize = 1 << 10;
    /// The longest footer in bytes.
    pub const LEN_MAX: u64 =
        (8 + Self::ENTRIES_MAX * PackEntry::LEN + Self::ROOTS_MAX * RootRecord::LEN_MAX) as u64;

    /// The footer and the trailer that closes the pack.
    pub fn encode(&self, pack: PackId) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            8 + self.entries.len() * PackEntry::LEN + self.roots.len() * RootRecord::LEN_MAX,
        );
        out.put_u32(self.entries.len() as u32);
        out.put_u32(self.roots.len() as u32);
        self.entries.iter().for_each(|entry| entry.encode_into(&mut out));
        self.roots.iter().for_each(|root| root.encode_into(&mut out));
        let mut trailer = FileHeader::of_payload(PACK_TRAILER_MAGIC, *pack.as_bytes(), &out);
        trailer.version = PACK_VERSION;
        out.put_bytes(&trailer.encode());
        out
    }

    /// Decodes a footer (without its trailer) after checking it against the checksum in `trailer`, and every entry
    /// against the space before the footer, which begins at `footer_offset`.
    pub fn decode(bytes: &[u8], trailer: &FileHeader, footer_offset: u64) -> Result<PackFooter> {
        let mut wire = WireReader::new(bytes, "pack footer");
        if bytes.len() as u64 != trailer.payload_len || crc32c::crc32c(bytes) != trailer.payload_crc
        {
            return Err(wire.corrupt("its checksum is wrong"));
        }
        let entries = wire.u32()? as usize;
        let roots = wire.u32()? as usize;
        if entries > Self::ENTRIES_MAX
            || roots > Self::ROOTS_MAX
            || wire.remaining() < entries * PackEntry::LEN
        {
            return Err(wire.corrupt("it has too many entries"));
        }
        let entries =
            (0..entries).map(|_| PackEntry::read(&mut wire)).collect::<Result<Vec<_>>>()?;
        let roots =
            (0..roots).map(|_| RootRecord::decode(&mut wire)).collect::<Result<Vec<_>>>()?;
        let mut at = FileHeader::LEN as u64;
        for entry in &entries {
            let end = entry.offset.saturating_add(u64::from(entry.stored_len));
            if entry.offset != at || end > footer_offset || !(1..=65536).contains(&entry.len) {
                return Err(wire.corrupt("an entry lies outside the chunks"));
            }
            at = end;
        }
        wire.finish()?;
        Ok(PackFooter { entries, roots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_types::{DeltaId, DiskId, Name, SnapshotId, StateId, TreeId, VolumeId};

    fn footer() -> PackFooter {
        let entry = |n: u8, offset, stored_len| PackEntry {
            id: ChunkId::from_bytes([n; 32]),
            offset,
            stored_len,
            len: 65536,
            kind: 1,
            codec: Codec::Zstd,
        };
        let disk = |n| DiskId { root: ChunkId::from_bytes([n; 32]), size_bytes: 1 << 30 };
        let image = RootRecord::Image {
            name: "debian".parse().unwrap(),
            disk: disk(9),
            tree: Some(TreeId::from_bytes([8; 32])),
            config: None,
            created_ns: -5,
        };
        let delta = DeltaId::from_bytes([7; 16]);
        let seal = RootRecord::Seal { base: disk(9), delta, disk: disk(6) };
        let snapshot = RootRecord::Snapshot {
            volume: VolumeId::from_bytes([5; 16]),
            id: SnapshotId::from_bytes([4; 16]),
            name: "n".repeat(Name::LEN_MAX).parse().unwrap(),
            parent: Some(SnapshotId::from_bytes([3; 16])),
            disk: disk(6),
            state: StateId::from_bytes([2; 32]),
            created_ns: 8,
        };
        let roots = vec![image, seal, snapshot];
        PackFooter { entries: vec![entry(1, 64, 100), entry(2, 164, 50)], roots }
    }

    fn decode(bytes: &[u8]) -> Result<PackFooter> {
        let (body, trailer) = bytes.split_at(bytes.len() - FileHeader::LEN);
        let trailer = FileHeader::decode(trailer, PACK_TRAILER_MAGIC, PACK_VERSION)?;
        PackFooter::decode(body, &trailer, 214)
    }

    #[test]
    fn a_footer_reads_back_and_any_flipped_bit_is_noticed() {
        let mut bytes = footer().encode(PackId::from_bytes([3; 16]));
        assert_eq!(decode(&bytes).unwrap(), footer());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_were() {
        let mut footer = footer();
        for expected in ["c64d58cff7b2c548", "00f4019337c344d6"] {
            let hash = blake3::hash(&footer.encode(PackId::from_bytes([3; 16]))).to_hex();
            assert_eq!(&hash[..16], expected);
            footer.roots.truncate(1); // An image alone.
        }
        if let RootRecord::Image { config, .. } = &mut footer.roots[0] {
            *config = Some(DiskId { root: ChunkId::from_bytes([1; 32]), size_bytes: 1234 });
        }
        let bytes = footer.encode(PackId::from_bytes([3; 16]));
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "8599acf9455d36a1");
        assert_eq!(decode(&bytes).unwrap(), footer);
    }
}
