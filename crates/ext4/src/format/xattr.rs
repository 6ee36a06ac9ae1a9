//! Extended attributes: a list of entries growing from the start of an area, their values growing from its end.
//!
//! The area is what is left of an inode behind a magic number, or a block behind a header. Names are kept as a number
//! for the prefix and the rest. Values of POSIX ACLs are kept in a form of their own: see [`super::acl`].

use super::{BLOCK_SIZE, checksum::crc32c, put_u16, put_u32, u16_at, u32_at};
use silt_types::{Error, Result};

/// The magic number of both areas.
pub const MAGIC: u32 = 0xEA02_0000;

/// Length of the header of a block, in bytes.
pub const BLOCK_HEADER_SIZE: usize = 32;

/// Length of the header inside an inode, in bytes.
pub const INODE_HEADER_SIZE: usize = 4;

const ENTRY_HEADER_SIZE: usize = 16;

/// The list ends with four zero bytes.
const LIST_END_SIZE: usize = 4;

/// Prefix numbers and what they stand for. The ACL names have no rest.
const PREFIXES: [(u8, &[u8]); 7] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (8, b"system.richacl"),
    (7, b"system."),
];

/// Prefix number of `system.posix_acl_access`.
pub const INDEX_ACL_ACCESS: u8 = 2;
/// Prefix number of `system.posix_acl_default`.
pub const INDEX_ACL_DEFAULT: u8 = 3;
/// Prefix number of `system.`; used by the content of small files (`inline_data`).
pub const INDEX_SYSTEM: u8 = 7;

/// Splits a full name into prefix number and rest. `None` for names that ext4 cannot hold.
pub fn split_name(full: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().filter(|(index, _)| *index != INDEX_SYSTEM).find_map(|(index, prefix)| {
        let rest = full.strip_prefix(*prefix)?;
        let is_whole = !prefix.ends_with(b".");
        (rest.is_empty() == is_whole && rest.len() <= 255).then_some((*index, rest))
    })
}

/// The prefix that a number stands for. `None` for numbers ext4 does not know.
pub fn prefix_of(index: u8) -> Option<&'static [u8]> {
    PREFIXES.iter().find(|(known, _)| *known == index).map(|(_, prefix)| *prefix)
}

/// An attribute as ext4 keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XattrEntry<'a> {
    /// Prefix number.
    pub index: u8,
    /// The name behind the prefix.
    pub name: &'a [u8],
    /// The value as it is on the disk.
    pub value: &'a [u8],
    /// The inode that holds the value instead (feature `ea_inode`), or 0.
    pub value_inode: u32,
}

impl XattrEntry<'_> {
    /// Bytes that entry and value take in an area.
    pub fn size(&self) -> usize {
        (ENTRY_HEADER_SIZE + self.name.len()).next_multiple_of(4)
            + self.value.len().next_multiple_of(4)
    }
}

/// Bytes that these attributes take in an area, without its header.
pub fn area_size<'a>(entries: impl IntoIterator<Item = XattrEntry<'a>>) -> usize {
    entries.into_iter().map(|entry| entry.size()).sum::<usize>() + LIST_END_SIZE
}

