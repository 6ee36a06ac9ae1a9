//! Where the fixed structures of a disk stand: superblock copies, descriptors, bitmaps, inode tables, and what is left
//! for directories and data.
//!
//! Everything here depends on the size of the disk and the inodes per group alone, and changes little when the size
//! does: sizes of tables are powers of two, and a flex group that is not full yet has places for more groups.
//!
//! ```text
//! flex group of 16 groups (2 GiB)
//! | copy of superblock | descriptors, reserved ones | 16 + 16 bitmaps | 16 inode tables | directory zone | data ...
//! ```

use crate::format::{BLOCK_SIZE, group::DESCRIPTOR_SIZE, superblock::group_has_sparse_copy};
use silt_types::BlockRange;

/// Blocks in a group: what one block of bitmap covers.
pub(crate) const BLOCKS_PER_GROUP: u64 = BLOCK_SIZE as u64 * 8;

/// Inodes in a group at most: what one block of bitmap covers.
pub(super) const INODES_PER_GROUP_MAX: u64 = BLOCK_SIZE as u64 * 8;

/// Inodes in a block of an inode table.
pub(crate) const INODES_PER_BLOCK: u64 = 16;

/// Groups whose bitmaps and tables stand together.
pub(crate) const GROUPS_PER_FLEX: u64 = 16;

/// Descriptors in a block.
pub(crate) const DESCRIPTORS_PER_BLOCK: u64 = (BLOCK_SIZE / DESCRIPTOR_SIZE) as u64;

/// Descriptor blocks of the largest disk.
const DESCRIPTOR_BLOCKS_MAX: u64 = (1 << 32) / BLOCKS_PER_GROUP / DESCRIPTORS_PER_BLOCK;

/// The most blocks that the resize inode can reserve: it has one block of pointers.
pub(crate) const RESERVED_BLOCKS_MAX: u64 = BLOCK_SIZE as u64 / 4;

/// Blocks of a flex group's zone for directories and other blocks of single inodes. 32 MiB in 2 GiB.
const ZONE_BLOCKS: u64 = 8192;

/// A last group with fewer blocks than its own metadata and this is left out, as mke2fs does.
pub(crate) const LAST_GROUP_BLOCKS_MIN: u64 = 64;

/// The numbers of a file system that follow from its size and the inodes per group, without any place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    /// Blocks of the file system; may be fewer than the disk's.
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) inodes_per_group: u64,
    pub(super) descriptor_blocks: u64,
    pub(super) reserved_descriptor_blocks: u64,
    /// Blocks kept for descriptors, reserved ones and padding, so that what follows stays where it is.
    descriptor_room: u64,
    pub(super) journal_blocks: u64,
}

impl Outline {
    /// The outline of a disk of at least 256 blocks.
    pub(super) fn new(disk_blocks: u64, inodes_per_group: u64) -> Outline {
        let outline = Outline::of_whole(disk_blocks, inodes_per_group);
        let last = outline.group_blocks(outline.groups - 1);
        if outline.groups > 1 && last < outline.last_group_blocks_min() {
            return Outline::of_whole(disk_blocks - last, inodes_per_group);
        }
        outline
    }

    fn of_whole(blocks: u64, inodes_per_group: u64) -> Outline {
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let descriptor_blocks = groups.div_ceil(DESCRIPTORS_PER_BLOCK);
        let (reserved, room) = descriptor_room(blocks, descriptor_blocks);
        Outline {
            blocks,
            groups,
            inodes_per_group,
            descriptor_blocks,
            reserved_descriptor_blocks: reserved,
            descriptor_room: room,
            journal_blocks: journal_blocks(blocks),
        }
    }

    fn last_group_blocks_min(&self) -> u64 {
        let last = self.groups - 1;
        let copy = if group_has_sparse_copy(last) { 1 + self.descriptor_room } else { 0 };
        let is_leader = last.is_multiple_of(GROUPS_PER_FLEX);
        let tables = if is_leader { 2 * GROUPS_PER_FLEX + self.inode_table_blocks() } else { 0 };
        copy + tables + LAST_GROUP_BLOCKS_MIN
    }

