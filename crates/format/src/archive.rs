//! An archive: a store, or some names of it, as one stream of bytes that is written and read from one end to the other.
//!
//! ```text
//! file header | frames of chunks | frames of names | frame of the end
//! ```
//!
//! A frame is a head and a payload. The id of the file header is the dedup domain's. A chunk comes behind everything that it
//! names, so of an archive that was cut off between frames everything is whole but the names. The end speaks for every byte
//! before it.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    pack::Codec,
    root_record::{put_disk, put_name, put_optional, read_disk, read_name, read_optional},
    wire::{WireReader, WireWrite},
};
use silt_types::{
    CHUNK_SIZE_BYTES_MAX, ChunkId, DiskId, DiskName, Name, Result, SnapshotId, StateId, TreeId,
    VolumeId,
};

/// Magic of an archive.
pub const ARCHIVE_MAGIC: [u8; 8] = *b"SILTARCH";
/// Format version of archives.
pub const ARCHIVE_VERSION: u16 = 1;
/// The most names of an archive: bounds what a reader keeps of them to some hundred MiB.
pub const ARCHIVE_NAMES_MAX: u64 = 1 << 20;

const CHUNK: u8 = 1;
const IMAGE: u8 = 2;
const VOLUME: u8 = 3;
const SNAPSHOT: u8 = 4;
const END: u8 = 5;

/// The longest payload of a frame with a name: two names, a disk name, two disks, ids.
const NAME_LEN_MAX: usize = 1024;

/// What stands before the payload of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveFrameHead {
    kind: u8,
    len: u32,
    crc: u32,
}

/// What a chunk in an archive is; its bytes as they are stored follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchivedChunk {
    /// Name of the chunk.
    pub id: ChunkId,
    /// Bytes of content, 1 to 65,536.
    pub len: u32,
    /// Kind of chunk, as numbered by the store.
    pub kind: u8,
    /// How it is stored.
    pub codec: Codec,
}

/// Something with a name in an archive, all of it sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchivedName {
    /// An image.
    Image {
        /// Its name.
        name: Name,
        /// Its disk.
        disk: DiskId,
        /// Its tree, where it was built from files.
        tree: Option<TreeId>,
        /// Its configuration as a disk of that length, where it came with one.
        config: Option<DiskId>,
        /// When it was published, in nanoseconds since 1970.
        created_ns: i64,
    },
    /// A volume.
    Volume {
        /// Its id.
        id: VolumeId,
        /// Its name.
        name: Name,
        /// What it held.
        disk: DiskId,
        /// Its state id.
        state: StateId,
        /// The snapshot that it went on from.
        head: Option<SnapshotId>,
        /// Name of the disk that it was cloned from.
        source: DiskName,
        /// The volume that was, if it was one.
        source_volume: Option<VolumeId>,
        /// When it was made, in nanoseconds since 1970.
        created_ns: i64,
    },
    /// A snapshot of a volume that came before.
    Snapshot {
        /// Its id.
        id: SnapshotId,
        /// The volume it is of.
        volume: VolumeId,
        /// Its name within the volume.
        name: Name,
        /// Its disk.
        disk: DiskId,
        /// Its state id.
        state: StateId,
        /// The snapshot that the volume had gone on from when it was taken.
        parent: Option<SnapshotId>,
        /// Why it is there, as numbered by the store.
        purpose: u8,
        /// When it was taken, in nanoseconds since 1970.
        created_ns: i64,
    },
}

/// The end of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveEnd {
    /// Chunks before it.
    pub chunks: u64,
    /// Names before it.
    pub names: u64,
    /// BLAKE3-256 of every byte before this frame.
    pub digest: [u8; 32],
}

/// A part of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveFrame<'a> {
    /// A chunk, and its bytes as they are stored.
    Chunk(ArchivedChunk, &'a [u8]),
    /// Something with a name.
    Name(ArchivedName),
    /// Nothing comes behind it.
    End(ArchiveEnd),
}

/// The digest of what was written, or read, of an archive so far.
#[derive(Clone, Debug, Default)]
pub struct ArchiveDigest(blake3::Hasher);

