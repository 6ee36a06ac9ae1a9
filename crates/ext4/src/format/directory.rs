//! Directory blocks: entries, the checksum tail, and the nodes of the hash index.
//!
//! A directory is a file whose blocks are filled with entries without gaps. With an index, block 0 is its root and
//! looks like a block with `.` and `..` only; deeper index nodes look like blocks with one unused entry. So who does
//! not know the index scans all blocks and finds everything.

use super::{BLOCK_SIZE, checksum::crc32c, hash::HASH_HALF_MD4, put_u16, put_u32, u16_at, u32_at};
use silt_types::{Error, Result};

/// The longest name in bytes.
pub const NAME_LEN_MAX: usize = 255;

/// Length of the fixed part of an entry, in bytes.
pub const ENTRY_HEADER_SIZE: usize = 8;

/// Length of the checksum tail, in bytes. It looks like an unused entry.
pub const TAIL_SIZE: usize = 12;

/// Bytes for entries in a leaf block of the writer.
pub const LEAF_CAPACITY: usize = BLOCK_SIZE - TAIL_SIZE;

const TAIL_FILE_TYPE: u8 = 0xDE;

/// `file_type`: unknown.
pub const TYPE_UNKNOWN: u8 = 0;
/// `file_type`: regular file.
pub const TYPE_FILE: u8 = 1;
/// `file_type`: directory.
pub const TYPE_DIRECTORY: u8 = 2;
/// `file_type`: character device.
pub const TYPE_CHAR_DEVICE: u8 = 3;
/// `file_type`: block device.
pub const TYPE_BLOCK_DEVICE: u8 = 4;
/// `file_type`: FIFO.
pub const TYPE_FIFO: u8 = 5;
/// `file_type`: socket.
pub const TYPE_SOCKET: u8 = 6;
/// `file_type`: symbolic link.
pub const TYPE_SYMLINK: u8 = 7;

/// An entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// The inode; 0 in an unused entry.
    pub inode: u32,
    /// One of `TYPE_*`.
    pub file_type: u8,
    /// 0 to 255 bytes.
    pub name: &'a [u8],
}

/// Bytes that an entry with a name of this length takes at least.
pub const fn entry_size(name_len: usize) -> usize {
    (ENTRY_HEADER_SIZE + name_len).next_multiple_of(4)
}

/// Fills a leaf block entry by entry.
pub struct LeafBuilder<'a> {
    block: &'a mut [u8; BLOCK_SIZE],
    next: usize,
    last: usize,
}

impl<'a> LeafBuilder<'a> {
    /// Starts a leaf in a block, whatever that held.
    pub fn new(block: &'a mut [u8; BLOCK_SIZE]) -> LeafBuilder<'a> {
        block.fill(0);
        LeafBuilder { block, next: 0, last: 0 }
    }

    /// Appends an entry; `false` when it does not fit any more. Names longer than 255 bytes never fit.
    #[must_use]
    pub fn push(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        let size = entry_size(entry.name.len());
        if entry.name.len() > NAME_LEN_MAX || self.next + size > LEAF_CAPACITY {
            return false;
        }
        put_entry(&mut self.block[self.next..], entry, size);
        self.last = self.next;
        self.next += size;
        true
    }

    /// Stretches the last entry to the tail and writes the tail. `seed` is that of
    /// [`inode_seed`](super::checksum::inode_seed) of the directory.
    pub fn finish(self, seed: u32) {
        put_u16(self.block, self.last + 4, (LEAF_CAPACITY - self.last) as u16);
        put_u16(self.block, LEAF_CAPACITY + 4, TAIL_SIZE as u16);
        self.block[LEAF_CAPACITY + 7] = TAIL_FILE_TYPE;
        let sum = crc32c(seed, &self.block[..LEAF_CAPACITY]);
        put_u32(self.block, BLOCK_SIZE - 4, sum);
    }
}

fn put_entry(slot: &mut [u8], entry: &DirectoryEntry<'_>, size: usize) {
    put_u32(slot, 0, entry.inode);
    put_u16(slot, 4, size as u16);
    slot[6] = entry.name.len() as u8;
    slot[7] = entry.file_type;
    slot[ENTRY_HEADER_SIZE..ENTRY_HEADER_SIZE + entry.name.len()].copy_from_slice(entry.name);
}

/// The entries of one block, unused ones (inode 0: also the tail and index nodes) included. Ends after the first
/// error: an entry that leaves the block or is shorter than its name.
pub fn entries(block: &[u8]) -> impl Iterator<Item = Result<DirectoryEntry<'_>>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let rest = block.get(offset..).filter(|rest| !rest.is_empty())?;
        match decode_entry(rest) {
            Some((entry, size)) => {
                offset += size;
                Some(Ok(entry))
            }
            None => {
                let message = format!("directory block: impossible entry at byte {offset}");
                offset = block.len();
                Some(Err(Error::corrupt(message)))
            }
        }
    })
}

