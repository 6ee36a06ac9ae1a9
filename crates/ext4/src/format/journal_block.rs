//! The blocks of a journal's log (JBD2): descriptor, commit and revoke blocks, their tags and checksums.
//!
//! Unlike everything else in ext4 they are big-endian. Here is only what one block says; which blocks make a
//! committed transaction is decided in `reader::journal`. The journal's superblock is in `journal`.
//! No function panics, whatever the bytes.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`.

/// The first word of every block that the journal wrote for itself.
pub const LOG_MAGIC: u32 = 0xc03b_3998;

const KIND_DESCRIPTOR: u32 = 1;
const KIND_COMMIT: u32 = 2;
const KIND_REVOKE: u32 = 5;

const HEADER_LEN: usize = 12;
/// Descriptor and revoke blocks end with a checksum where the journal has checksums.
const TAIL_LEN: usize = 4;
const UUID_LEN: usize = 16;
const COMMIT_CHECKSUM_AT: usize = 16;
const COMMIT_SECONDS_AT: usize = 48;
const COMMIT_HEADER_LEN: usize = 60;

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// What a block of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogBlockKind {
    /// Lists the home addresses of the blocks that follow it.
    Descriptor,
    /// Ends a transaction.
    Commit,
    /// Lists blocks that no transaction up to this one may overwrite.
    Revoke,
}

/// Kind and transaction of the block of the log in `block`, or `None` for anything that is not one.
pub fn log_block_header(block: &[u8]) -> Option<(LogBlockKind, u32)> {
    if be32(block, 0)? != LOG_MAGIC {
        return None;
    }
    let kind = match be32(block, 4)? {
        KIND_DESCRIPTOR => LogBlockKind::Descriptor,
        KIND_COMMIT => LogBlockKind::Commit,
        KIND_REVOKE => LogBlockKind::Revoke,
        _ => return None,
    };
    Some((kind, be32(block, 8)?))
}

/// When the transaction that the commit block `block` ends was committed, in seconds since 1970.
pub fn commit_seconds(block: &[u8]) -> Option<u64> {
    Some(u64::from(be32(block, COMMIT_SECONDS_AT)?) << 32 | u64::from(be32(block, COMMIT_SECONDS_AT + 4)?))
}

/// Which checksums a log carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogChecksum {
    /// None.
    None,
    /// `csum_v2`: sixteen bits for each logged block.
    V2,
    /// `csum_v3`: thirty-two bits for each logged block.
    V3,
}

/// What must be known of a journal to read the blocks of its log.
#[derive(Clone, Copy, Debug)]
pub struct LogFormat {
    /// Which checksums there are.
    pub checksum: LogChecksum,
    /// Whether block numbers have 64 bits.
    pub wide: bool,
    /// Where checksums start: the CRC32C of the journal's UUID.
    pub seed: u32,
}

/// One entry of a descriptor block: the next block of the log belongs at `block` of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The home of the logged block.
    pub block: u64,
    /// The first word of the logged block was the log's magic number and is written as zero.
    pub escaped: bool,
    /// Checksum of transaction number and logged block; only its low 16 bits count with [`LogChecksum::V2`].
    pub checksum: u32,
}

impl LogFormat {
    /// Whether the checksum at the end of a descriptor or revoke block holds, or there is none to hold.
    pub fn tail_checksum_holds(&self, block: &[u8]) -> bool {
        if self.checksum == LogChecksum::None {
            return true;
        }
        let Some(body) = block.len().checked_sub(TAIL_LEN).and_then(|end| block.get(..end)) else {
            return false;
        };
        let sum = crc32c_raw(crc32c_raw(self.seed, body), &[0; TAIL_LEN]);
        be32(block, body.len()) == Some(sum)
    }