impl ArchiveDigest {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The header of an archive of stores with this dedup domain.
pub const fn archive_header(domain: [u8; 16]) -> FileHeader {
    FileHeader::growing(ARCHIVE_MAGIC, domain)
}

impl ArchiveFrameHead {
    /// Encoded length in bytes.
    pub const LEN: usize = 16;

    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "archive frame head",
        len: Self::LEN,
        fields: &[
            Field::new(0, 1, "kind", "1 chunk, 2 image, 3 volume, 4 snapshot, 5 end"),
            Field::new(1, 3, "reserved", "zero"),
            Field::new(4, 4, "length", "bytes of payload"),
            Field::new(8, 4, "payload checksum", "CRC-32C of those bytes"),
            Field::new(12, 4, "checksum", "CRC-32C of bytes 0 to 11"),
        ],
    };

    /// Decodes a head. `Corrupt` if it is damaged, or no frame of its kind has a payload of its length.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<ArchiveFrameHead> {
        let mut wire = WireReader::new(bytes, "frame of an archive");
        let (kind, reserved) = (wire.u8()?, wire.array::<3>()?);
        let (len, crc, own_crc) = (wire.u32()?, wire.u32()?, wire.u32()?);
        if own_crc != crc32c::crc32c(&bytes[..12]) {
            return Err(wire.corrupt("its checksum is wrong"));
        }
        let is_possible = match kind {
            CHUNK => (ArchivedChunk::LEN + 1..=ArchivedChunk::LEN + CHUNK_SIZE_BYTES_MAX)
                .contains(&(len as usize)),
            IMAGE | VOLUME | SNAPSHOT => len as usize <= NAME_LEN_MAX,
            END => len as usize == ArchiveEnd::RECORD.len,
            _ => false,
        };
        if !is_possible || reserved != [0; 3] {
            return Err(wire.corrupt("its kind or its length is none"));
        }
        Ok(ArchiveFrameHead { kind, len, crc })
    }

    /// Length of the payload in bytes, at most that of the longest chunk and what is said of it.
    pub fn payload_len(&self) -> usize {
        self.len as usize
    }
}

impl ArchivedChunk {
    /// Encoded length in bytes.
    pub const LEN: usize = 38;

    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "archived chunk",
        len: Self::LEN,
        fields: &[
            Field::new(0, 32, "chunk id", "keyed BLAKE3-256 of the content"),
            Field::new(32, 4, "length", "bytes of content, 1 to 65,536"),
            Field::new(36, 1, "kind", "as in a pack entry"),
            Field::new(37, 1, "codec", "as in a pack entry"),
        ],
    };

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.id.as_bytes());
        out.put_u32(self.len);
        out.put_u8(self.kind);
        out.put_u8(self.codec as u8);
    }

    fn read(wire: &mut WireReader<'_>) -> Result<ArchivedChunk> {
        let (id, len, kind) = (ChunkId::from_bytes(wire.array()?), wire.u32()?, wire.u8()?);
        let codec = Codec::from_u8(wire.u8()?);
        let codec = codec.ok_or_else(|| wire.corrupt("a chunk has an unknown codec"))?;
        if !(1..=CHUNK_SIZE_BYTES_MAX).contains(&(len as usize)) {
            return Err(wire.corrupt("a chunk has an impossible length"));
        }
        Ok(ArchivedChunk { id, len, kind, codec })
    }
}

impl ArchiveEnd {
    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "archive end",
        len: 48,
        fields: &[
            Field::new(0, 8, "chunks", "frames of chunks before it"),
            Field::new(8, 8, "names", "frames of names before it"),
            Field::new(16, 32, "digest", "BLAKE3-256 of every byte before this frame"),
        ],
    };
}

