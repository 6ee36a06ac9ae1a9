//! Tests of the hierarchy's promises.

use super::*;
use silt_types::ErrorKind;

fn directory() -> Metadata {
    Metadata { permissions: 0o755, ..Metadata::default() }
}

#[test]
fn what_ext4_cannot_hold_is_invalid_and_names_the_path() {
    let mut hierarchy = Hierarchy::new(directory()).unwrap();
    let folder =
        hierarchy.add(EntryId::ROOT, b"folder", EntryKind::Directory, directory()).unwrap();
    let file = hierarchy.add(folder, b"file", EntryKind::File, directory()).unwrap();
    let long_name = [b'n'; 256];
    let names: [&[u8]; 7] = [b"file", b"", b".", b"..", b"a/b", b"a\0", &long_name];
    for name in names {
        let error = hierarchy.add(folder, name, EntryKind::Fifo, directory()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with("\"/folder/"), "{error}");
    }
    let kinds = [
        EntryKind::Symlink(b""),
        EntryKind::Symlink(&[b'x'; 4096]),
        EntryKind::Symlink(b"a\0"),
        EntryKind::CharDevice { major: 4096, minor: 0 },
        EntryKind::BlockDevice { major: 0, minor: 1 << 20 },
    ];
    for kind in kinds {
        assert!(hierarchy.add(folder, b"x", kind, directory()).is_err(), "{kind:?}");
    }
    let times = [(SECONDS_MIN - 1, 0), (SECONDS_MAX + 1, 0), (0, 1_000_000_000)];
    for (seconds, nanoseconds) in times {
        let metadata = Metadata { mtime: Timestamp { seconds, nanoseconds }, ..directory() };
        assert!(hierarchy.add(folder, b"x", EntryKind::File, metadata).is_err());
    }
    assert!(hierarchy.add(file, b"x", EntryKind::File, directory()).is_err());
    assert!(hierarchy.link(folder, b"x", folder).is_err());
    assert!(hierarchy.set_file_content(folder, 0, &[]).is_err());
    assert!(hierarchy.set_file_content(file, FILE_SIZE_BYTES_MAX + 1, &[]).is_err());
    assert!(hierarchy.set_xattrs(file, &[(b"user.a", b""), (b"user.a", b"")]).is_err());
    assert!(hierarchy.set_xattrs(file, &[(b"strange.a", b"")]).is_err());
    assert_eq!((hierarchy.len(), hierarchy.links(file)), (3, 1));
}

#[test]
fn a_file_has_at_most_65000_names() {
    let mut hierarchy = Hierarchy::new(directory()).unwrap();
    let file = hierarchy.add(EntryId::ROOT, b"0", EntryKind::File, directory()).unwrap();
    for n in 1..LINKS_MAX {
        hierarchy.link(EntryId::ROOT, n.to_string().as_bytes(), file).unwrap();
    }
    assert!(hierarchy.link(EntryId::ROOT, b"more", file).is_err());
}

