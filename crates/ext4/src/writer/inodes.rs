//! Inodes: those of the nodes, and the reserved ones.

use super::{
    Layout,
    extents::{ExtentTree, extents, tree_blocks},
    nodes::Nodes,
    roster::FAST_SYMLINK_LEN_MAX,
    xattrs::DiskXattrs,
};
use crate::{
    format::{
        BLOCK_SIZE, CHECKSUM_SEED,
        checksum::inode_seed,
        extent::Extent,
        inode::{
            EXTRA_SIZE, FLAG_EXTENTS, FLAG_INDEX, INODE_JOURNAL, INODE_RESIZE, INODE_SIZE,
            InodeTime, MODE_FILE, RawInode, SECTORS_PER_BLOCK, encode_device, seal_inode,
        },
        put_u32,
        resize::{DOUBLE_INDIRECT_OFFSET, resize_inode_sectors},
        u32_at,
    },
    hierarchy::{EntryId, EntryKind, LINKS_MAX, Metadata},
};
use silt_types::{BlockRange, Result};

/// The generation of every inode.
const GENERATION: u32 = 0;

/// Blocks that the map of the resize inode reaches, which is its size: 12 direct ones, one block of pointers, and one
/// of pointers to pointers.
const RESIZE_MAP_BLOCKS: u64 = 12 + 1024 + 1024 * 1024;

/// The checksum seed of what belongs to an inode.
pub(super) fn seed_of(inode: u32) -> u32 {
    inode_seed(CHECKSUM_SEED, inode, GENERATION)
}

impl Layout {
    /// Blocks of a node's directory or link target, without the attribute block behind them.
    pub(super) fn own_blocks(&self, nodes: &Nodes<'_>, node: EntryId) -> Result<u64> {
        Ok(self.facts.node_blocks(node.0) - u64::from(needs_xattr_block(nodes, node)?))
    }

