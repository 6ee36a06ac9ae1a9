//! Disks of this crate's own writer: the reader gives back the hierarchy that went in.

use super::made_disks::open;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use silt_ext4::{
    hierarchy::{EntryId, EntryKind, Hierarchy, Metadata},
    reader::{Ext4, FileDisk, ReadHierarchy},
};
use silt_testkit::{
    ext4_image::{content_block, write_image},
    hierarchy::declared_hierarchy,
};
use std::collections::BTreeMap;

/// Of every path all that a hierarchy says, with the path that its first name has.
fn all_of(hierarchy: &Hierarchy) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    let mut paths = vec![(Vec::new(), EntryId::ROOT)];
    let mut first_paths = BTreeMap::new();
    while let Some((path, entry)) = paths.pop() {
        for child in hierarchy.children(entry) {
            paths.push(([&path[..], b"/", child.name].concat(), child.entry));
        }
        all.insert(path, entry);
    }
    let told = all.iter().map(|(path, entry)| {
        let first = first_paths.entry(*entry).or_insert_with(|| path.clone());
        let runs: Vec<_> = hierarchy.content_runs(*entry).collect();
        let (kind, metadata) = (hierarchy.kind(*entry), hierarchy.metadata(*entry));
        let (xattrs, size) = (hierarchy.xattrs(*entry), hierarchy.size_bytes(*entry));
        (path.clone(), format!("{first:?} {kind:?} {metadata:?} {xattrs:?} {size} {runs:?}"))
    });
    told.collect()
}

/// Without what the writer adds.
fn without_lost_found(
    mut all: BTreeMap<Vec<u8>, String>,
    hierarchy: &Hierarchy,
) -> BTreeMap<Vec<u8>, String> {
    if hierarchy.lookup(EntryId::ROOT, b"lost+found").is_none() {
        assert!(all.remove(&b"/lost+found"[..]).is_some(), "there is no lost+found");
    }
    all
}

/// Whether every block of every file is what the writer's image was given.
fn content_is_right(ext4: &Ext4<FileDisk>, read: &ReadHierarchy, written: &Hierarchy) -> bool {
    let mut pairs = vec![(EntryId::ROOT, EntryId::ROOT)];
    let mut right = true;
    while let Some((ours, theirs)) = pairs.pop() {
        for child in written.children(theirs) {
            pairs.push((read.hierarchy.lookup(ours, child.name).unwrap(), child.entry));
        }
        if !matches!(written.kind(theirs), EntryKind::File) {
            continue;
        }
        let inode = ext4.inode(read.inode(ours)).unwrap();
        for run in written.content_runs(theirs) {
            // The ends of long runs say enough.
            for block in [run.start, run.start + run.len / 2, run.end() - 1] {
                let start = block * 4096;
                let mut found = vec![0; (inode.size_bytes - start).min(4096) as usize];
                ext4.read_file_at(&inode, &mut found, start).unwrap();
                right &= found == content_block(written, theirs, block)[..found.len()];
            }
        }
    }
    right
}

/// Whether every folder, looked up by its path, gives what lies below it and nothing else.
fn parts_are_right(ext4: &Ext4<FileDisk>, whole: &Hierarchy) -> bool {
    let mut folders = vec![(EntryId::ROOT, ext4.root().unwrap())];
    let mut right = ext4.lookup(&folders[0].1, b"no such name").unwrap().is_none();
    while let Some((entry, inode)) = folders.pop() {
        let read = ext4.hierarchy_below(&inode).unwrap();
        let mut pairs = vec![(EntryId::ROOT, entry)];
        while let Some((ours, theirs)) = pairs.pop() {
            let part = &read.hierarchy;
            right &= part.metadata(ours) == whole.metadata(theirs);
            right &= part.kind(ours) == whole.kind(theirs);
            right &= part.children_count(ours) == whole.children_count(theirs);
            for child in whole.children(theirs) {
                pairs.push((part.lookup(ours, child.name).unwrap(), child.entry));
            }
        }
        for child in whole.children(entry) {
            let found = ext4.lookup(&inode, child.name).unwrap().unwrap();
            if whole.kind(child.entry) == EntryKind::Directory {
                folders.push((child.entry, found));
            } else {
                right &= ext4.hierarchy_below(&found).is_err();
            }
        }
    }
    right
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_hierarchy_that_was_written_is_read_back(declared in declared_hierarchy(60)) {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        let hierarchy = declared.build().unwrap();
        // Attributes that do not fit are the writer's matter.
        if write_image(&hierarchy, None, &disk).is_ok() {
            let ext4 = open(&disk);
            let read = ext4.hierarchy().unwrap();
            let all = without_lost_found(all_of(&read.hierarchy), &hierarchy);
            prop_assert_eq!(all, all_of(&hierarchy));
            prop_assert!(content_is_right(&ext4, &read, &hierarchy), "content");
            prop_assert!(parts_are_right(&ext4, &read.hierarchy), "parts");
        }
    }
}

#[test]
fn a_folder_of_many_entries_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let mut hierarchy =
        Hierarchy::new(Metadata { permissions: 0o755, ..Metadata::default() }).unwrap();
    let many =
        hierarchy.add(EntryId::ROOT, b"many", EntryKind::Directory, Metadata::default()).unwrap();
    for index in 0..30_000 {
        let name = format!("an entry with the number {index}");
        hierarchy.add(many, name.as_bytes(), EntryKind::File, Metadata::default()).unwrap();
    }
    write_image(&hierarchy, None, &disk).unwrap();
    let read = open(&disk).hierarchy().unwrap();
    assert_eq!(without_lost_found(all_of(&read.hierarchy), &hierarchy), all_of(&hierarchy));
}
