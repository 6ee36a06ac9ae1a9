//! Growing: resize2fs on the image, and on the mounted file system.

use super::examples::{add_directory, add_file, empty, write_metadata};
use silt_ext4::{EntryId, Hierarchy};
use silt_testkit::ext4_image::{LoopMount, e2fsck, run, write_image};
use std::{fs::File, os::unix::fs::MetadataExt as _, path::Path, process::Command};

const MIB: u64 = 1 << 20;

fn tree() -> Hierarchy {
    let mut hierarchy = empty();
    let folder = add_directory(&mut hierarchy, EntryId::ROOT, "folder");
    for n in 0..50 {
        add_file(&mut hierarchy, folder, &format!("file{n}"), n * 100);
    }
    hierarchy
}

fn grow_file(path: &Path, size: u64) {
    File::options().write(true).open(path).unwrap().set_len(size).unwrap();
}

#[test]
fn images_grow_by_1024_offline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (size, grown) in [
        (MIB, 1024 * MIB),
        (8 * MIB, 8192 * MIB),
        (100 * MIB, 102_400 * MIB),
        (2049 * MIB, 2 << 40),
    ] {
        let layout = write_metadata(&tree(), Some(size), &path);
        assert!(layout.summary().growth_bytes_max >= grown, "{size}");
        grow_file(&path, grown);
        run(Command::new("resize2fs").arg(&path)).unwrap();
        e2fsck(&path).unwrap();
        let header = run(Command::new("dumpe2fs").arg("-h").arg(&path)).unwrap();
        let header = String::from_utf8_lossy(&header.stdout).into_owned();
        let blocks = header.lines().find_map(|line| line.strip_prefix("Block count:")).unwrap();
        assert_eq!(blocks.trim().parse::<u64>().unwrap(), grown / 4096);
        assert!(!header.contains("meta_bg"), "the reserved descriptors suffice");
    }
}

#[test]
fn root_loop_mount_grows_online() {
    let folder = tempfile::tempdir().unwrap();
    let (image, mount_point) = (folder.path().join("image"), folder.path().join("mnt"));
    std::fs::create_dir(&mount_point).unwrap();
    for (size, grown) in
        [(9 * MIB, 1500 * MIB), (300 * MIB, 40_000 * MIB), (5000 * MIB, 9000 * MIB)]
    {
        write_image(&tree(), Some(size), &image).unwrap();
        let Some(mounted) = LoopMount::new(&image, &mount_point, "rw").unwrap() else {
            return;
        };
        if let Some(reason) = why_no_online_growth() {
            println!("skipped: {reason}");
            return;
        }
        let inode = std::fs::metadata(mounted.path().join("folder/file7")).unwrap().ino();
        let device = mounted.device().unwrap();
        grow_file(&image, grown);
        run(Command::new("losetup").arg("-c").arg(&device)).unwrap();
        run(Command::new("resize2fs").arg(&device)).unwrap();
        std::fs::write(mounted.path().join("new"), vec![1; 1 << 20]).unwrap();
        let file = mounted.path().join("folder/file7");
        assert_eq!(std::fs::metadata(&file).unwrap().ino(), inode);
        drop(mounted);
        e2fsck(&image).unwrap();
    }
}

/// The kernel lets only holders of CAP_SYS_RESOURCE grow a mounted file system.
pub(crate) fn why_no_online_growth() -> Option<String> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(line.trim(), 16).unwrap();
    (effective >> CAP_SYS_RESOURCE & 1 == 0).then(|| "growing online needs CAP_SYS_RESOURCE".into())
}