fn decode_entry(rest: &[u8]) -> Option<(DirectoryEntry<'_>, usize)> {
    let header = rest.get(..ENTRY_HEADER_SIZE)?;
    // Blocks of 64 KiB write their whole length as 0xFFFF or 0, and keep bits 16 and 17 in the low bits.
    let size = match u16_at(header, 4) {
        0xFFFF | 0 if rest.len() >= 1 << 16 => 1 << 16,
        stored => usize::from(stored & 0xFFFC) | usize::from(stored & 3) << 16,
    };
    let name_len = usize::from(header[6]);
    if size > rest.len() || size < entry_size(name_len) {
        return None;
    }
    let name = rest.get(ENTRY_HEADER_SIZE..ENTRY_HEADER_SIZE + name_len)?;
    Some((DirectoryEntry { inode: u32_at(header, 0), file_type: header[7], name }, size))
}

/// Whether the block (of any size) ends in a checksum tail and the checksum is right. Index nodes have none here.
pub fn leaf_checksum_holds(seed: u32, block: &[u8]) -> bool {
    let Some((covered, tail)) = block.split_last_chunk::<TAIL_SIZE>() else {
        return false;
    };
    has_tail(tail) && crc32c(seed, covered) == u32_at(tail, 8)
}

fn has_tail(tail: &[u8; TAIL_SIZE]) -> bool {
    u32_at(tail, 0) == 0
        && usize::from(u16_at(tail, 4)) == TAIL_SIZE
        && tail[6] == 0
        && tail[7] == TAIL_FILE_TYPE
}

/// A pointer of the hash index: names whose hash is at least `hash` are in `block` (a logical block of the directory)
/// or later. An odd `hash` says that names with the even hash below may also be in the block before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashIndexEntry {
    /// Smallest hash in the block.
    pub hash: u32,
    /// Logical block of the directory.
    pub block: u32,
}

/// Where the entries begin in the root of an index, in bytes.
const ROOT_ENTRIES_OFFSET: usize = 32;

/// Where the entries begin in a node of an index, in bytes.
const NODE_ENTRIES_OFFSET: usize = 8;

const INDEX_ENTRY_SIZE: usize = 8;
const INDEX_TAIL_SIZE: usize = 8;

/// The most entries in the root of an index.
pub const ROOT_ENTRIES_MAX: usize =
    (BLOCK_SIZE - ROOT_ENTRIES_OFFSET - INDEX_TAIL_SIZE) / INDEX_ENTRY_SIZE;

/// The most entries in a node of an index.
pub const NODE_ENTRIES_MAX: usize =
    (BLOCK_SIZE - NODE_ENTRIES_OFFSET - INDEX_TAIL_SIZE) / INDEX_ENTRY_SIZE;

