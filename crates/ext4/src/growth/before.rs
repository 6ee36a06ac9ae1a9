//! The disk as it is before it grows: superblock, descriptors, bitmaps and resize inode, each checked when it is read.
//!
//! What passes here has the shape that growing knows: blocks of 4 KiB, whole groups, 64-byte descriptors in one table,
//! checksums, nothing waiting in a journal.

use super::shape::Sizes;
use crate::{
    format::{
        BLOCK_SIZE,
        checksum::{crc32c, inode_seed},
        group::{
            DESCRIPTOR_SIZE, FLAG_BLOCK_UNINIT, GroupDescriptor, descriptor_checksum,
            stored_checksum,
        },
        inode::{
            INODE_RESIZE, INODE_SIZE, MODE_FILE, MODE_TYPE_MASK, RawInode, has_high_checksum,
            inode_checksum, stored_inode_checksum,
        },
        resize::{DOUBLE_INDIRECT_OFFSET, encode_reserved_pointers},
        superblock::{
            STATE_CLEAN, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock, compatible, incompatible,
            read_only_compatible,
        },
        u32_at,
    },
    reader::{
        DiskRead,
        geometry::{Geometry, read_superblock},
    },
    writer::geometry::{
        BLOCKS_PER_GROUP, DESCRIPTORS_PER_BLOCK, GROUPS_PER_FLEX, RESERVED_BLOCKS_MAX,
    },
};
use silt_types::{BLOCK_SIZE_BYTES, Error, ErrorKind, Result};

/// Features that growing relies on.
const COMPATIBLE_NEEDED: u32 = compatible::RESIZE_INODE;
const INCOMPATIBLE_NEEDED: u32 = incompatible::BIT64 | incompatible::FLEX_BG;
const READ_ONLY_COMPATIBLE_NEEDED: u32 =
    read_only_compatible::SPARSE_SUPER | read_only_compatible::METADATA_CSUM;

/// Features that may be there: they concern files, directories and the journal, none of which growing touches.
const COMPATIBLE_KNOWN: u32 = COMPATIBLE_NEEDED
    | compatible::HAS_JOURNAL
    | compatible::EXT_ATTR
    | compatible::DIR_INDEX
    | compatible::FAST_COMMIT
    | compatible::ORPHAN_FILE;
const INCOMPATIBLE_KNOWN: u32 = INCOMPATIBLE_NEEDED
    | incompatible::FILETYPE
    | incompatible::EXTENTS
    | incompatible::EA_INODE
    | incompatible::CSUM_SEED
    | incompatible::LARGEDIR
    | incompatible::INLINE_DATA
    | incompatible::ENCRYPT
    | incompatible::CASEFOLD;
const READ_ONLY_COMPATIBLE_KNOWN: u32 = READ_ONLY_COMPATIBLE_NEEDED
    | read_only_compatible::LARGE_FILE
    | read_only_compatible::HUGE_FILE
    | read_only_compatible::DIR_NLINK
    | read_only_compatible::EXTRA_ISIZE
    | read_only_compatible::QUOTA
    | read_only_compatible::PROJECT
    | read_only_compatible::VERITY;

/// Names of features that are likely to stand in the way.
const NAMES: [(&str, u32, &str); 11] = [
    ("compatible", compatible::RESIZE_INODE, "resize_inode"),
    ("compatible", compatible::SPARSE_SUPER2, "sparse_super2"),
    ("incompatible", incompatible::BIT64, "64bit"),
    ("incompatible", incompatible::FLEX_BG, "flex_bg"),
    ("incompatible", incompatible::META_BG, "meta_bg"),
    ("incompatible", incompatible::MMP, "mmp"),
    ("read-only compatible", read_only_compatible::SPARSE_SUPER, "sparse_super"),
    ("read-only compatible", read_only_compatible::METADATA_CSUM, "metadata_csum"),
    ("read-only compatible", read_only_compatible::GDT_CSUM, "uninit_bg"),
    ("read-only compatible", read_only_compatible::BIGALLOC, "bigalloc"),
    ("read-only compatible", read_only_compatible::READONLY, "read-only"),
];

/// One block.
pub(super) type Block = [u8; BLOCK_SIZE];

/// A file system that can grow.
pub(super) struct Before<D> {
    disk: D,
    superblock: Superblock,
    /// Seed of all checksums but the superblock's.
    pub(super) seed: u32,
    /// What stands before the superblock in block 0, the superblock, and what follows.
    pub(super) first_block: Box<Block>,
}

/// The resize inode, with what stands around it.
pub(super) struct ResizeInode {
    /// The block of the inode table that holds it.
    pub(super) table_block: u64,
    /// The inode's first byte in that block.
    pub(super) offset: usize,
    /// That block.
    pub(super) bytes: Box<Block>,
    /// Where the checksums of the inode start.
    pub(super) seed: u32,
    /// The block of pointers to reserved descriptor blocks.
    pub(super) double_indirect_block: u64,
}

