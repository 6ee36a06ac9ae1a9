//! The same hierarchy gives the same bytes.

use super::examples::{add_directory, add_file, empty, metadata_blocks, plain};
use proptest::prelude::*;
use silt_ext4::{EntryId, Hierarchy, Layout, LayoutOptions, Metadata, Timestamp};
use silt_testkit::{ext4_image::UUID, hierarchy::declared_hierarchy};
use std::collections::BTreeMap;

fn plan(hierarchy: &Hierarchy, uuid: [u8; 16]) -> Layout {
    Layout::plan(hierarchy, &LayoutOptions { uuid, size_bytes: None }).unwrap()
}

/// By path, where the data of each file is. Entry ids follow the order of adding.
fn data_by_path(layout: &Layout, hierarchy: &Hierarchy) -> BTreeMap<Vec<Vec<u8>>, Vec<[u32; 3]>> {
    let mut extents: BTreeMap<EntryId, Vec<[u32; 3]>> = BTreeMap::new();
    for extent in layout.data_extents(hierarchy).unwrap() {
        let place = [extent.logical_block, extent.physical_block, extent.len_blocks];
        extents.entry(extent.entry).or_default().push(place);
    }
    let (mut all, mut path) = (BTreeMap::new(), Vec::new());
    for visit in hierarchy.walk() {
        path.truncate(visit.depth - 1);
        path.push(visit.name.to_vec());
        all.insert(path.clone(), extents.get(&visit.entry).cloned().unwrap_or_default());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_adding_does_not_matter(declared in declared_hierarchy(150)) {
        let (one, other) = (declared.build().unwrap(), declared.build_reversed().unwrap());
        let (one_layout, other_layout) = (plan(&one, UUID), plan(&other, UUID));
        prop_assert!(metadata_blocks(&one_layout, &one) == metadata_blocks(&other_layout, &other));
        prop_assert_eq!(data_by_path(&one_layout, &one), data_by_path(&other_layout, &other));
    }
}

fn many_files() -> (Hierarchy, EntryId) {
    let mut hierarchy = empty();
    let mut last = EntryId::ROOT;
    for folder in 0..20 {
        let folder = add_directory(&mut hierarchy, EntryId::ROOT, &format!("folder{folder}"));
        for n in 0..200 {
            last = add_file(&mut hierarchy, folder, &format!("file{n}"), n * 1000);
        }
    }
    (hierarchy, last)
}

#[test]
fn the_uuid_is_in_superblocks_alone() {
    let (hierarchy, _) = many_files();
    let one = metadata_blocks(&plan(&hierarchy, UUID), &hierarchy);
    let other = metadata_blocks(&plan(&hierarchy, [9; 16]), &hierarchy);
    assert!(one.keys().eq(other.keys()));
    let changed: Vec<_> = one.iter().filter(|(block, bytes)| other[block] != **bytes).collect();
    assert!(changed.iter().all(|(block, _)| *block % 32768 == 0), "{:?}", changed.len());
    assert!(changed.len() <= 3);
}

#[test]
fn one_changed_time_changes_one_block() {
    let (mut hierarchy, file) = many_files();
    let before = metadata_blocks(&plan(&hierarchy, UUID), &hierarchy);
    let mtime = Timestamp { seconds: 1, nanoseconds: 2 };
    hierarchy.set_metadata(file, Metadata { mtime, ..plain(0) }).unwrap();
    let after = metadata_blocks(&plan(&hierarchy, UUID), &hierarchy);
    assert_eq!(before.iter().filter(|(block, bytes)| after[block] != **bytes).count(), 1);
}
