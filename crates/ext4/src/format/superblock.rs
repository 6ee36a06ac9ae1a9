//! The superblock: 1024 bytes at byte 1024 of the disk, with copies at the start of some groups.

use super::{bytes::array_at, checksum::crc32c, put_u16, put_u32, u16_at, u32_at, u64_halves};
use silt_types::{Error, ErrorKind, Result};

/// Length of the structure in bytes.
pub const SUPERBLOCK_SIZE: usize = 1024;

/// Where the first superblock stands on the disk, in bytes.
pub const SUPERBLOCK_OFFSET: u64 = 1024;

/// `s_magic`.
pub const MAGIC: u16 = 0xEF53;

/// `s_state`: cleanly unmounted.
pub const STATE_CLEAN: u16 = 1;

/// `s_flags`: the directory hash takes name bytes as unsigned.
pub const FLAG_UNSIGNED_HASH: u32 = 2;

/// `s_checksum_type`: CRC-32C, the only one there is.
pub const CHECKSUM_TYPE_CRC32C: u8 = 1;

/// `s_default_mount_opts`: extended attributes of users.
pub const MOUNT_OPTION_USER_XATTR: u32 = 4;

/// `s_default_mount_opts`: POSIX ACLs.
pub const MOUNT_OPTION_ACL: u32 = 8;

/// Features that whoever does not know them may ignore (`s_feature_compat`).
pub mod compatible {
    /// There is a journal.
    pub const HAS_JOURNAL: u32 = 0x4;
    /// There are extended attributes.
    pub const EXT_ATTR: u32 = 0x8;
    /// Inode 7 holds blocks reserved for more group descriptors.
    pub const RESIZE_INODE: u32 = 0x10;
    /// Directories may have a hash index.
    pub const DIR_INDEX: u32 = 0x20;
    /// Only two groups hold copies of the superblock, named in it.
    pub const SPARSE_SUPER2: u32 = 0x200;
    /// The journal may hold fast commits.
    pub const FAST_COMMIT: u32 = 0x400;
    /// Orphaned inodes are listed in a file.
    pub const ORPHAN_FILE: u32 = 0x1000;
}

/// Features that whoever does not know them must not touch (`s_feature_incompat`).
pub mod incompatible {
    /// Directory entries have a file type.
    pub const FILETYPE: u32 = 0x2;
    /// The journal holds changes that are not on the disk yet.
    pub const RECOVER: u32 = 0x4;
    /// This is an external journal.
    pub const JOURNAL_DEV: u32 = 0x8;
    /// Group descriptors are spread over the disk.
    pub const META_BG: u32 = 0x10;
    /// Files may have extents.
    pub const EXTENTS: u32 = 0x40;
    /// Block numbers have more than 32 bits, descriptors 64 bytes.
    pub const BIT64: u32 = 0x80;
    /// Multiple mount protection.
    pub const MMP: u32 = 0x100;
    /// The bitmaps and inode tables of several groups stand together.
    pub const FLEX_BG: u32 = 0x200;
    /// Large attribute values are in inodes of their own.
    pub const EA_INODE: u32 = 0x400;
    /// Directory entries may carry data.
    pub const DIRDATA: u32 = 0x1000;
    /// The checksum seed is in the superblock.
    pub const CSUM_SEED: u32 = 0x2000;
    /// Directories beyond 2 GiB or three index levels.
    pub const LARGEDIR: u32 = 0x4000;
    /// Small files are kept in their inode.
    pub const INLINE_DATA: u32 = 0x8000;
    /// There are encrypted files.
    pub const ENCRYPT: u32 = 0x10000;
    /// There are directories that ignore case.
    pub const CASEFOLD: u32 = 0x20000;
}