impl<D: DiskRead> Before<D> {
    /// Reads and checks the superblock. `Invalid` if there is none, `Unsupported` naming what growing cannot do with it,
    /// `Corrupt` if it contradicts itself or the disk.
    pub(super) fn open(disk: D) -> Result<Before<D>> {
        let superblock = read_superblock(&disk)?;
        refuse_unknown_shape(&superblock)?;
        refuse_unclean(&superblock)?;
        let geometry = Geometry::new(superblock.clone(), disk.size_bytes())?;
        let mut before = Before {
            disk,
            superblock,
            seed: geometry.seed,
            first_block: Box::new([0; BLOCK_SIZE]),
        };
        before.first_block = before.read_block(0)?;
        if before.sizes().reserved_descriptor_blocks > RESERVED_BLOCKS_MAX {
            return Err(Error::corrupt(
                "ext4 superblock: it reserves more descriptors than the resize inode holds",
            ));
        }
        Ok(before)
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            blocks: self.superblock.blocks_count,
            inodes_per_group: self.superblock.inodes_per_group.into(),
            reserved_descriptor_blocks: self.superblock.reserved_gdt_blocks.into(),
        }
    }

    /// The superblock's own bytes.
    pub(super) fn superblock_bytes(&self) -> [u8; SUPERBLOCK_SIZE] {
        let rest = &self.first_block[SUPERBLOCK_OFFSET as usize..];
        rest.first_chunk().copied().unwrap_or([0; SUPERBLOCK_SIZE])
    }

    /// Blocks of the disk, a last one that is not whole included.
    pub(super) fn disk_blocks(&self) -> u64 {
        self.disk.size_bytes().div_ceil(BLOCK_SIZE_BYTES)
    }

    /// A block of the disk; what lies behind its end is zero.
    pub(super) fn read_block(&self, number: u64) -> Result<Box<Block>> {
        let mut block = Box::new([0; BLOCK_SIZE]);
        let offset = number.saturating_mul(BLOCK_SIZE_BYTES);
        let left = self.disk.size_bytes().saturating_sub(offset);
        let len = left.min(BLOCK_SIZE_BYTES) as usize;
        if len > 0 {
            self.disk.read_at(&mut block[..len], offset)?;
        }
        Ok(block)
    }

    /// A block of metadata that lies on the file system.
    fn read_metadata(&self, number: u64, what: &str) -> Result<Box<Block>> {
        if number == 0 || number >= self.superblock.blocks_count {
            return Err(Error::corrupt(format!("ext4: {what} lies outside the file system")));
        }
        self.read_block(number)
    }

    /// A block of descriptors; those of groups that there are have been checked, what follows is zero.
    pub(super) fn descriptor_block(&self, index: u64) -> Result<Box<Block>> {
        let mut block = self.read_metadata(1 + index, "a descriptor block")?;
        let groups = self.sizes().groups();
        let first = index * DESCRIPTORS_PER_BLOCK;
        for (group, slot) in (first..).zip(block.chunks_exact_mut(DESCRIPTOR_SIZE)) {
            if group >= groups {
                slot.fill(0);
            } else if descriptor_checksum(self.seed, group as u32, slot) != stored_checksum(slot) {
                return Err(damage(group, "the checksum of its descriptor does not match"));
            }
        }
        Ok(block)
    }

    /// The descriptor of a group.
    pub(super) fn descriptor(&self, group: u64) -> Result<GroupDescriptor> {
        let block = self.descriptor_block(group / DESCRIPTORS_PER_BLOCK)?;
        let start = (group % DESCRIPTORS_PER_BLOCK) as usize * DESCRIPTOR_SIZE;
        Ok(GroupDescriptor::decode(&block[start..start + DESCRIPTOR_SIZE]))
    }

    /// The block bitmap of a group; `None` where it was never written.
    pub(super) fn block_bitmap(
        &self,
        group: u64,
        descriptor: &GroupDescriptor,
    ) -> Result<Option<Box<Block>>> {
        if descriptor.flags & FLAG_BLOCK_UNINIT != 0 {
            return Ok(None);
        }
        let bitmap = self.read_metadata(descriptor.block_bitmap, "a block bitmap")?;
        if crc32c(self.seed, &*bitmap) != descriptor.block_bitmap_checksum {
            return Err(damage(group, "the checksum of its block bitmap does not match"));
        }
        Ok(Some(bitmap))
    }

    /// The resize inode.
    pub(super) fn resize_inode(&self) -> Result<ResizeInode> {
        let table = self.descriptor(0)?.inode_table;
        let index = (INODE_RESIZE - 1) as usize;
        let (block, offset) = (index * INODE_SIZE / BLOCK_SIZE, index * INODE_SIZE % BLOCK_SIZE);
        let table_block = table.saturating_add(block as u64);
        let bytes = self.read_metadata(table_block, "the first inode table")?;
        let slot = &bytes[offset..offset + INODE_SIZE];
        let inode = RawInode::decode(slot);
        let seed = inode_seed(self.seed, INODE_RESIZE, inode.generation);
        if !has_high_checksum(slot) || inode_checksum(seed, slot) != stored_inode_checksum(slot) {
            return Err(Error::corrupt("ext4: the checksum of the resize inode does not match"));
        }
        if inode.mode & MODE_TYPE_MASK != MODE_FILE {
            return Err(Error::corrupt("ext4: the resize inode is not a file"));
        }
        let double_indirect_block = u64::from(u32_at(&inode.block, DOUBLE_INDIRECT_OFFSET));
        self.check_reserved_pointers(double_indirect_block)?;
        Ok(ResizeInode { table_block, offset, bytes, seed, double_indirect_block })
    }

    fn check_reserved_pointers(&self, double_indirect_block: u64) -> Result<()> {
        let found =
            self.read_metadata(double_indirect_block, "the list of reserved descriptors")?;
        let sizes = self.sizes();
        let first = sizes.descriptor_blocks();
        let mut expected = [0; BLOCK_SIZE];
        encode_reserved_pointers(&mut expected, first..first + sizes.reserved_descriptor_blocks);
        if *found != expected {
            return Err(Error::corrupt(
                "ext4: the resize inode holds other blocks than it reserves",
            ));
        }
        Ok(())
    }
}

