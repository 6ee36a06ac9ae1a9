//! Journals written by hand: every form of tags and checksums, round the end of the ring, with everything that a log can say.

use super::{
    images::{noise, sh},
    log_writer::{ASYNC, FAST, LogWriter, REVOKE, V2, V3, WIDE, blocks_of},
};
use silt_ext4::reader::{Ext4, InodeNumber};
use silt_types::{ErrorKind, Result};
use std::fs;

const BLOCK: usize = 1024;
const RING: usize = 1024;
const FAST_BLOCKS: usize = 256;
const FILE_BLOCKS: usize = 8;

/// The first inode after `lost+found`.
const FILE: u32 = 12;

/// A small disk in memory with one file of eight blocks, without checksums of its own.
#[derive(Clone)]
struct SmallDisk {
    bytes: Vec<u8>,
    /// Where the blocks of the journal lie.
    journal: Vec<u64>,
    /// Where the blocks of the file lie.
    homes: Vec<u64>,
    content: Vec<u8>,
}

impl SmallDisk {
    fn new() -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let (source, disk) = (folder.path().join("source"), folder.path().join("disk"));
        let content = noise(FILE_BLOCKS * BLOCK);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), &content).unwrap();
        let made = format!(
            "-t ext4 -O ^metadata_csum -b {BLOCK} -J size=1 -d {} {} 4M",
            source.display(),
            disk.display()
        );
        sh(&format!("mke2fs -q -F {made}"));
        let bytes = fs::read(&disk).unwrap();
        let journal = blocks_of(&bytes, 8);
        let homes = blocks_of(&bytes, FILE);
        SmallDisk { bytes, journal, homes, content }
    }

    fn log(&mut self, features: u32, start: usize) -> LogWriter<'_> {
        let ring = if features & FAST == 0 { RING } else { RING - FAST_BLOCKS };
        LogWriter::new(&mut self.bytes, BLOCK, &self.journal[..ring], features, start)
    }

    fn original(&self, block: usize) -> Vec<u8> {
        self.content[block * BLOCK..(block + 1) * BLOCK].to_vec()
    }

    /// The blocks of the file, as the reader shows them.
    fn read(&self) -> Result<Vec<Vec<u8>>> {
        let ext4 = Ext4::open(&self.bytes)?;
        let mut content = vec![0; FILE_BLOCKS * BLOCK];
        let file = ext4.inode(InodeNumber::new(FILE).unwrap())?;
        ext4.read_file_at(&file, &mut content, 0)?;
        Ok(content.chunks(BLOCK).map(<[u8]>::to_vec).collect())
    }
}

fn filled(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK]
}

#[test]
fn committed_blocks_count_in_every_form_of_log() {
    let original = SmallDisk::new();
    let magic = [&[0xc0, 0x3b, 0x39, 0x98][..], &[7; BLOCK - 4]].concat();
    for features in [0, REVOKE, REVOKE | WIDE, V2, V2 | WIDE, V3, REVOKE | V3 | WIDE] {
        for start in [1, 1019] {
            let mut disk = original.clone();
            let homes = disk.homes.clone();
            let mut log = disk.log(features, start);
            log.write(&[(homes[0], filled(1)), (homes[1], filled(2)), (homes[2], magic.clone())]);
            log.write(&[(homes[4], filled(3))]);
            log.commit();
            log.revoke(&[homes[1], homes[4], homes[5]]);
            log.write(&[(homes[3], filled(4))]);
            log.commit();
            log.write(&[(homes[4], filled(5))]);
            log.commit();
            log.write(&[(homes[0], filled(9))]);
            let read = disk.read().unwrap();
            let what = format!("features {features:#x}, start {start}");
            assert!(read[0] == filled(1), "{what}: the newest committed copy");
            assert!(read[1] == disk.original(1), "{what}: revoked");
            assert!(read[2] == magic, "{what}: escaped");
            assert!(read[3] == filled(4), "{what}: a second transaction");
            assert!(read[4] == filled(5), "{what}: written again after it was revoked");
            assert!(read[5] == disk.original(5), "{what}: revoked, but never written");
            assert_eq!(Ext4::open(&disk.bytes).unwrap().journal_blocks(), 4, "{what}");
        }
    }
}

