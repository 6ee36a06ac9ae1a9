//! What the superblock claims, checked until it can be relied on: sizes, counts, features.
//!
//! After [`Geometry::new`] every size is one that ext4 knows, every count fits the disk, and the features are ones this
//! reader understands. What a feature only forbids to write is no hindrance.

use super::disk::DiskRead;
use crate::format::superblock::{
    MAGIC, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock, incompatible, read_only_compatible,
};
use silt_types::{Error, ErrorKind, Result};

/// Blocks larger than a page were never made by default, and read by few kernels.
const BLOCK_SIZE_BYTES_MAX: u32 = 4096;
const INODE_SIZE_OLD: u32 = 128;
const FIRST_INODE_OLD: u32 = 11;

/// What `mke2fs` makes at least. Keeps the number of groups in proportion to the disk.
const GROUP_BLOCKS_MIN: u32 = 256;

/// Names of the features that change how a disk is read, and whether this reader understands them.
const INCOMPATIBLE: [(u32, &str, bool); 16] = [
    (0x1, "compression", false),
    (incompatible::FILETYPE, "filetype", true),
    (incompatible::RECOVER, "needs_recovery", true),
    (incompatible::JOURNAL_DEV, "journal_dev", false),
    (incompatible::META_BG, "meta_bg", true),
    (incompatible::EXTENTS, "extent", true),
    (incompatible::BIT64, "64bit", true),
    (incompatible::MMP, "mmp", true),
    (incompatible::FLEX_BG, "flex_bg", true),
    (incompatible::EA_INODE, "ea_inode", true),
    (incompatible::DIRDATA, "dirdata", false),
    (incompatible::CSUM_SEED, "metadata_csum_seed", true),
    (incompatible::LARGEDIR, "large_dir", true),
    (incompatible::INLINE_DATA, "inline_data", true),
    (incompatible::ENCRYPT, "encrypt", true),
    (incompatible::CASEFOLD, "casefold", true),
];

/// The checked shape of a file system. Counts are in blocks of its own size.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub(crate) superblock: Superblock,
    pub(crate) block_size_bytes: u32,
    pub(crate) blocks: u64,
    pub(crate) first_block: u64,
    pub(crate) groups: u32,
    pub(crate) inodes: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inode_size_bytes: u32,
    pub(crate) descriptor_size_bytes: u32,
    /// The lowest inode number that a directory entry may name, the root's apart.
    pub(crate) first_free_inode: u32,
    pub(crate) metadata_checksums: bool,
    /// Seed of all checksums but the superblock's.
    pub(crate) seed: u32,
}

impl Geometry {
    /// The superblock in `bytes`, as one that a disk of `disk_size_bytes` can have. `Invalid` if it is none at all,
    /// `Unsupported` naming the features that are not understood, `Corrupt` if it contradicts itself or the disk.
    pub(crate) fn new(superblock: Superblock, disk_size_bytes: u64) -> Result<Geometry> {
        refuse_unknown_features(&superblock)?;
        let block_size_bytes = match superblock.block_size() {
            Some(size) if size <= BLOCK_SIZE_BYTES_MAX => size,
            Some(size) => return Err(unsupported(format!("blocks of {size} bytes"))),
            None => return Err(damage("its block size is none that ext4 knows")),
        };
        let old = superblock.revision == 0;
        let geometry = Geometry {
            block_size_bytes,
            blocks: superblock.blocks_count,
            first_block: u64::from(superblock.first_data_block),
            groups: group_count(&superblock)?,
            inodes: superblock.inodes_count,
            inodes_per_group: superblock.inodes_per_group,
            inode_size_bytes: if old { INODE_SIZE_OLD } else { superblock.inode_size.into() },
            descriptor_size_bytes: superblock.group_descriptor_size() as u32,
            first_free_inode: if old { FIRST_INODE_OLD } else { superblock.first_inode },
            metadata_checksums: superblock.has_metadata_checksums(),
            seed: superblock.seed(),
            superblock,
        };
        geometry.check(disk_size_bytes)?;
        Ok(geometry)
    }