impl ArchiveFrame<'_> {
    /// Appends the encoded frame.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_bytes(&[0; ArchiveFrameHead::LEN]);
        let kind = match self {
            ArchiveFrame::Chunk(about, stored) => {
                about.encode_into(out);
                out.put_bytes(stored);
                CHUNK
            }
            ArchiveFrame::Name(name) => name.encode_into(out),
            ArchiveFrame::End(end) => {
                out.put_u64(end.chunks);
                out.put_u64(end.names);
                out.put_bytes(&end.digest);
                END
            }
        };
        let payload = &out[start + ArchiveFrameHead::LEN..];
        let mut head = Vec::with_capacity(ArchiveFrameHead::LEN);
        head.put_u32(kind.into());
        head.put_u32(payload.len() as u32);
        head.put_u32(crc32c::crc32c(payload));
        head.put_u32(crc32c::crc32c(&head));
        out[start..start + ArchiveFrameHead::LEN].copy_from_slice(&head);
    }

    /// Decodes the payload that came behind a head. `Corrupt` if it is damaged.
    pub fn decode<'a>(head: &ArchiveFrameHead, payload: &'a [u8]) -> Result<ArchiveFrame<'a>> {
        let mut wire = WireReader::new(payload, "frame of an archive");
        if payload.len() != head.payload_len() || crc32c::crc32c(payload) != head.crc {
            return Err(wire.corrupt("the checksum of its payload is wrong"));
        }
        let frame = match head.kind {
            CHUNK => {
                let about = ArchivedChunk::read(&mut wire)?;
                ArchiveFrame::Chunk(about, wire.bytes(wire.remaining())?)
            }
            END => ArchiveFrame::End(ArchiveEnd {
                chunks: wire.u64()?,
                names: wire.u64()?,
                digest: wire.array()?,
            }),
            kind => ArchiveFrame::Name(ArchivedName::read(kind, &mut wire)?),
        };
        wire.finish()?;
        Ok(frame)
    }
}

impl ArchivedName {
    /// Answers the kind of the frame.
    fn encode_into(&self, out: &mut Vec<u8>) -> u8 {
        match self {
            ArchivedName::Image { name, disk, tree, config, created_ns } => {
                put_name(out, name);
                put_disk(out, disk);
                put_optional(out, tree.as_ref().map(TreeId::as_bytes));
                out.put_u8(u8::from(config.is_some()));
                config.iter().for_each(|config| put_disk(out, config));
                out.put_u64(*created_ns as u64);
                IMAGE
            }
            ArchivedName::Volume {
                id,
                name,
                disk,
                state,
                head,
                source,
                source_volume,
                created_ns,
            } => {
                out.put_bytes(id.as_bytes());
                put_name(out, name);
                put_disk(out, disk);
                out.put_bytes(state.as_bytes());
                put_optional(out, head.as_ref().map(SnapshotId::as_bytes));
                let source = source.to_string();
                out.put_u16(source.len() as u16);
                out.put_bytes(source.as_bytes());
                put_optional(out, source_volume.as_ref().map(VolumeId::as_bytes));
                out.put_u64(*created_ns as u64);
                VOLUME
            }
            ArchivedName::Snapshot {
                id,
                volume,
                name,
                disk,
                state,
                parent,
                purpose,
                created_ns,
            } => {
                out.put_bytes(id.as_bytes());
                out.put_bytes(volume.as_bytes());
                put_name(out, name);
                put_disk(out, disk);
                out.put_bytes(state.as_bytes());
                put_optional(out, parent.as_ref().map(SnapshotId::as_bytes));
                out.put_u8(*purpose);
                out.put_u64(*created_ns as u64);
                SNAPSHOT
            }
        }
    }

    fn read(kind: u8, wire: &mut WireReader<'_>) -> Result<ArchivedName> {
        Ok(match kind {
            IMAGE => ArchivedName::Image {
                name: read_name(wire)?,
                disk: read_disk(wire)?,
                tree: read_optional(wire)?.map(TreeId::from_bytes),
                config: if wire.u8()? == 1 { Some(read_disk(wire)?) } else { None },
                created_ns: wire.u64()? as i64,
            },
            VOLUME => ArchivedName::Volume {
                id: VolumeId::from_bytes(wire.array()?),
                name: read_name(wire)?,
                disk: read_disk(wire)?,
                state: StateId::from_bytes(wire.array()?),
                head: read_optional(wire)?.map(SnapshotId::from_bytes),
                source: read_disk_name(wire)?,
                source_volume: read_optional(wire)?.map(VolumeId::from_bytes),
                created_ns: wire.u64()? as i64,
            },
            SNAPSHOT => ArchivedName::Snapshot {
                id: SnapshotId::from_bytes(wire.array()?),
                volume: VolumeId::from_bytes(wire.array()?),
                name: read_name(wire)?,
                disk: read_disk(wire)?,
                state: StateId::from_bytes(wire.array()?),
                parent: read_optional(wire)?.map(SnapshotId::from_bytes),
                purpose: wire.u8()?,
                created_ns: wire.u64()? as i64,
            },
            _ => return Err(wire.corrupt("its kind is unknown")),
        })
    }
}