fn refuse_unknown_shape(superblock: &Superblock) -> Result<()> {
    let words = [
        ("compatible", superblock.compatible, COMPATIBLE_NEEDED, COMPATIBLE_KNOWN),
        (
            "incompatible",
            // Has a reason of its own.
            superblock.incompatible & !incompatible::RECOVER,
            INCOMPATIBLE_NEEDED,
            INCOMPATIBLE_KNOWN,
        ),
        (
            "read-only compatible",
            superblock.read_only_compatible & !read_only_compatible::ORPHAN_PRESENT,
            READ_ONLY_COMPATIBLE_NEEDED,
            READ_ONLY_COMPATIBLE_KNOWN,
        ),
    ];
    for (word, features, _, known) in words {
        if features & !known != 0 {
            return Err(unsupported(&format!("it has {}", names(word, features & !known))));
        }
    }
    for (word, features, needed, _) in words {
        if needed & !features != 0 {
            return Err(unsupported(&format!("it lacks {}", names(word, needed & !features))));
        }
    }
    let checks = [
        (superblock.block_size() == Some(BLOCK_SIZE as u32), "its blocks are not of 4096 bytes"),
        (
            u64::from(superblock.blocks_per_group) == BLOCKS_PER_GROUP,
            "its groups are not of 32,768 blocks",
        ),
        (
            superblock.inodes_per_group.is_multiple_of(8),
            "its groups have inodes that are not counted in eights",
        ),
        (usize::from(superblock.inode_size) == INODE_SIZE, "its inodes are not of 256 bytes"),
        (
            superblock.group_descriptor_size() == DESCRIPTOR_SIZE,
            "its descriptors are not of 64 bytes",
        ),
        (
            u32::from(superblock.log_groups_per_flex) == GROUPS_PER_FLEX.ilog2(),
            "its flex groups are not of 16 groups",
        ),
    ];
    match checks.iter().find(|(holds, _)| !holds) {
        Some((_, reason)) => Err(unsupported(reason)),
        None => Ok(()),
    }
}

/// What features of a word are called, those without a name as a number.
fn names(word: &str, features: u32) -> String {
    let named = NAMES.iter().filter(|(of, bit, _)| *of == word && features & bit != 0);
    let mut names: Vec<_> = named.clone().map(|(.., name)| (*name).to_owned()).collect();
    let nameless = named.fold(features, |left, (_, bit, _)| left & !bit);
    if nameless != 0 {
        names.push(format!("{word} features {nameless:#x}"));
    }
    names.join(", ")
}

/// The journal may hold metadata that is to be written, and orphans blocks that are to be freed: a mount or e2fsck does it.
fn refuse_unclean(superblock: &Superblock) -> Result<()> {
    let checks = [
        (superblock.incompatible & incompatible::RECOVER == 0, "its journal is to be replayed"),
        (
            superblock.last_orphan == 0
                && superblock.read_only_compatible & read_only_compatible::ORPHAN_PRESENT == 0,
            "it has orphaned inodes",
        ),
        (superblock.state == STATE_CLEAN, "it was not cleanly unmounted, or has errors"),
    ];
    match checks.iter().find(|(holds, _)| !holds) {
        Some((_, reason)) => {
            Err(unsupported(&format!("{reason}; mount and unmount it, or run e2fsck")))
        }
        None => Ok(()),
    }
}

fn unsupported(reason: &str) -> Error {
    let message = format!("this ext4 file system cannot grow in place: {reason}");
    Error::new(ErrorKind::Unsupported, message)
}

fn damage(group: u64, what: &str) -> Error {
    Error::corrupt(format!("group {group}: {what}"))
}
