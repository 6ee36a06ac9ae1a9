//! What cannot grow is told apart, with the reason, before anything is written.

use super::grown::{GIB, MIB, changes, grow_file, tree};
use crate::writer::examples::write_metadata;
use silt_ext4::growth::grow;
use silt_testkit::ext4_image::{e2fsck, run};
use silt_types::ErrorKind;
use std::{fs::File, os::unix::fs::FileExt as _, path::Path, process::Command};

fn mke2fs(path: &Path, arguments: &[&str]) {
    File::create(path).unwrap().set_len(100 * MIB).unwrap();
    run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).args(arguments).arg(path)).unwrap();
}

fn assert_refused(path: &Path, size: u64, kind: ErrorKind, reason: &str) {
    let error = changes(path, size).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(reason), "{error}: not {reason:?}");
}

#[test]
fn sizes_that_are_smaller_or_impossible_are_invalid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_metadata(&tree(), Some(100 * MIB), &path);
    for size in [0, MIB, 100 * MIB - 1, (1 << 44) + 1, u64::MAX] {
        assert_refused(&path, size, ErrorKind::Invalid, "cannot grow");
    }
    let nothing = grow(vec![0; 1 << 20], GIB, &mut |_, _| Ok(()));
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn other_shapes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (arguments, reason) in [
        (&["-b", "1024", "-O", "metadata_csum,64bit"][..], "4096"),
        (&["-b", "4096", "-O", "^resize_inode,meta_bg"], "meta_bg"),
        (&["-b", "4096", "-O", "^resize_inode,sparse_super2"], "sparse_super2"),
        (&["-b", "4096", "-O", "^resize_inode"], "resize_inode"),
        (&["-b", "4096", "-O", "^metadata_csum,uninit_bg"], "uninit_bg"),
        (&["-b", "4096", "-O", "^64bit"], "64bit"),
        (&["-b", "4096", "-O", "^flex_bg"], "flex_bg"),
        (&["-b", "4096", "-O", "bigalloc"], "bigalloc"),
        (&["-b", "4096", "-O", "mmp"], "mmp"),
        (&["-b", "4096", "-I", "512"], "256"),
        (&["-b", "4096", "-G", "32"], "flex groups"),
        (&["-b", "4096", "-g", "8192"], "32,768"),
    ] {
        mke2fs(&path, arguments);
        assert_refused(&path, GIB, ErrorKind::Unsupported, reason);
    }
}

#[test]
fn what_was_not_cleanly_unmounted_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (request, reason) in [
        ("feature needs_recovery", "journal"),
        ("ssv state 0", "cleanly"),
        ("ssv state 3", "errors"),
        ("ssv last_orphan 12", "orphaned"),
        ("feature orphan_present", "orphaned"),
    ] {
        write_metadata(&tree(), Some(100 * MIB), &path);
        run(Command::new("debugfs").args(["-w", "-R", request]).arg(&path)).unwrap();
        assert_refused(&path, GIB, ErrorKind::Unsupported, reason);
    }
}

#[test]
fn damage_is_found_where_it_matters_and_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_metadata(&tree(), Some(100 * MIB), &path);
    let flip = |block: u64, at: u64| {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, block * 4096 + at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], block * 4096 + at).unwrap();
    };
    let descriptor = |at: u64| {
        let mut bytes = [0; 4];
        File::open(&path).unwrap().read_exact_at(&mut bytes, 4096 + at).unwrap();
        u64::from(u32::from_le_bytes(bytes))
    };
    let (block_bitmap, inode_bitmap, inode_table) = (descriptor(0), descriptor(4), descriptor(8));
    // The list of reserved blocks stands before the first bitmap.
    let list = block_bitmap - 1;
    for (block, at, what) in [
        (0, 1024 + 0x70, "superblock"),
        (1, 0x0C, "descriptor"),
        (block_bitmap, 4000, "block bitmap"),
        (inode_table, 6 * 256 + 4, "resize inode"),
        (list, 8, "resize inode"),
    ] {
        flip(block, at);
        assert_refused(&path, 20 * GIB, ErrorKind::Corrupt, what);
        flip(block, at);
    }
    // The inodes in use are nothing that growing builds on.
    flip(inode_bitmap, 3);
    changes(&path, GIB).unwrap();
    flip(inode_bitmap, 3);
    grow_file(&path, GIB);
    e2fsck(&path).unwrap();
}

#[test]
fn an_error_of_the_sink_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_metadata(&tree(), Some(100 * MIB), &path);
    let mut calls = 0;
    let failed = grow(super::grown::open(&path), GIB, &mut |_, _| {
        calls += 1;
        Err(silt_types::Error::new(ErrorKind::NoSpace, "full"))
    });
    assert_eq!((failed.unwrap_err().kind(), calls), (ErrorKind::NoSpace, 1));
}
