//! Sizes, counts and places of the grown file system: numbers from numbers, nothing is read.
//!
//! New groups keep their bitmaps and inode tables together at the start of those of their flex group that are new, as the
//! kernel has it when it grows a mounted file system. The first of them may stand in the middle of a flex group.

use crate::{
    format::superblock::group_has_sparse_copy,
    writer::geometry::{
        BLOCKS_PER_GROUP, DESCRIPTORS_PER_BLOCK, GROUPS_PER_FLEX, GroupTables, INODES_PER_BLOCK,
        LAST_GROUP_BLOCKS_MIN, backup_groups, behind_copies, growth_blocks_max, push_unused,
    },
};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Error, ErrorKind, Result, format_size};

/// The numbers of a file system that growing goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Blocks, at least 1.
    pub(super) blocks: u64,
    /// At least 1.
    pub(super) inodes_per_group: u64,
    /// Blocks reserved behind the descriptors.
    pub(super) reserved_descriptor_blocks: u64,
}

impl Sizes {
    pub(super) fn groups(&self) -> u64 {
        self.blocks.div_ceil(BLOCKS_PER_GROUP)
    }

    pub(super) fn descriptor_blocks(&self) -> u64 {
        self.groups().div_ceil(DESCRIPTORS_PER_BLOCK)
    }
}

/// The grown file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) before: Sizes,
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) descriptor_blocks: u64,
}

/// The new groups of one flex group, and where their structures are.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) first_group: u64,
    /// By group.
    pub(super) tables: Vec<GroupTables>,
    /// Copies and tables, ascending, without overlap.
    used: Vec<BlockRange>,
    /// Where the last table ends.
    end: u64,
}

impl Shape {
    /// The shape on a disk of so many blocks, which may be as many as before. `Unsupported` beyond the reserved descriptors
    /// and inode numbers, naming the largest size; `Corrupt` where the last group has no room for its copy.
    pub(super) fn new(before: &Sizes, disk_blocks: u64) -> Result<Shape> {
        let whole = Shape::of_whole(before, disk_blocks.max(before.blocks));
        let (last_before, last) = (before.groups() - 1, whole.groups - 1);
        if before.blocks - last_before * BLOCKS_PER_GROUP < whole.copy_blocks(last_before) {
            return Err(Error::corrupt("ext4: the last group is shorter than its superblock copy"));
        }
        let shape = if last > last_before && whole.last_group_blocks_free() < LAST_GROUP_BLOCKS_MIN
        {
            Shape::of_whole(before, last * BLOCKS_PER_GROUP)
        } else {
            whole
        };
        shape.must_be_in_reach(disk_blocks)?;
        Ok(shape)
    }

    fn of_whole(before: &Sizes, blocks: u64) -> Shape {
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let descriptor_blocks = groups.div_ceil(DESCRIPTORS_PER_BLOCK);
        Shape { before: *before, blocks, groups, descriptor_blocks }
    }