/// Features that whoever does not know them may only read (`s_feature_ro_compat`).
pub mod read_only_compatible {
    /// Only groups 0, 1 and powers of 3, 5 and 7 hold copies of superblock and descriptors.
    pub const SPARSE_SUPER: u32 = 0x1;
    /// Files of 2 GiB and more.
    pub const LARGE_FILE: u32 = 0x2;
    /// Files of more than 2^32 sectors.
    pub const HUGE_FILE: u32 = 0x8;
    /// Group descriptors have CRC-16 checksums.
    pub const GDT_CSUM: u32 = 0x10;
    /// Directories of more than 65000 subdirectories.
    pub const DIR_NLINK: u32 = 0x20;
    /// Inodes have room for nanoseconds, creation time and a checksum.
    pub const EXTRA_ISIZE: u32 = 0x40;
    /// Quota files are inodes named in the superblock.
    pub const QUOTA: u32 = 0x100;
    /// Blocks are allocated in clusters.
    pub const BIGALLOC: u32 = 0x200;
    /// All metadata has CRC-32C checksums.
    pub const METADATA_CSUM: u32 = 0x400;
    /// The file system must not be written.
    pub const READONLY: u32 = 0x1000;
    /// Project quota.
    pub const PROJECT: u32 = 0x2000;
    /// There are files with Merkle trees.
    pub const VERITY: u32 = 0x8000;
    /// The orphan file is not empty.
    pub const ORPHAN_PRESENT: u32 = 0x10000;
}

/// What the superblock says. Fields without meaning for writer or reader (times of mounts and checks, error logs,
/// quota, encryption, snapshots) are written as zero and not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Number of inodes, all groups together.
    pub inodes_count: u32,
    /// Number of blocks.
    pub blocks_count: u64,
    /// Number of free blocks; only a hint while mounted.
    pub free_blocks_count: u64,
    /// Number of free inodes; only a hint while mounted.
    pub free_inodes_count: u32,
    /// The block the first group starts at: 0, or 1 with blocks of 1 KiB.
    pub first_data_block: u32,
    /// The block size is `1024 << log_block_size`.
    pub log_block_size: u32,
    /// Blocks in every group but the last.
    pub blocks_per_group: u32,
    /// Inodes in every group.
    pub inodes_per_group: u32,
    /// `s_state`.
    pub state: u16,
    /// `s_rev_level`: 1 for everything but the very first ext2.
    pub revision: u32,
    /// First inode that is not reserved.
    pub first_inode: u32,
    /// Length of an inode in bytes.
    pub inode_size: u16,
    /// The group this copy stands in.
    pub block_group_number: u16,
    /// Bits of [`compatible`].
    pub compatible: u32,
    /// Bits of [`incompatible`].
    pub incompatible: u32,
    /// Bits of [`read_only_compatible`].
    pub read_only_compatible: u32,
    /// The UUID of the file system.
    pub uuid: [u8; 16],
    /// Blocks reserved behind the descriptors in every group that has them.
    pub reserved_gdt_blocks: u16,
    /// The inode of the journal, or 0.
    pub journal_inode: u32,
    /// Head of the list of orphaned inodes, or 0.
    pub last_orphan: u32,
    /// Seed of the directory hash.
    pub hash_seed: [u32; 4],
    /// Directory hash used for new directories, see [`super::hash`].
    pub default_hash_version: u8,
    /// A copy of the journal inode's `i_block` and size, in case its inode is lost.
    pub journal_backup: Option<[u32; 17]>,
    /// Length of a group descriptor in bytes as stored: 0 means 32.
    pub descriptor_size: u16,
    /// `s_default_mount_opts`.
    pub default_mount_options: u32,
    /// First group of feature `meta_bg`.
    pub first_meta_bg: u32,
    /// Extra inode bytes that every inode has.
    pub min_extra_isize: u16,
    /// Extra inode bytes that new inodes get.
    pub want_extra_isize: u16,
    /// `s_flags`.
    pub flags: u32,
    /// `1 << log_groups_per_flex` groups keep their bitmaps and tables together.
    pub log_groups_per_flex: u8,
    /// `s_checksum_type`.
    pub checksum_type: u8,
    /// The groups with copies, with feature `sparse_super2`.
    pub backup_groups: [u32; 2],
    /// The seed of all checksums, with feature `metadata_csum_seed`.
    pub checksum_seed: u32,
}