    /// Whether the checksum of a commit block holds, or there is none to hold. Only the header counts: the rest of the
    /// block is written as zero, so of a block torn behind its first sector nothing is lost.
    pub fn commit_checksum_holds(&self, block: &[u8]) -> bool {
        if self.checksum == LogChecksum::None {
            return true;
        }
        let Some(header) = block.first_chunk::<COMMIT_HEADER_LEN>() else { return false };
        let mut header = *header;
        header[COMMIT_CHECKSUM_AT..COMMIT_CHECKSUM_AT + 4].fill(0);
        let rest = vec![0; block.len() - COMMIT_HEADER_LEN];
        let sum = crc32c_raw(crc32c_raw(self.seed, &header), &rest);
        be32(block, COMMIT_CHECKSUM_AT) == Some(sum)
    }

    /// Whether `logged`, the block of the log that `tag` tells of, is what transaction `sequence` wrote.
    pub fn tag_checksum_holds(&self, tag: &Tag, sequence: u32, logged: &[u8]) -> bool {
        let sum = || crc32c_raw(crc32c_raw(self.seed, &sequence.to_be_bytes()), logged);
        match self.checksum {
            LogChecksum::None => true,
            LogChecksum::V2 => tag.checksum & 0xffff == sum() & 0xffff,
            LogChecksum::V3 => tag.checksum == sum(),
        }
    }

    /// The entries of a descriptor block, in the order of the blocks that follow it in the log.
    pub fn tags<'a>(&self, block: &'a [u8]) -> Tags<'a> {
        let end = block.len().saturating_sub(self.tail_len());
        Tags { format: *self, rest: block.get(HEADER_LEN..end).unwrap_or_default() }
    }

    /// The blocks that a revoke block names, or `None` if its length makes no sense.
    pub fn revoked<'a>(&self, block: &'a [u8]) -> Option<impl Iterator<Item = u64> + use<'a>> {
        let end = usize::try_from(be32(block, HEADER_LEN)?).ok()?;
        if end > block.len().checked_sub(self.tail_len())? {
            return None;
        }
        let records = block.get(HEADER_LEN + 4..end)?;
        let len = if self.wide { 8 } else { 4 };
        Some(records.chunks_exact(len).map(|record| record.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))))
    }

    fn tail_len(&self) -> usize {
        if self.checksum == LogChecksum::None { 0 } else { TAIL_LEN }
    }

    fn tag_len(&self) -> usize {
        let high = if self.wide { 4 } else { 0 };
        match self.checksum {
            LogChecksum::None => 8 + high,
            LogChecksum::V2 => 10 + high,
            LogChecksum::V3 => 16,
        }
    }

    fn tag(&self, bytes: &[u8]) -> Option<(Tag, u32)> {
        let low = be32(bytes, 0)?;
        let (flags, checksum, high_at) = match self.checksum {
            LogChecksum::V3 => (be32(bytes, 4)?, be32(bytes, 12)?, 8),
            _ => (u32::from(be16(bytes, 6)?), u32::from(be16(bytes, 4)?), 8),
        };
        let high = if self.wide { be32(bytes, high_at)? } else { 0 };
        let block = u64::from(high) << 32 | u64::from(low);
        Some((Tag { block, escaped: flags & TAG_ESCAPED != 0, checksum }, flags))
    }
}

/// Iterator over the entries of a descriptor block.
pub struct Tags<'a> {
    format: LogFormat,
    rest: &'a [u8],
}

impl Iterator for Tags<'_> {
    type Item = Tag;

    fn next(&mut self) -> Option<Tag> {
        let (bytes, rest) = self.rest.split_at_checked(self.format.tag_len())?;
        let (tag, flags) = self.format.tag(bytes)?;
        let uuid = if flags & TAG_SAME_UUID == 0 { UUID_LEN } else { 0 };
        self.rest = if flags & TAG_LAST == 0 { rest.get(uuid..).unwrap_or_default() } else { &[] };
        Some(tag)
    }
}

/// CRC32C as Linux counts it: from `seed`, without turning the bits round at either end.
fn crc32c_raw(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
