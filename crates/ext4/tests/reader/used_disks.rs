//! Disks in the middle of use: copied while the kernel has them mounted and its journal is full of what is not yet in
//! place. The judges are the kernel's own replay and e2fsck's, each on a copy.

use super::{
    facts::{Listing, assert_equal, of_mount, of_reader},
    images::{Mounted, can_mount, noise, sh},
    made_disks::open,
};
use silt_ext4::reader::{Ext4, FileDisk};
use silt_types::ErrorKind;
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

/// Arguments of `mke2fs`, options of `mount`.
const SETTINGS: [(&str, &str); 5] = [
    ("-t ext4 -b 4096", "data=ordered"),
    ("-t ext4 -b 1024", "data=journal"),
    ("-t ext4 -b 4096 -O ^64bit", "data=journal"),
    ("-t ext3 -b 4096", "data=ordered"),
    ("-t ext4 -b 4096 -O ^metadata_csum", "data=journal"),
];

/// A disk that is mounted, with copies taken as it is used.
pub(super) struct UsedDisk {
    disk: PathBuf,
    mounted: Mounted,
    copies: usize,
}

impl UsedDisk {
    pub(super) fn new(folder: &Path, features: &str, options: &str) -> UsedDisk {
        let disk = folder.join("used");
        sh(&format!("rm -f {0}; mke2fs -q -F {features} {0} 24M", disk.display()));
        let mounted = Mounted::new(&disk, &format!("{options},noatime"));
        UsedDisk { disk, mounted, copies: 0 }
    }

    /// The disk as it stands in its backing file now.
    pub(super) fn copy(&mut self) -> PathBuf {
        self.copies += 1;
        let copy = self.disk.with_extension(format!("copy{}", self.copies));
        sh(&format!("cp --sparse=always {} {}", self.disk.display(), copy.display()));
        copy
    }

    pub(super) fn write(&self, path: &str, content: &[u8]) {
        let mut file = File::create(self.mounted.at.join(path)).unwrap();
        // A full disk is as good as any other.
        let _ = file.write_all(content);
        let _ = file.sync_all();
    }

    pub(super) fn commit(&self) {
        File::open(&self.mounted.at).unwrap().sync_all().unwrap();
    }

    fn at(&self, path: &str) -> PathBuf {
        self.mounted.at.join(path)
    }

    /// Makes a directory of some blocks.
    pub(super) fn make_directory(&self, name: &str) {
        fs::create_dir(self.at(name)).unwrap();
        for index in 0..400 {
            let path = self.at(&format!("{name}/a-name-that-takes-some-room-{index}"));
            fs::write(path, noise(index * 7)).unwrap();
        }
        self.write(&format!("{name}/synced"), &noise(20_000));
        self.commit();
    }

    /// Frees directories, and has their blocks used for data on a disk that is otherwise full: the log then holds older
    /// copies of these blocks, and revokes them.
    pub(super) fn reuse_directory_blocks(&self) {
        self.write("filler", &noise(64 << 20));
        fs::remove_dir_all(self.at("second")).unwrap();
        self.commit();
        self.write("reuse", &vec![0xa5; 8 << 20]);
        self.commit();
        fs::remove_file(self.at("filler")).unwrap();
        self.commit();
    }
}

#[test]
fn root_loop_mount_of_a_dirty_journal_shows_the_same_as_the_reader() {
    if !can_mount() {
        return;
    }
    for (features, options) in SETTINGS {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = UsedDisk::new(folder.path(), features, options);
        disk.make_directory("first");
        let mut copies = vec![disk.copy()];
        disk.make_directory("second");
        disk.write("magic", &[0xc0, 0x3b, 0x39, 0x98].repeat(50_000));
        copies.push(disk.copy());
        disk.reuse_directory_blocks();
        copies.push(disk.copy());
        drop(disk);
        let mut stale = 0;
        for copy in &copies {
            stale += judge(copy, &format!("{features}, {options}, {}", copy.display()));
        }
        assert!(stale > 0, "{features}, {options}: in place everything was up to date");
    }
}

#[test]
fn root_loop_mount_with_fast_commits_waiting_is_refused() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut disk = UsedDisk::new(folder.path(), "-t ext4 -b 4096 -O fast_commit", "data=ordered");
    disk.make_directory("first");
    disk.write("synced", b"told by a fast commit");
    let copy = disk.copy();
    drop(disk);
    assert!(sh(&format!("debugfs -R logdump {}", copy.display())).contains("Fast Commit Area"));
    let error =
        Ext4::open(FileDisk::new(File::open(copy).unwrap()).unwrap()).err().expect("no error");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.chain().contains("fast_commit"), "{error:?}");
}

/// Compares what the reader shows of `disk` with what is there after each of the two replays. Gives 1 if the disk in place
/// shows something else, so that the journal was needed.
fn judge(disk: &Path, what: &str) -> usize {
    let ext4 = open(disk);
    let reader = of_reader(&ext4).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(ext4.journal_blocks() > 0, "{what}: the journal is empty");
    assert_equal(&reader, &after_mount(disk), what);

    let repaired = disk.with_extension("fsck");
    sh(&format!(
        "cp --sparse=always {0} {1}; e2fsck -fy {1} >&2 || [ $? = 1 ]",
        disk.display(),
        repaired.display()
    ));
    let repaired = of_reader(&open(&repaired)).unwrap();
    assert_equal(&reader, &repaired, &format!("{what}, after e2fsck"));

    let in_place = disk.with_extension("in-place");
    sh(&format!(
        "cp --sparse=always {0} {1}; debugfs -w -R 'feature -needs_recovery' {1}",
        disk.display(),
        in_place.display()
    ));
    match of_reader(&open(&in_place)) {
        Ok(listing) => usize::from(listing != reader),
        Err(_) => 1,
    }
}

/// What the kernel shows of a copy of `disk`, which it replays when it mounts it.
pub(super) fn after_mount(disk: &Path) -> Listing {
    let replayed = disk.with_extension("replayed");
    sh(&format!("cp --sparse=always {} {}", disk.display(), replayed.display()));
    of_mount(&Mounted::new(&replayed, "noatime").at)
}
