//! What changed between two file systems, as a person sees it: by path, and reading only what differs.
//!
//! The two are walked side by side. Where both are states of one file system, an inode whose block of the inode table is
//! known to be equal is read once, a directory with equal blocks too, and content is read only where blocks are not known
//! to be equal; [`DiskPair`] is who knows. Two file systems that have nothing in common are compared by path in the same
//! way, but for inodes, which mean nothing there: so nothing is renamed between them.
//!
//! Paths come first: what has a name on both sides is compared under that name, whatever its inode, as when a program
//! replaces a file by renaming another over it. Only what is on one side alone is told to be renamed, where the inode says
//! so: its number, generation, time of creation and kind are the same.
//!
//! Not compared: atime, ctime, link counts, inode flags, and where things lie.
//!
//! Invariants, as everywhere in the reader: nothing is recursive, a directory is entered once, all inodes together may
//! claim no more blocks than there are, and paths together be no longer than twice the disks.

mod content;
mod inodes;
mod paths;
mod report;
mod side;
mod strays;
mod walk;

pub use report::{Aspect, Aspects, Change};

use super::{Ext4, disk::DiskRead};
use silt_types::Result;

/// What is known of two disks without reading them.
pub trait DiskPair {
    /// How many of `len_bytes` bytes, from `before` of the one disk and `after` of the other on, are known to be equal.
    /// 0 is always right.
    fn known_equal(&self, before: u64, after: u64, len_bytes: u64) -> Result<u64>;
}

/// Nothing is known, so everything is read.
pub struct NothingKnown;

impl DiskPair for NothingKnown {
    fn known_equal(&self, _before: u64, _after: u64, _len_bytes: u64) -> Result<u64> {
        Ok(0)
    }
}

/// What changed from `before` to `after`, ordered by the bytes of paths. A path has one record, with all that changed.
///
/// An entry that has several names is told under each. A directory whose entries changed has another time for that
/// reason, and it goes without saying. `Corrupt` or `Unsupported`, naming the inode, for what cannot be read. Reads the
/// inodes and directories of one side, those of the other where they may differ, and content where it may differ; memory
/// follows the number of directories and of changes.
pub fn changes<A: DiskRead, B: DiskRead>(
    before: &Ext4<A>,
    after: &Ext4<B>,
    pair: &dyn DiskPair,
) -> Result<Vec<Change>> {
    let mut walk = walk::Walk::new(before, after, pair);
    walk.run()?;
    walk.tell_strays()?;
    Ok(walk.report.in_order())
}