    /// Blocks of one group.
    pub(super) fn group_blocks(&self, group: u64) -> u64 {
        BLOCKS_PER_GROUP.min(self.blocks - group * BLOCKS_PER_GROUP)
    }

    /// Blocks of one group's inode table.
    pub(super) fn inode_table_blocks(&self) -> u64 {
        self.inodes_per_group.div_ceil(INODES_PER_BLOCK)
    }

    /// Inodes of the file system.
    pub(super) fn inodes(&self) -> u64 {
        self.groups * self.inodes_per_group
    }

    /// Blocks in use at the start of a group that holds a copy of the superblock.
    pub(super) fn copy_blocks(&self) -> u64 {
        1 + self.descriptor_blocks + self.reserved_descriptor_blocks
    }

    /// The groups behind the first that hold copies.
    pub(super) fn backup_groups(&self) -> impl Iterator<Item = u64> + use<> {
        backup_groups(self.groups)
    }

    /// Blocks of the fixed structures, the journal apart.
    pub(super) fn fixed_blocks(&self) -> u64 {
        let copies = 1 + self.backup_groups().count() as u64;
        // The resize inode has one block of pointers.
        copies * self.copy_blocks() + 1 + self.groups * (2 + self.inode_table_blocks())
    }

    /// Blocks for everything that is declared: what neither fixed structures nor journal take.
    pub(super) fn usable_blocks(&self) -> u64 {
        self.blocks.saturating_sub(self.fixed_blocks() + self.journal_blocks)
    }

    /// How often the usable blocks are interrupted, at most, and with some to spare: so many files may need a block of
    /// extent tree more than they would elsewhere.
    pub(super) fn interruptions(&self) -> u64 {
        let flex_groups = self.groups.div_ceil(GROUPS_PER_FLEX);
        4 + 3 * (flex_groups - 1 + self.backup_groups().count() as u64)
    }

    /// Blocks that the file system can grow to by adding groups.
    pub(super) fn growth_blocks_max(&self) -> u64 {
        let descriptor_blocks = self.descriptor_blocks + self.reserved_descriptor_blocks;
        growth_blocks_max(descriptor_blocks, self.inodes_per_group)
    }

    /// Blocks of one zone.
    fn zone_blocks(&self) -> u64 {
        let quarter = (self.usable_blocks() / 4).max(1);
        ZONE_BLOCKS.min(1 << quarter.ilog2())
    }

    /// Groups that every flex group has places for: 16, or on a disk with fewer groups the next power of two.
    fn flex_slots(&self) -> u64 {
        GROUPS_PER_FLEX.min(self.groups.next_power_of_two())
    }
}

/// Reserved descriptor blocks, and the room for all of them in powers of two: growth by a factor of 1,024, as far as the
/// resize inode and the largest disk go.
fn descriptor_room(blocks: u64, descriptor_blocks: u64) -> (u64, u64) {
    let wanted = (blocks * 1024).div_ceil(BLOCKS_PER_GROUP * DESCRIPTORS_PER_BLOCK);
    if wanted <= RESERVED_BLOCKS_MAX {
        let room = wanted.max(descriptor_blocks + 1).next_power_of_two();
        return (room - descriptor_blocks, room);
    }
    let left = DESCRIPTOR_BLOCKS_MAX.saturating_sub(descriptor_blocks);
    let reserved = left.clamp(1, RESERVED_BLOCKS_MAX);
    let room = descriptor_blocks.next_power_of_two() + RESERVED_BLOCKS_MAX;
    (reserved, room.min(DESCRIPTOR_BLOCKS_MAX + 1))
}

