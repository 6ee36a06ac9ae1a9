//! Where the blocks of an inode lie: the extent tree, and the block maps of before ext4, as one iterator.
//!
//! The bytes are not trusted. An extent tree is walked with a stack as deep as its root claims, at most five; every child
//! must be one level lower, not empty, and lie between its own key and the next, so no block of it can be visited twice.
//! Whatever the form, runs come in ascending order, lie on the file system, and together are no longer than it: an inode
//! that claims more is damaged, and the walk ends.
//!
//! Sources: Linux `Documentation/filesystems/ext4/ifork.rst`; checks follow `fs/ext4/extents.c`.

use super::{Ext4, block_map::BlockMap, disk::DiskRead, inode::Inode};
use silt_types::{Error, Result};

/// Blocks of one inode that follow each other on the disk, in blocks of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block in the file.
    pub logical: u64,
    /// First block on the disk.
    pub physical: u64,
    /// Number of blocks; never zero.
    pub len: u64,
    /// The blocks are reserved and read as zero, whatever the disk holds there.
    pub unwritten: bool,
}

impl Extent {
    /// The block of the file after the last one.
    pub fn logical_end(&self) -> u64 {
        self.logical + self.len
    }
}

/// Iterator over the mapped runs of an inode, ascending, holes left out. Ends after the first error.
pub struct Extents<'a, D> {
    walk: Walk<'a, D>,
    inode: InodeNumber,
    disk: Bounds,
    /// The first block of the file that no run has reached yet.
    reached: u64,
    /// Blocks that the inode may still claim.
    blocks_left: u64,
}

enum Walk<'a, D> {
    Ended,
    Tree(ExtentTree<'a, D>),
    Map(BlockMap<'a, D>),
}

impl<'a, D: DiskRead> Extents<'a, D> {
    /// The runs of `inode`; none if it has no blocks.
    pub(super) fn new(ext4: &'a Ext4<D>, inode: &Inode) -> Result<Extents<'a, D>> {
        let walk = if !inode.has_blocks() {
            Walk::Ended
        } else if inode.has_extent_tree() {
            Walk::Tree(ExtentTree::new(ext4, inode)?)
        } else {
            Walk::Map(BlockMap::new(ext4, inode))
        };
        let disk = ext4.geometry().bounds();
        Ok(Extents { walk, inode: inode.number, disk, reached: 0, blocks_left: disk.end })
    }

    fn step(&mut self) -> Result<Option<Extent>> {
        let extent = match &mut self.walk {
            Walk::Ended => None,
            Walk::Tree(tree) => tree.next()?,
            Walk::Map(map) => map.next()?,
        };
        let Some(extent) = extent else { return Ok(None) };
        let damage = |what: &str| Error::corrupt(format!("inode {}: {what}: {extent:?}", self.inode));
        if extent.logical < self.reached {
            return Err(damage("extents overlap or are out of order"));
        }
        if !self.disk.hold(extent.physical, extent.len) {
            return Err(damage("an extent lies outside the file system"));
        }
        self.reached = extent.logical_end();
        self.blocks_left =
            self.blocks_left.checked_sub(extent.len).ok_or_else(|| damage("claims more blocks than there are"))?;
        Ok(Some(extent))
    }
}

impl<D: DiskRead> Iterator for Extents<'_, D> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Result<Extent>> {
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.walk = Walk::Ended;
        }
        step
    }
}

/// A walk over the leaves of an extent tree.
struct ExtentTree<'a, D> {
    ext4: &'a Ext4<D>,
    inode: InodeNumber,
    checksum_seed: u32,
    /// The nodes on the way to the current leaf, root first.
    path: Vec<Node>,
}

/// A node and how far the walk has come in it.
struct Node {
    bytes: Arc<[u8]>,
    depth: u16,
    entries: usize,
    next: usize,
    /// Its entries lie below this block of the file.
    end: u64,
}

impl<'a, D: DiskRead> ExtentTree<'a, D> {
    fn new(ext4: &'a Ext4<D>, inode: &Inode) -> Result<ExtentTree<'a, D>> {
        let mut tree = ExtentTree {
            ext4,
            inode: inode.number,
            checksum_seed: inode.checksum_seed,
            path: Vec::new(),
        };
        let root = tree.node(inode.block_area().as_slice().into(), FILE_BLOCKS_MAX)?;
        if root.depth > EXTENT_DEPTH_MAX {
            return Err(tree.damage(&format!("its extent tree claims to be {} deep", root.depth)));
        }
        tree.path.push(root);
        Ok(tree)
    }

    /// The next extent in the order of the tree.
    fn next(&mut self) -> Result<Option<Extent>> {
        while let Some(node) = self.path.last_mut() {
            if node.next == node.entries {
                self.path.pop();
                continue;
            }
            let at = node.next;
            node.next += 1;
            if node.depth == 0 {
                let end = node.end;
                let extent = leaf_entry(&node.bytes, at);
                if extent.logical_end() > end {
                    return Err(self.damage("an extent reaches behind its node"));
                }
                return Ok(Some(extent));
            }
            self.descend(at)?;
        }
        Ok(None)
    }

    /// Enters child `at` of the current node.
    fn descend(&mut self, at: usize) -> Result<()> {
        let Some(parent) = self.path.last() else { return Ok(()) };
        let (key, block) = index_entry(&parent.bytes, at);
        let end = if at + 1 < parent.entries { index_entry(&parent.bytes, at + 1).0 } else { parent.end };
        let depth = parent.depth - 1;
        if key >= end {
            return Err(self.damage("its extent tree is out of order"));
        }
        let geometry = self.ext4.geometry();
        if !geometry.bounds().hold(block, 1) {
            return Err(self.damage(&format!("its extent tree lies at block {block}, outside the file system")));
        }
        let child = self.node(self.ext4.blocks().read(block)?, end)?;
        if geometry.metadata_checksums && !extent_tail_holds(&child.bytes, self.checksum_seed) {
            return Err(self.damage(&format!("the checksum of its extent block {block} does not match")));
        }
        if child.depth != depth || child.entries == 0 {
            return Err(self.damage(&format!("its extent block {block} is empty or of the wrong depth")));
        }
        if first_key(&child.bytes) < key {
            return Err(self.damage("an extent block starts before its key"));
        }
        self.path.push(child);
        Ok(())
    }

    /// The node in `bytes`, whose entries must lie below block `end` of the file.
    fn node(&self, bytes: Arc<[u8]>, end: u64) -> Result<Node> {
        let header = ExtentHeader::decode(&bytes).ok_or_else(|| self.damage("its extent tree has no header"))?;
        let entries = usize::from(header.entries);
        if entries > usize::from(header.capacity) || usize::from(header.capacity) > (bytes.len() - 12) / 12 {
            return Err(self.damage("an extent block claims more entries than it can hold"));
        }
        Ok(Node { bytes, depth: header.depth, entries, next: 0, end })
    }

    fn damage(&self, what: &str) -> Error {
        Error::corrupt(format!("inode {}: {what}", self.inode))
    }
}
