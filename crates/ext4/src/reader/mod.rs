//! Reading ext4: inodes, extents, directories, attributes, with the journal's committed transactions laid over the disk.
//!
//! For disks made by anyone and left in any state: cleanly unmounted, cut off in the middle of work, or made to do harm.
//! Every length, offset, count and depth is checked before it is used, nothing is recursive, no allocation follows an
//! unchecked number, and no bytes whatever make it panic. What it cannot read with certainty it refuses, with the reason.
//!
//! Not for repair, and not for writing: `writer` does that. Where things stand on the disk is in [`format`](crate::format).
//!
//! Start with [`Ext4::open`]; [`Ext4::hierarchy`] gives the whole tree, [`Ext4::for_each_file_extent`]
//! tells which block of the disk belongs to which file, and [`changes`](fn@changes) what changed between two disks.

mod block_map;
mod blocks;
mod changes;
mod directory;
mod disk;
mod extents;
mod file;
pub(crate) mod geometry;
mod groups;
mod inode;
mod journal;
mod survey;
mod tree;
mod xattr;

pub use changes::{Aspect, Aspects, Change, DiskPair, NothingKnown, changes};
pub use directory::VisitEntry;
pub use disk::{DiskRead, FileDisk};
pub use extents::{Extent, Extents};
pub use groups::{NextPicked, UsedInodes};
pub use inode::{Inode, InodeKind, InodeNumber};
pub use survey::{SurveyGaps, VisitExtent};
pub use tree::ReadHierarchy;
pub use xattr::Xattrs;

use crate::format::superblock::{SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock};
use blocks::Blocks;
use geometry::{Geometry, read_superblock};
use silt_types::Result;
use std::ops::Range;

/// An ext4 file system on a disk, as a mount would show it. Cheap to share between threads.
pub struct Ext4<D> {
    blocks: Blocks<D>,
    geometry: Geometry,
}

impl<D: DiskRead> Ext4<D> {
    /// Opens the file system on `disk`. `Invalid` if there is none, `Unsupported` naming what this reader does not know,
    /// `Corrupt` if superblock or journal are damaged. Reads the part of the journal that is in use; else a few blocks.
    pub fn open(disk: D) -> Result<Ext4<D>> {
        let disk_size_bytes = disk.size_bytes();
        let geometry = Geometry::new(read_superblock(&disk)?, disk_size_bytes)?;
        let in_place =
            Ext4 { blocks: Blocks::new(disk, geometry.block_size_bytes as usize), geometry };
        let overlay = journal::overlay(&in_place)?;
        if overlay.is_empty() {
            return Ok(in_place);
        }
        let blocks = in_place.blocks.with_overlay(overlay);
        // The superblock itself may be among the replayed blocks, after the disk has grown for instance.
        let mut bytes = [0; SUPERBLOCK_SIZE];
        let block_size = u64::from(in_place.geometry.block_size_bytes);
        blocks.read_data(
            &mut bytes,
            SUPERBLOCK_OFFSET / block_size,
            SUPERBLOCK_OFFSET % block_size,
        )?;
        let geometry = Geometry::new(Superblock::decode(&bytes)?, disk_size_bytes)?;
        geometry.must_have_blocks_of(in_place.geometry.block_size_bytes)?;
        Ok(Ext4 { blocks, geometry })
    }

    /// Size of a block in bytes: 1024, 2048 or 4096.
    pub fn block_size_bytes(&self) -> u32 {
        self.geometry.block_size_bytes
    }

    /// Length of the file system in bytes; the disk may be longer.
    pub fn size_bytes(&self) -> u64 {
        self.geometry.blocks * u64::from(self.geometry.block_size_bytes)
    }

    /// The UUID of the file system.
    pub fn uuid(&self) -> [u8; 16] {
        self.geometry.superblock.uuid
    }

    /// Blocks that come from the journal instead of their place. Zero after a clean unmount.
    pub fn journal_blocks(&self) -> usize {
        self.blocks.overlay_len()
    }

    /// Whether any of these blocks comes from the journal instead of its place.
    pub fn is_journaled(&self, blocks: Range<u64>) -> bool {
        self.blocks.is_logged(blocks)
    }

    fn blocks(&self) -> &Blocks<D> {
        &self.blocks
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}