/// Journal blocks by size of the file system: none below 8 MiB, where the smallest journal the kernel takes (1,024
/// blocks) would be most of it; then in steps as mke2fs has them, up to 256 MiB.
pub(super) fn journal_blocks(blocks: u64) -> u64 {
    /// From so many blocks on, so many blocks of journal.
    const STEPS: [(u64, u64); 7] = [
        (0, 0),
        (2 << 10, 1 << 10),
        (32 << 10, 4 << 10),
        (256 << 10, 8 << 10),
        (512 << 10, 16 << 10),
        (4 << 20, 32 << 10),
        (16 << 20, 64 << 10),
    ];
    let step = STEPS.iter().rev().find(|(from, _)| blocks >= *from);
    step.map_or(0, |(_, journal)| *journal)
}

/// Blocks that a file system can grow to by adding groups: as far as its descriptor blocks, reserved ones included, and
/// 32-bit inode numbers go, and never beyond 16 TiB.
pub(crate) fn growth_blocks_max(descriptor_blocks: u64, inodes_per_group: u64) -> u64 {
    let by_inodes = u64::from(u32::MAX) / inodes_per_group;
    let groups = (descriptor_blocks * DESCRIPTORS_PER_BLOCK).min(by_inodes);
    (groups * BLOCKS_PER_GROUP).min(1 << 32)
}

/// The groups behind the first of so many that hold copies, ascending.
pub(crate) fn backup_groups(groups: u64) -> impl Iterator<Item = u64> {
    sparse_groups().skip(1).take_while(move |group| *group < groups)
}

/// Groups with copies under `sparse_super`, ascending and without end.
fn sparse_groups() -> impl Iterator<Item = u64> {
    let mut powers = [(3, 3), (5, 5), (7, 7)];
    let next = move || {
        let least = powers.iter().map(|(power, _)| *power).min()?;
        for (power, base) in &mut powers {
            if *power == least {
                *power *= *base;
            }
        }
        Some(least)
    };
    [0, 1].into_iter().chain(std::iter::from_fn(next))
}

/// Where a group's own structures are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupTables {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
}

/// A run of blocks that the layout may use, and where it stands in the flat space.
#[derive(Clone, Copy, Debug)]
struct Segment {
    flat: u64,
    start: u64,
    len: u64,
}

/// All places. Usable blocks are numbered without gaps, the flat space: first data, then the zones for directories,
/// last the leftovers between tables, which only a full disk uses.
pub(super) struct Geometry {
    pub(super) outline: Outline,
    /// By group.
    pub(super) tables: Vec<GroupTables>,
    /// The block of pointers of the resize inode.
    pub(super) resize_indirect_block: u64,
    segments: Vec<Segment>,
    /// Flat numbers of the data area, the journal at its end included.
    pub(super) data: BlockRange,
    /// Flat numbers of the zones.
    pub(super) zones: BlockRange,
    /// Length of the flat space.
    pub(super) flat_len: u64,
}

impl Geometry {
    /// Places everything. Cost and memory: some 60 bytes per group.
    pub(super) fn new(outline: Outline) -> Geometry {
        let mut areas = Areas::default();
        let mut tables = Vec::with_capacity(outline.groups as usize);
        let resize_indirect_block = 1 + outline.descriptor_room;
        for first_group in (0..outline.groups).step_by(GROUPS_PER_FLEX as usize) {
            place_flex(&outline, first_group, &mut tables, &mut areas);
        }
        let mut segments = Vec::new();
        let mut flat = 0;
        let mut append = |runs: &[BlockRange]| {
            let first = flat;
            for run in runs {
                segments.push(Segment { flat, start: run.start, len: run.len });
                flat += run.len;
            }
            BlockRange { start: first, len: flat - first }
        };
        let (data, zones) = (append(&areas.data), append(&areas.zones));
        append(&areas.leftovers);
        let flat_len = flat;
        Geometry { outline, tables, resize_indirect_block, segments, data, zones, flat_len }
    }

    /// Flat numbers of the journal: the end of the data area, where nothing else moves when it does.
    pub(super) fn journal(&self) -> BlockRange {
        let len = self.outline.journal_blocks;
        BlockRange { start: self.data.end() - len, len }
    }

