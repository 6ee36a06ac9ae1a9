//! What goes in comes out: through the kernel's mount and through another reader.

use super::{
    examples::{acl, add_directory, add_file, empty, plain},
    mounted::assert_shows,
};
use ext4_view::{Ext4, FileType};
use proptest::prelude::*;
use silt_ext4::{EntryId, EntryKind, Hierarchy, Metadata};
use silt_testkit::{
    ext4_image::{BLOCK_SIZE, LoopMount, content_block, e2fsck, why_no_loop_mounts, write_image},
    hierarchy::declared_hierarchy,
};
use silt_types::{BlockRange, ErrorKind};
use std::path::Path;

fn assert_faithful(hierarchy: &Hierarchy, size: Option<u64>) {
    let folder = tempfile::tempdir().unwrap();
    let (image, mount_point) = (folder.path().join("image"), folder.path().join("mnt"));
    std::fs::create_dir(&mount_point).unwrap();
    write_image(hierarchy, size, &image).unwrap();
    e2fsck(&image).unwrap();
    if times_are_readable(hierarchy) {
        view_equals(hierarchy, &image);
    }
    if let Some(mounted) = LoopMount::new(&image, &mount_point, "ro").unwrap() {
        assert_shows(hierarchy, mounted.path());
    }
}

/// The independent reader takes the low half of a time as signed and refuses negative ones.
fn times_are_readable(hierarchy: &Hierarchy) -> bool {
    let seconds = |entry| hierarchy.metadata(entry).mtime.seconds;
    hierarchy.entries().all(|entry| seconds(entry) as i32 >= 0)
}

/// The independent reader: kinds, metadata as far as it shows it, targets, content.
fn view_equals(hierarchy: &Hierarchy, image: &Path) {
    let view = Ext4::load_from_path(image).unwrap();
    let mut paths = vec![(EntryId::ROOT, b"/".to_vec())];
    while let Some((directory, path)) = paths.pop() {
        for child in hierarchy.children(directory) {
            let separator: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
            let path = [&path, separator, child.name].concat();
            let shown = view.symlink_metadata(path.as_slice()).unwrap();
            let declared = hierarchy.metadata(child.entry);
            assert_eq!(shown.mode() & 0o7777, declared.permissions);
            assert_eq!((shown.uid(), shown.gid()), (declared.uid, declared.gid));
            match hierarchy.kind(child.entry) {
                EntryKind::Directory => paths.push((child.entry, path)),
                EntryKind::Symlink(target) => {
                    assert_eq!(view.read_link(path.as_slice()).unwrap().as_ref(), target);
                }
                EntryKind::File if hierarchy.size_bytes(child.entry) < 1 << 24 => {
                    assert!(view.read(path.as_slice()).unwrap() == content(hierarchy, child.entry));
                }
                kind => assert_eq!(shown.file_type() == FileType::Fifo, kind == EntryKind::Fifo),
            }
        }
    }
}

