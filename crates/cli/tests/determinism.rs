//! The same input gives the same disk, and nothing but content counts as input.

use crate::silt::{Silt, pseudo_random};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use serde_json::Value;
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

const FILES: usize = 400;

/// Makes the same folder whatever order its entries are made in.
fn make_tree(root: &Path, order: impl Iterator<Item = usize>) {
    fs::create_dir_all(root.join("sub/deeper")).unwrap();
    for n in order {
        let dir = ["", "sub", "sub/deeper"][n % 3];
        let path = root.join(dir).join(format!("{:x}", n.wrapping_mul(0x9E37_79B9) % 0xFFFF_FFFF));
        match n % 10 {
            0 => symlink(format!("to {n}"), &path).unwrap(),
            1 => fs::write(&path, vec![0; 10_000]).unwrap(),
            _ => fs::write(&path, pseudo_random(n * 331 % 150_000, n as u64)).unwrap(),
        }
        if n % 10 != 0 {
            fs::set_permissions(&path, Permissions::from_mode(0o600 | (n as u32 % 0o100))).unwrap();
        }
    }
    let hole = File::create(root.join("with a hole")).unwrap();
    hole.write_all_at(b"end", 999_997).unwrap();
    settle_times(root);
}

/// Gives every entry a time of its own, which follows from its path.
fn settle_times(root: &Path) {
    let mut paths = vec![root.to_owned()];
    let mut at = 0;
    while let Some(dir) = paths.get(at).cloned() {
        at += 1;
        if dir.is_dir() && !dir.is_symlink() {
            paths.extend(fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    for path in paths.iter().rev() {
        let name = path.strip_prefix(root).unwrap().as_os_str().len() as i64;
        set_mtime(path, 1_600_000_000 + name, 42);
    }
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let mtime = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: mtime };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The ids of a folder's image, each built into a store of its own.
fn ids(dir: &Path, options: &[&str]) -> (String, String) {
    let silt = Silt::new();
    let built = silt.json(&[&["build", dir.to_str().unwrap(), "image"], options].concat());
    (text(&built["disk_id"]), text(&built["tree_id"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn tree(silt: &Silt) -> PathBuf {
    let root = silt.path("tree");
    make_tree(&root, 0..FILES);
    root
}

#[test]
fn two_stores_and_two_orders_give_one_disk() {
    let silt = Silt::new();
    let (one, other) = (silt.path("one"), silt.path("elsewhere/other"));
    make_tree(&one, 0..FILES);
    make_tree(&other, (0..FILES).rev());
    assert_eq!(ids(&one, &[]), ids(&other, &[]));
}

#[test]
fn compression_is_no_part_of_the_disk() {
    let silt = Silt::new();
    let root = tree(&silt);
    let expected = ids(&root, &[]);
    for codec in ["none", "lz4", "zstd", "zstd:1", "zstd:19"] {
        assert_eq!(ids(&root, &["--compression", codec]), expected, "{codec}");
    }
}

#[test]
fn access_times_inode_numbers_and_hole_layout_are_no_part_of_the_disk() {
    let silt = Silt::new();
    let root = tree(&silt);
    let expected = ids(&root, &[]);
    // The zeros of one become a hole, the hole of the other becomes zeros, in new inodes.
    let hole = root.join("with a hole");
    let bytes = fs::read(&hole).unwrap();
    fs::remove_file(&hole).unwrap();
    fs::write(&hole, &bytes).unwrap();
    let zeros = root.join(format!("{:x}", 21usize.wrapping_mul(0x9E37_79B9) % 0xFFFF_FFFF));
    assert_eq!(fs::read(&zeros).unwrap(), vec![0; 10_000]);
    let mode = fs::metadata(&zeros).unwrap().permissions();
    fs::remove_file(&zeros).unwrap();
    File::create(&zeros).unwrap().set_len(10_000).unwrap();
    fs::set_permissions(&zeros, mode).unwrap();
    settle_times(&root);
    assert_eq!(ids(&root, &[]), expected);
}

#[test]
fn one_changed_mtime_changes_the_disk() {
    let silt = Silt::new();
    let root = tree(&silt);
    let expected = ids(&root, &[]);
    set_mtime(&root.join("with a hole"), 1_600_000_011, 43);
    let changed = ids(&root, &[]);
    assert_ne!(changed.0, expected.0);
    assert_ne!(changed.1, expected.1);
    settle_times(&root);
    assert_eq!(ids(&root, &[]), expected);
}

#[test]
fn the_second_build_of_a_folder_finds_everything_there() {
    let silt = Silt::new();
    let root = tree(&silt);
    let first = silt.json(&["build", root.to_str().unwrap(), "one"]);
    let second = silt.json(&["build", root.to_str().unwrap(), "two"]);
    for (key, value) in [("bytes_new", 0), ("chunks_new", 0), ("bytes_stored", 0)] {
        assert_eq!(second[key], value, "{key}");
    }
    for key in ["disk_id", "tree_id", "size", "bytes_read", "bytes_nonzero", "chunks"] {
        assert_eq!(second[key], first[key], "{key}");
    }
}
