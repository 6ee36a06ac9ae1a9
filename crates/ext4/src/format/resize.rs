//! The resize inode: a file whose blocks are those reserved for more group descriptors.
//!
//! Its double indirect block points to the reserved blocks of group 0, each from the place of the descriptor block that
//! it may become. A reserved block points to its copies in the groups that have them, and so is a block of pointers
//! itself until descriptors are written over it.

use super::{BLOCK_SIZE, inode::SECTORS_PER_BLOCK, put_u32};
use std::ops::Range;

/// Where the number of the double indirect block stands in `i_block`, in bytes.
pub const DOUBLE_INDIRECT_OFFSET: usize = 13 * 4;

/// Pointers in a block.
const POINTERS: u64 = BLOCK_SIZE as u64 / 4;

/// Writes the double indirect block. `reserved` counts in descriptor blocks: the first is the number of those in use.
/// At most 1,024.
pub fn encode_reserved_pointers(block: &mut [u8; BLOCK_SIZE], reserved: Range<u64>) {
    block.fill(0);
    for index in reserved {
        let slot = (index % POINTERS) as usize * 4;
        // Descriptors begin in block 1.
        put_u32(block, slot, (1 + index) as u32);
    }
}

/// Writes a reserved block of group 0: the blocks that are its copies, ascending by group. At most 1,024.
pub fn encode_copy_pointers(block: &mut [u8; BLOCK_SIZE], copies: impl Iterator<Item = u64>) {
    block.fill(0);
    for (slot, copy) in block.chunks_exact_mut(4).zip(copies) {
        put_u32(slot, 0, copy as u32);
    }
}

/// `i_blocks` of the resize inode: the double indirect block, and every reserved block in each of `copies` groups, the
/// first included.
pub fn resize_inode_sectors(reserved: u64, copies: u64) -> u64 {
    (1 + reserved * copies) * SECTORS_PER_BLOCK
}
