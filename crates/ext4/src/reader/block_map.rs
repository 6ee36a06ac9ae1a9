//! The block maps of before ext4: twelve direct block numbers, then one block of numbers, one of such blocks, and one more.
//!
//! Pointers outside the file system are damage. That a block points to itself or to one seen before does no harm: the depth
//! is fixed, and a walk that claims more blocks than the disk has ends, both for the tables here and for data in `extents`.
//!
//! Source: Linux `Documentation/filesystems/ext4/blockmap.rst`.

use super::{
    Ext4,
    disk::DiskRead,
    extents::Extent,
    inode::{Inode, InodeNumber},
};
use silt_types::{Error, Result};
use std::sync::Arc;

const DIRECT: usize = 12;
const LEVELS: u32 = 3;

/// A walk over the block map of one inode.
pub(super) struct BlockMap<'a, D> {
    ext4: &'a Ext4<D>,
    inode: InodeNumber,
    /// Blocks before this one of the file are passed over.
    from: u64,
    /// The tables on the way to the current block, the one in the inode first.
    path: Vec<Table>,
    /// Block of the file that the walk has come to.
    logical: u64,
    /// Blocks of the map itself that have been read.
    pub(super) tables: u64,
}

/// A table of block numbers.
struct Table {
    bytes: Arc<[u8]>,
    next: usize,
    /// Levels below; the table of the inode has its own rule.
    depth: u32,
}

impl<'a, D: DiskRead> BlockMap<'a, D> {
    pub(super) fn new(ext4: &'a Ext4<D>, inode: &Inode, from: u64) -> BlockMap<'a, D> {
        let root = Table { bytes: inode.block_area.as_slice().into(), next: 0, depth: LEVELS };
        BlockMap { ext4, inode: inode.number, from, path: vec![root], logical: 0, tables: 0 }
    }

    /// The next run, as long as its blocks follow each other and stand in one table.
    pub(super) fn next(&mut self) -> Result<Option<Extent>> {
        loop {
            let is_root = self.path.len() == 1;
            let Some(table) = self.path.last_mut() else { return Ok(None) };
            let Some(pointer) = table.pointer(table.next) else {
                self.path.pop();
                continue;
            };
            let below = match (is_root, table.next.checked_sub(DIRECT)) {
                (true, Some(level)) => level as u32 + 1,
                (true, None) => 0,
                (false, _) => table.depth,
            };
            let span = (self.ext4.blocks().block_size_bytes() as u64 / 4).pow(below);
            if pointer == 0 || self.logical + span <= self.from {
                table.next += 1;
                self.logical += span;
                continue;
            }
            if below == 0 {
                let extent = table.run(self.logical, if is_root { DIRECT } else { usize::MAX });
                self.logical += extent.len;
                return Ok(Some(extent));
            }
            table.next += 1;
            self.enter(pointer, below - 1)?;
        }
    }

    fn enter(&mut self, block: u64, depth: u32) -> Result<()> {
        let damage = |what: &str| {
            Error::corrupt(format!("inode {}: its block map {what} (block {block})", self.inode))
        };
        if !self.ext4.geometry().holds(block, 1) {
            return Err(damage("lies outside the file system"));
        }
        self.tables += 1;
        if self.tables > self.ext4.geometry().blocks {
            return Err(damage("is larger than the file system"));
        }
        self.path.push(Table { bytes: self.ext4.blocks().read(block)?, next: 0, depth });
        Ok(())
    }
}

impl Table {
    fn pointer(&self, at: usize) -> Option<u64> {
        let bytes = self.bytes.get(at * 4..)?.first_chunk()?;
        Some(u64::from(u32::from_le_bytes(*bytes)))
    }

    /// The blocks that follow each other from the next pointer on, which is not zero; passes over them.
    fn run(&mut self, logical: u64, end: usize) -> Extent {
        let physical = self.pointer(self.next).unwrap_or(0);
        let mut len = 0;
        while self.next < end && self.pointer(self.next) == Some(physical + len) {
            (self.next, len) = (self.next + 1, len + 1);
        }
        Extent { logical, physical, len, unwritten: false }
    }
}
