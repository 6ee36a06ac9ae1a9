//! From many sizes to many: clean, counted right, and as far as was said.

use super::grown::{GIB, MIB, changes, dumped, grow_file, open, places, tree};
use crate::writer::examples::{add_file, write_metadata};
use proptest::prelude::*;
use silt_ext4::{
    EntryId,
    format::{
        group::{DESCRIPTOR_SIZE, GroupDescriptor},
        superblock::group_has_sparse_copy,
    },
    growth::Growth,
    reader::DiskRead as _,
};
use silt_testkit::ext4_image::{e2fsck, run};
use std::{fs::File, os::unix::fs::FileExt as _, path::Path, process::Command};

const GROUP: u64 = 128 * MIB;

/// e2fsck and dumpe2fs on a grown disk.
fn judge(path: &Path, growth: &Growth, inodes_per_group: u64) {
    e2fsck(path).unwrap();
    assert_eq!(dumped(path, "Block count"), growth.blocks);
    assert_eq!(dumped(path, "Inode count"), growth.groups * inodes_per_group);
}

#[test]
fn disks_of_all_sizes_grow_to_all_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (from, to) in [
        (MIB, MIB + 4096),
        (MIB, 3 * MIB + 4095),
        (MIB, GIB),
        (8 * MIB, 100 * MIB),
        (8 * MIB, GROUP),
        (8 * MIB, GROUP + 4096),
        (100 * MIB, 131 * MIB),
        (GROUP, 140 * MIB),
        (130 * MIB, 150 * MIB),
        (GROUP, 2 * GROUP + 4096),
        (352 * MIB, 40 * GIB),
        (1000 * MIB, 2048 * MIB),
        (2048 * MIB, 2048 * MIB + GROUP),
        (5 * GIB + 77 * MIB, 9 * GIB + 4096),
        (9 * GIB, 300 * GIB),
        (GIB, 1 << 40),
    ] {
        let layout = write_metadata(&tree(), Some(from), &path);
        let inodes_per_group = layout.summary().inodes / layout.summary().blocks.div_ceil(32_768);
        let free = layout.summary().blocks_free;
        let growth = grow_file(&path, to);
        println!("{from} to {to}: {growth:?}");
        judge(&path, &growth, inodes_per_group);
        assert!(dumped(&path, "Free blocks") >= free);
        assert_eq!(growth.inodes_added, (growth.groups - growth.groups_before) * inodes_per_group);
        // The rest of the disk is shorter than a group with its own tables.
        assert!(growth.blocks * 4096 <= to && to - growth.blocks * 4096 < 16 * MIB);
        // Nothing is left to be added.
        let (again, blocks) = changes(&path, to).unwrap();
        assert_eq!((again.blocks, blocks.len()), (growth.blocks, 0));
    }
}

#[test]
fn tables_that_fill_whole_groups_make_way_for_copies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut hierarchy = tree();
    for n in 0..33_000 {
        add_file(&mut hierarchy, EntryId::ROOT, &n.to_string(), 0);
    }
    for (from, to) in [(200 * MIB, 9 * GIB), (3 * GROUP, 4 * GROUP + 20 * MIB)] {
        let layout = write_metadata(&hierarchy, Some(from), &path);
        let inodes_per_group = layout.summary().inodes / layout.summary().blocks.div_ceil(32_768);
        assert!(inodes_per_group >= 16_384);
        let growth = grow_file(&path, to);
        judge(&path, &growth, inodes_per_group);
    }
}

#[test]
fn a_disk_grows_as_far_as_was_said_and_a_group_beyond_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for from in [MIB, 8 * MIB, 100 * MIB] {
        let layout = write_metadata(&tree(), Some(from), &path);
        let max = layout.summary().growth_bytes_max;
        let error = changes(&path, max + GROUP).unwrap_err();
        assert_eq!(error.kind(), silt_types::ErrorKind::Unsupported);
        assert!(error.to_string().contains(&format!("({max} bytes)")), "{error}");
        // What is too short for a group is left out, here too.
        let growth = grow_file(&path, max + 4096);
        assert_eq!(growth.blocks, max / 4096);
        assert_eq!(dumped(&path, "Reserved GDT blocks"), 0);
        e2fsck(&path).unwrap();
    }
}

#[test]
fn a_file_system_that_ends_before_its_disk_grows_to_the_end_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_metadata(&tree(), Some(100 * MIB), &path);
    File::options().write(true).open(&path).unwrap().set_len(3 * GIB + 100).unwrap();
    let growth = grow_file(&path, 3 * GIB + 100);
    assert_eq!(growth.blocks, 3 * GIB / 4096);
    judge(&path, &growth, 8192);
}

#[test]
fn a_disk_grows_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_metadata(&tree(), Some(8 * MIB), &path);
    let mut size = 8 * MIB;
    while size < 4 * GIB {
        size += size / 3 + 12_345;
        let growth = grow_file(&path, size);
        judge(&path, &growth, 2048);
    }
}

