//! Which blocks change, and to what.
//!
//! Blocks are collected by their number, and two changes of one block are damage: so they come in order and each once,
//! whatever a hostile disk says. Runs of zeroes alone are longer than a block; they are inode tables of new groups, which
//! meet nothing else. Bytes are made when their turn comes, from what was read before: once the first block is
//! handed out the disk is not read any more, and may be written.
//!
//! A descriptor block that does not change is left alone in every old group: copies of descriptors have the places that
//! never change, and counts that nobody relies on. A superblock copy says how large the file system is, so all are
//! written.

use super::{
    before::{Before, Block, ResizeInode},
    shape::{Segment, Shape},
};
use crate::{
    format::{
        BLOCK_SIZE,
        checksum::crc32c,
        group::{
            DESCRIPTOR_SIZE, FLAG_BLOCK_UNINIT, FLAG_INODE_UNINIT, FLAG_INODE_ZEROED,
            GroupDescriptor,
        },
        inode::{INODE_SIZE, put_blocks, seal_inode},
        resize::{encode_copy_pointers, encode_reserved_pointers, resize_inode_sectors},
        superblock::{SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, SizeFields, seal_superblock},
    },
    reader::DiskRead,
    writer::{
        BlockSink,
        geometry::{BLOCKS_PER_GROUP, DESCRIPTORS_PER_BLOCK},
        groups::clear_bits,
    },
};
use silt_types::{BlockRange, Error, Result};
use std::collections::BTreeMap;

/// What becomes of a block.
enum Change {
    /// The superblock, or its copy in a group.
    Superblock(u64),
    /// A block of descriptors, or a copy of it.
    Descriptors(u64),
    /// The reserved block for these descriptors: pointers to its copies.
    CopyPointers(u64),
    /// The block of pointers to the reserved blocks.
    ReservedPointers,
    /// The block bitmap of a new group.
    Bitmap(u64),
    /// A block that was read and changed.
    Edited(Box<Block>),
    /// This block and those behind it, so many, become zero: the disk had something else there.
    Zero(u64),
}

/// All changes of one growth.
pub(super) struct Changes<'a, D> {
    before: &'a Before<D>,
    shape: &'a Shape,
    superblock: [u8; SUPERBLOCK_SIZE],
    /// Descriptor blocks from this one on are new or changed.
    first_changed: u64,
    /// Descriptor blocks from this one on are in `descriptors`: all where there are new copies of them.
    first_kept: u64,
    descriptors: Vec<u8>,
    /// By block.
    changes: BTreeMap<u64, Change>,
}

