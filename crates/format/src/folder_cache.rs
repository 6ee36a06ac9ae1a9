//! The rebuild cache of a folder: what its files consisted of when they were last read.
//!
//! ```text
//! file header | statement | frame header, records | frame header, records | ...
//! ```
//!
//! It is written without fsync and believed without reading it whole first, so each frame proves for itself that it is
//! whole, that it belongs to this very file, and that it stands where it was written. What a reader makes of a cache that
//! is damaged or cut off is decided by `silt-image`'s `directory::cache`, not here.

use crate::{
    file_header::FileHeader,
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{ChunkId, DiskId, Result, TreeId};

/// Magic of a folder's cache.
pub const FOLDER_CACHE_MAGIC: [u8; 8] = *b"SILTFOLD";
/// Format version of a folder's cache.
pub const FOLDER_CACHE_VERSION: u16 = 1;

/// The most bytes of records in a frame, which bounds what a reader takes into memory.
pub const FOLDER_CACHE_FRAME_LEN_MAX: usize = 64 << 10;
/// The most steps of a record, so that it fits a frame; a longer file has several records.
pub const FOLDER_CACHE_STEPS_MAX: usize = 1024;

/// The id of a folder in a store: of what its cache is named by. `path` leads to it from the root, through no link.
pub fn folder_cache_id(store: &[u8; 16], path: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("siltstone 1 folder cache");
    head_of(hasher.update(store).update(path))
}

/// Makes the keys of files.
pub struct FolderCacheKeys(blake3::Hasher);

impl FolderCacheKeys {
    /// The same in every process.
    pub fn new() -> FolderCacheKeys {
        FolderCacheKeys(blake3::Hasher::new_derive_key("siltstone 1 file of a folder"))
    }

    /// The key of a file: of the numbers that change when it does, and its path in the folder.
    pub fn key(&self, numbers: [u64; 7], path: &[u8]) -> [u8; 16] {
        let mut bytes = [0; 56];
        let fields = bytes.as_chunks_mut().0.iter_mut().zip(numbers);
        fields.for_each(|(field, number)| *field = number.to_le_bytes());
        head_of(self.0.clone().update(&bytes).update(path))
    }
}

impl Default for FolderCacheKeys {
    fn default() -> Self {
        FolderCacheKeys::new()
    }
}

fn head_of(hasher: &blake3::Hasher) -> [u8; 16] {
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// One 64 KiB step of a file that is not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStep {
    /// Number of the step in the file.
    pub number: u32,
    /// Bit `n` is set where block `n` of the step is not zero.
    pub blocks: u16,
    /// The step's content, to the last byte of the file.
    pub chunk: ChunkId,
}

impl FileStep {
    /// Length in bytes.
    pub const LEN: usize = 38;

    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "file step",
        len: Self::LEN,
        fields: &[
            Field::new(0, 4, "number", "of the 64 KiB step in the file"),
            Field::new(4, 2, "blocks", "a bit for each block that is not zero"),
            Field::new(6, 32, "chunk", "the step's content, to the last byte of the file"),
        ],
    };

    /// Appends the encoded step.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_u32(self.number);
        out.put_u16(self.blocks);
        out.put_bytes(self.chunk.as_bytes());
    }

    /// Decodes a step; every value is one.
    pub fn decode(bytes: &[u8; Self::LEN]) -> FileStep {
        let (number, rest) = bytes.split_first_chunk().expect("38 bytes begin with 4");
        let (blocks, chunk) = rest.split_first_chunk().expect("34 bytes begin with 2");
        FileStep {
            number: u32::from_le_bytes(*number),
            blocks: u16::from_le_bytes(*blocks),
            chunk: ChunkId::from_bytes(*chunk.first_chunk().expect("32 bytes are left")),
        }
    }
}

/// The disk that a folder became, by which it is had again for an equal tree without laying anything out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaidOut {
    /// Version of the layout's rules.
    pub layout_version: u32,
    /// What was laid out.
    pub tree: TreeId,
    /// The size that was asked for, if any.
    pub size_asked: Option<u64>,
    /// The disk.
    pub disk: DiskId,
    /// Numbers of the layout, whose meaning its version fixes.
    pub numbers: [u64; 9],
    /// Chunks that the disk has beside those of files and tree, and their bytes.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The beginning of a folder's cache: a file header whose id is the folder's in its store, and this statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderCache {
    /// The folder.
    pub folder: [u8; 16],
    /// Random; in the checksum of every frame of this file.
    pub nonce: [u8; 16],
    /// The store's count of removals, read before the first chunk in here was looked up.
    pub removals: u64,
    /// A transaction of the catalog by which all of it was in the store.
    pub transaction: u64,
    /// Bytes of frames.
    pub frames_len: u64,
    /// What the folder became.
    pub laid_out: LaidOut,
}