fn read_disk_name(wire: &mut WireReader<'_>) -> Result<DiskName> {
    let len = usize::from(wire.u16()?);
    let name = std::str::from_utf8(wire.bytes(len)?).ok().and_then(|text| text.parse().ok());
    name.ok_or_else(|| wire.corrupt("it has a bad name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<ArchiveFrame<'static>> {
        let disk = |n| DiskId { root: ChunkId::from_bytes([n; 32]), size_bytes: 1 << 30 };
        let chunk = ArchivedChunk {
            id: ChunkId::from_bytes([1; 32]),
            len: 65536,
            kind: 2,
            codec: Codec::Zstd,
        };
        let image = ArchivedName::Image {
            name: "debian".parse().unwrap(),
            disk: disk(2),
            tree: Some(TreeId::from_bytes([3; 32])),
            config: Some(disk(4)),
            created_ns: -5,
        };
        let volume = ArchivedName::Volume {
            id: VolumeId::from_bytes([5; 16]),
            name: "n".repeat(Name::LEN_MAX).parse().unwrap(),
            disk: disk(6),
            state: StateId::from_bytes([7; 32]),
            head: Some(SnapshotId::from_bytes([8; 16])),
            source: "debian@before".parse().unwrap(),
            source_volume: Some(VolumeId::from_bytes([9; 16])),
            created_ns: 1 << 60,
        };
        let snapshot = ArchivedName::Snapshot {
            id: SnapshotId::from_bytes([8; 16]),
            volume: VolumeId::from_bytes([5; 16]),
            name: "before".parse().unwrap(),
            disk: disk(10),
            state: StateId::from_bytes([11; 32]),
            parent: None,
            purpose: 1,
            created_ns: 7,
        };
        let names = [image, volume, snapshot].map(ArchiveFrame::Name);
        let end = ArchiveEnd { chunks: 1, names: 3, digest: [12; 32] };
        let chunk = ArchiveFrame::Chunk(chunk, b"stored");
        [chunk].into_iter().chain(names).chain([ArchiveFrame::End(end)]).collect()
    }

    fn encoded(frame: &ArchiveFrame<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode_into(&mut bytes);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<ArchiveFrame<'_>> {
        let mut wire = WireReader::new(bytes, "test");
        let head = ArchiveFrameHead::decode(&wire.array()?)?;
        ArchiveFrame::decode(&head, &bytes[ArchiveFrameHead::LEN..])
    }

    #[test]
    fn frames_read_back_and_any_flipped_bit_is_noticed() {
        for frame in frames() {
            let mut bytes = encoded(&frame);
            assert_eq!(decode(&bytes).unwrap(), frame);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&bytes).is_err(), "{frame:?} {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{frame:?} {len}");
            }
        }
    }

    #[test]
    fn a_frame_that_lies_about_itself_is_refused() {
        let resealed = |mut bytes: Vec<u8>, at: usize, value: u8| {
            bytes[at] = value;
            let payload = crc32c::crc32c(&bytes[ArchiveFrameHead::LEN..]).to_le_bytes();
            bytes[8..12].copy_from_slice(&payload);
            let head = crc32c::crc32c(&bytes[..12]).to_le_bytes();
            bytes[12..16].copy_from_slice(&head);
            bytes
        };
        for frame in frames() {
            for at in 0..encoded(&frame).len() {
                for value in [0, 1, 6, 0x7f, 0x80, 0xff] {
                    let _ = decode(&resealed(encoded(&frame), at, value));
                }
            }
        }
        let chunk = encoded(&frames()[0]);
        let impossible = [(0, 6), (0, 0), (1, 1), (6, 2), (7, 255), (16 + 35, 1), (16 + 37, 3)];
        for (at, value) in impossible {
            assert!(decode(&resealed(chunk.clone(), at, value)).is_err(), "{at} {value}");
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_were() {
        let mut bytes = archive_header([3; 16]).encode().to_vec();
        frames().iter().for_each(|frame| frame.encode_into(&mut bytes));
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "f8e2609ce8b2143a");
        let mut digest = ArchiveDigest::default();
        digest.update(&bytes);
        assert_eq!(digest.digest(), *blake3::hash(&bytes).as_bytes());
    }
}
