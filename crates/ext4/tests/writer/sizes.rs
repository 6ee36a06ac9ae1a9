//! Sizes of disks: given ones, default ones, impossible ones.

use super::examples::{add_directory, add_file, empty, write_metadata};
use proptest::prelude::*;
use silt_ext4::{EntryId, Hierarchy, Layout, LayoutOptions};
use silt_testkit::{
    ext4_image::{UUID, e2fsck, write_image},
    hierarchy::declared_hierarchy,
};
use silt_types::ErrorKind;

const MIB: u64 = 1 << 20;

fn small_tree() -> Hierarchy {
    let mut hierarchy = empty();
    let folder = add_directory(&mut hierarchy, EntryId::ROOT, "folder");
    for n in 0..20 {
        add_file(&mut hierarchy, folder, &format!("file{n}"), n * 3000);
    }
    hierarchy
}

#[test]
fn images_of_every_size_are_clean_and_exactly_that_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let sizes = [
        MIB,
        3 * MIB + 12345,
        8 * MIB - 4096,
        8 * MIB,
        33 * MIB,
        64 * MIB,
        128 * MIB,
        128 * MIB + 4096,
        129 * MIB,
        160 * MIB,
        1000 * MIB,
        2048 * MIB + 5 * MIB,
        3000 * MIB,
        9 * 1024 * MIB,
        20_000 * MIB,
        1 << 40,
    ];
    let hierarchy = small_tree();
    for size in sizes {
        let layout = write_image(&hierarchy, Some(size), &path).unwrap();
        assert_eq!(layout.size_bytes(), size);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        assert_eq!(layout.summary().has_journal(), size >= 8 * MIB);
        e2fsck(&path).unwrap();
    }
}

#[test]
fn a_full_disk_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for size in [MIB, 8 * MIB, 40 * MIB, 300 * MIB] {
        let mut hierarchy = small_tree();
        let mut blocks = size / 4096;
        // Files of odd lengths, each the largest that still fits.
        for n in 0.. {
            let fits = |blocks: u64| {
                let mut fuller = small_tree();
                for (earlier, entry) in hierarchy.children(EntryId::ROOT).iter().enumerate() {
                    let size = hierarchy.size_bytes(entry.entry);
                    add_file(&mut fuller, EntryId::ROOT, &format!("earlier{earlier}"), size);
                }
                add_file(&mut fuller, EntryId::ROOT, "one more", blocks * 4096);
                let options = LayoutOptions { uuid: UUID, size_bytes: Some(size) };
                Layout::plan(&fuller, &options).is_ok()
            };
            while blocks > 0 && !fits(blocks) {
                blocks -= blocks.div_ceil(7);
            }
            if blocks == 0 {
                break;
            }
            add_file(&mut hierarchy, EntryId::ROOT, &format!("filler{n}"), blocks * 4096);
        }
        let layout = write_image(&hierarchy, Some(size), &path).unwrap();
        assert!(layout.summary().blocks_free <= 16, "{:?}", layout.summary());
        e2fsck(&path).unwrap();
        add_file(&mut hierarchy, EntryId::ROOT, "too much", size / 2);
        assert_eq!(plan_error(&hierarchy, Some(size)).kind(), ErrorKind::NoSpace);
    }
}

#[test]
fn what_is_named_as_enough_is_enough() {
    let mut hierarchy = empty();
    for n in 0..3000 {
        add_file(&mut hierarchy, EntryId::ROOT, &format!("{n}"), 5000);
    }
    let enough = smallest_size(&hierarchy);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_image(&hierarchy, Some(enough), &path).unwrap();
    e2fsck(&path).unwrap();
}

#[test]
fn impossible_sizes_are_invalid() {
    for size in [0, MIB - 1, (1 << 44) + 1, u64::MAX] {
        assert_eq!(plan_error(&empty(), Some(size)).kind(), ErrorKind::Invalid);
    }
}

#[test]
fn the_default_size_leaves_room_and_stays_under_small_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut hierarchy = empty();
    let mut sizes = Vec::new();
    for n in 0..40 {
        add_file(&mut hierarchy, EntryId::ROOT, &format!("{n}"), 10 * MIB);
        let layout = write_metadata(&hierarchy, None, &path);
        let summary = layout.summary();
        assert!(summary.blocks_free * 4 >= summary.blocks_data + summary.blocks_nodes);
        sizes.push(summary.size_bytes);
    }
    e2fsck(&path).unwrap();
    assert!(sizes.is_sorted());
    sizes.dedup();
    assert!(sizes.len() <= 24, "{sizes:?}");
}

fn plan_error(hierarchy: &Hierarchy, size_bytes: Option<u64>) -> silt_types::Error {
    Layout::plan(hierarchy, &LayoutOptions { uuid: UUID, size_bytes }).map(drop).unwrap_err()
}

/// The size that the error about a disk of 1 MiB names as enough, or 1 MiB.
fn smallest_size(hierarchy: &Hierarchy) -> u64 {
    let options = LayoutOptions { uuid: UUID, size_bytes: Some(MIB) };
    let Err(error) = Layout::plan(hierarchy, &options) else {
        return MIB;
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let message = error.to_string();
    message.rsplit_once('(').unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn images_of_any_size_are_clean(doublings in 0u32..16, more in 0u64..1 << 36, files in 0u64..3000) {
        let size = (MIB << doublings) + more % (MIB << doublings);
        let mut hierarchy = empty();
        for n in 0..files {
            add_file(&mut hierarchy, EntryId::ROOT, &n.to_string(), n % 9000);
        }
        let size = size.max(smallest_size(&hierarchy));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        write_metadata(&hierarchy, Some(size), &path);
        e2fsck(&path).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn odd_hierarchies_on_the_smallest_disks_are_clean(declared in declared_hierarchy(200)) {
        let hierarchy = declared.build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        write_image(&hierarchy, Some(smallest_size(&hierarchy)), &path).unwrap();
        e2fsck(&path).unwrap();
    }
}