    /// The physical runs of a node's directory or link target and, last, its attribute block.
    pub(super) fn node_runs(&self, node: EntryId) -> impl Iterator<Item = BlockRange> + '_ {
        let flat = self.node_places.runs(node.0, self.facts.node_blocks(node.0));
        flat.flat_map(|run| self.geometry.physical(run))
    }

    /// The extents of a file's data, or of a directory or link target.
    pub(super) fn extents_of(&self, nodes: &Nodes<'_>, node: EntryId) -> Result<Vec<Extent>> {
        if nodes.kind(node) == EntryKind::File {
            let flat = self.data_places.runs(node.0, nodes.data_blocks(node));
            let physical = flat.flat_map(|run| self.geometry.physical(run));
            return Ok(extents(nodes.hierarchy.content_runs(node), physical));
        }
        let own = BlockRange { start: 0, len: self.own_blocks(nodes, node)? };
        Ok(extents(std::iter::once(own), self.node_runs(node)))
    }

    /// The extent tree with the blocks of its nodes.
    pub(super) fn tree_of(&self, nodes: &Nodes<'_>, node: EntryId) -> Result<ExtentTree> {
        let extents = self.extents_of(nodes, node)?;
        let flat = self.tree_places.runs(node.0, tree_blocks(extents.len() as u64));
        let runs = flat.flat_map(|run| self.geometry.physical(run));
        Ok(ExtentTree::new(extents, runs.flat_map(|run| run.start..run.end()).collect()))
    }

    /// The block of a node's attributes, if it needs one: the last of its own.
    fn xattr_block(&self, nodes: &Nodes<'_>, node: EntryId) -> Result<u64> {
        if !needs_xattr_block(nodes, node)? {
            return Ok(0);
        }
        Ok(self.node_runs(node).last().map_or(0, |run| run.end() - 1))
    }

    /// Writes the inode of a node.
    pub(super) fn encode_inode(
        &self,
        nodes: &Nodes<'_>,
        number: u32,
        node: EntryId,
        bytes: &mut [u8; INODE_SIZE],
    ) -> Result<()> {
        let kind = nodes.kind(node);
        let mut inode = base_inode(&nodes.metadata(node), nodes.type_of(node).0);
        let own_blocks = self.facts.node_blocks(node.0);
        inode.xattr_block = self.xattr_block(nodes, node)?;
        inode.links_count = self.links(nodes, node);
        inode.blocks = own_blocks * SECTORS_PER_BLOCK;
        match kind {
            EntryKind::Symlink(target) if target.len() <= FAST_SYMLINK_LEN_MAX => {
                inode.size = target.len() as u64;
                inode.block[..target.len()].copy_from_slice(target);
            }
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                inode.block = encode_device(major, minor).unwrap_or([0; 60]);
            }
            EntryKind::Fifo | EntryKind::Socket => {}
            EntryKind::Directory | EntryKind::File | EntryKind::Symlink(_) => {
                let tree = self.tree_of(nodes, node)?;
                inode.block = tree.encode_root();
                inode.flags = FLAG_EXTENTS;
                inode.blocks += (nodes.data_blocks(node) + tree.block_count()) * SECTORS_PER_BLOCK;
                inode.size = self.size_of(nodes, node)?;
            }
        }
        if kind == EntryKind::Directory && inode.size > BLOCK_SIZE as u64 {
            inode.flags |= FLAG_INDEX;
        }
        inode.encode(bytes);
        DiskXattrs::new(nodes.xattrs(node))?.encode_in_inode(bytes);
        seal_inode(seed_of(number), bytes);
        Ok(())
    }

    /// The length of the content of a node with an extent tree, in bytes.
    fn size_of(&self, nodes: &Nodes<'_>, node: EntryId) -> Result<u64> {
        Ok(match nodes.kind(node) {
            EntryKind::File => nodes.hierarchy.size_bytes(node),
            EntryKind::Symlink(target) => target.len() as u64,
            _ => self.own_blocks(nodes, node)? * BLOCK_SIZE as u64,
        })
    }

    /// A directory is named by its parent, itself, and its subdirectories; where that is too much to count, 1 says so.
    fn links(&self, nodes: &Nodes<'_>, node: EntryId) -> u16 {
        if !nodes.is_directory(node) {
            return nodes.links(node) as u16;
        }
        match self.facts.subdirectories(node) + 2 {
            links if links > LINKS_MAX => 1,
            links => links as u16,
        }
    }

    /// Writes a reserved inode; those without a purpose are empty, but with a checksum.
    pub(super) fn encode_reserved_inode(&self, number: u32, bytes: &mut [u8; INODE_SIZE]) {
        match number {
            INODE_RESIZE => self.resize_inode().encode(bytes),
            INODE_JOURNAL if self.geometry.outline.journal_blocks > 0 => {
                self.journal_inode().encode(bytes);
            }
            _ => {}
        }
        seal_inode(seed_of(number), bytes);
    }

    /// A file of the log's blocks.
    fn journal_inode(&self) -> RawInode {
        let blocks = self.geometry.outline.journal_blocks;
        let logical = std::iter::once(BlockRange { start: 0, len: blocks });
        let extents = extents(logical, self.geometry.physical(self.geometry.journal()));
        let mut inode = reserved_file();
        inode.flags = FLAG_EXTENTS;
        inode.size = blocks * BLOCK_SIZE as u64;
        inode.blocks = blocks * SECTORS_PER_BLOCK;
        inode.block = ExtentTree::new(extents, Vec::new()).encode_root();
        inode
    }

    /// The copy of the journal inode in the superblock: `i_block` and the two halves of its size.
    pub(super) fn journal_backup(&self) -> [u32; 17] {
        let inode = self.journal_inode();
        std::array::from_fn(|word| match word {
            15 => (inode.size >> 32) as u32,
            16 => inode.size as u32,
            _ => u32_at(&inode.block, word * 4),
        })
    }

    /// A file whose double indirect block points to the reserved descriptor blocks, and they to their copies.
    fn resize_inode(&self) -> RawInode {
        let outline = &self.geometry.outline;
        let copies = 1 + outline.backup_groups().count() as u64;
        let mut inode = reserved_file();
        inode.size = RESIZE_MAP_BLOCKS * BLOCK_SIZE as u64;
        inode.blocks = resize_inode_sectors(outline.reserved_descriptor_blocks, copies);
        put_u32(
            &mut inode.block,
            DOUBLE_INDIRECT_OFFSET,
            self.geometry.resize_indirect_block as u32,
        );
        inode
    }
}

/// Whether the attributes of a node need a block.
pub(super) fn needs_xattr_block(nodes: &Nodes<'_>, node: EntryId) -> Result<bool> {
    let xattrs = nodes.xattrs(node);
    Ok(!xattrs.is_empty() && DiskXattrs::new(xattrs)?.needs_block())
}

fn reserved_file() -> RawInode {
    let mut inode = base_inode(&Metadata { permissions: 0o600, ..Metadata::default() }, MODE_FILE);
    inode.links_count = 1;
    inode
}

/// An inode without content; all its times are the one that is kept.
fn base_inode(metadata: &Metadata, file_type: u16) -> RawInode {
    let Metadata { permissions, uid, gid, mtime } = *metadata;
    let time = InodeTime { seconds: mtime.seconds, nanoseconds: mtime.nanoseconds };
    RawInode {
        mode: file_type | permissions,
        uid,
        gid,
        size: 0,
        atime: time,
        ctime: time,
        mtime: time,
        crtime: time,
        dtime: 0,
        links_count: 0,
        blocks: 0,
        flags: 0,
        block: [0; 60],
        generation: GENERATION,
        xattr_block: 0,
        extra_size: EXTRA_SIZE,
    }
}
