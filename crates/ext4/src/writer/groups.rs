//! Bitmaps, group descriptors and superblock: what says which blocks and inodes are in use.

use super::{
    Layout,
    geometry::{BLOCKS_PER_GROUP, GROUPS_PER_FLEX},
    nodes::Nodes,
};
use crate::{
    format::{
        BLOCK_SIZE, CHECKSUM_SEED, HASH_SEED,
        checksum::crc32c,
        group::{
            DESCRIPTOR_SIZE, FLAG_BLOCK_UNINIT, FLAG_INODE_UNINIT, FLAG_INODE_ZEROED,
            GroupDescriptor,
        },
        hash::HASH_HALF_MD4,
        inode::{EXTRA_SIZE, INODE_FIRST, INODE_JOURNAL, INODE_SIZE},
        superblock::{
            CHECKSUM_TYPE_CRC32C, FLAG_UNSIGNED_HASH, MOUNT_OPTION_ACL, MOUNT_OPTION_USER_XATTR,
            STATE_CLEAN, Superblock, compatible, group_has_sparse_copy, incompatible,
            read_only_compatible,
        },
    },
    hierarchy::EntryId,
};
use silt_types::BlockRange;

/// Features of every file system the writer makes; the journal is one more.
const COMPATIBLE: u32 = compatible::EXT_ATTR | compatible::RESIZE_INODE | compatible::DIR_INDEX;
const INCOMPATIBLE: u32 = incompatible::FILETYPE
    | incompatible::EXTENTS
    | incompatible::BIT64
    | incompatible::FLEX_BG
    | incompatible::CSUM_SEED;
const READ_ONLY_COMPATIBLE: u32 = read_only_compatible::SPARSE_SUPER
    | read_only_compatible::LARGE_FILE
    | read_only_compatible::HUGE_FILE
    | read_only_compatible::DIR_NLINK
    | read_only_compatible::EXTRA_ISIZE
    | read_only_compatible::METADATA_CSUM;