impl<'a, D: DiskRead> Changes<'a, D> {
    /// Plans all changes; `shape` is larger than before. `Corrupt` where what they build on is damaged.
    pub(super) fn plan(before: &'a Before<D>, shape: &'a Shape) -> Result<Changes<'a, D>> {
        let extends_last = shape.group_blocks(shape.before.groups() - 1) > blocks_of_last(shape);
        let first_group = shape.before.groups() - u64::from(extends_last);
        let first_changed = first_group / DESCRIPTORS_PER_BLOCK;
        let has_new_copies = shape.backup_groups().any(|group| shape.is_new(group));
        let first_kept = if has_new_copies { 0 } else { first_changed };
        let mut plan = Changes {
            before,
            shape,
            superblock: before.superblock_bytes(),
            first_changed,
            first_kept,
            descriptors: read_descriptors(before, shape, first_kept)?,
            changes: BTreeMap::new(),
        };
        let mut free = 0;
        if extends_last {
            free += plan.extend_last_group()?;
        }
        for segment in shape.segments() {
            free += plan.add_groups(&segment)?;
        }
        plan.set_superblock(free)?;
        plan.change_copies()?;
        plan.change_resize_inode(has_new_copies)?;
        Ok(plan)
    }

    fn change(&mut self, block: u64, change: Change) -> Result<()> {
        match self.changes.insert(block, change) {
            None => Ok(()),
            Some(_) => Err(Error::corrupt(format!("ext4: block {block} has two purposes"))),
        }
    }

    fn set_descriptor(&mut self, group: u64, descriptor: &GroupDescriptor) {
        let index = (group - self.first_kept * DESCRIPTORS_PER_BLOCK) as usize;
        let bytes = descriptor.encode(self.before.seed, group as u32);
        self.descriptors[index * DESCRIPTOR_SIZE..][..DESCRIPTOR_SIZE].copy_from_slice(&bytes);
    }

    /// Frees what is added to the last group that there was; gives the number of blocks.
    fn extend_last_group(&mut self) -> Result<u64> {
        let group = self.shape.before.groups() - 1;
        let start = blocks_of_last(self.shape);
        let added = BlockRange { start, len: self.shape.group_blocks(group) - start };
        let mut descriptor = self.before.descriptor(group)?;
        let free = u64::from(descriptor.free_blocks_count) + added.len;
        if free > added.end() {
            let message = format!("group {group}: it has more free blocks than blocks");
            return Err(Error::corrupt(message));
        }
        descriptor.free_blocks_count = free as u32;
        if let Some(mut bitmap) = self.before.block_bitmap(group, &descriptor)? {
            clear_bits(&mut bitmap, added);
            descriptor.block_bitmap_checksum = crc32c(self.before.seed, &*bitmap);
            self.change(descriptor.block_bitmap, Change::Edited(bitmap))?;
        }
        self.set_descriptor(group, &descriptor);
        Ok(added.len)
    }

    /// Adds the groups of a segment; gives the number of their free blocks. No inode bitmap is written, and no inode table
    /// but where the disk has something else than zeroes.
    fn add_groups(&mut self, segment: &Segment) -> Result<u64> {
        let mut free_of_all = 0;
        let inodes = self.shape.before.inodes_per_group as u32;
        for (group, tables) in (segment.first_group..).zip(&segment.tables) {
            let free: u64 = self.shape.free_runs(segment, group).iter().map(|run| run.len).sum();
            let mut descriptor = GroupDescriptor {
                block_bitmap: tables.block_bitmap,
                inode_bitmap: tables.inode_bitmap,
                inode_table: tables.inode_table,
                free_blocks_count: free as u32,
                free_inodes_count: inodes,
                unused_inodes_count: inodes,
                flags: FLAG_INODE_UNINIT | FLAG_INODE_ZEROED,
                ..GroupDescriptor::default()
            };
            if self.is_block_bitmap_implied(group, free) {
                descriptor.flags |= FLAG_BLOCK_UNINIT;
            } else {
                let mut bitmap = [0; BLOCK_SIZE];
                self.encode_bitmap(segment, group, &mut bitmap);
                descriptor.block_bitmap_checksum = crc32c(self.before.seed, &bitmap);
                self.change(tables.block_bitmap, Change::Bitmap(group))?;
            }
            self.set_descriptor(group, &descriptor);
            self.clear_table(tables.inode_table)?;
            free_of_all += free;
        }
        Ok(free_of_all)
    }

    /// Whether nothing but a copy is in the group. The last group has a bitmap always, as with the writer.
    fn is_block_bitmap_implied(&self, group: u64, free: u64) -> bool {
        let blocks = self.shape.group_blocks(group) - self.shape.copy_blocks(group);
        group + 1 < self.shape.groups && free == blocks
    }

    fn encode_bitmap(&self, segment: &Segment, group: u64, bitmap: &mut Block) {
        bitmap.fill(0xFF);
        for run in self.shape.free_runs(segment, group) {
            clear_bits(bitmap, run);
        }
    }

    /// Clears what lies on the disk of an inode table, which is behind its file system, unless it is zero already.
    fn clear_table(&mut self, table: u64) -> Result<()> {
        let end = (table + self.shape.inode_table_blocks()).min(self.before.disk_blocks());
        for block in table..end {
            if self.before.read_block(block)?.iter().any(|byte| *byte != 0) {
                return self.change(block, Change::Zero(end - block));
            }
        }
        Ok(())
    }

    /// Space reserved for root keeps its share, as resize2fs and the kernel have it; the writer reserves none.
    fn set_superblock(&mut self, free_blocks: u64) -> Result<()> {
        let shape = self.shape;
        let old = SizeFields::decode(&self.superblock);
        let free_blocks_count = old.free_blocks_count.saturating_add(free_blocks);
        let free_inodes = u64::from(old.free_inodes_count) + shape.inodes_added();
        let inodes = shape.groups * shape.before.inodes_per_group;
        if free_blocks_count > shape.blocks
            || free_inodes > inodes
            || old.reserved_blocks_count > old.blocks_count
        {
            return Err(Error::corrupt("ext4 superblock: more is free or reserved than there is"));
        }
        let reserved = u128::from(old.reserved_blocks_count) * u128::from(shape.blocks)
            / u128::from(old.blocks_count.max(1));
        let overhead = u64::from(old.overhead_blocks) + shape.fixed_blocks_added();
        SizeFields {
            inodes_count: inodes as u32,
            blocks_count: shape.blocks,
            reserved_blocks_count: reserved as u64,
            free_blocks_count,
            free_inodes_count: free_inodes as u32,
            reserved_gdt_blocks: shape.reserved_descriptor_blocks() as u16,
            // What nobody has counted, or cannot be, is counted at every mount.
            overhead_blocks: match old.overhead_blocks {
                0 => 0,
                _ => u32::try_from(overhead).unwrap_or(0),
            },
        }
        .put(&mut self.superblock);
        Ok(())
    }

    /// Superblock and descriptors, in place and in every group that has copies.
    fn change_copies(&mut self) -> Result<()> {
        for group in std::iter::once(0).chain(self.shape.backup_groups()) {
            let start = group * BLOCKS_PER_GROUP;
            self.change(start, Change::Superblock(group))?;
            let first = if self.shape.is_new(group) { 0 } else { self.first_changed };
            for index in first..self.shape.descriptor_blocks {
                self.change(start + 1 + index, Change::Descriptors(index))?;
            }
        }
        Ok(())
    }

    /// Takes blocks that hold descriptors now out of the reserve, and adds the copies of those that are left.
    fn change_resize_inode(&mut self, has_new_copies: bool) -> Result<()> {
        let (shape, reserved) = (self.shape, self.shape.reserved_descriptor_blocks());
        let takes = shape.descriptor_blocks > shape.before.descriptor_blocks();
        if has_new_copies {
            for index in shape.descriptor_blocks..shape.descriptor_room() {
                self.change(1 + index, Change::CopyPointers(index))?;
            }
        }
        if !(takes || has_new_copies && reserved > 0) {
            return Ok(());
        }
        let ResizeInode { table_block, offset, mut bytes, seed, double_indirect_block } =
            self.before.resize_inode()?;
        if takes {
            self.change(double_indirect_block, Change::ReservedPointers)?;
        }
        let copies = 1 + shape.backup_groups().count() as u64;
        if let Some(inode) = bytes[offset..].first_chunk_mut::<INODE_SIZE>() {
            put_blocks(inode, resize_inode_sectors(reserved, copies));
            seal_inode(seed, inode);
        }
        self.change(table_block, Change::Edited(bytes))
    }

    /// Hands out all changes; gives the number of blocks.
    pub(super) fn write(&self, sink: &mut BlockSink<'_>) -> Result<u64> {
        let mut block = Box::new([0; BLOCK_SIZE]);
        let mut written = 0;
        for (number, change) in &self.changes {
            let len = self.encode(change, &mut block);
            for number in *number..number + len {
                sink(number, &*block)?;
            }
            written += len;
        }
        Ok(written)
    }

    /// Makes the bytes of a change; gives the number of blocks that have them.
    fn encode(&self, change: &Change, block: &mut Block) -> u64 {
        match change {
            Change::Superblock(group) => self.encode_superblock(*group, block),
            Change::Descriptors(index) => self.encode_descriptors(*index, block),
            Change::CopyPointers(index) => {
                let groups = self.shape.backup_groups();
                let copies = groups.map(|group| group * BLOCKS_PER_GROUP + 1 + index);
                encode_copy_pointers(block, copies);
            }
            Change::ReservedPointers => {
                let reserved = self.shape.descriptor_blocks..self.shape.descriptor_room();
                encode_reserved_pointers(block, reserved);
            }
            Change::Bitmap(group) => {
                self.encode_bitmap(&self.shape.segment(*group), *group, block);
            }
            Change::Edited(bytes) => *block = **bytes,
            Change::Zero(len) => {
                block.fill(0);
                return *len;
            }
        }
        1
    }

    fn encode_superblock(&self, group: u64, block: &mut Block) {
        let mut bytes = self.superblock;
        seal_superblock(&mut bytes, group);
        let offset = if group == 0 { SUPERBLOCK_OFFSET as usize } else { 0 };
        *block = if group == 0 { *self.before.first_block } else { [0; BLOCK_SIZE] };
        block[offset..offset + SUPERBLOCK_SIZE].copy_from_slice(&bytes);
    }

    fn encode_descriptors(&self, index: u64, block: &mut Block) {
        let start = (index - self.first_kept) as usize * BLOCK_SIZE;
        block.copy_from_slice(&self.descriptors[start..start + BLOCK_SIZE]);
    }
}

/// The descriptor blocks of the grown file system from `first` on, those of new groups zero.
fn read_descriptors<D: DiskRead>(before: &Before<D>, shape: &Shape, first: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (shape.descriptor_blocks - first) as usize * BLOCK_SIZE];
    let there = first..shape.before.descriptor_blocks();
    for (index, block) in there.zip(bytes.chunks_exact_mut(BLOCK_SIZE)) {
        block.copy_from_slice(&*before.descriptor_block(index)?);
    }
    Ok(bytes)
}

/// Blocks that the last group had.
fn blocks_of_last(shape: &Shape) -> u64 {
    shape.before.blocks - (shape.before.groups() - 1) * BLOCKS_PER_GROUP
}