const STATEMENT_LEN: usize = 248;

impl FolderCache {
    /// Length in bytes of header and statement.
    pub const LEN: usize = FileHeader::LEN + STATEMENT_LEN;

    /// The layout of the statement, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "folder cache statement",
        len: STATEMENT_LEN,
        fields: &[
            Field::new(0, 16, "nonce", "random; begins what the checksum of a frame is over"),
            Field::new(16, 8, "removals", "of the store, before the first chunk was looked up"),
            Field::new(24, 8, "transaction", "one by which all of it was in the store"),
            Field::new(32, 8, "frames length", "bytes of frames"),
            Field::new(40, 4, "layout version", "version of the layout's rules"),
            Field::new(44, 4, "sized", "1 if a size was asked for"),
            Field::new(48, 32, "tree", "what was laid out"),
            Field::new(80, 8, "size asked for", "in bytes; zero if none was"),
            Field::new(88, 32, "disk root", "root of the disk's map"),
            Field::new(120, 8, "disk size", "length of the disk in bytes"),
            Field::new(128, 72, "numbers", "of the layout, 8 bytes each"),
            Field::new(200, 8, "chunks", "of the disk, beside those of files and tree"),
            Field::new(208, 8, "bytes", "of those chunks"),
            Field::new(216, 32, "reserved", "zero"),
        ],
    };

    /// The encoded header and statement.
    pub fn encode(&self) -> Vec<u8> {
        let mut statement = Vec::with_capacity(STATEMENT_LEN);
        let laid_out = &self.laid_out;
        statement.put_bytes(&self.nonce);
        statement.put_u64(self.removals);
        statement.put_u64(self.transaction);
        statement.put_u64(self.frames_len);
        statement.put_u32(laid_out.layout_version);
        statement.put_u32(laid_out.size_asked.is_some().into());
        statement.put_bytes(laid_out.tree.as_bytes());
        statement.put_u64(laid_out.size_asked.unwrap_or(0));
        statement.put_bytes(laid_out.disk.root.as_bytes());
        statement.put_u64(laid_out.disk.size_bytes);
        laid_out.numbers.iter().for_each(|number| statement.put_u64(*number));
        statement.put_u64(laid_out.chunks);
        statement.put_u64(laid_out.bytes);
        statement.resize(STATEMENT_LEN, 0);
        let header = FileHeader::of_payload(FOLDER_CACHE_MAGIC, self.folder, &statement);
        [header.encode().as_slice(), &statement].concat()
    }

    /// Decodes header and statement: the first [`FolderCache::LEN`] bytes of the file.
    pub fn decode(bytes: &[u8]) -> Result<FolderCache> {
        let (header, statement) =
            FileHeader::decode_file(bytes, FOLDER_CACHE_MAGIC, FOLDER_CACHE_VERSION)?;
        let mut wire = WireReader::new(statement, "folder cache");
        let nonce = wire.array()?;
        let (removals, transaction, frames_len) = (wire.u64()?, wire.u64()?, wire.u64()?);
        let (layout_version, is_sized) = (wire.u32()?, wire.u32()? != 0);
        let (tree, size) = (TreeId::from_bytes(wire.array()?), wire.u64()?);
        let disk = DiskId { root: ChunkId::from_bytes(wire.array()?), size_bytes: wire.u64()? };
        let mut numbers = [0; 9];
        for number in &mut numbers {
            *number = wire.u64()?;
        }
        let (chunks, bytes) = (wire.u64()?, wire.u64()?);
        wire.bytes(32)?;
        wire.finish()?;
        let size_asked = is_sized.then_some(size);
        let laid_out = LaidOut { layout_version, tree, size_asked, disk, numbers, chunks, bytes };
        Ok(FolderCache { folder: header.id, nonce, removals, transaction, frames_len, laid_out })
    }
}

