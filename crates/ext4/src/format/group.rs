//! Group descriptors: where a group's bitmaps and inode table are, and what is free in it.

use super::{checksum::crc32c, put_u16, put_u32, u16_at, u64_halves};

/// Length of a descriptor with feature `64bit`, in bytes.
pub const DESCRIPTOR_SIZE: usize = 64;

/// The inode bitmap and table of the group were never written: no inode is in use.
pub const FLAG_INODE_UNINIT: u16 = 1;

/// The block bitmap of the group was never written: only the group's own metadata is in use.
pub const FLAG_BLOCK_UNINIT: u16 = 2;

/// The unused part of the inode table reads as zero.
pub const FLAG_INODE_ZEROED: u16 = 4;

/// What a descriptor says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupDescriptor {
    /// Block of the block bitmap.
    pub block_bitmap: u64,
    /// Block of the inode bitmap.
    pub inode_bitmap: u64,
    /// First block of the inode table.
    pub inode_table: u64,
    /// Free blocks.
    pub free_blocks_count: u32,
    /// Free inodes.
    pub free_inodes_count: u32,
    /// Directories among the inodes.
    pub used_dirs_count: u32,
    /// Bits `FLAG_*`.
    pub flags: u16,
    /// Inodes at the end of the table that were never used.
    pub unused_inodes_count: u32,
    /// Checksum of the block bitmap; 16 bits of it in 32-byte descriptors.
    pub block_bitmap_checksum: u32,
    /// Checksum of the inode bitmap; 16 bits of it in 32-byte descriptors.
    pub inode_bitmap_checksum: u32,
}

impl GroupDescriptor {
    /// The descriptor of `group` in its 64-byte form, with its `metadata_csum` checksum.
    pub fn encode(&self, filesystem_seed: u32, group: u32) -> [u8; DESCRIPTOR_SIZE] {
        let mut b = [0; DESCRIPTOR_SIZE];
        for (offset, block) in
            [(0x00, self.block_bitmap), (0x04, self.inode_bitmap), (0x08, self.inode_table)]
        {
            put_u32(&mut b, offset, block as u32);
            put_u32(&mut b, offset + 0x20, (block >> 32) as u32);
        }
        for (low, high, value) in [
            (0x0C, 0x2C, self.free_blocks_count),
            (0x0E, 0x2E, self.free_inodes_count),
            (0x10, 0x30, self.used_dirs_count),
            (0x18, 0x38, self.block_bitmap_checksum),
            (0x1A, 0x3A, self.inode_bitmap_checksum),
            (0x1C, 0x32, self.unused_inodes_count),
        ] {
            put_u16(&mut b, low, value as u16);
            put_u16(&mut b, high, (value >> 16) as u16);
        }
        put_u16(&mut b, 0x12, self.flags);
        let checksum = descriptor_checksum(filesystem_seed, group, &b);
        put_u16(&mut b, 0x1E, checksum);
        b
    }

    /// Reads a descriptor of 32 or 64 bytes; what lies past the end of `bytes` reads as zero.
    pub fn decode(bytes: &[u8]) -> GroupDescriptor {
        let halves =
            |low, high| u32::from(u16_at(bytes, low)) | u32::from(u16_at(bytes, high)) << 16;
        GroupDescriptor {
            block_bitmap: u64_halves(bytes, 0x00, 0x20),
            inode_bitmap: u64_halves(bytes, 0x04, 0x24),
            inode_table: u64_halves(bytes, 0x08, 0x28),
            free_blocks_count: halves(0x0C, 0x2C),
            free_inodes_count: halves(0x0E, 0x2E),
            used_dirs_count: halves(0x10, 0x30),
            flags: u16_at(bytes, 0x12),
            unused_inodes_count: halves(0x1C, 0x32),
            block_bitmap_checksum: halves(0x18, 0x38),
            inode_bitmap_checksum: halves(0x1A, 0x3A),
        }
    }
}

/// The `metadata_csum` checksum of the descriptor in `bytes`, to be compared with [`stored_checksum`].
pub fn descriptor_checksum(filesystem_seed: u32, group: u32, bytes: &[u8]) -> u16 {
    let seed = crc32c(filesystem_seed, &group.to_le_bytes());
    let before = crc32c(seed, bytes.get(..0x1E).unwrap_or(bytes));
    let without = crc32c(before, &[0, 0]);
    crc32c(without, bytes.get(0x20..).unwrap_or_default()) as u16
}

/// The checksum that the descriptor in `bytes` carries.
pub fn stored_checksum(bytes: &[u8]) -> u16 {
    u16_at(bytes, 0x1E)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_reads_back_and_its_checksum_holds() {
        let descriptor = GroupDescriptor {
            block_bitmap: 0x1_2345_6789,
            inode_bitmap: 0x2_3456_789A,
            inode_table: 0x3_4567_89AB,
            free_blocks_count: 0x12345,
            free_inodes_count: 0x23456,
            used_dirs_count: 0x34567,
            flags: FLAG_BLOCK_UNINIT | FLAG_INODE_ZEROED,
            unused_inodes_count: 0x45678,
            block_bitmap_checksum: 0xDEAD_BEEF,
            inode_bitmap_checksum: 0xFEED_FACE,
        };
        let bytes = descriptor.encode(7, 3);
        assert_eq!(GroupDescriptor::decode(&bytes), descriptor);
        assert_eq!(descriptor_checksum(7, 3, &bytes), stored_checksum(&bytes));
        assert_ne!(descriptor_checksum(7, 4, &bytes), stored_checksum(&bytes));
    }
}
