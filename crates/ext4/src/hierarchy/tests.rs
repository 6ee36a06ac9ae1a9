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