#[test]
fn resize2fs_grows_a_grown_disk_further() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (from, to, further) in [(100 * MIB, 3 * GIB, 9 * GIB), (GIB, 7 * GIB + MIB, 700 * GIB)] {
        write_metadata(&tree(), Some(from), &path);
        grow_file(&path, to);
        File::options().write(true).open(&path).unwrap().set_len(further).unwrap();
        run(Command::new("resize2fs").arg(&path)).unwrap();
        e2fsck(&path).unwrap();
        assert_eq!(dumped(&path, "Block count"), further / 4096);
        // And then it is still one of those that grow.
        grow_file(&path, further + 5 * GROUP);
        e2fsck(&path).unwrap();
    }
}

#[test]
fn copies_of_superblock_and_descriptors_are_right_in_old_and_new_groups() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_metadata(&tree(), Some(400 * MIB), &path);
    let growth = grow_file(&path, 90 * GIB);
    let mut block = [vec![0; 4096], vec![0; 4096]];
    for group in (1..growth.groups).filter(|group| group_has_sparse_copy(*group)) {
        let place = format!("superblock={}", group * 32_768);
        let mut dump = Command::new("dumpe2fs");
        let header = run(dump.args(["-h", "-o", &place, "-o", "blocksize=4096"]).arg(&path));
        let header = String::from_utf8_lossy(&header.unwrap().stdout).into_owned();
        assert!(header.contains(&format!(" {}\n", growth.blocks)), "{header}");
        for index in 0..growth.groups.div_ceil(64) {
            let disk = open(&path);
            disk.read_at(&mut block[0], (1 + index) * 4096).unwrap();
            disk.read_at(&mut block[1], (group * 32_768 + 1 + index) * 4096).unwrap();
            assert_eq!(block[0], block[1], "descriptors {index} in group {group}");
        }
    }
}

#[test]
fn a_grown_disk_is_repaired_from_any_of_its_copies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    // Groups 1 and 3 are old, the others new.
    for group in [1, 3, 5, 25] {
        write_metadata(&tree(), Some(600 * MIB), &path);
        grow_file(&path, 5 * GIB);
        let before = places(&path);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 2 * 4096], 0).unwrap();
        let superblock = (group * 32_768).to_string();
        let mut repair = Command::new("e2fsck");
        repair.args(["-fy", "-B", "4096", "-b", &superblock]).arg(&path);
        assert_eq!(repair.output().unwrap().status.code(), Some(1), "errors are corrected");
        e2fsck(&path).unwrap();
        assert_eq!(places(&path), before);
    }
}

#[test]
fn a_disk_that_mke2fs_made_keeps_the_share_of_root() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (features, from, to) in [
        ("metadata_csum,64bit,orphan_file", 100 * MIB, GIB),
        ("metadata_csum,64bit,metadata_csum_seed,quota,project", 700 * MIB, 30 * GIB),
        ("metadata_csum,64bit,^has_journal,ea_inode,casefold", 9 * MIB, 140 * MIB),
    ] {
        File::create(&path).unwrap().set_len(from).unwrap();
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "5", "-O", features]);
        run(make.arg(&path)).unwrap();
        grow_file(&path, to);
        e2fsck(&path).unwrap();
        let (blocks, reserved) =
            (dumped(&path, "Block count"), dumped(&path, "Reserved block count"));
        assert!((blocks / 20).abs_diff(reserved) < 50, "{reserved} of {blocks}");
    }
}

#[test]
fn what_the_disk_held_behind_its_file_system_is_no_inode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let from = GROUP + 300 * 1024;
    let layout = write_metadata(&tree(), Some(from), &path);
    assert_eq!(layout.summary().blocks, 32_768, "the rest is too short for a group");
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xAB; 300 * 1024], GROUP).unwrap();
    let growth = grow_file(&path, GIB);
    judge(&path, &growth, 8192);
    let disk = open(&path);
    let mut descriptor = [0; DESCRIPTOR_SIZE];
    disk.read_at(&mut descriptor, 4096 + DESCRIPTOR_SIZE as u64).unwrap();
    let table = GroupDescriptor::decode(&descriptor).inode_table;
    assert!((32_768..from / 4096).contains(&table));
    let mut bytes = vec![0; 512 * 4096];
    disk.read_at(&mut bytes, table * 4096).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_size_grows_to_any_size(doublings in 0u32..14, more in 0u64..1 << 36, factor in 0u32..8, further in 0u64..1 << 36) {
        let from = (MIB << doublings) + more % (MIB << doublings);
        let to = (from << factor) + further % (from << factor);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        write_metadata(&tree(), Some(from), &path);
        grow_file(&path, to);
        e2fsck(&path).unwrap();
    }
}