fn content(hierarchy: &Hierarchy, entry: EntryId) -> Vec<u8> {
    let mut bytes = vec![0; hierarchy.size_bytes(entry) as usize];
    for block in hierarchy.content_runs(entry).flat_map(|run| run.start..run.end()) {
        let start = block as usize * BLOCK_SIZE;
        let end = bytes.len().min(start + BLOCK_SIZE);
        bytes[start..end].copy_from_slice(&content_block(hierarchy, entry, block)[..end - start]);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn root_loop_mount_shows_odd_hierarchies(declared in declared_hierarchy(80)) {
        assert_faithful(&declared.build().unwrap(), None);
    }

    #[test]
    fn another_reader_reads_odd_hierarchies(mut declared in declared_hierarchy(80)) {
        declared.root.mtime.seconds &= i64::from(i32::MAX);
        declared.names.iter_mut().for_each(|name| name.metadata.mtime.seconds &= i64::from(i32::MAX));
        let hierarchy = declared.build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        write_image(&hierarchy, None, &image).unwrap();
        view_equals(&hierarchy, &image);
    }
}

#[test]
fn root_loop_mount_shows_access_lists_capabilities_and_attributes_of_every_size() {
    let mut hierarchy = empty();
    let none = u32::MAX;
    let access = acl(&[
        (1, 6, none),
        (2, 7, 4711),
        (4, 4, none),
        (8, 5, 70_000),
        (0x10, 7, none),
        (0x20, 0, none),
    ]);
    let default = acl(&[(1, 7, none), (4, 5, none), (0x20, 0, none)]);
    // Permitted cap_net_raw, effective; version 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let file = add_file(&mut hierarchy, EntryId::ROOT, "file", 10);
    let restricted = Metadata { permissions: 0o670, ..plain(1) };
    hierarchy.set_metadata(file, restricted).unwrap();
    let xattrs: [(&[u8], &[u8]); 3] = [
        (b"system.posix_acl_access", &access),
        (b"security.capability", &capability),
        (b"user.empty", b""),
    ];
    hierarchy.set_xattrs(file, &xattrs).unwrap();
    let folder = add_directory(&mut hierarchy, EntryId::ROOT, "folder");
    hierarchy.set_xattrs(folder, &[(b"system.posix_acl_default", &default)]).unwrap();
    for len in (0..120).chain([1000, 3000, 3900, 4040]) {
        let file = add_file(&mut hierarchy, folder, &format!("value{len}"), 1);
        hierarchy.set_xattrs(file, &[(b"user.v", &vec![b'v'; len])]).unwrap();
        let value = vec![1; len];
        let file = add_file(&mut hierarchy, folder, &format!("both{len}"), 1);
        let both: [(&[u8], &[u8]); 2] = [(b"user.b", &value[..len / 2]), (b"trusted.a", b"small")];
        hierarchy.set_xattrs(file, &both).unwrap();
    }
    assert_faithful(&hierarchy, None);
}

#[test]
fn attributes_that_do_not_fit_are_invalid_and_name_the_path() {
    let cases: [(&[u8], Vec<u8>); 3] = [
        (b"user.v", vec![0; 4096]),
        (b"system.posix_acl_access", vec![1, 2, 3]),
        (b"system.posix_acl_access", acl(&[(3, 7, 0)])),
    ];
    for (name, value) in cases {
        let mut hierarchy = empty();
        let file = add_file(&mut hierarchy, EntryId::ROOT, "culprit", 1);
        hierarchy.set_xattrs(file, &[(name, &value)]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let error =
            write_image(&hierarchy, None, &folder.path().join("image")).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.chain().contains("/culprit"), "{}", error.chain());
    }
}

#[test]
fn root_loop_mount_shows_files_with_thousands_of_holes() {
    let mut hierarchy = empty();
    for count in [1u64, 4, 5, 340, 341, 1360, 1361, 5000] {
        let file = add_file(&mut hierarchy, EntryId::ROOT, &format!("{count}"), 0);
        let runs: Vec<_> =
            (0..count).map(|n| BlockRange { start: n * 3, len: 1 + n % 2 }).collect();
        hierarchy.set_file_content(file, count * 3 * 4096, &runs).unwrap();
    }
    assert_faithful(&hierarchy, None);
}

#[test]
fn root_loop_mount_shows_a_lost_and_found_of_the_source() {
    let mut hierarchy = empty();
    let folder = add_directory(&mut hierarchy, EntryId::ROOT, "lost+found");
    add_file(&mut hierarchy, folder, "found", 5000);
    assert_faithful(&hierarchy, Some(8 << 20));
    let mut hierarchy = empty();
    add_file(&mut hierarchy, EntryId::ROOT, "lost+found", 5000);
    assert_faithful(&hierarchy, Some(8 << 20));
}

#[test]
fn root_loop_mount_lets_the_kernel_write_on() {
    if let Some(reason) = why_no_loop_mounts() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, mount_point) = (folder.path().join("image"), folder.path().join("mnt"));
    std::fs::create_dir(&mount_point).unwrap();
    let mut hierarchy = empty();
    let many = add_directory(&mut hierarchy, EntryId::ROOT, "many");
    for n in 0..1000 {
        add_file(&mut hierarchy, many, &format!("file with a longer name {n}"), 100);
    }
    for size in [20u64 << 20, 300 << 20] {
        write_image(&hierarchy, Some(size), &image).unwrap();
        let mounted = LoopMount::new(&image, &mount_point, "rw").unwrap().unwrap();
        let many = mounted.path().join("many");
        for n in 0..500 {
            std::fs::write(many.join(format!("new file {n}")), [7; 300]).unwrap();
            std::fs::remove_file(many.join(format!("file with a longer name {n}"))).unwrap();
        }
        std::fs::write(mounted.path().join("large"), vec![1; size as usize / 2]).unwrap();
        drop(mounted);
        e2fsck(&image).unwrap();
    }
}