/// What stands before the records of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderCacheFrame {
    /// Bytes of records.
    pub len: usize,
    checksum: u32,
}

impl FolderCacheFrame {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// The layout, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "folder cache frame header",
        len: Self::LEN,
        fields: &[
            Field::new(0, 4, "length", "bytes of records, 1 to 65,536"),
            Field::new(4, 4, "checksum", "CRC-32C of nonce, number of the frame (8) and records"),
        ],
    };

    /// The header of frame `number`, counted from 0, of the file with this nonce.
    pub fn of(nonce: &[u8; 16], number: u64, records: &[u8]) -> FolderCacheFrame {
        FolderCacheFrame { len: records.len(), checksum: checksum(nonce, number, records) }
    }

    /// The encoded header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&(self.len as u32).to_le_bytes());
        out[4..].copy_from_slice(&self.checksum.to_le_bytes());
        out
    }

    /// Decodes the header. `Corrupt` if no frame is that long.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<FolderCacheFrame> {
        let mut wire = WireReader::new(bytes, "folder cache frame");
        let (len, checksum) = (wire.u32()? as usize, wire.u32()?);
        if !(1..=FOLDER_CACHE_FRAME_LEN_MAX).contains(&len) {
            return Err(wire.corrupt("no frame is that long"));
        }
        Ok(FolderCacheFrame { len, checksum })
    }

    /// Whether these are the records of frame `number` of the file with this nonce.
    pub fn is_of(&self, nonce: &[u8; 16], number: u64, records: &[u8]) -> bool {
        self.len == records.len() && self.checksum == checksum(nonce, number, records)
    }
}

fn checksum(nonce: &[u8; 16], number: u64, records: &[u8]) -> u32 {
    let position = crc32c::crc32c_append(crc32c::crc32c(nonce), &number.to_le_bytes());
    crc32c::crc32c_append(position, records)
}

/// What is known of a file, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderCacheRecord<'a> {
    /// Hash of all by which a change of the file is noticed. Records ascend by it.
    pub key: [u8; 16],
    /// Whether the next record goes on with the same file.
    pub goes_on: bool,
    steps: &'a [[u8; FileStep::LEN]],
}

