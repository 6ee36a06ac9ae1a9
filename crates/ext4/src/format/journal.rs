//! The journal (jbd2): superblock, block headers, tags of descriptor blocks, revoke records, commit blocks.
//!
//! Everything in a journal is big-endian. Source: the kernel's journal (jbd2) format description.

use super::{bytes::array_at, checksum::crc32c};
use silt_types::{Error, Result};

/// `h_magic` of every block with a header.
pub const MAGIC: u32 = 0xC03B_3998;

/// Length of a block header, in bytes.
pub const HEADER_SIZE: usize = 12;

/// Length of the journal superblock, in bytes.
pub const JOURNAL_SUPERBLOCK_SIZE: usize = 1024;

/// Block type: tags of the blocks that follow.
pub const TYPE_DESCRIPTOR: u32 = 1;
/// Block type: end of a transaction.
pub const TYPE_COMMIT: u32 = 2;
/// Block type: superblock, version 1.
pub const TYPE_SUPERBLOCK_V1: u32 = 3;
/// Block type: superblock, version 2.
pub const TYPE_SUPERBLOCK_V2: u32 = 4;
/// Block type: blocks whose older copies must not be replayed.
pub const TYPE_REVOKE: u32 = 5;

/// Compatible feature: data blocks have checksums (of the old kind).
pub const COMPATIBLE_CHECKSUM: u32 = 1;
/// Incompatible feature: there may be revoke records.
pub const INCOMPATIBLE_REVOKE: u32 = 1;
/// Incompatible feature: block numbers have 64 bits.
pub const INCOMPATIBLE_64BIT: u32 = 2;
/// Incompatible feature: commit blocks may be written before their transaction.
pub const INCOMPATIBLE_ASYNC_COMMIT: u32 = 4;
/// Incompatible feature: checksums version 2.
pub const INCOMPATIBLE_CSUM_V2: u32 = 8;
/// Incompatible feature: checksums version 3.
pub const INCOMPATIBLE_CSUM_V3: u32 = 16;
/// Incompatible feature: fast commits.
pub const INCOMPATIBLE_FAST_COMMIT: u32 = 32;

/// Tag flag: the block began with the magic number, which was replaced by zero.
pub const TAG_ESCAPED: u32 = 1;
/// Tag flag: no UUID follows the tag.
pub const TAG_SAME_UUID: u32 = 2;
/// Tag flag: the block was deleted by this transaction.
pub const TAG_DELETED: u32 = 4;
/// Tag flag: the last tag of its block.
pub const TAG_LAST: u32 = 8;

/// Length of the tail of descriptor and revoke blocks with checksums, in bytes.
pub const TAIL_SIZE: usize = 4;

pub(crate) fn be16_at(bytes: &[u8], offset: usize) -> u16 {
    array_at(bytes, offset).map_or(0, u16::from_be_bytes)
}

pub(crate) fn be32_at(bytes: &[u8], offset: usize) -> u32 {
    array_at(bytes, offset).map_or(0, u32::from_be_bytes)
}

fn put_be32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}

/// What the journal superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSuperblock {
    /// Block size in bytes.
    pub block_size: u32,
    /// Length of the journal in blocks.
    pub len_blocks: u32,
    /// First block of the log.
    pub first: u32,
    /// The first transaction expected in the log.
    pub sequence: u32,
    /// The block it begins at; 0 when the log is empty.
    pub start: u32,
    /// An error of the last mount, or 0.
    pub error: i32,
    /// Features that may be ignored.
    pub compatible: u32,
    /// Bits `INCOMPATIBLE_*`.
    pub incompatible: u32,
    /// Features that allow reading.
    pub read_only_compatible: u32,
    /// Part of the checksum seed; zero in an internal journal of the writer.
    pub uuid: [u8; 16],
    /// Kind of checksums: 4 is CRC-32C.
    pub checksum_type: u8,
    /// Blocks at the end for fast commits.
    pub fast_commit_blocks: u32,
}

impl JournalSuperblock {
    /// An empty journal without any feature; the kernel turns on at mount what the file system asks for.
    pub fn empty(block_size: u32, len_blocks: u32) -> JournalSuperblock {
        JournalSuperblock {
            block_size,
            len_blocks,
            first: 1,
            sequence: 1,
            start: 0,
            error: 0,
            compatible: 0,
            incompatible: 0,
            read_only_compatible: 0,
            uuid: [0; 16],
            checksum_type: 0,
            fast_commit_blocks: 0,
        }
    }

