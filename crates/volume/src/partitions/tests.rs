use super::*;
use proptest::prelude::*;
use silt_testkit::ext4_image::{run, why_no_loop_mounts};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB in a file.
fn empty_disk() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("disk");
    File::create(&file).unwrap().set_len(64 * MIB).unwrap();
    (temp, file)
}

/// Lets `sfdisk` make a table.
fn sfdisk(script: &str, disk: &Path) {
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.args(["-q", "--no-reread", "--no-tell-kernel"]).arg(disk);
    let mut child = sfdisk.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
}

/// A disk of 64 MiB with a table that `sfdisk` made.
fn made_by_sfdisk(script: &str) -> Vec<u8> {
    let (_temp, file) = empty_disk();
    sfdisk(script, &file);
    fs::read(&file).unwrap()
}

fn in_mib(disk: &[u8]) -> Vec<(u64, u64)> {
    let found = partitions(&disk.to_vec()).unwrap();
    found.iter().map(|part| (part.start_bytes / MIB, part.size_bytes / MIB)).collect()
}

const GPT: &str = "label: gpt\nstart=1MiB, size=8MiB\nstart=20MiB, size=30MiB\n";

#[test]
fn the_checksum_is_the_one_that_is_published() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn primary_and_logical_partitions_of_an_mbr_are_found() {
    let script = "label: dos\nstart=1MiB, size=8MiB, type=83\nstart=10MiB, size=50MiB, type=5\n\
                  start=11MiB, size=4MiB, type=83\nstart=20MiB, size=4MiB, type=83\n\
                  start=30MiB, size=4MiB, type=83\n";
    assert_eq!(in_mib(&made_by_sfdisk(script)), [(1, 8), (11, 4), (20, 4), (30, 4)]);
}

#[test]
fn a_gpt_is_read_from_its_second_copy_where_the_first_is_damaged() {
    let disk = made_by_sfdisk(GPT);
    assert_eq!(in_mib(&disk), [(1, 8), (20, 30)]);
    for damaged in [512, 512 + 40, 1024 + 33] {
        let mut disk = disk.clone();
        disk[damaged] ^= 1;
        assert_eq!(in_mib(&disk), [(1, 8), (20, 30)], "{damaged}");
        let last = disk.len() - 512;
        disk[last + 24] ^= 1;
        assert_eq!(in_mib(&disk), [], "{damaged}");
    }
}

#[test]
fn a_gpt_of_sectors_of_4096_bytes_is_found() {
    if let Some(reason) = why_no_loop_mounts() {
        println!("skipped: {reason}");
        return;
    }
    let (_temp, file) = empty_disk();
    let losetup = |args: &[&str], last: &Path| run(Command::new("losetup").args(args).arg(last));
    let made = losetup(&["--sector-size", "4096", "--find", "--show"], &file).unwrap();
    let device = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
    sfdisk(GPT, &device);
    losetup(&["--detach"], &device).unwrap();
    assert_eq!(in_mib(&fs::read(&file).unwrap()), [(1, 8), (20, 30)]);
}

#[test]
fn a_disk_without_a_table_and_one_that_is_too_short_have_no_partitions() {
    for len in [0, 1, 511, 512, 1081, 4096] {
        assert_eq!(partitions(&vec![0; len]).unwrap(), []);
        assert_eq!(ext4_places(&vec![0; len]).unwrap(), []);
    }
    // A table may say more than there is.
    let disk = made_by_sfdisk(GPT);
    assert_eq!(in_mib(&disk[..30 << 20]), [(1, 8), (20, 10)]);
}

#[test]
fn logical_partitions_in_a_circle_come_to_an_end() {
    let mut disk = vec![0; 4096];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    (disk[450], disk[454], disk[458]) = (5, 1, 7);
    for (at, next) in [(1, 1), (2, 0)] {
        let sector = &mut disk[at * 512..][..512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        (sector[450], sector[454], sector[458]) = (0x83, 1, 1);
        (sector[466], sector[470], sector[474]) = (5, next, 1);
    }
    let found = partitions(&disk).unwrap();
    assert!((2..=PARTITIONS_MAX).contains(&found.len()), "{}", found.len());
}

#[test]
fn ext4_is_found_in_partitions_before_the_whole_disk() {
    let mut disk = made_by_sfdisk(GPT);
    let mut mark = |at: u64| disk[(at + 1080) as usize..][..2].copy_from_slice(&[0x53, 0xef]);
    mark(20 * MIB);
    let places = ext4_places(&disk).unwrap();
    assert_eq!(places, [Partition { start_bytes: 20 * MIB, size_bytes: 30 * MIB }]);
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("disk");
    run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&file).arg("8M")).unwrap();
    let disk = fs::read(&file).unwrap();
    let whole = Partition { start_bytes: 0, size_bytes: 8 * MIB };
    assert_eq!(ext4_places(&disk).unwrap(), [whole]);
}

proptest! {
    #[test]
    fn no_table_makes_a_partition_that_is_not_on_the_disk(
        changes in prop::collection::vec((0..6144_usize, any::<u8>()), 0..40),
        gpt in any::<bool>(),
    ) {
        let mut disk = vec![0; 6144];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        (disk[450], disk[454], disk[458]) = (if gpt { 0xee } else { 5 }, 1, 9);
        for (at, byte) in changes {
            disk[at] = byte;
        }
        for part in partitions(&disk).unwrap() {
            prop_assert!(part.size_bytes > 0 && part.start_bytes + part.size_bytes <= 6144);
        }
    }
}
