//! Where the blocks of an inode lie: the extent tree, and the block maps of before ext4, as one iterator.
//!
//! The bytes are not trusted. An extent tree is walked with a stack as deep as its root claims, at most five; every child
//! must be one level lower, not empty, and lie between its own key and the next, so no block of it can be visited twice.
//! Whatever the form, runs come in ascending order, lie on the file system, and together are no longer than it: an inode
//! that claims more is damaged, and the walk ends.
//!
//! Sources: Linux `Documentation/filesystems/ext4/ifork.rst`; checks follow `fs/ext4/extents.c`.

use super::{
    Ext4,
    block_map::BlockMap,
    disk::DiskRead,
    inode::{BlockForm, Inode, InodeNumber},
};
use crate::format::extent::{self as disk, ExtentIndex, ExtentNode};
use silt_types::{Error, Result};

/// Block numbers of a file have 32 bits in an extent tree.
const FILE_BLOCKS_MAX: u64 = 1 << 32;

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
    ext4: &'a Ext4<D>,
    inode: InodeNumber,
    walk: Walk<'a, D>,
    /// The first block of the file that no run has reached yet.
    reached: u64,
    /// Blocks that the inode may still claim.
    blocks_left: u64,
    /// Blocks of a block map that were read on the way.
    tables: u64,
}

enum Walk<'a, D> {
    Ended,
    Tree(ExtentTree<'a, D>),
    Map(BlockMap<'a, D>),
}

impl<D: DiskRead> Ext4<D> {
    /// The mapped runs of `inode`, also those behind its end. None if it keeps its content in itself or has none.
    pub fn extents(&self, inode: &Inode) -> Extents<'_, D> {
        self.extents_from(inode, 0)
    }

    /// The mapped runs that reach behind block `from` of the file; only what leads there is read and checked.
    pub(super) fn extents_from(&self, inode: &Inode, from: u64) -> Extents<'_, D> {
        let walk = match inode.block_form() {
            BlockForm::None => Walk::Ended,
            BlockForm::Tree => Walk::Tree(ExtentTree::new(self, inode, from)),
            BlockForm::Map => Walk::Map(BlockMap::new(self, inode, from)),
        };
        Extents {
            ext4: self,
            inode: inode.number,
            walk,
            reached: 0,
            blocks_left: self.geometry().blocks,
            tables: 0,
        }
    }
}

impl<D: DiskRead> Extents<'_, D> {
    /// Blocks that the runs so far and the way to them have taken: what all inodes together can have of the disk.
    pub(super) fn blocks_claimed(&self) -> u64 {
        self.ext4.geometry().blocks - self.blocks_left + self.tables
    }

    fn step(&mut self) -> Result<Option<Extent>> {
        let extent = match &mut self.walk {
            Walk::Ended => None,
            Walk::Tree(tree) => tree.next()?,
            Walk::Map(map) => {
                let extent = map.next();
                self.tables = map.tables;
                extent?
            }
        };
        let Some(extent) = extent else { return Ok(None) };
        let damage =
            |what: &str| Error::corrupt(format!("inode {}: {what}: {extent:?}", self.inode));
        if extent.logical < self.reached || extent.len == 0 {
            return Err(damage("an extent is empty, overlaps another or is out of order"));
        }
        if !self.ext4.geometry().holds(extent.physical, extent.len) {
            return Err(damage("an extent lies outside the file system"));
        }
        self.reached = extent.logical_end();
        self.blocks_left = self
            .blocks_left
            .checked_sub(extent.len)
            .ok_or_else(|| damage("its extents claim more blocks than there are"))?;
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
    /// Runs that end before this block of the file are passed over.
    from: u64,
    /// The root, until it has been entered.
    root: Option<[u8; 60]>,
    /// The nodes on the way to the current leaf, root first.
    path: Vec<Node>,
}

/// A node and how far the walk has come in it.
struct Node {
    node: ExtentNode,
    next: usize,
    /// Its entries lie below this block of the file.
    end: u64,
}

