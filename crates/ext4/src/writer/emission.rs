//! Every metadata block, in ascending order, made when its turn comes.

use super::{
    Layout,
    directories::{DirectoryBlocks, DirectoryInodes},
    extents::tree_blocks,
    geometry::{BLOCKS_PER_GROUP, INODES_PER_BLOCK},
    groups::DescriptorTable,
    inodes::seed_of,
    nodes::Nodes,
    xattrs::DiskXattrs,
};
use crate::{
    format::{
        BLOCK_SIZE, CHECKSUM_SEED,
        group::{FLAG_BLOCK_UNINIT, FLAG_INODE_UNINIT},
        inode::INODE_SIZE,
        journal::JournalSuperblock,
        resize::{encode_copy_pointers, encode_reserved_pointers},
        superblock::{SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE},
    },
    hierarchy::{EntryId, EntryKind},
};
use silt_types::{Error, ErrorKind, Result};

/// Takes metadata blocks: the number of a block and its 4096 bytes.
pub type BlockSink<'a> = dyn FnMut(u64, &[u8]) -> Result<()> + 'a;

/// Blocks that are made together, from `start` on.
struct Piece {
    start: u64,
    what: What,
}

enum What {
    /// Superblock and descriptors of a group, in group 0 also the pointers of the reserved blocks.
    Copy(u64),
    ResizeIndirect,
    BlockBitmap(u64),
    InodeBitmap(u64),
    InodeTable(u64),
    JournalSuperblock,
    /// Blocks `first..first + len` of a node's directory or link target and attributes.
    Node {
        node: EntryId,
        first: u64,
        len: u64,
    },
    /// Nodes `first..first + len` of an extent tree.
    Tree {
        node: EntryId,
        first: u64,
        len: u64,
    },
}

type Block = [u8; BLOCK_SIZE];

/// What the emission of one layout works with.
struct Emission<'a> {
    layout: &'a Layout,
    nodes: Nodes<'a>,
    descriptors: DescriptorTable,
    block: Box<Block>,
}

impl Layout {
    /// Hands every metadata block that is not all zero to `sink`, ascending, each once. `hierarchy` is the one the layout
    /// was planned for (`Internal` when it obviously is not). Errors of the sink end it. Memory: the descriptors (64
    /// bytes per group), one record per directory, and the names of one directory at a time.
    pub fn for_each_metadata_block(
        &self,
        hierarchy: &crate::Hierarchy,
        sink: &mut BlockSink<'_>,
    ) -> Result<()> {
        let nodes = Nodes::new(hierarchy);
        if nodes.len() != self.nodes {
            let message = "ext4 layout: emission for another hierarchy than it was planned for";
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let descriptors = self.descriptor_table(&nodes);
        let block = Box::new([0; BLOCK_SIZE]);
        let mut emission = Emission { layout: self, nodes, descriptors, block };
        for piece in emission.pieces()? {
            emission.emit(&piece, sink)?;
        }
        Ok(())
    }
}

impl Emission<'_> {
    fn pieces(&self) -> Result<Vec<Piece>> {
        let geometry = &self.layout.geometry;
        let mut pieces = Vec::new();
        let mut push = |start, what| pieces.push(Piece { start, what });
        push(0, What::Copy(0));
        push(geometry.resize_indirect_block, What::ResizeIndirect);
        for group in geometry.outline.backup_groups() {
            push(group * BLOCKS_PER_GROUP, What::Copy(group));
        }
        for (group, tables) in (0..).zip(&geometry.tables) {
            let flags = self.descriptors.flags[group as usize];
            if flags & FLAG_BLOCK_UNINIT == 0 {
                push(tables.block_bitmap, What::BlockBitmap(group));
            }
            if flags & FLAG_INODE_UNINIT == 0 {
                push(tables.inode_bitmap, What::InodeBitmap(group));
                push(tables.inode_table, What::InodeTable(group));
            }
        }
        if let Some(run) = geometry.physical(geometry.journal()).next() {
            push(run.start, What::JournalSuperblock);
        }
        self.push_node_pieces(&mut pieces);
        self.push_tree_pieces(&mut pieces)?;
        pieces.sort_unstable_by_key(|piece| piece.start);
        Ok(pieces)
    }

    fn push_node_pieces(&self, pieces: &mut Vec<Piece>) {
        for node in self.nodes.all() {
            if self.layout.facts.node_blocks(node.0) == 0 {
                continue;
            }
            let mut first = 0;
            for run in self.layout.node_runs(node) {
                let what = What::Node { node, first, len: run.len };
                pieces.push(Piece { start: run.start, what });
                first += run.len;
            }
        }
    }

    fn push_tree_pieces(&self, pieces: &mut Vec<Piece>) -> Result<()> {
        for node in self.layout.tree_nodes.iter().copied() {
            let extents = self.layout.extents_of(&self.nodes, node)?.len() as u64;
            let flat = self.layout.tree_places.runs(node.0, tree_blocks(extents));
            let mut first = 0;
            for run in flat.flat_map(|run| self.layout.geometry.physical(run)) {
                let what = What::Tree { node, first, len: run.len };
                pieces.push(Piece { start: run.start, what });
                first += run.len;
            }
        }
        Ok(())
    }