    /// The structure, version 2. Journals with checksums are not written.
    pub fn encode(&self) -> [u8; JOURNAL_SUPERBLOCK_SIZE] {
        let mut b = [0; JOURNAL_SUPERBLOCK_SIZE];
        for (offset, value) in [
            (0x00, MAGIC),
            (0x04, TYPE_SUPERBLOCK_V2),
            (0x0C, self.block_size),
            (0x10, self.len_blocks),
            (0x14, self.first),
            (0x18, self.sequence),
            (0x1C, self.start),
            (0x20, self.error as u32),
            (0x24, self.compatible),
            (0x28, self.incompatible),
            (0x2C, self.read_only_compatible),
            // One file system uses the journal.
            (0x40, 1),
            (0x54, self.fast_commit_blocks),
        ] {
            put_be32(&mut b, offset, value);
        }
        b[0x30..0x40].copy_from_slice(&self.uuid);
        b[0x50] = self.checksum_type;
        b
    }

    /// Reads the structure. `Corrupt` when it is too short, is none, or its checksum (with version 2 or 3 checksums)
    /// is wrong. Version 1 has no features.
    pub fn decode(bytes: &[u8]) -> Result<JournalSuperblock> {
        let Some(b) = bytes.get(..JOURNAL_SUPERBLOCK_SIZE) else {
            return Err(Error::corrupt("journal superblock: cut short"));
        };
        let version = be32_at(b, 0x04);
        if be32_at(b, 0x00) != MAGIC || !matches!(version, TYPE_SUPERBLOCK_V1 | TYPE_SUPERBLOCK_V2)
        {
            return Err(Error::corrupt("journal superblock: no magic number"));
        }
        let since_v2 = |offset| if version == TYPE_SUPERBLOCK_V2 { be32_at(b, offset) } else { 0 };
        let superblock = JournalSuperblock {
            block_size: be32_at(b, 0x0C),
            len_blocks: be32_at(b, 0x10),
            first: be32_at(b, 0x14),
            sequence: be32_at(b, 0x18),
            start: be32_at(b, 0x1C),
            error: be32_at(b, 0x20) as i32,
            compatible: since_v2(0x24),
            incompatible: since_v2(0x28),
            read_only_compatible: since_v2(0x2C),
            uuid: array_at(b, 0x30).unwrap_or_default(),
            checksum_type: b[0x50],
            fast_commit_blocks: since_v2(0x54),
        };
        if superblock.has_checksums() {
            let sum = crc32c(!0, &b[..0xFC]);
            let sum = crc32c(sum, &[0; 4]);
            if crc32c(sum, &b[0x100..]) != be32_at(b, 0xFC) {
                return Err(Error::corrupt("journal superblock: wrong checksum"));
            }
        }
        Ok(superblock)
    }

    /// Whether blocks carry version 2 or 3 checksums.
    pub fn has_checksums(&self) -> bool {
        self.incompatible & (INCOMPATIBLE_CSUM_V2 | INCOMPATIBLE_CSUM_V3) != 0
    }

    /// The seed of all checksums in the journal.
    pub fn seed(&self) -> u32 {
        crc32c(!0, &self.uuid)
    }

    /// Length of one tag in bytes, without a UUID behind it.
    pub fn tag_size(&self) -> usize {
        if self.incompatible & INCOMPATIBLE_CSUM_V3 != 0 {
            return 16;
        }
        let wide = if self.incompatible & INCOMPATIBLE_64BIT != 0 { 4 } else { 0 };
        // The 16-bit checksum of version 2 lies inside the tag, which grew by two bytes all the same.
        let checksum = if self.incompatible & INCOMPATIBLE_CSUM_V2 != 0 { 2 } else { 0 };
        8 + wide + checksum
    }
}

/// The header of a journal block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// One of `TYPE_*`, or something unknown.
    pub block_type: u32,
    /// The transaction the block belongs to.
    pub sequence: u32,
}

impl JournalHeader {
    /// The header of `block`, if it has one.
    pub fn decode(block: &[u8]) -> Option<JournalHeader> {
        (block.len() >= HEADER_SIZE && be32_at(block, 0) == MAGIC)
            .then(|| JournalHeader { block_type: be32_at(block, 4), sequence: be32_at(block, 8) })
    }
}

/// One tag of a descriptor block: where the next block of the log belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalTag {
    /// The block of the file system.
    pub block: u64,
    /// Bits `TAG_*`.
    pub flags: u32,
    /// Checksum of the block; only 16 bits with version 2, 0 without checksums.
    pub checksum: u32,
}