/// Writes the root of an index: `.`, `..`, and up to [`ROOT_ENTRIES_MAX`] entries to leaves (`levels` 0) or nodes (1).
pub fn encode_index_root(
    block: &mut [u8; BLOCK_SIZE],
    seed: u32,
    own_inode: u32,
    parent_inode: u32,
    levels: u8,
    entries: &[HashIndexEntry],
) {
    block.fill(0);
    let dot = DirectoryEntry { inode: own_inode, file_type: TYPE_DIRECTORY, name: b"." };
    let dot_dot = DirectoryEntry { inode: parent_inode, file_type: TYPE_DIRECTORY, name: b".." };
    put_entry(block, &dot, 12);
    put_entry(&mut block[12..], &dot_dot, BLOCK_SIZE - 12);
    block[28] = HASH_HALF_MD4;
    // Length of this header.
    block[29] = 8;
    block[30] = levels;
    put_index_entries(block, seed, ROOT_ENTRIES_OFFSET, ROOT_ENTRIES_MAX, entries);
}

/// Writes a node of an index with up to [`NODE_ENTRIES_MAX`] entries.
pub fn encode_index_node(block: &mut [u8; BLOCK_SIZE], seed: u32, entries: &[HashIndexEntry]) {
    block.fill(0);
    let unused = DirectoryEntry { inode: 0, file_type: TYPE_UNKNOWN, name: b"" };
    put_entry(block, &unused, BLOCK_SIZE);
    put_index_entries(block, seed, NODE_ENTRIES_OFFSET, NODE_ENTRIES_MAX, entries);
}

/// The first entry has no hash of its own: room and number of the entries stand in its place.
fn put_index_entries(
    block: &mut [u8; BLOCK_SIZE],
    seed: u32,
    offset: usize,
    room: usize,
    entries: &[HashIndexEntry],
) {
    for (slot, entry) in block[offset..].chunks_exact_mut(INDEX_ENTRY_SIZE).zip(entries) {
        put_u32(slot, 0, entry.hash);
        put_u32(slot, 4, entry.block);
    }
    put_u16(block, offset, room as u16);
    put_u16(block, offset + 2, entries.len() as u16);
    let sum = crc32c(seed, &block[..offset + entries.len() * INDEX_ENTRY_SIZE]);
    // The tail is a reserved word and the checksum, which covers itself as zero.
    let sum = crc32c(sum, &[0; INDEX_TAIL_SIZE]);
    put_u32(block, offset + room * INDEX_ENTRY_SIZE + 4, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_leaf_reads_back_and_its_checksum_holds() {
        let mut block = [0xAA; BLOCK_SIZE];
        let mut leaf = LeafBuilder::new(&mut block);
        let names: Vec<Vec<u8>> =
            (0..).map(|n| format!("file{n}").into_bytes()).take(900).collect();
        let mut count = 0;
        for name in &names {
            if !leaf.push(&DirectoryEntry { inode: 12, file_type: TYPE_FILE, name }) {
                break;
            }
            count += 1;
        }
        leaf.finish(9);
        assert!(leaf_checksum_holds(9, &block) && !leaf_checksum_holds(8, &block));
        let read: Vec<_> = entries(&block).map(Result::unwrap).filter(|e| e.inode != 0).collect();
        assert_eq!(read.len(), count);
        assert!(read.iter().zip(&names).all(|(entry, name)| entry.name == name));
    }

    #[test]
    fn index_nodes_look_like_directory_blocks() {
        let mut block = [0; BLOCK_SIZE];
        let index = [HashIndexEntry { hash: 0, block: 1 }, HashIndexEntry { hash: 8, block: 2 }];
        encode_index_root(&mut block, 1, 5, 2, 0, &index);
        let read: Vec<_> = entries(&block).map(Result::unwrap).collect();
        assert_eq!((read[0].name, read[0].inode, read[1].inode), (&b"."[..], 5, 2));
        assert_eq!(read.len(), 2);
        encode_index_node(&mut block, 1, &index);
        let read: Vec<_> = entries(&block).map(Result::unwrap).collect();
        assert_eq!((read.len(), read[0].inode), (1, 0));
    }

    #[test]
    fn impossible_entries_are_corrupt() {
        for (size, name_len) in [(0u16, 1u8), (8, 1), (4, 0), (16, 9), (1 << 12, 3), (13, 1)] {
            let mut block = [0; 64];
            put_u16(&mut block, 4, size);
            block[6] = name_len;
            let read: Vec<_> = entries(&block).collect();
            assert!(read.last().unwrap().is_err(), "{size} {name_len}");
        }
    }
}