/// Writes the area inside an inode: `area` is everything behind `i_extra_isize`, zero, and large enough. No hashes are
/// kept there.
pub fn encode_inode_area(area: &mut [u8], entries: &[XattrEntry<'_>]) {
    put_u32(area, 0, MAGIC);
    let mut value_end = area.len();
    let mut offset = INODE_HEADER_SIZE;
    for entry in entries {
        // Values inside an inode are counted from the first entry.
        let hash = 0;
        value_end = put_value(area, value_end, entry.value);
        offset = put_entry(area, offset, entry, value_end - INODE_HEADER_SIZE, hash);
    }
}

/// Writes a whole attribute block with its hashes and checksum; `entries` are sorted by (index, length of name, name)
/// and fit. The checksum depends on the block's own number.
pub fn encode_block(
    block: &mut [u8; BLOCK_SIZE],
    filesystem_seed: u32,
    block_number: u64,
    entries: &[XattrEntry<'_>],
) {
    block.fill(0);
    let mut value_end = BLOCK_SIZE;
    let mut offset = BLOCK_HEADER_SIZE;
    let mut block_hash = 0u32;
    for entry in entries {
        let hash = entry_hash(entry);
        block_hash = block_hash.rotate_left(16) ^ hash;
        value_end = put_value(block, value_end, entry.value);
        offset = put_entry(block, offset, entry, value_end, hash);
    }
    put_u32(block, 0, MAGIC);
    // One inode uses the block, and it is one block.
    put_u32(block, 4, 1);
    put_u32(block, 8, 1);
    put_u32(block, 12, block_hash);
    let sum = block_checksum(filesystem_seed, block_number, block);
    put_u32(block, 16, sum);
}

fn put_value(area: &mut [u8], end: usize, value: &[u8]) -> usize {
    let start = end - value.len().next_multiple_of(4);
    area[start..start + value.len()].copy_from_slice(value);
    start
}

fn put_entry(
    area: &mut [u8],
    offset: usize,
    entry: &XattrEntry<'_>,
    value_offset: usize,
    hash: u32,
) -> usize {
    let name_start = offset + ENTRY_HEADER_SIZE;
    let name_end = name_start + entry.name.len();
    area[offset] = entry.name.len() as u8;
    area[offset + 1] = entry.index;
    put_u16(area, offset + 2, if entry.value.is_empty() { 0 } else { value_offset as u16 });
    put_u32(area, offset + 8, entry.value.len() as u32);
    put_u32(area, offset + 12, hash);
    area[name_start..name_end].copy_from_slice(entry.name);
    name_end.next_multiple_of(4)
}

/// Hash of name and value: shifts and exclusive-ors, over unsigned bytes and little-endian words padded with zero.
fn entry_hash(entry: &XattrEntry<'_>) -> u32 {
    let name_hash =
        entry.name.iter().fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    entry.value.chunks(4).fold(name_hash, |hash, bytes| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// The checksum of an attribute block (of any size), to be compared with [`stored_block_checksum`].
pub fn block_checksum(filesystem_seed: u32, block_number: u64, block: &[u8]) -> u32 {
    let sum = crc32c(filesystem_seed, &block_number.to_le_bytes());
    let sum = crc32c(sum, block.get(..16).unwrap_or(block));
    let sum = crc32c(sum, &[0; 4]);
    crc32c(sum, block.get(20..).unwrap_or_default())
}

/// The checksum that an attribute block carries.
pub fn stored_block_checksum(block: &[u8]) -> u32 {
    u32_at(block, 16)
}

/// The attributes inside an inode. `area` is everything behind `i_extra_isize`; empty when it has no magic number.
pub fn decode_inode_area(area: &[u8]) -> Result<Vec<XattrEntry<'_>>> {
    match area.split_at_checked(INODE_HEADER_SIZE) {
        Some((header, rest)) if u32_at(header, 0) == MAGIC => decode_entries(rest, 0),
        _ => Ok(Vec::new()),
    }
}

/// The attributes in a block (of any size). `Corrupt` when it is no attribute block. The checksum is not checked.
pub fn decode_block(block: &[u8]) -> Result<Vec<XattrEntry<'_>>> {
    if block.len() < BLOCK_HEADER_SIZE || u32_at(block, 0) != MAGIC {
        return Err(Error::corrupt("attribute block: no magic number"));
    }
    decode_entries(block, BLOCK_HEADER_SIZE)
}

/// Value offsets count from the start of `area`, entries begin at `offset`.
fn decode_entries(area: &[u8], mut offset: usize) -> Result<Vec<XattrEntry<'_>>> {
    let bad = |offset| Error::corrupt(format!("attributes: impossible entry at byte {offset}"));
    let mut entries = Vec::new();
    // The end of the list is four zero bytes, or the end of the area.
    while area.len().saturating_sub(offset) >= LIST_END_SIZE && u32_at(area, offset) != 0 {
        let header = area.get(offset..offset + ENTRY_HEADER_SIZE).ok_or_else(|| bad(offset))?;
        let name_start = offset + ENTRY_HEADER_SIZE;
        let name_end = name_start + usize::from(header[0]);
        let name = area.get(name_start..name_end).ok_or_else(|| bad(offset))?;
        let value_inode = u32_at(header, 4);
        let value_start = usize::from(u16_at(header, 2));
        let value_len = u32_at(header, 8) as usize;
        let value = match value_inode {
            0 if value_len == 0 => &[][..],
            0 => value_start
                .checked_add(value_len)
                .and_then(|end| area.get(value_start..end))
                .ok_or_else(|| bad(offset))?,
            _ => &[][..],
        };
        entries.push(XattrEntry { index: header[1], name, value, value_inode });
        offset = name_end.next_multiple_of(4);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(index: u8, name: &'a [u8], value: &'a [u8]) -> XattrEntry<'a> {
        XattrEntry { index, name, value, value_inode: 0 }
    }

    #[test]
    fn names_split_into_known_prefixes_only() {
        assert_eq!(split_name(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(split_name(b"system.posix_acl_default"), Some((3, &b""[..])));
        assert_eq!(split_name(b"security.capability"), Some((6, &b"capability"[..])));
        let none: [&[u8]; 5] =
            [b"user.", b"system.data", b"system.posix_acl_accessx", b"x", b"other.a"];
        assert!(none.iter().all(|name| split_name(name).is_none()));
    }

    #[test]
    fn both_areas_read_back() {
        let entries = [entry(1, b"a", b"12345"), entry(1, b"bcd", b""), entry(6, b"x", b"abcd")];
        let mut area = [0; 96];
        assert!(INODE_HEADER_SIZE + area_size(entries) <= area.len());
        encode_inode_area(&mut area, &entries);
        assert_eq!(decode_inode_area(&area).unwrap(), entries);
        let mut block = [1; BLOCK_SIZE];
        encode_block(&mut block, 3, 99, &entries);
        assert_eq!(decode_block(&block).unwrap(), entries);
        assert_eq!(block_checksum(3, 99, &block), stored_block_checksum(&block));
        for len in 0..BLOCK_HEADER_SIZE + 64 {
            let _ = decode_block(&block[..len]);
            let _ = decode_inode_area(&area[..len.min(area.len())]);
        }
    }
}