impl FolderCacheRecord<'_> {
    /// Length in bytes before the steps.
    pub const LEN: usize = 20;

    /// The layout, as documented in `docs/internals/formats.md`. The steps follow.
    pub const RECORD: Record = Record {
        name: "folder cache record",
        len: Self::LEN,
        fields: &[
            Field::new(0, 16, "key", "hash of all by which a change of the file is noticed"),
            Field::new(16, 2, "steps", "number of file steps that follow, 0 to 1,024"),
            Field::new(18, 2, "goes on", "1 if the next record goes on with the same file"),
        ],
    };

    /// Appends a record: at most [`FOLDER_CACHE_STEPS_MAX`] steps, by number.
    pub fn encode_into(key: &[u8; 16], goes_on: bool, steps: &[FileStep], out: &mut Vec<u8>) {
        debug_assert!(steps.len() <= FOLDER_CACHE_STEPS_MAX);
        out.put_bytes(key);
        out.put_u16(steps.len() as u16);
        out.put_u16(goes_on.into());
        steps.iter().for_each(|step| step.encode_into(out));
    }

    /// Takes a record from the front of what is left of a frame.
    pub fn take<'a>(records: &mut &'a [u8]) -> Result<FolderCacheRecord<'a>> {
        let mut wire = WireReader::new(records, "folder cache record");
        let key = wire.array()?;
        let (count, goes_on) = (usize::from(wire.u16()?), wire.u16()?);
        if count > FOLDER_CACHE_STEPS_MAX || goes_on > 1 {
            return Err(wire.corrupt("it is none of this version"));
        }
        let (steps, _) = wire.bytes(count * FileStep::LEN)?.as_chunks();
        *records = &records[Self::LEN + count * FileStep::LEN..];
        Ok(FolderCacheRecord { key, goes_on: goes_on == 1, steps })
    }

    /// The steps.
    pub fn steps(&self) -> impl Iterator<Item = FileStep> + '_ {
        self.steps.iter().map(FileStep::decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u32) -> FileStep {
        FileStep { number, blocks: 0xff0f, chunk: ChunkId::from_bytes([number as u8; 32]) }
    }

    fn cache() -> FolderCache {
        let laid_out = LaidOut {
            layout_version: 1,
            tree: TreeId::from_bytes([3; 32]),
            size_asked: Some(1 << 30),
            disk: DiskId { root: ChunkId::from_bytes([4; 32]), size_bytes: 1 << 30 },
            numbers: [1, 2, 3, 4, 5, 6, 7, 8, 9],
            chunks: 10,
            bytes: 11,
        };
        FolderCache {
            folder: [1; 16],
            nonce: [2; 16],
            removals: 12,
            transaction: 13,
            frames_len: 14,
            laid_out,
        }
    }

    fn frame() -> Vec<u8> {
        let mut records = Vec::new();
        FolderCacheRecord::encode_into(&[5; 16], true, &[step(0), step(1)], &mut records);
        FolderCacheRecord::encode_into(&[5; 16], false, &[], &mut records);
        [FolderCacheFrame::of(&[2; 16], 7, &records).encode().as_slice(), &records].concat()
    }

    #[test]
    fn statements_read_back_and_any_flipped_bit_is_noticed() {
        let unsized_ =
            FolderCache { laid_out: LaidOut { size_asked: None, ..cache().laid_out }, ..cache() };
        for cache in [cache(), unsized_] {
            let mut bytes = cache.encode();
            assert_eq!(bytes.len(), FolderCache::LEN);
            assert_eq!(FolderCache::decode(&bytes).unwrap(), cache);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(FolderCache::decode(&bytes).is_err(), "{bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            assert!((0..bytes.len()).all(|len| FolderCache::decode(&bytes[..len]).is_err()));
        }
    }

    #[test]
    fn records_read_back_and_a_frame_knows_its_file_and_its_place() {
        let mut bytes = frame();
        let is_whole = |bytes: &[u8], nonce: u8, number| {
            let (header, records) = bytes.split_first_chunk().unwrap();
            FolderCacheFrame::decode(header)
                .is_ok_and(|frame| frame.is_of(&[nonce; 16], number, records))
        };
        assert!(is_whole(&bytes, 2, 7));
        assert!(!is_whole(&bytes, 3, 7) && !is_whole(&bytes, 2, 8));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_whole(&bytes, 2, 7), "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut rest = &bytes[FolderCacheFrame::LEN..];
        let first = FolderCacheRecord::take(&mut rest).unwrap();
        assert_eq!((first.key, first.goes_on), ([5; 16], true));
        assert!(first.steps().eq([step(0), step(1)]));
        let second = FolderCacheRecord::take(&mut rest).unwrap();
        assert_eq!((second.goes_on, second.steps().count(), rest.len()), (false, 0, 0));
    }

    #[test]
    fn records_that_claim_more_than_there_is_are_corrupt() {
        let bytes = frame();
        let records = &bytes[FolderCacheFrame::LEN..];
        for len in 0..FolderCacheRecord::LEN + 2 * FileStep::LEN {
            assert!(FolderCacheRecord::take(&mut &records[..len]).is_err(), "{len}");
        }
        let mut many = records.to_vec();
        many[16..18].copy_from_slice(&1025_u16.to_le_bytes());
        many.resize(FOLDER_CACHE_FRAME_LEN_MAX, 0);
        assert!(FolderCacheRecord::take(&mut many.as_slice()).is_err());
        for len in [0, FOLDER_CACHE_FRAME_LEN_MAX as u64 + 1, u64::from(u32::MAX)] {
            assert!(FolderCacheFrame::decode(&len.to_le_bytes()).is_err(), "{len}");
        }
    }

    fn hex(id: [u8; 16]) -> String {
        format!("{:032x}", u128::from_be_bytes(id))
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_were() {
        let bytes = [cache().encode(), frame()].concat();
        let hash = blake3::hash(&bytes).to_hex();
        assert_eq!(&hash[..16], "f0743fe561340b9e");
        let key = FolderCacheKeys::new().key([1, 2, 3, 4, 5, 6, 7], b"etc/hostname");
        assert_eq!(hex(key), "e7ddbb02b7a350aa17f38f19dd94dc07");
        assert_eq!(
            hex(folder_cache_id(&[1; 16], b"/srv/rootfs")),
            "89e9f76f81064b661c78095743e42275"
        );
    }
}
