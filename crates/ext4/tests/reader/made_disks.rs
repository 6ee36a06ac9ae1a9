//! Disks made by `mke2fs -d` with every feature that the reader claims to know, compared with what the kernel shows.

use super::{
    facts::{assert_equal, of_mount, of_reader},
    images::{Mounted, can_mount, fill, sh},
};
use silt_ext4::reader::{Ext4, FileDisk};
use std::{fs::File, path::Path};

/// Arguments of `mke2fs`.
const FEATURES: [&str; 17] = [
    "-t ext4 -b 4096",
    "-t ext4 -b 1024",
    "-t ext4 -b 2048 -g 8192",
    "-t ext4 -O ^metadata_csum",
    "-t ext4 -O ^metadata_csum,uninit_bg -b 1024",
    "-t ext4 -O ^metadata_csum,uninit_bg,^64bit",
    "-t ext4 -O ^64bit -b 4096",
    "-t ext4 -O ^filetype",
    "-t ext2 -b 4096",
    "-t ext3 -b 1024",
    "-t ext4 -I 128 -b 4096",
    "-t ext4 -I 1024 -b 4096",
    "-t ext4 -O inline_data -I 512 -b 4096",
    "-t ext4 -O meta_bg,^resize_inode -b 1024 -g 1024",
    "-t ext4 -O sparse_super2,^resize_inode,^flex_bg -b 1024 -g 2048",
    "-t ext4 -O metadata_csum_seed,orphan_file,large_dir,ea_inode,project,quota -b 4096",
    "-t ext4 -O stable_inodes,mmp,encrypt,verity -b 4096",
];

pub(super) fn open(disk: &Path) -> Ext4<FileDisk> {
    Ext4::open(FileDisk::new(File::open(disk).unwrap()).unwrap()).unwrap()
}

#[test]
fn root_loop_mount_of_every_feature_set_shows_the_same_as_the_reader() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fill(&source);
    for (index, features) in FEATURES.iter().enumerate() {
        let disk = folder.path().join(format!("disk{index}"));
        sh(&format!("mke2fs -q -F -d {} {features} {} 64M", source.display(), disk.display()));
        compare_with_mount(&disk, features);
        // With every directory indexed.
        sh(&format!("e2fsck -fyD {} || [ $? = 1 ]", disk.display()));
        compare_with_mount(&disk, &format!("{features}, indexed"));
    }
}

fn compare_with_mount(disk: &Path, what: &str) {
    let reader = of_reader(&open(disk)).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let mounted = Mounted::new(disk, "ro,noload");
    assert_equal(&reader, &of_mount(&mounted.at), what);
}