impl JournalSuperblock {
    /// The tags of a descriptor block, in order. Stops at the last one or at the end of the block.
    pub fn tags(&self, block: &[u8]) -> Vec<JournalTag> {
        let tail = if self.has_checksums() { TAIL_SIZE } else { 0 };
        let end = block.len().saturating_sub(tail);
        let size = self.tag_size();
        let mut tags = Vec::new();
        let mut offset = HEADER_SIZE;
        while offset + size <= end {
            let tag = self.decode_tag(&block[offset..offset + size]);
            tags.push(tag);
            offset += size + if tag.flags & TAG_SAME_UUID == 0 { 16 } else { 0 };
            if tag.flags & TAG_LAST != 0 {
                break;
            }
        }
        tags
    }

    fn decode_tag(&self, tag: &[u8]) -> JournalTag {
        let wide = self.incompatible & INCOMPATIBLE_64BIT != 0;
        let high = if wide { u64::from(be32_at(tag, 8)) << 32 } else { 0 };
        let block = u64::from(be32_at(tag, 0)) | high;
        if self.incompatible & INCOMPATIBLE_CSUM_V3 != 0 {
            return JournalTag { block, flags: be32_at(tag, 4), checksum: be32_at(tag, 12) };
        }
        JournalTag {
            block,
            flags: u32::from(be16_at(tag, 6)),
            checksum: u32::from(be16_at(tag, 4)),
        }
    }

    /// Whether the checksum of a descriptor or revoke block is right. True where the journal has none.
    pub fn block_tail_holds(&self, block: &[u8]) -> bool {
        if !self.has_checksums() {
            return true;
        }
        let Some((covered, tail)) = block.split_last_chunk::<TAIL_SIZE>() else {
            return false;
        };
        crc32c(crc32c(self.seed(), covered), &[0; TAIL_SIZE]) == u32::from_be_bytes(*tail)
    }

    /// Whether the checksum of a commit block is right. True where the journal has none of version 2 or 3.
    pub fn commit_holds(&self, block: &[u8]) -> bool {
        const CHECKSUM_OFFSET: usize = 16;
        if !self.has_checksums() {
            return true;
        }
        let Some(before) = block.get(..CHECKSUM_OFFSET) else {
            return false;
        };
        let sum = crc32c(crc32c(self.seed(), before), &[0; 4]);
        let sum = crc32c(sum, block.get(CHECKSUM_OFFSET + 4..).unwrap_or_default());
        sum == be32_at(block, CHECKSUM_OFFSET)
    }

    /// Whether `block`, as it stands in the log, has the checksum of its tag. True where the journal has none.
    pub fn data_holds(&self, tag: &JournalTag, sequence: u32, block: &[u8]) -> bool {
        if !self.has_checksums() {
            return true;
        }
        let sum = crc32c(crc32c(self.seed(), &sequence.to_be_bytes()), block);
        if self.incompatible & INCOMPATIBLE_CSUM_V3 != 0 {
            sum == tag.checksum
        } else {
            sum & 0xFFFF == tag.checksum
        }
    }

    /// The blocks that a revoke block names. `Corrupt` when it claims more than it holds.
    pub fn revoked_blocks(&self, block: &[u8]) -> Result<Vec<u64>> {
        const RECORDS_OFFSET: usize = 16;
        let used = be32_at(block, 12) as usize;
        let tail = if self.has_checksums() { TAIL_SIZE } else { 0 };
        if used < RECORDS_OFFSET || used > block.len().saturating_sub(tail) {
            let message = format!("journal revoke block: {used} bytes in use of {}", block.len());
            return Err(Error::corrupt(message));
        }
        let records = &block[RECORDS_OFFSET..used];
        Ok(if self.incompatible & INCOMPATIBLE_64BIT != 0 {
            let wide = records.chunks_exact(8);
            wide.map(|r| u64::from(be32_at(r, 0)) << 32 | u64::from(be32_at(r, 4))).collect()
        } else {
            records.chunks_exact(4).map(|record| u64::from(be32_at(record, 0))).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superblock_reads_back_and_short_bytes_are_corrupt() {
        let superblock = JournalSuperblock::empty(4096, 1024);
        let bytes = superblock.encode();
        assert_eq!(JournalSuperblock::decode(&bytes).unwrap(), superblock);
        for len in 0..JOURNAL_SUPERBLOCK_SIZE {
            assert!(JournalSuperblock::decode(&bytes[..len]).is_err());
        }
    }
}
