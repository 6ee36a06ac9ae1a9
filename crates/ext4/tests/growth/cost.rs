//! What growing costs, in blocks written: the new groups, whatever stood there before.

use super::grown::{GIB, MIB, tree};
use crate::writer::examples::metadata_blocks;
use silt_ext4::{
    Layout, LayoutOptions,
    format::superblock::group_has_sparse_copy,
    growth::{Growth, grow},
    reader::DiskRead,
};
use silt_testkit::ext4_image::UUID;
use silt_types::Result;
use std::{cell::Cell, collections::BTreeMap, time::Instant};

const TIB: u64 = 1 << 40;

/// A disk of which only the blocks that are not zero are there, so that it may be longer than a file.
struct SparseDisk {
    size_bytes: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    reads: Cell<u64>,
}

impl SparseDisk {
    fn new(size_bytes: u64) -> SparseDisk {
        let options = LayoutOptions { uuid: UUID, size_bytes: Some(size_bytes) };
        let layout = Layout::plan(&tree(), &options).unwrap();
        let blocks = metadata_blocks(&layout, &tree());
        SparseDisk { size_bytes, blocks, reads: Cell::new(0) }
    }

    /// What growing does, and the blocks it writes.
    fn grow(&self, size: u64) -> (Growth, BTreeMap<u64, Vec<u8>>) {
        let mut blocks = BTreeMap::new();
        let start = Instant::now();
        let growth = grow(self, size, &mut |block, bytes| {
            blocks.insert(block, bytes.to_vec());
            Ok(())
        });
        let growth = growth.unwrap();
        let (mib, to_mib, took) = (self.size_bytes / MIB, size / MIB, start.elapsed());
        println!("{mib} MiB to {to_mib} MiB in {took:?}, {} reads: {growth:?}", self.reads.get());
        (growth, blocks)
    }
}

impl DiskRead for SparseDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.reads.set(self.reads.get() + 1);
        let start = (offset % 4096) as usize;
        match self.blocks.get(&(offset / 4096)) {
            Some(block) => buf.copy_from_slice(&block[start..start + buf.len()]),
            None => buf.fill(0),
        }
        Ok(())
    }
}

/// The most blocks: superblocks, descriptors that are new or changed, all descriptors where there is a new copy, a bitmap
/// for each new flex group and for what is cut short at both ends, and what the resize inode holds.
fn blocks_at_most(growth: &Growth) -> u64 {
    let copies = (0..growth.groups).filter(|group| group_has_sparse_copy(*group));
    let (old, new): (Vec<_>, Vec<_>) = copies.partition(|group| *group < growth.groups_before);
    let all = growth.groups.div_ceil(64);
    let changed = all - (growth.groups_before - 1) / 64;
    let copies = old.len() as u64 * (1 + changed) + new.len() as u64 * (1 + all);
    let bitmaps = (growth.groups - growth.groups_before).div_ceil(16) + 3;
    let resize_inode = if new.is_empty() { 2 } else { 1024 + 2 };
    copies + bitmaps + resize_inode
}

#[test]
fn a_new_group_costs_its_descriptors_and_a_flex_group_its_bitmap() {
    for (from, to, most) in [
        (8 * MIB, 8 * GIB, 100),
        (GIB, 40 * GIB, 300),
        (GIB, TIB, 3000),
        (300 * GIB, 600 * GIB, 3500),
        (8 * GIB, 8 * TIB, 32_000),
        (8 * TIB, 16 * TIB, 70_000),
    ] {
        let (growth, blocks) = SparseDisk::new(from).grow(to);
        assert_eq!(growth.blocks_written, blocks.len() as u64);
        assert!(growth.blocks_written <= blocks_at_most(&growth).min(most), "{growth:?}");
    }
}

#[test]
fn one_group_more_costs_a_few_dozen_blocks_on_a_disk_of_a_tebibyte() {
    let disk = SparseDisk::new(TIB);
    for more in [4096, 100 * MIB, 128 * MIB] {
        let (growth, _) = disk.grow(TIB + more);
        assert!(growth.blocks_written <= 45, "{growth:?}");
    }
    assert!(disk.reads.get() < 30, "{} reads", disk.reads.get());
}

#[test]
fn two_steps_give_what_one_gives_but_for_the_bitmap_of_a_group_that_was_last() {
    let mut disk = SparseDisk::new(200 * MIB);
    let (one, blocks) = disk.grow(20 * GIB);
    // To the end of a flex group.
    let (_, first) = disk.grow(2 * GIB);
    disk.size_bytes = 2 * GIB;
    disk.blocks.extend(first);
    let (two, second) = disk.grow(20 * GIB);
    disk.blocks.extend(second);
    assert_eq!((one.blocks, one.groups), (two.blocks, two.groups));
    for (number, bytes) in &blocks {
        // Group 15 has its bitmap, so the first block of descriptors differs, and its copies.
        let is_first_of_descriptors = number % 32_768 == 1;
        assert_eq!(disk.blocks.get(number) == Some(bytes), !is_first_of_descriptors, "{number}");
    }
}

#[test]
fn the_same_disk_and_size_give_the_same_blocks() {
    let disk = SparseDisk::new(200 * MIB);
    assert_eq!(disk.grow(20 * GIB), disk.grow(20 * GIB));
}