impl Superblock {
    /// The structure with its checksum.
    pub fn encode(&self) -> [u8; SUPERBLOCK_SIZE] {
        let mut b = [0; SUPERBLOCK_SIZE];
        put_u32(&mut b, 0x00, self.inodes_count);
        put_u32(&mut b, 0x04, self.blocks_count as u32);
        put_u32(&mut b, 0x0C, self.free_blocks_count as u32);
        put_u32(&mut b, 0x10, self.free_inodes_count);
        put_u32(&mut b, 0x14, self.first_data_block);
        put_u32(&mut b, 0x18, self.log_block_size);
        put_u32(&mut b, 0x1C, self.log_block_size);
        put_u32(&mut b, 0x20, self.blocks_per_group);
        put_u32(&mut b, 0x24, self.blocks_per_group);
        put_u32(&mut b, 0x28, self.inodes_per_group);
        // No check after a number of mounts.
        put_u16(&mut b, 0x36, 0xFFFF);
        put_u16(&mut b, 0x38, MAGIC);
        put_u16(&mut b, 0x3A, self.state);
        // On errors: continue, as mke2fs has it.
        put_u16(&mut b, 0x3C, 1);
        put_u32(&mut b, 0x4C, self.revision);
        put_u32(&mut b, 0x54, self.first_inode);
        put_u16(&mut b, 0x58, self.inode_size);
        put_u16(&mut b, 0x5A, self.block_group_number);
        put_u32(&mut b, 0x5C, self.compatible);
        put_u32(&mut b, 0x60, self.incompatible);
        put_u32(&mut b, 0x64, self.read_only_compatible);
        b[0x68..0x78].copy_from_slice(&self.uuid);
        put_u16(&mut b, 0xCE, self.reserved_gdt_blocks);
        put_u32(&mut b, 0xE0, self.journal_inode);
        put_u32(&mut b, 0xE8, self.last_orphan);
        for (index, word) in self.hash_seed.iter().enumerate() {
            put_u32(&mut b, 0xEC + index * 4, *word);
        }
        b[0xFC] = self.default_hash_version;
        put_u16(&mut b, 0xFE, self.descriptor_size);
        put_u32(&mut b, 0x100, self.default_mount_options);
        put_u32(&mut b, 0x104, self.first_meta_bg);
        if let Some(words) = &self.journal_backup {
            b[0xFD] = 1;
            for (index, word) in words.iter().enumerate() {
                put_u32(&mut b, 0x10C + index * 4, *word);
            }
        }
        put_u32(&mut b, 0x150, (self.blocks_count >> 32) as u32);
        put_u32(&mut b, 0x158, (self.free_blocks_count >> 32) as u32);
        put_u16(&mut b, 0x15C, self.min_extra_isize);
        put_u16(&mut b, 0x15E, self.want_extra_isize);
        put_u32(&mut b, 0x160, self.flags);
        b[0x174] = self.log_groups_per_flex;
        b[0x175] = self.checksum_type;
        put_u32(&mut b, 0x24C, self.backup_groups[0]);
        put_u32(&mut b, 0x250, self.backup_groups[1]);
        put_u32(&mut b, 0x270, self.checksum_seed);
        if self.has_metadata_checksums() {
            let checksum = crc32c(!0, &b[..SUPERBLOCK_SIZE - 4]);
            put_u32(&mut b, SUPERBLOCK_SIZE - 4, checksum);
        }
        b
    }