    fn must_be_in_reach(&self, disk_blocks: u64) -> Result<()> {
        let max = growth_blocks_max(self.descriptor_room(), self.before.inodes_per_group);
        // Blocks alone may be added to the last group whatever its number.
        if self.groups == self.before.groups() || self.blocks <= max {
            return Ok(());
        }
        let (wanted, max) = (disk_blocks * BLOCK_SIZE_BYTES, max * BLOCK_SIZE_BYTES);
        let message = format!(
            "this ext4 file system cannot grow to {} ({wanted} bytes) in place: its reserved descriptors and its inode \
             numbers are enough for {} ({max} bytes); beyond, it takes a new layout",
            format_size(wanted),
            format_size(max),
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Whether there is anything to be added.
    pub(super) fn is_larger(&self) -> bool {
        self.blocks > self.before.blocks
    }

    pub(super) fn inodes_added(&self) -> u64 {
        (self.groups - self.before.groups()) * self.before.inodes_per_group
    }

    /// Blocks for descriptors, reserved ones included: the same before and after.
    pub(super) fn descriptor_room(&self) -> u64 {
        self.before.descriptor_blocks() + self.before.reserved_descriptor_blocks
    }

    pub(super) fn reserved_descriptor_blocks(&self) -> u64 {
        self.descriptor_room().saturating_sub(self.descriptor_blocks)
    }

    /// Blocks of the copy of superblock and descriptors in a group, reserved ones included; 0 where there is none.
    pub(super) fn copy_blocks(&self, group: u64) -> u64 {
        if group_has_sparse_copy(group) { 1 + self.descriptor_room() } else { 0 }
    }

    /// All groups with copies behind the first, ascending.
    pub(super) fn backup_groups(&self) -> impl Iterator<Item = u64> + use<> {
        backup_groups(self.groups)
    }

    /// Whether a group is new.
    pub(super) fn is_new(&self, group: u64) -> bool {
        group >= self.before.groups()
    }

    /// Blocks of one group.
    pub(super) fn group_blocks(&self, group: u64) -> u64 {
        BLOCKS_PER_GROUP.min(self.blocks - group * BLOCKS_PER_GROUP)
    }

    /// Blocks of one group's inode table.
    pub(super) fn inode_table_blocks(&self) -> u64 {
        self.before.inodes_per_group.div_ceil(INODES_PER_BLOCK)
    }

    /// Blocks of the fixed structures of the new groups.
    pub(super) fn fixed_blocks_added(&self) -> u64 {
        let new = self.before.groups()..self.groups;
        let copies: u64 = new.clone().map(|group| self.copy_blocks(group)).sum();
        copies + (new.end - new.start) * (2 + self.inode_table_blocks())
    }

    /// The segments, ascending; together they are the new groups.
    pub(super) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let flex_groups =
            self.before.groups() / GROUPS_PER_FLEX..self.groups.div_ceil(GROUPS_PER_FLEX);
        flex_groups
            .map(|flex| self.segment(flex * GROUPS_PER_FLEX))
            .filter(|segment| !segment.tables.is_empty())
    }

    /// The segment that holds a new group.
    pub(super) fn segment(&self, group: u64) -> Segment {
        let flex_start = group - group % GROUPS_PER_FLEX;
        let first_group = flex_start.max(self.before.groups());
        let groups = first_group..(flex_start + GROUPS_PER_FLEX).min(self.groups);
        let slots = groups.end.saturating_sub(groups.start);
        let copy_len = 1 + self.descriptor_room();
        let mut used: Vec<_> = groups
            .clone()
            .filter(|group| group_has_sparse_copy(*group))
            .map(|group| BlockRange { start: group * BLOCKS_PER_GROUP, len: copy_len })
            .collect();
        let bitmaps = behind_copies(copy_len, first_group * BLOCKS_PER_GROUP, 2 * slots);
        used.push(BlockRange { start: bitmaps, len: 2 * slots });
        let mut end = bitmaps + 2 * slots;
        let mut tables = Vec::with_capacity(slots as usize);
        for slot in 0..slots {
            let len = self.inode_table_blocks();
            let inode_table = behind_copies(copy_len, end, len);
            end = inode_table + len;
            used.push(BlockRange { start: inode_table, len });
            let block_bitmap = bitmaps + slot;
            let inode_bitmap = block_bitmap + slots;
            tables.push(GroupTables { block_bitmap, inode_bitmap, inode_table });
        }
        used.sort_unstable();
        Segment { first_group, tables, used, end }
    }

    /// Blocks that the last group, which is new, has besides the tables that stand in it; 0 where they do not even fit.
    fn last_group_blocks_free(&self) -> u64 {
        let last = self.groups - 1;
        let used = last * BLOCKS_PER_GROUP + self.copy_blocks(last);
        self.blocks.saturating_sub(self.segment(last).end.max(used))
    }

    /// The free runs of a new group, counted from its first block.
    pub(super) fn free_runs(&self, segment: &Segment, group: u64) -> Vec<BlockRange> {
        let start = group * BLOCKS_PER_GROUP;
        let mut runs = Vec::new();
        push_unused(start..start + self.group_blocks(group), &segment.used, &mut runs);
        runs.iter().map(|run| BlockRange { start: run.start - start, len: run.len }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 11] = [
        256,
        2048,
        BLOCKS_PER_GROUP - 1,
        BLOCKS_PER_GROUP,
        BLOCKS_PER_GROUP + 2500,
        3 * BLOCKS_PER_GROUP,
        10 * BLOCKS_PER_GROUP + 5000,
        16 * BLOCKS_PER_GROUP,
        33 * BLOCKS_PER_GROUP,
        700 * BLOCKS_PER_GROUP + 31_000,
        6561 * BLOCKS_PER_GROUP,
    ];

    fn shapes() -> impl Iterator<Item = Shape> {
        let pairs = SIZES.into_iter().flat_map(|from| SIZES.map(|to| (from, to)));
        let pairs = pairs.filter(|(from, to)| from <= to);
        pairs.flat_map(|(from, to)| {
            [8, 256, 8192, 32_768].into_iter().flat_map(move |inodes_per_group| {
                [120, 250].map(|reserved_descriptor_blocks| {
                    let before =
                        Sizes { blocks: from, inodes_per_group, reserved_descriptor_blocks };
                    Shape::new(&before, to).unwrap()
                })
            })
        })
    }

    #[test]
    fn every_new_block_is_fixed_or_free_once() {
        for shape in shapes() {
            let first_new = shape.before.groups() * BLOCKS_PER_GROUP;
            let (mut free, mut tables) = (0, 0);
            for segment in shape.segments() {
                assert!(segment.used.windows(2).all(|pair| pair[0].end() <= pair[1].start));
                assert!(segment.used[0].start >= first_new && segment.end <= shape.blocks);
                for (group, _) in (segment.first_group..).zip(&segment.tables) {
                    free += shape.free_runs(&segment, group).iter().map(|run| run.len).sum::<u64>();
                    tables += 1;
                }
            }
            assert_eq!(tables, shape.groups - shape.before.groups(), "{shape:?}");
            let added = shape.blocks.saturating_sub(first_new);
            assert_eq!(free + shape.fixed_blocks_added(), added, "{shape:?}");
        }
    }

    #[test]
    fn a_last_group_without_room_is_left_out_and_no_more_than_that() {
        let before = Sizes { blocks: 5000, inodes_per_group: 8192, reserved_descriptor_blocks: 15 };
        let blocks = |disk: u64| Shape::new(&before, disk).unwrap().blocks;
        // Group 1 holds a copy of 17 blocks, two bitmaps, a table of 512.
        let least = BLOCKS_PER_GROUP + 17 + 2 + 512 + LAST_GROUP_BLOCKS_MIN;
        assert_eq!(blocks(BLOCKS_PER_GROUP + 1), BLOCKS_PER_GROUP);
        assert_eq!(blocks(least - 1), BLOCKS_PER_GROUP);
        assert_eq!(blocks(least), least);
        // Group 2's tables are in group 1.
        let two = 2 * BLOCKS_PER_GROUP;
        assert_eq!(blocks(two + LAST_GROUP_BLOCKS_MIN - 1), two);
        assert_eq!(blocks(two + LAST_GROUP_BLOCKS_MIN), two + LAST_GROUP_BLOCKS_MIN);
    }

    #[test]
    fn descriptors_and_inode_numbers_end_it() {
        let last = |inodes_per_group, reserved_descriptor_blocks| {
            let before = Sizes { blocks: 9000, inodes_per_group, reserved_descriptor_blocks };
            let fits = |groups: u64| Shape::new(&before, groups * BLOCKS_PER_GROUP).is_ok();
            let groups: Vec<u64> = (1..=131_072).collect();
            groups.partition_point(|groups| fits(*groups))
        };
        assert_eq!(last(8192, 0), 64);
        assert_eq!(last(8192, 1023), 65_536);
        assert_eq!(last(32_768, 1023), 65_536);
        assert_eq!(last(32_776, 2047), 131_040);
    }
}