impl<'a, D: DiskRead> ExtentTree<'a, D> {
    fn new(ext4: &'a Ext4<D>, inode: &Inode, from: u64) -> ExtentTree<'a, D> {
        ExtentTree {
            ext4,
            inode: inode.number,
            checksum_seed: inode.checksum_seed,
            from,
            root: Some(inode.block_area),
            path: Vec::new(),
        }
    }

    /// The next extent in the order of the tree.
    fn next(&mut self) -> Result<Option<Extent>> {
        if let Some(root) = self.root.take() {
            let node = ExtentNode::decode(&root)
                .map_err(|error| error.context(format!("inode {}", self.inode)))?;
            self.enter(node, FILE_BLOCKS_MAX);
        }
        while let Some(Node { node, next, end }) = self.path.last_mut() {
            let at = *next;
            *next += 1;
            match node {
                ExtentNode::Leaf(extents) => match extents.get(at) {
                    Some(extent) if u64::from(extent.logical) + u64::from(extent.len) > *end => {
                        return Err(self.damage("an extent reaches behind its node"));
                    }
                    Some(extent) => return Ok(Some(Extent::of_disk(extent))),
                    None => drop(self.path.pop()),
                },
                ExtentNode::Index(depth, nodes) => match nodes.get(at).copied() {
                    Some(index) => {
                        let end = nodes.get(at + 1).map_or(*end, |next| next.logical.into());
                        let depth = *depth - 1;
                        self.descend(index, depth, end)?;
                    }
                    None => drop(self.path.pop()),
                },
            }
        }
        Ok(None)
    }

    /// Enters the node that `index` points to: of this depth, and with nothing at or behind block `end` of the file.
    fn descend(&mut self, index: ExtentIndex, depth: u16, end: u64) -> Result<()> {
        let block = index.physical;
        let damage = |what: &str| self.damage(&format!("extent block {block} {what}"));
        if u64::from(index.logical) >= end {
            return Err(damage("has a key that is out of order"));
        }
        if !self.ext4.geometry().holds(block, 1) {
            return Err(damage("lies outside the file system"));
        }
        let bytes = self.ext4.blocks().read(block)?;
        let sealed = self.ext4.geometry().metadata_checksums;
        if sealed && !disk::extent_block_checksum_holds(self.checksum_seed, &bytes) {
            return Err(damage("has a checksum that does not match"));
        }
        let node = ExtentNode::decode(&bytes)
            .map_err(|error| error.context(format!("inode {}", self.inode)))?;
        let (found_depth, first) = match &node {
            ExtentNode::Leaf(extents) => (0, extents.first().map(|extent| extent.logical)),
            ExtentNode::Index(depth, nodes) => (*depth, nodes.first().map(|node| node.logical)),
        };
        if found_depth != depth || first.is_none_or(|first| first < index.logical) {
            return Err(damage("is empty, too deep, or starts before its key"));
        }
        self.enter(node, end);
        Ok(())
    }

    /// Goes on with `node`, at the entry that leads to `from`.
    fn enter(&mut self, node: ExtentNode, end: u64) {
        let from = self.from;
        let next = match &node {
            ExtentNode::Leaf(extents) => extents.partition_point(|extent| {
                u64::from(extent.logical) + u64::from(extent.len.max(1)) <= from
            }),
            ExtentNode::Index(_, nodes) => {
                nodes.partition_point(|node| u64::from(node.logical) <= from).saturating_sub(1)
            }
        };
        self.path.push(Node { node, next, end });
    }

    fn damage(&self, what: &str) -> Error {
        Error::corrupt(format!("inode {}: {what}", self.inode))
    }
}

impl Extent {
    fn of_disk(extent: &disk::Extent) -> Extent {
        Extent {
            logical: extent.logical.into(),
            physical: extent.physical,
            len: extent.len.into(),
            unwritten: extent.unwritten,
        }
    }
}