    fn check(&self, disk_size_bytes: u64) -> Result<()> {
        let block_size = self.block_size_bytes;
        let is_size =
            |size: u32, min: u32| size.is_power_of_two() && (min..=block_size).contains(&size);
        let wide = self.superblock.incompatible & incompatible::BIT64 != 0;
        let checks = [
            (
                self.blocks <= disk_size_bytes / u64::from(block_size),
                "it says the disk is larger than it is",
            ),
            (
                self.first_block == u64::from(block_size == 1024),
                "its first block is in the wrong place",
            ),
            (is_size(self.inode_size_bytes, INODE_SIZE_OLD), "its inode size is impossible"),
            (
                is_size(self.descriptor_size_bytes, if wide { 64 } else { 32 }),
                "its descriptor size is impossible",
            ),
            (
                (GROUP_BLOCKS_MIN..=block_size * 8).contains(&self.superblock.blocks_per_group),
                "its groups have an impossible number of blocks",
            ),
            (
                (1..=block_size * 8).contains(&self.inodes_per_group),
                "its groups have an impossible number of inodes",
            ),
            (
                u64::from(self.inodes) == u64::from(self.groups) * u64::from(self.inodes_per_group),
                "its inodes are not those of its groups",
            ),
            (
                (FIRST_INODE_OLD..=self.inodes).contains(&self.first_free_inode),
                "it reserves an impossible number of inodes",
            ),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(damage(what)),
            None => Ok(()),
        }
    }

    /// `Corrupt` unless blocks have this size, which the journal has relied on.
    pub(super) fn must_have_blocks_of(&self, size_bytes: u32) -> Result<()> {
        if self.block_size_bytes == size_bytes {
            Ok(())
        } else {
            Err(damage("the journal changes the block size"))
        }
    }

    /// Whether `len` blocks from `start` on lie on the file system.
    pub(super) fn holds(&self, start: u64, len: u64) -> bool {
        start >= self.first_block.max(1)
            && start.checked_add(len).is_some_and(|end| end <= self.blocks)
    }

    /// Whether the descriptors say which inodes were never used.
    pub(super) fn tracks_unused_inodes(&self) -> bool {
        self.metadata_checksums
            || self.superblock.read_only_compatible & read_only_compatible::GDT_CSUM != 0
    }

    /// The first block of `group`.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        self.first_block + u64::from(group) * u64::from(self.superblock.blocks_per_group)
    }
}

/// The superblock of `disk` as it stands in place. `Invalid` if there is none.
pub(crate) fn read_superblock(disk: &impl DiskRead) -> Result<Superblock> {
    let none = |what: &str| Error::invalid(format!("not an ext4 file system: {what}"));
    if disk.size_bytes() < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE as u64 {
        return Err(none("the disk is too small"));
    }
    let mut bytes = [0; SUPERBLOCK_SIZE];
    disk.read_at(&mut bytes, SUPERBLOCK_OFFSET)?;
    if bytes[0x38..0x3A] != MAGIC.to_le_bytes() {
        return Err(none("there is no superblock"));
    }
    Superblock::decode(&bytes)
}

fn refuse_unknown_features(superblock: &Superblock) -> Result<()> {
    if superblock.revision > 1 {
        return Err(unsupported(format!("revision {}", superblock.revision)));
    }
    let mut names = Vec::new();
    for bit in (0..32).map(|shift| 1 << shift).filter(|bit| superblock.incompatible & bit != 0) {
        match INCOMPATIBLE.iter().find(|(known, ..)| *known == bit) {
            Some((_, _, true)) => {}
            Some((_, name, false)) => names.push((*name).to_owned()),
            None => names.push(format!("incompatible feature {bit:#x}")),
        }
    }
    if superblock.read_only_compatible & read_only_compatible::BIGALLOC != 0 {
        names.push("bigalloc".to_owned());
    }
    if names.is_empty() { Ok(()) } else { Err(unsupported(names.join(", "))) }
}

fn group_count(superblock: &Superblock) -> Result<u32> {
    let blocks = superblock.blocks_count.checked_sub(superblock.first_data_block.into());
    let groups = match (blocks, superblock.blocks_per_group) {
        (None | Some(0), _) => return Err(damage("it has no blocks")),
        (_, 0) => return Err(damage("its groups have no blocks")),
        (Some(blocks), per_group) => blocks.div_ceil(per_group.into()),
    };
    groups.try_into().map_err(|_| damage("it has too many groups"))
}

fn unsupported(what: String) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("this ext4 file system uses what is not supported: {what}"),
    )
}

fn damage(what: &str) -> Error {
    Error::corrupt(format!("ext4 superblock: {what}"))
}