    /// The physical runs of a flat run, in flat order.
    pub(super) fn physical(&self, flat: BlockRange) -> impl Iterator<Item = BlockRange> + '_ {
        let first =
            self.segments.partition_point(|segment| segment.flat + segment.len <= flat.start);
        self.segments[first..].iter().take_while(move |segment| segment.flat < flat.end()).map(
            move |segment| {
                let start = flat.start.max(segment.flat);
                let end = flat.end().min(segment.flat + segment.len);
                BlockRange { start: segment.start + (start - segment.flat), len: end - start }
            },
        )
    }
}

#[derive(Default)]
struct Areas {
    data: Vec<BlockRange>,
    zones: Vec<BlockRange>,
    leftovers: Vec<BlockRange>,
}

/// Places one flex group: appends the tables of its groups and its areas.
fn place_flex(
    outline: &Outline,
    first_group: u64,
    tables: &mut Vec<GroupTables>,
    areas: &mut Areas,
) {
    let start = first_group * BLOCKS_PER_GROUP;
    let end = (start + GROUPS_PER_FLEX * BLOCKS_PER_GROUP).min(outline.blocks);
    let mut used = copies_in(outline, first_group, areas);
    let mut cursor = start;
    if first_group == 0 {
        cursor = 1 + outline.descriptor_room;
        used.push(BlockRange { start: cursor, len: 1 });
        cursor += 1;
    }
    let bitmaps = cursor;
    let slots = outline.flex_slots();
    cursor += 2 * slots;
    for slot in 0..slots {
        let len = outline.inode_table_blocks();
        let inode_table = behind_copies(1 + outline.descriptor_room, cursor, len);
        cursor = inode_table + len;
        if first_group + slot < outline.groups {
            let block_bitmap = bitmaps + slot;
            let inode_bitmap = block_bitmap + slots;
            used.push(BlockRange { start: block_bitmap, len: 1 });
            used.push(BlockRange { start: inode_bitmap, len: 1 });
            used.push(BlockRange { start: inode_table, len });
            tables.push(GroupTables { block_bitmap, inode_bitmap, inode_table });
        }
    }
    used.sort_unstable();
    let zone = cursor.min(end);
    let data = (cursor + outline.zone_blocks()).min(end);
    push_unused(start..zone, &used, &mut areas.leftovers);
    push_unused(zone..data, &used, &mut areas.zones);
    push_unused(data..end, &used, &mut areas.data);
}

/// The starts of the groups that hold copies, padding included; the padding is left over.
fn copies_in(outline: &Outline, first_group: u64, areas: &mut Areas) -> Vec<BlockRange> {
    let last_group = (first_group + GROUPS_PER_FLEX).min(outline.groups);
    let groups = (first_group..last_group).filter(|group| group_has_sparse_copy(*group));
    let copies: Vec<_> = groups
        .map(|group| BlockRange {
            start: group * BLOCKS_PER_GROUP,
            len: 1 + outline.descriptor_room,
        })
        .collect();
    let padding = outline.descriptor_room + 1 - outline.copy_blocks();
    if padding > 0 {
        areas.leftovers.extend(
            copies.iter().map(|copy| BlockRange { start: copy.end() - padding, len: padding }),
        );
    }
    copies
}

/// The first place from `cursor` on where `len` blocks do not meet a copy; copies have `copy_len` blocks.
pub(crate) fn behind_copies(copy_len: u64, mut cursor: u64, len: u64) -> u64 {
    let mut group = cursor / BLOCKS_PER_GROUP;
    while group * BLOCKS_PER_GROUP < cursor + len {
        let copy_end = group * BLOCKS_PER_GROUP + copy_len;
        if group_has_sparse_copy(group) && cursor < copy_end {
            cursor = copy_end;
        }
        group += 1;
    }
    cursor
}

