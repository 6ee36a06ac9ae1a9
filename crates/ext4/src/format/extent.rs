//! Extent trees: which physical blocks hold which logical blocks of a file.
//!
//! A node is a header and entries of 12 bytes: in the inode with 4 entries, in a block with as many as fit before the
//! checksum. Leaves (depth 0) hold extents, other nodes hold pointers to nodes.

use super::{BLOCK_SIZE, checksum::crc32c, put_u16, put_u32, u16_at, u32_at};
use silt_types::{Error, Result};

/// `eh_magic`.
pub const MAGIC: u16 = 0xF30A;

/// Entries of the node inside an inode.
pub const INODE_ENTRIES_MAX: usize = 4;

/// Entries of a node in a block of the writer.
pub const BLOCK_ENTRIES_MAX: usize = (BLOCK_SIZE - HEADER_SIZE - 4) / ENTRY_SIZE;

/// The deepest tree there is: the kernel's `EXT4_MAX_EXTENT_DEPTH`.
pub const DEPTH_MAX: u16 = 5;

/// The most blocks in one written extent; greater lengths mark unwritten ones.
pub const EXTENT_LEN_MAX: u32 = 1 << 15;

const HEADER_SIZE: usize = 12;
const ENTRY_SIZE: usize = 12;

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First logical block of the file.
    pub logical: u32,
    /// First physical block, 48 bits.
    pub physical: u64,
    /// Number of blocks, 1 to [`EXTENT_LEN_MAX`]. A hostile extent may say 0.
    pub len: u32,
    /// Allocated, but reads as zero.
    pub unwritten: bool,
}

/// A pointer to a node one level down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentIndex {
    /// First logical block that the node covers.
    pub logical: u32,
    /// The block of the node, 48 bits.
    pub physical: u64,
}

/// The entries of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtentNode {
    /// Depth 0.
    Leaf(Vec<Extent>),
    /// The depth, and the nodes below.
    Index(u16, Vec<ExtentIndex>),
}

impl ExtentNode {
    /// Writes the node into `bytes`, which has room for it and is zero; `entries_max` is the room in entries.
    pub fn encode(&self, bytes: &mut [u8], entries_max: usize) {
        let (depth, count) = match self {
            ExtentNode::Leaf(extents) => (0, extents.len()),
            ExtentNode::Index(depth, nodes) => (*depth, nodes.len()),
        };
        put_u16(bytes, 0, MAGIC);
        put_u16(bytes, 2, count as u16);
        put_u16(bytes, 4, entries_max as u16);
        put_u16(bytes, 6, depth);
        let slots = bytes[HEADER_SIZE..].chunks_exact_mut(ENTRY_SIZE);
        match self {
            ExtentNode::Leaf(extents) => {
                slots.zip(extents).for_each(|(slot, extent)| encode_extent(extent, slot));
            }
            ExtentNode::Index(_, nodes) => {
                slots.zip(nodes).for_each(|(slot, node)| {
                    put_u32(slot, 0, node.logical);
                    put_u32(slot, 4, node.physical as u32);
                    put_u16(slot, 8, (node.physical >> 32) as u16);
                });
            }
        }
    }

    /// Reads a node: the 60 bytes of `i_block`, or a block. `Corrupt` when it is no node or claims more entries than
    /// it has room for. Order and overlap of the entries are not checked here.
    pub fn decode(bytes: &[u8]) -> Result<ExtentNode> {
        if u16_at(bytes, 0) != MAGIC {
            return Err(Error::corrupt("extent node: no magic number"));
        }
        let (count, max, depth) = (u16_at(bytes, 2), u16_at(bytes, 4), u16_at(bytes, 6));
        let slots = bytes.get(HEADER_SIZE..).unwrap_or_default().chunks_exact(ENTRY_SIZE);
        let room = slots.len();
        if usize::from(max) > room || count > max || depth > DEPTH_MAX {
            let message = format!(
                "extent node: {count} of {max} entries at depth {depth} in room for {room}"
            );
            return Err(Error::corrupt(message));
        }
        let slots = slots.take(count.into());
        Ok(match depth {
            0 => ExtentNode::Leaf(slots.map(decode_extent).collect()),
            _ => ExtentNode::Index(
                depth,
                slots
                    .map(|slot| ExtentIndex {
                        logical: u32_at(slot, 0),
                        physical: u64::from(u32_at(slot, 4)) | u64::from(u16_at(slot, 8)) << 32,
                    })
                    .collect(),
            ),
        })
    }
}

fn encode_extent(extent: &Extent, slot: &mut [u8]) {
    let len = if extent.unwritten { extent.len + EXTENT_LEN_MAX } else { extent.len };
    put_u32(slot, 0, extent.logical);
    put_u16(slot, 4, len as u16);
    put_u16(slot, 6, (extent.physical >> 32) as u16);
    put_u32(slot, 8, extent.physical as u32);
}

fn decode_extent(slot: &[u8]) -> Extent {
    let len = u32::from(u16_at(slot, 4));
    let unwritten = len > EXTENT_LEN_MAX;
    Extent {
        logical: u32_at(slot, 0),
        physical: u64::from(u32_at(slot, 8)) | u64::from(u16_at(slot, 6)) << 32,
        len: if unwritten { len - EXTENT_LEN_MAX } else { len },
        unwritten,
    }
}

/// Stores the checksum of an extent block behind its entries. `seed` is that of
/// [`inode_seed`](super::checksum::inode_seed).
pub fn seal_extent_block(seed: u32, block: &mut [u8; BLOCK_SIZE]) {
    let at = HEADER_SIZE + BLOCK_ENTRIES_MAX * ENTRY_SIZE;
    let sum = crc32c(seed, &block[..at]);
    put_u32(block, at, sum);
}

/// Whether the checksum of the extent block in `bytes` (of any block size) is right.
pub fn extent_block_checksum_holds(seed: u32, bytes: &[u8]) -> bool {
    let at = HEADER_SIZE + usize::from(u16_at(bytes, 4)) * ENTRY_SIZE;
    match bytes.get(..at) {
        Some(covered) if at + 4 <= bytes.len() => crc32c(seed, covered) == u32_at(bytes, at),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_read_back() {
        let leaf = ExtentNode::Leaf(vec![
            Extent { logical: 0, physical: 1 << 40, len: EXTENT_LEN_MAX, unwritten: false },
            Extent { logical: 1 << 20, physical: 7, len: 9, unwritten: true },
        ]);
        let index = ExtentNode::Index(2, vec![ExtentIndex { logical: 5, physical: 1 << 33 }]);
        for node in [leaf, index] {
            let mut inode_bytes = [0; 60];
            node.encode(&mut inode_bytes, INODE_ENTRIES_MAX);
            assert_eq!(ExtentNode::decode(&inode_bytes).unwrap(), node);
            let mut block = [0; BLOCK_SIZE];
            node.encode(&mut block, BLOCK_ENTRIES_MAX);
            seal_extent_block(3, &mut block);
            assert_eq!(ExtentNode::decode(&block).unwrap(), node);
            assert!(extent_block_checksum_holds(3, &block));
            assert!(!extent_block_checksum_holds(4, &block));
            for len in 0..64 {
                let _ = ExtentNode::decode(&block[..len]);
                assert!(!extent_block_checksum_holds(3, &block[..len]));
            }
        }
    }

    #[test]
    fn a_node_that_claims_more_than_it_holds_is_corrupt() {
        let mut bytes = [0; 60];
        ExtentNode::Leaf(vec![]).encode(&mut bytes, 5);
        assert!(ExtentNode::decode(&bytes).is_err());
    }
}