/// What becomes of a log that `write` has written.
fn outcome(features: u32, write: impl FnOnce(&mut LogWriter<'_>, &[u64])) -> Result<Vec<Vec<u8>>> {
    let mut disk = SmallDisk::new();
    let homes = disk.homes.clone();
    let mut log = disk.log(features, 1);
    log.write(&[(homes[0], filled(1))]);
    log.commit();
    write(&mut log, &homes);
    disk.read()
}

#[test]
fn what_is_cut_off_or_left_over_ends_the_log_and_damage_is_an_error() {
    // A damaged commit block at the end, and one that a sound transaction follows.
    let cut_off = outcome(V3, |log, homes| {
        log.write(&[(homes[0], filled(2))]);
        let commit = log.commit();
        log.damage(commit + 30);
    });
    assert!(cut_off.unwrap()[0] == filled(1));
    let followed = outcome(V3, |log, homes| {
        log.write(&[(homes[0], filled(2))]);
        let commit = log.commit();
        log.write(&[(homes[0], filled(3))]);
        log.damage(commit + 30);
    });
    assert!(followed.is_err_and(|error| error.kind() == ErrorKind::Corrupt));

    // A damaged descriptor in a transaction that is older than the one before it: from an earlier turn of the ring.
    for (seconds, is_end) in [(999, true), (1000, false)] {
        let read = outcome(V3, |log, homes| {
            log.seconds = seconds;
            let descriptor = log.write(&[(homes[0], filled(2))]);
            log.damage(descriptor + 20);
            log.commit();
        });
        assert_eq!(read.is_ok_and(|blocks| blocks[0] == filled(1)), is_end, "{seconds}");
    }

    // A damaged block of data: seen where there are checksums.
    for (features, is_seen) in [(0, false), (V2, true), (V3, true)] {
        let read = outcome(features, |log, homes| {
            let descriptor = log.write(&[(homes[0], filled(2))]);
            log.commit();
            log.damage(descriptor + BLOCK + 5);
        });
        assert_eq!(read.is_err(), is_seen, "{features:#x}");
    }
}

/// What becomes of a log with one transaction and fast commits of a later one, or one that lies `back` of that.
fn outcome_with_fast_commit(back: u32) -> Result<Vec<Vec<u8>>> {
    let mut disk = SmallDisk::new();
    let (home, place) = (disk.homes[0], disk.journal[RING - FAST_BLOCKS + 1]);
    let mut log = disk.log(FAST, 1);
    log.write(&[(home, filled(1))]);
    log.commit();
    log.sequence = log.sequence.wrapping_sub(back);
    log.fast_commit(place);
    disk.read()
}

#[test]
fn logs_that_cannot_be_followed_are_refused_with_the_reason() {
    let nothing = |_: &mut LogWriter<'_>, _: &[u64]| {};
    let cases = [
        (outcome(ASYNC, nothing), ErrorKind::Unsupported, "asynchronous"),
        (outcome(0x80, nothing), ErrorKind::Unsupported, "0x80"),
        (outcome(V2 | V3, nothing), ErrorKind::Corrupt, "two versions"),
        (outcome_with_fast_commit(0), ErrorKind::Unsupported, "fast_commit"),
        (
            outcome(0, |log, _| _ = (log.write(&[(4096, filled(1))]), log.commit())),
            ErrorKind::Corrupt,
            "outside the disk",
        ),
        (
            outcome(WIDE, |log, _| _ = (log.write(&[(u64::MAX, filled(1))]), log.commit())),
            ErrorKind::Corrupt,
            "outside the disk",
        ),
        (
            outcome(0, |log, _| _ = (log.revoke(&[1; 300]), log.commit())),
            ErrorKind::Corrupt,
            "revoke",
        ),
    ];
    for (read, kind, reason) in cases {
        let error = read.err().unwrap_or_else(|| panic!("{reason}: no error"));
        assert_eq!(error.kind(), kind, "{reason}");
        assert!(
            error.chain().contains(reason) && error.chain().contains("journal"),
            "{reason}: {error:?}"
        );
    }
    assert!(outcome(FAST, nothing).unwrap()[0] == filled(1), "no fast commits");
    let older = outcome_with_fast_commit(1);
    assert!(older.unwrap()[0] == filled(1), "fast commits of an earlier transaction");
}

#[test]
fn a_log_that_nobody_asks_to_replay_counts_for_nothing() {
    let mut disk = SmallDisk::new();
    let homes = disk.homes.clone();
    let mut log = disk.log(0, 1);
    log.write(&[(homes[0], filled(1))]);
    log.commit();
    disk.bytes[1024 + 0x60] &= !4;
    assert!(disk.read().unwrap()[0] == disk.original(0));
}

#[test]
fn impossible_journals_are_corrupt() {
    // Offset in the journal's superblock, new value.
    let cases = [
        (0x1C, 1024),
        (0x1C, u32::MAX),
        (0x14, 0),
        (0x10, 0),
        (0x10, u32::MAX),
        (0x0C, 4096),
        (0x00, 0),
    ];
    for (offset, value) in cases {
        let mut disk = SmallDisk::new();
        disk.log(0, 1).commit();
        let at = disk.journal[0] as usize * BLOCK + offset;
        disk.bytes[at..at + 4].copy_from_slice(&u32::to_be_bytes(value));
        let error =
            Ext4::open(&disk.bytes).err().unwrap_or_else(|| panic!("{offset:#x} = {value}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{offset:#x} = {value}");
    }
}