#[test]
fn runs_must_ascend_apart_and_end_with_the_file() {
    let mut hierarchy = Hierarchy::new(directory()).unwrap();
    let file = hierarchy.add(EntryId::ROOT, b"f", EntryKind::File, directory()).unwrap();
    let run = |start, len| BlockRange { start, len };
    for good in [vec![], vec![run(0, 3)], vec![run(0, 1), run(2, 1)], vec![run(2, 1)]] {
        hierarchy.set_file_content(file, 8193, &good).unwrap();
        assert_eq!(hierarchy.content_runs(file).collect::<Vec<_>>(), good);
    }
    for bad in
        [vec![run(0, 4)], vec![run(0, 1), run(1, 1)], vec![run(1, 0)], vec![run(9, u64::MAX)]]
    {
        assert!(hierarchy.set_file_content(file, 8193, &bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_walk_follows_paths_and_finds_the_primary_name_whatever_was_added_first() {
    let mut hierarchy = Hierarchy::new(directory()).unwrap();
    let root = EntryId::ROOT;
    let file = hierarchy.add(root, b"b", EntryKind::File, directory()).unwrap();
    let folder = hierarchy.add(root, b"a", EntryKind::Directory, directory()).unwrap();
    hierarchy.add(root, b"a.", EntryKind::Fifo, directory()).unwrap();
    hierarchy.link(folder, b"z", file).unwrap();
    let steps: Vec<_> =
        hierarchy.walk().map(|v| (v.name.to_vec(), v.depth, v.is_primary)).collect();
    let step = |name: &[u8], depth, is_primary| (name.to_vec(), depth, is_primary);
    assert_eq!(
        steps,
        [step(b"a", 1, true), step(b"z", 2, true), step(b"a.", 1, true), step(b"b", 1, false)]
    );
    assert_eq!(hierarchy.lookup(folder, b"z"), Some(file));
    assert_eq!(hierarchy.path(folder), b"/a");
}

#[test]
fn what_is_removed_is_gone_with_all_beneath_and_its_name_can_be_given_again() {
    let root = EntryId::ROOT;
    let mut hierarchy = Hierarchy::new(directory()).unwrap();
    let folder = hierarchy.add(root, b"a", EntryKind::Directory, directory()).unwrap();
    let inner = hierarchy.add(folder, b"b", EntryKind::Directory, directory()).unwrap();
    let file = hierarchy.add(inner, b"file", EntryKind::File, directory()).unwrap();
    hierarchy.link(root, b"kept", file).unwrap();
    assert!(hierarchy.remove(root, b"other").is_err());
    hierarchy.remove(root, b"a").unwrap();
    assert!(hierarchy.remove(root, b"a").is_err());
    assert_eq!((hierarchy.lookup(root, b"a"), hierarchy.links(file)), (None, 1));
    assert_eq!(hierarchy.entries().collect::<Vec<_>>(), [root, file]);
    assert_eq!(hierarchy.children_count(root), 1);
    let again = hierarchy.add(root, b"a", EntryKind::Fifo, directory()).unwrap();
    assert!(hierarchy.add(root, b"a", EntryKind::Fifo, directory()).is_err());
    assert_eq!(hierarchy.path(again), b"/a");
    let names: Vec<_> = hierarchy.walk().map(|visit| visit.name.to_vec()).collect();
    assert_eq!(names, [b"a".to_vec(), b"kept".to_vec()]);
    hierarchy.remove(root, b"kept").unwrap();
    hierarchy.link(root, b"late", file).unwrap();
    assert_eq!(hierarchy.path(file), b"/late");
}

#[test]
fn a_layout_does_not_show_what_was_removed() {
    let disk = |with_removed: bool| {
        let mut hierarchy = Hierarchy::new(directory()).unwrap();
        let folder = hierarchy.add(EntryId::ROOT, b"d", EntryKind::Directory, directory()).unwrap();
        if with_removed {
            let gone = hierarchy.add(folder, b"gone", EntryKind::Directory, directory()).unwrap();
            let file = hierarchy.add(gone, b"file", EntryKind::File, directory()).unwrap();
            let run = BlockRange { start: 0, len: 2 };
            hierarchy.set_file_content(file, 8000, &[run]).unwrap();
            hierarchy.remove(folder, b"gone").unwrap();
        }
        let file = hierarchy.add(folder, b"file", EntryKind::File, directory()).unwrap();
        let run = BlockRange { start: 0, len: 1 };
        hierarchy.set_file_content(file, 80, &[run]).unwrap();
        let options = crate::LayoutOptions { uuid: [1; 16], size_bytes: Some(16 << 20) };
        let layout = crate::Layout::plan(&hierarchy, &options).unwrap();
        let places: Vec<_> = layout.data_extents(&hierarchy).unwrap();
        let places: Vec<_> = places.iter().map(|e| (e.physical_block, e.len_blocks)).collect();
        let mut bytes = Vec::new();
        let mut visit = |block: u64, content: &[u8]| {
            bytes.extend_from_slice(&block.to_le_bytes());
            bytes.extend_from_slice(content);
            Ok(())
        };
        layout.for_each_metadata_block(&hierarchy, &mut visit).unwrap();
        (places, bytes)
    };
    assert!(disk(false) == disk(true));
}