    /// Reads the structure. `Corrupt` when it is too short, is no superblock, or its checksum is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Superblock> {
        let Some(b) = bytes.get(..SUPERBLOCK_SIZE) else {
            return Err(Error::corrupt("ext4 superblock: cut short"));
        };
        if u16_at(b, 0x38) != MAGIC {
            return Err(Error::corrupt("ext4 superblock: no magic number, so this is no ext4"));
        }
        let superblock = Superblock {
            inodes_count: u32_at(b, 0x00),
            blocks_count: 0,
            free_blocks_count: 0,
            free_inodes_count: u32_at(b, 0x10),
            first_data_block: u32_at(b, 0x14),
            log_block_size: u32_at(b, 0x18),
            blocks_per_group: u32_at(b, 0x20),
            inodes_per_group: u32_at(b, 0x28),
            state: u16_at(b, 0x3A),
            revision: u32_at(b, 0x4C),
            first_inode: u32_at(b, 0x54),
            inode_size: u16_at(b, 0x58),
            block_group_number: u16_at(b, 0x5A),
            compatible: u32_at(b, 0x5C),
            incompatible: u32_at(b, 0x60),
            read_only_compatible: u32_at(b, 0x64),
            uuid: array_at(b, 0x68).unwrap_or_default(),
            reserved_gdt_blocks: u16_at(b, 0xCE),
            journal_inode: u32_at(b, 0xE0),
            last_orphan: u32_at(b, 0xE8),
            hash_seed: std::array::from_fn(|index| u32_at(b, 0xEC + index * 4)),
            default_hash_version: b[0xFC],
            journal_backup: (b[0xFD] == 1)
                .then(|| std::array::from_fn(|index| u32_at(b, 0x10C + index * 4))),
            descriptor_size: u16_at(b, 0xFE),
            default_mount_options: u32_at(b, 0x100),
            first_meta_bg: u32_at(b, 0x104),
            min_extra_isize: u16_at(b, 0x15C),
            want_extra_isize: u16_at(b, 0x15E),
            flags: u32_at(b, 0x160),
            log_groups_per_flex: b[0x174],
            checksum_type: b[0x175],
            backup_groups: [u32_at(b, 0x24C), u32_at(b, 0x250)],
            checksum_seed: u32_at(b, 0x270),
        };
        if superblock.has_metadata_checksums() {
            superblock.check_checksum(b)?;
        }
        Ok(superblock.with_counts(b))
    }

    fn check_checksum(&self, bytes: &[u8]) -> Result<()> {
        if self.checksum_type != CHECKSUM_TYPE_CRC32C {
            let message = format!("ext4 superblock: unknown checksum type {}", self.checksum_type);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let at = SUPERBLOCK_SIZE - 4;
        if crc32c(!0, &bytes[..at]) != u32_at(bytes, at) {
            return Err(Error::corrupt("ext4 superblock: wrong checksum"));
        }
        Ok(())
    }

    /// The high halves count only with feature `64bit`.
    fn with_counts(mut self, b: &[u8]) -> Superblock {
        let low = |offset| u64::from(u32_at(b, offset));
        (self.blocks_count, self.free_blocks_count) =
            if self.incompatible & incompatible::BIT64 != 0 {
                (u64_halves(b, 0x04, 0x150), u64_halves(b, 0x0C, 0x158))
            } else {
                (low(0x04), low(0x0C))
            };
        self
    }

    /// Whether metadata carries CRC-32C checksums.
    pub fn has_metadata_checksums(&self) -> bool {
        self.read_only_compatible & read_only_compatible::METADATA_CSUM != 0
    }

    /// The block size in bytes; `None` where it is none that ext4 knows (1 KiB to 64 KiB).
    pub fn block_size(&self) -> Option<u32> {
        (self.log_block_size <= 6).then(|| 1024 << self.log_block_size)
    }

    /// Length of a group descriptor in bytes: 32 unless feature `64bit` gives it a size of its own.
    pub fn group_descriptor_size(&self) -> usize {
        if self.incompatible & incompatible::BIT64 != 0 {
            usize::from(self.descriptor_size)
        } else {
            32
        }
    }

    /// The seed that all other checksums start from.
    pub fn seed(&self) -> u32 {
        if self.incompatible & incompatible::CSUM_SEED != 0 {
            self.checksum_seed
        } else {
            crc32c(!0, &self.uuid)
        }
    }

    /// Whether `group` holds a copy of superblock and descriptors.
    pub fn group_has_copy(&self, group: u64) -> bool {
        if self.compatible & compatible::SPARSE_SUPER2 != 0 {
            return group == 0 || self.backup_groups.iter().any(|copy| u64::from(*copy) == group);
        }
        if self.read_only_compatible & read_only_compatible::SPARSE_SUPER == 0 {
            return true;
        }
        group_has_sparse_copy(group)
    }
}