/// Appends the parts of `range` that `used` (ascending) does not cover.
pub(crate) fn push_unused(
    range: std::ops::Range<u64>,
    used: &[BlockRange],
    runs: &mut Vec<BlockRange>,
) {
    let mut cursor = range.start;
    for taken in used.iter().filter(|taken| taken.end() > range.start && taken.start < range.end) {
        if taken.start > cursor {
            runs.push(BlockRange { start: cursor, len: taken.start - cursor });
        }
        cursor = cursor.max(taken.end());
    }
    if cursor < range.end {
        runs.push(BlockRange { start: cursor, len: range.end - cursor });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From 1 MiB to 16 TiB, powers of two and a little less and more.
    fn outlines() -> impl Iterator<Item = Outline> {
        let sizes = (8..=32).flat_map(|shift| [1u64 << shift, (1 << shift) + 77, (3 << shift) / 4]);
        let sizes = sizes.filter(|blocks| (256..=1 << 32).contains(blocks));
        sizes.flat_map(|blocks| {
            [256, 1024, 8192, 32768]
                .into_iter()
                .map(move |inodes| Outline::new(blocks, inodes))
                .filter(|outline| outline.usable_blocks() > 0)
        })
    }

    #[test]
    fn every_block_is_fixed_or_usable_once() {
        for outline in outlines().filter(|outline| outline.groups < 3000) {
            let geometry = Geometry::new(outline);
            assert_eq!(geometry.tables.len() as u64, outline.groups);
            assert_eq!(geometry.flat_len, outline.blocks - outline.fixed_blocks(), "{outline:?}");
            let mut runs: Vec<_> = geometry
                .segments
                .iter()
                .map(|segment| BlockRange { start: segment.start, len: segment.len })
                .chain(geometry.tables.iter().flat_map(|tables| {
                    [
                        BlockRange { start: tables.block_bitmap, len: 1 },
                        BlockRange { start: tables.inode_bitmap, len: 1 },
                        BlockRange { start: tables.inode_table, len: outline.inode_table_blocks() },
                    ]
                }))
                .collect();
            runs.sort_unstable();
            assert!(runs.windows(2).all(|pair| pair[0].end() <= pair[1].start), "{outline:?}");
            assert!(runs.last().unwrap().end() <= outline.blocks, "{outline:?}");
            assert!(geometry.data.len >= outline.journal_blocks, "{outline:?}");
        }
    }

    #[test]
    fn there_is_room_to_grow_by_1024_as_far_as_the_resize_inode_goes() {
        for outline in outlines() {
            let descriptors = outline.descriptor_blocks + outline.reserved_descriptor_blocks;
            let wanted = (outline.blocks * 1024).min(1 << 32).div_ceil(BLOCKS_PER_GROUP);
            let reached = descriptors * DESCRIPTORS_PER_BLOCK;
            let at_most = outline.reserved_descriptor_blocks >= RESERVED_BLOCKS_MAX;
            assert!(reached >= wanted || at_most, "{outline:?}");
            assert!((1..=RESERVED_BLOCKS_MAX).contains(&outline.reserved_descriptor_blocks));
        }
    }

    #[test]
    fn places_stay_when_the_disk_grows_a_little() {
        let (small, large) = (Outline::new(300_000, 8192), Outline::new(330_000, 8192));
        let (small, large) = (Geometry::new(small), Geometry::new(large));
        let probe = BlockRange { start: 0, len: 200_000 };
        assert!(small.physical(probe).eq(large.physical(probe)));
        for (a, b) in small.tables.iter().zip(&large.tables) {
            assert_eq!(a.inode_table, b.inode_table);
        }
    }

    #[test]
    fn groups_with_copies_come_in_order() {
        let groups: Vec<u64> = sparse_groups().take_while(|group| *group < 200_000).collect();
        assert!(groups.iter().all(|group| group_has_sparse_copy(*group)));
        assert_eq!(groups.len(), (0..200_000).filter(|g| group_has_sparse_copy(*g)).count());
    }
}
