//! The ends of what ext4 holds.

use super::examples::{add_directory, add_file, empty, write_metadata};
use silt_ext4::{EntryId, hierarchy::FILE_SIZE_BYTES_MAX};
use silt_testkit::ext4_image::{LoopMount, e2fsck, run};
use silt_types::BlockRange;
use std::{path::Path, process::Command};

#[test]
fn root_loop_mount_finds_all_of_120000_names_in_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (image, mount_point) = (folder.path().join("image"), folder.path().join("mnt"));
    std::fs::create_dir(&mount_point).unwrap();
    let mut hierarchy = empty();
    let many = add_directory(&mut hierarchy, EntryId::ROOT, "many");
    let names: Vec<_> =
        (0..120_000).map(|n| format!("a name that is rather long {n:060}")).collect();
    for name in &names {
        add_file(&mut hierarchy, many, name, 0);
    }
    write_metadata(&hierarchy, None, &image);
    e2fsck(&image).unwrap();
    let output = run(Command::new("debugfs").args(["-R", "htree_dump /many"]).arg(&image)).unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("Indirect levels: 1"), "an index of two levels");
    if let Some(mounted) = LoopMount::new(&image, &mount_point, "ro").unwrap() {
        let many = mounted.path().join("many");
        assert_eq!(std::fs::read_dir(&many).unwrap().count(), names.len());
        for name in names.iter().step_by(7) {
            assert!(std::fs::symlink_metadata(many.join(name)).is_ok(), "{name}");
        }
    }
}

#[test]
fn a_folder_of_70000_folders_does_not_count_its_links() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let mut hierarchy = empty();
    let (many, fewer) = (
        add_directory(&mut hierarchy, EntryId::ROOT, "many"),
        add_directory(&mut hierarchy, EntryId::ROOT, "fewer"),
    );
    for n in 0..64_999 {
        add_directory(&mut hierarchy, many, &n.to_string());
        if n < 64_998 {
            add_directory(&mut hierarchy, fewer, &n.to_string());
        }
    }
    write_metadata(&hierarchy, None, &image);
    e2fsck(&image).unwrap();
    let links = |path: &str| {
        let output = run(Command::new("debugfs").args(["-R", &format!("stat {path}")]).arg(&image));
        let output = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
        let rest = output.split_once("Links: ").unwrap().1;
        rest.split_whitespace().next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!((links("/many"), links("/fewer")), (1, 65_000));
}

#[test]
fn files_of_many_gib_and_holes_of_hundreds_are_clean() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let mut hierarchy = empty();
    add_file(&mut hierarchy, EntryId::ROOT, "dense", (40 << 30) + 5);
    let hole = add_file(&mut hierarchy, EntryId::ROOT, "hole", 0);
    hierarchy.set_file_content(hole, 200 << 30, &[]).unwrap();
    let ends = add_file(&mut hierarchy, EntryId::ROOT, "ends", 0);
    let last = FILE_SIZE_BYTES_MAX / 4096 - 1;
    let runs = [BlockRange { start: 0, len: 1 }, BlockRange { start: last, len: 1 }];
    hierarchy.set_file_content(ends, FILE_SIZE_BYTES_MAX, &runs).unwrap();
    let comb = add_file(&mut hierarchy, EntryId::ROOT, "comb", 0);
    let runs: Vec<_> = (0..200_000).map(|n| BlockRange { start: n * 2, len: 1 }).collect();
    hierarchy.set_file_content(comb, 400_000 * 4096, &runs).unwrap();
    write_metadata(&hierarchy, None, &image);
    e2fsck(&image).unwrap();
}

#[test]
fn a_disk_of_16_tib_is_clean() {
    // Longer than a file on ext4 can be: only where memory-backed files are.
    let memory = Path::new("/dev/shm");
    let Ok(folder) = tempfile::tempdir_in(memory) else {
        println!("skipped: there is no {memory:?}");
        return;
    };
    let image = folder.path().join("image");
    let mut hierarchy = empty();
    add_file(&mut hierarchy, EntryId::ROOT, "file", 5000);
    let layout = write_metadata(&hierarchy, Some(1 << 44), &image);
    assert_eq!(layout.summary().blocks, 1 << 32);
    e2fsck(&image).unwrap();
}