    fn emit(&mut self, piece: &Piece, sink: &mut BlockSink<'_>) -> Result<()> {
        match piece.what {
            What::Copy(group) => self.emit_copy(group, sink),
            What::ResizeIndirect => self.emit_resize_indirect(sink),
            What::BlockBitmap(group) => {
                self.layout.block_bitmap(group, &mut self.block);
                sink(piece.start, &*self.block)
            }
            What::InodeBitmap(group) => {
                self.layout.inode_bitmap(group, &mut self.block);
                sink(piece.start, &*self.block)
            }
            What::InodeTable(group) => self.emit_inode_table(group, sink),
            What::JournalSuperblock => {
                let len_blocks = self.layout.geometry.outline.journal_blocks as u32;
                let bytes = JournalSuperblock::empty(BLOCK_SIZE as u32, len_blocks).encode();
                self.block.fill(0);
                self.block[..bytes.len()].copy_from_slice(&bytes);
                sink(piece.start, &*self.block)
            }
            What::Node { node, first, len } => self.emit_node(node, piece.start, first, len, sink),
            What::Tree { node, first, len } => {
                let tree = self.layout.tree_of(&self.nodes, node)?;
                let seed = seed_of(self.layout.inode_number(node));
                for number in first..first + len {
                    tree.encode_block(number as usize, seed, &mut self.block);
                    sink(piece.start + number - first, &*self.block)?;
                }
                Ok(())
            }
        }
    }

    /// Superblock, descriptors, and in group 0 the pointers from reserved blocks to their copies.
    fn emit_copy(&mut self, group: u64, sink: &mut BlockSink<'_>) -> Result<()> {
        let start = group * BLOCKS_PER_GROUP;
        let superblock = self.layout.superblock(group).encode();
        let offset = if group == 0 { SUPERBLOCK_OFFSET as usize } else { 0 };
        self.block.fill(0);
        self.block[offset..offset + SUPERBLOCK_SIZE].copy_from_slice(&superblock);
        sink(start, &*self.block)?;
        for (number, block) in (start + 1..).zip(self.descriptors.bytes.chunks_exact(BLOCK_SIZE)) {
            sink(number, block)?;
        }
        if group == 0 { self.emit_reserved_pointers(sink) } else { Ok(()) }
    }

    fn emit_reserved_pointers(&mut self, sink: &mut BlockSink<'_>) -> Result<()> {
        let outline = &self.layout.geometry.outline;
        if outline.backup_groups().next().is_none() {
            return Ok(());
        }
        let first = 1 + outline.descriptor_blocks;
        for block in first..first + outline.reserved_descriptor_blocks {
            let copies = outline.backup_groups().map(|group| group * BLOCKS_PER_GROUP + block);
            encode_copy_pointers(&mut self.block, copies);
            sink(block, &*self.block)?;
        }
        Ok(())
    }

    /// Pointers to the reserved descriptor blocks, each at the place of the descriptor block it may become.
    fn emit_resize_indirect(&mut self, sink: &mut BlockSink<'_>) -> Result<()> {
        let outline = &self.layout.geometry.outline;
        let first = outline.descriptor_blocks;
        encode_reserved_pointers(
            &mut self.block,
            first..first + outline.reserved_descriptor_blocks,
        );
        sink(self.layout.geometry.resize_indirect_block, &*self.block)
    }

    fn emit_inode_table(&mut self, group: u64, sink: &mut BlockSink<'_>) -> Result<()> {
        let table = self.layout.geometry.tables[group as usize].inode_table;
        let first_number = group * self.layout.geometry.outline.inodes_per_group + 1;
        let mut current = None;
        self.block.fill(0);
        for (index, node) in self.layout.inodes_of(group) {
            let block = table + index / INODES_PER_BLOCK;
            if let Some(done) = current.replace(block).filter(|done| *done != block) {
                sink(done, &*self.block)?;
                self.block.fill(0);
            }
            let slot = (index % INODES_PER_BLOCK) as usize;
            let (slots, _) = self.block.as_chunks_mut::<INODE_SIZE>();
            let number = (first_number + index) as u32;
            match node {
                Some(node) => {
                    self.layout.encode_inode(&self.nodes, number, node, &mut slots[slot])?;
                }
                None => self.layout.encode_reserved_inode(number, &mut slots[slot]),
            }
        }
        current.map_or(Ok(()), |done| sink(done, &*self.block))
    }

    fn emit_node(
        &mut self,
        node: EntryId,
        start: u64,
        first: u64,
        len: u64,
        sink: &mut BlockSink<'_>,
    ) -> Result<()> {
        let layout = self.layout;
        let own = layout.own_blocks(&self.nodes, node)?;
        let directory = match self.nodes.kind(node) {
            EntryKind::Directory if first < own => {
                Some(DirectoryBlocks::new(self.nodes.children(node))?)
            }
            _ => None,
        };
        let number = |node| layout.inode_number(node);
        let own_number = number(node);
        let parent = number(layout.facts.parent(node));
        let inodes =
            DirectoryInodes { own: own_number, parent, number: &number, seed: seed_of(own_number) };
        for logical in first..first + len {
            let block = start + logical - first;
            match (&directory, self.nodes.kind(node)) {
                _ if logical >= own => DiskXattrs::new(self.nodes.xattrs(node))?.encode_block(
                    CHECKSUM_SEED,
                    block,
                    &mut self.block,
                ),
                (Some(directory), _) => {
                    directory.encode(logical, &self.nodes, &inodes, &mut self.block);
                }
                (None, EntryKind::Symlink(target)) => {
                    self.block.fill(0);
                    self.block[..target.len()].copy_from_slice(target);
                }
                (None, _) => self.block.fill(0),
            }
            sink(block, &*self.block)?;
        }
        Ok(())
    }
}