/// The numbers of a superblock that change when the file system grows. They can be changed in place, so that everything
/// else stays, fields that [`Superblock`] does not know included. For file systems with feature `64bit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeFields {
    /// Number of inodes.
    pub inodes_count: u32,
    /// Number of blocks.
    pub blocks_count: u64,
    /// Blocks that only root may use.
    pub reserved_blocks_count: u64,
    /// Number of free blocks.
    pub free_blocks_count: u64,
    /// Number of free inodes.
    pub free_inodes_count: u32,
    /// Blocks reserved behind the descriptors in every group that has them.
    pub reserved_gdt_blocks: u16,
    /// Blocks of the fixed structures and the journal; 0 where nobody has counted them.
    pub overhead_blocks: u32,
}

impl SizeFields {
    /// Reads the numbers.
    pub fn decode(bytes: &[u8; SUPERBLOCK_SIZE]) -> SizeFields {
        SizeFields {
            inodes_count: u32_at(bytes, 0x00),
            blocks_count: u64_halves(bytes, 0x04, 0x150),
            reserved_blocks_count: u64_halves(bytes, 0x08, 0x154),
            free_blocks_count: u64_halves(bytes, 0x0C, 0x158),
            free_inodes_count: u32_at(bytes, 0x10),
            reserved_gdt_blocks: u16_at(bytes, 0xCE),
            overhead_blocks: u32_at(bytes, 0x248),
        }
    }

    /// Writes the numbers, and no checksum.
    pub fn put(&self, bytes: &mut [u8; SUPERBLOCK_SIZE]) {
        put_u32(bytes, 0x00, self.inodes_count);
        for (low, high, value) in [
            (0x04, 0x150, self.blocks_count),
            (0x08, 0x154, self.reserved_blocks_count),
            (0x0C, 0x158, self.free_blocks_count),
        ] {
            put_u32(bytes, low, value as u32);
            put_u32(bytes, high, (value >> 32) as u32);
        }
        put_u32(bytes, 0x10, self.free_inodes_count);
        put_u16(bytes, 0xCE, self.reserved_gdt_blocks);
        put_u32(bytes, 0x248, self.overhead_blocks);
    }
}

/// Makes the superblock in `bytes` the one that stands in `group`, and stores its `metadata_csum` checksum.
pub fn seal_superblock(bytes: &mut [u8; SUPERBLOCK_SIZE], group: u64) {
    put_u16(bytes, 0x5A, group as u16);
    let checksum = crc32c(!0, &bytes[..SUPERBLOCK_SIZE - 4]);
    put_u32(bytes, SUPERBLOCK_SIZE - 4, checksum);
}

/// Whether `group` holds a copy under feature `sparse_super`: 0, 1 and the powers of 3, 5 and 7.
pub fn group_has_sparse_copy(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut power = base;
        while power < group && power < 1 << 60 {
            power *= base;
        }
        power == group
    };
    group <= 1 || power_of(3) || power_of(5) || power_of(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_in_the_groups_that_sparse_super_names() {
        let groups: Vec<u64> = (0..130).filter(|group| group_has_sparse_copy(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }
}
