//! Grown disks in use: the kernel shows the old content, fills the new room, and grows them further while mounted.

use super::grown::{GIB, MIB, grow_file, tree};
use crate::writer::{growth::why_no_online_growth, mounted::assert_shows};
use silt_testkit::ext4_image::{LoopMount, e2fsck, run, write_image};
use std::{fs::File, io::Write as _, path::Path, process::Command};

/// Bytes of a file that is longer than the disk was.
fn write_new(path: &Path, len: u64) {
    let mut file = File::create(path).unwrap();
    for megabyte in 0..len / MIB {
        file.write_all(&[megabyte as u8 | 1; MIB as usize]).unwrap();
    }
    file.sync_all().unwrap();
}

fn assert_new(path: &Path, len: u64) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes.len() as u64, len);
    let right = bytes
        .chunks(MIB as usize)
        .enumerate()
        .all(|(megabyte, bytes)| bytes.iter().all(|byte| *byte == megabyte as u8 | 1));
    assert!(right);
}

#[test]
fn root_loop_mount_fills_what_was_added_and_grows_again() {
    let folder = tempfile::tempdir().unwrap();
    let (image, mount_point) = (folder.path().join("image"), folder.path().join("mnt"));
    std::fs::create_dir(&mount_point).unwrap();
    for (from, to, new, files) in
        [(MIB, 60 * MIB, 40 * MIB, 150), (40 * MIB, 300 * MIB, 220 * MIB, 10_000)]
    {
        let hierarchy = tree();
        write_image(&hierarchy, Some(from), &image).unwrap();
        grow_file(&image, to);
        let Some(mounted) = LoopMount::new(&image, &mount_point, "rw").unwrap() else { return };
        assert_shows(&hierarchy, mounted.path());
        write_new(&mounted.path().join("new"), new);
        for n in 0..files {
            File::create(mounted.path().join(format!("folder/new{n}"))).unwrap();
        }
        drop(mounted);
        e2fsck(&image).unwrap();
        // The kernel has its own counts, times and bitmaps in it now.
        grow_file(&image, 4 * GIB);
        e2fsck(&image).unwrap();
        let Some(mounted) = LoopMount::new(&image, &mount_point, "rw").unwrap() else { return };
        assert_new(&mounted.path().join("new"), new);
        assert!(mounted.path().join(format!("folder/new{}", files - 1)).exists());
        assert!(mounted.path().join("folder/file49").exists());
        write_new(&mounted.path().join("newer"), MIB);
        drop(mounted);
        e2fsck(&image).unwrap();
    }
}

#[test]
fn root_loop_mount_of_a_grown_disk_grows_online_and_offline_again() {
    if let Some(reason) = why_no_online_growth() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, mount_point) = (folder.path().join("image"), folder.path().join("mnt"));
    std::fs::create_dir(&mount_point).unwrap();
    for (from, to, online) in
        [(9 * MIB, 1500 * MIB, 3000 * MIB), (352 * MIB, 20 * GIB + MIB, 60 * GIB)]
    {
        write_image(&tree(), Some(from), &image).unwrap();
        grow_file(&image, to);
        let Some(mounted) = LoopMount::new(&image, &mount_point, "rw").unwrap() else { return };
        let device = mounted.device().unwrap();
        File::options().write(true).open(&image).unwrap().set_len(online).unwrap();
        run(Command::new("losetup").arg("-c").arg(&device)).unwrap();
        run(Command::new("resize2fs").arg(&device)).unwrap();
        write_new(&mounted.path().join("new"), 30 * MIB);
        drop(mounted);
        e2fsck(&image).unwrap();
        grow_file(&image, 2 * online);
        e2fsck(&image).unwrap();
    }
}

#[test]
fn root_loop_mount_of_a_disk_that_grew_to_16_tib_can_be_written() {
    // Longer than a file on ext4 can be: only where memory-backed files are. e2fsck would take 20 s.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let (image, mount_point) = (folder.path().join("image"), folder.path().join("mnt"));
    std::fs::create_dir(&mount_point).unwrap();
    write_image(&tree(), Some(1 << 43), &image).unwrap();
    let growth = grow_file(&image, 1 << 44);
    assert_eq!(growth.blocks, 1 << 32);
    let Some(mounted) = LoopMount::new(&image, &mount_point, "rw").unwrap() else { return };
    assert_shows(&tree(), mounted.path());
    write_new(&mounted.path().join("new"), 5 * MIB);
    drop(mounted);
    let Some(mounted) = LoopMount::new(&image, &mount_point, "ro").unwrap() else { return };
    assert_new(&mounted.path().join("new"), 5 * MIB);
    let shown = rustix::fs::statvfs(mounted.path()).unwrap();
    assert!(shown.f_blocks > (1 << 32) - (1 << 27) && shown.f_bfree < shown.f_blocks);
}