impl Layout {
    /// The free runs within a group.
    fn free_runs_of(&self, group: u64) -> impl Iterator<Item = BlockRange> + '_ {
        let start = group * BLOCKS_PER_GROUP;
        let end = start + self.geometry.outline.group_blocks(group);
        let first = self.free_runs.partition_point(|run| run.end() <= start);
        self.free_runs[first..].iter().take_while(move |run| run.start < end).map(move |run| {
            let (from, to) = (run.start.max(start), run.end().min(end));
            BlockRange { start: from - start, len: to - from }
        })
    }

    /// Inode numbers of a group in use, counted from its first, with their nodes; reserved ones have none.
    pub(super) fn inodes_of(
        &self,
        group: u64,
    ) -> impl Iterator<Item = (u64, Option<EntryId>)> + '_ {
        let per_group = self.geometry.outline.inodes_per_group;
        // Inode numbers start with 1.
        let (first, end) = (group * per_group + 1, (group + 1) * per_group + 1);
        let start = self.inodes.partition_point(|(number, _)| u64::from(*number) < first);
        self.inodes[start..]
            .iter()
            .take_while(move |(number, _)| u64::from(*number) < end)
            .map(move |(number, node)| (u64::from(*number) - first, *node))
    }

    /// Writes the block bitmap of a group; blocks behind the end of the disk count as used.
    pub(super) fn block_bitmap(&self, group: u64, bitmap: &mut [u8; BLOCK_SIZE]) {
        bitmap.fill(0xFF);
        for run in self.free_runs_of(group) {
            clear_bits(bitmap, run);
        }
    }

    /// Writes the inode bitmap of a group; bits behind the last inode are set.
    pub(super) fn inode_bitmap(&self, group: u64, bitmap: &mut [u8; BLOCK_SIZE]) {
        bitmap.fill(0xFF);
        clear_bits(bitmap, BlockRange { start: 0, len: self.geometry.outline.inodes_per_group });
        for (index, _) in self.inodes_of(group) {
            bitmap[index as usize / 8] |= 1 << (index % 8);
        }
    }

    /// The descriptor of a group, with the checksums of its bitmaps.
    pub(super) fn descriptor(&self, nodes: &Nodes<'_>, group: u64) -> GroupDescriptor {
        let outline = &self.geometry.outline;
        let tables = self.geometry.tables[group as usize];
        let mut descriptor = GroupDescriptor {
            block_bitmap: tables.block_bitmap,
            inode_bitmap: tables.inode_bitmap,
            inode_table: tables.inode_table,
            free_blocks_count: self.free_runs_of(group).map(|run| run.len as u32).sum(),
            flags: FLAG_INODE_ZEROED,
            ..GroupDescriptor::default()
        };
        let (mut used, mut end) = (0, 0);
        for (index, node) in self.inodes_of(group) {
            used += 1;
            end = index + 1;
            let is_directory = node.is_some_and(|node| nodes.is_directory(node));
            descriptor.used_dirs_count += u32::from(is_directory);
        }
        descriptor.free_inodes_count = (outline.inodes_per_group - used) as u32;
        descriptor.unused_inodes_count = (outline.inodes_per_group - end) as u32;
        let mut bitmap = [0; BLOCK_SIZE];
        if used == 0 {
            descriptor.flags |= FLAG_INODE_UNINIT;
        } else {
            self.inode_bitmap(group, &mut bitmap);
            let covered = outline.inodes_per_group as usize / 8;
            descriptor.inode_bitmap_checksum = crc32c(CHECKSUM_SEED, &bitmap[..covered]);
        }
        if self.is_block_bitmap_implied(group, descriptor.free_blocks_count) {
            descriptor.flags |= FLAG_BLOCK_UNINIT;
        } else {
            self.block_bitmap(group, &mut bitmap);
            descriptor.block_bitmap_checksum = crc32c(CHECKSUM_SEED, &bitmap);
        }
        descriptor
    }

    /// Whether nothing but a copy of superblock and descriptors is in the group, which the kernel knows without a bitmap.
    /// The last group has one always: it may be short.
    fn is_block_bitmap_implied(&self, group: u64, free: u32) -> bool {
        let outline = &self.geometry.outline;
        let implied = if group_has_sparse_copy(group) { outline.copy_blocks() } else { 0 };
        group > 0
            && group + 1 < outline.groups
            && u64::from(free) == outline.group_blocks(group) - implied
    }

    /// All descriptors as they stand on the disk: 64 bytes per group, in whole blocks.
    pub(super) fn descriptor_table(&self, nodes: &Nodes<'_>) -> DescriptorTable {
        let outline = &self.geometry.outline;
        let mut bytes = vec![0; outline.descriptor_blocks as usize * BLOCK_SIZE];
        let mut flags = Vec::with_capacity(outline.groups as usize);
        for (group, slot) in (0..outline.groups).zip(bytes.chunks_exact_mut(DESCRIPTOR_SIZE)) {
            let descriptor = self.descriptor(nodes, group);
            flags.push(descriptor.flags);
            slot.copy_from_slice(&descriptor.encode(CHECKSUM_SEED, group as u32));
        }
        DescriptorTable { bytes, flags }
    }

    /// The superblock as it stands in `group`.
    pub(super) fn superblock(&self, group: u64) -> Superblock {
        let outline = &self.geometry.outline;
        let has_journal = outline.journal_blocks > 0;
        let journal = if has_journal { compatible::HAS_JOURNAL } else { 0 };
        Superblock {
            inodes_count: outline.inodes() as u32,
            blocks_count: outline.blocks,
            free_blocks_count: self.free_runs.iter().map(|run| run.len).sum(),
            free_inodes_count: (outline.inodes() - self.inodes.len() as u64) as u32,
            first_data_block: 0,
            log_block_size: (BLOCK_SIZE / 1024).ilog2(),
            blocks_per_group: BLOCKS_PER_GROUP as u32,
            inodes_per_group: outline.inodes_per_group as u32,
            state: STATE_CLEAN,
            revision: 1,
            first_inode: INODE_FIRST,
            inode_size: INODE_SIZE as u16,
            block_group_number: group as u16,
            compatible: COMPATIBLE | journal,
            incompatible: INCOMPATIBLE,
            read_only_compatible: READ_ONLY_COMPATIBLE,
            uuid: self.options.uuid,
            reserved_gdt_blocks: outline.reserved_descriptor_blocks as u16,
            journal_inode: if has_journal { INODE_JOURNAL } else { 0 },
            last_orphan: 0,
            hash_seed: HASH_SEED,
            default_hash_version: HASH_HALF_MD4,
            journal_backup: has_journal.then(|| self.journal_backup()),
            descriptor_size: DESCRIPTOR_SIZE as u16,
            default_mount_options: MOUNT_OPTION_USER_XATTR | MOUNT_OPTION_ACL,
            first_meta_bg: 0,
            min_extra_isize: EXTRA_SIZE,
            want_extra_isize: EXTRA_SIZE,
            flags: FLAG_UNSIGNED_HASH,
            log_groups_per_flex: GROUPS_PER_FLEX.ilog2() as u8,
            checksum_type: CHECKSUM_TYPE_CRC32C,
            backup_groups: [0; 2],
            checksum_seed: CHECKSUM_SEED,
        }
    }
}

/// All group descriptors.
pub(super) struct DescriptorTable {
    pub(super) bytes: Vec<u8>,
    /// The flags again, by group.
    pub(super) flags: Vec<u16>,
}

/// Clears bits in whole bytes where it can.
pub(crate) fn clear_bits(bitmap: &mut [u8; BLOCK_SIZE], run: BlockRange) {
    let (start, end) = (run.start as usize, run.end() as usize);
    let whole =
        start.next_multiple_of(8).min(end)..(end / 8 * 8).max(start.next_multiple_of(8).min(end));
    bitmap[whole.start / 8..whole.end / 8].fill(0);
    for bit in (start..whole.start).chain(whole.end..end) {
        bitmap[bit / 8] &= !(1 << (bit % 8));
    }
}
