//! Journals whose end was cut off or whose blocks were damaged: the one is an unfinished transaction, the other an error.

use super::{
    facts::{assert_equal, of_reader},
    images::{can_mount, sh},
    made_disks::open,
    used_disks::{UsedDisk, after_mount},
};
use silt_ext4::reader::{Ext4, FileDisk};
use silt_types::{ErrorKind, Result};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

const BLOCK: u64 = 4096;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

/// A block that the journal wrote for itself.
struct LogBlock {
    at: u64,
    kind: u32,
    sequence: u32,
}

/// All of `disk`, by place in the journal, which `mke2fs` makes in one piece.
fn log_blocks(disk: &Path) -> Vec<LogBlock> {
    let file = File::open(disk).unwrap();
    let first: u64 = sh(&format!("debugfs -R 'bmap <8> 0' {} 2>/dev/null", disk.display()))
        .trim()
        .parse()
        .unwrap();
    let mut blocks = Vec::new();
    for at in first + 1..first + 1024 {
        let mut words = [0; 12];
        file.read_exact_at(&mut words, at * BLOCK).unwrap();
        let word = |index: usize| u32::from_be_bytes(*words[index * 4..].first_chunk().unwrap());
        if word(0) == 0xc03b_3998 {
            blocks.push(LogBlock { at, kind: word(1), sequence: word(2) });
        }
    }
    blocks
}

/// A copy of `disk` with some bytes changed.
fn changed(disk: &Path, name: &str, change: impl FnOnce(&File)) -> PathBuf {
    let copy = disk.with_extension(name);
    fs::copy(disk, &copy).unwrap();
    change(&File::options().write(true).read(true).open(&copy).unwrap());
    copy
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn try_open(disk: &Path) -> Result<Ext4<FileDisk>> {
    Ext4::open(FileDisk::new(File::open(disk).unwrap()).unwrap())
}

#[test]
fn root_loop_mount_torn_transactions_are_absent_and_damaged_ones_are_errors() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut used = UsedDisk::new(folder.path(), "-t ext4 -b 4096", "data=ordered");
    used.make_directory("first");
    used.make_directory("second");
    used.reuse_directory_blocks();
    used.write("last", b"the last transaction");
    used.commit();
    let disk = used.copy();
    drop(used);

    let log = log_blocks(&disk);
    assert!(log.iter().any(|block| block.kind == REVOKE), "nothing was revoked");
    let commits: Vec<&LogBlock> = log.iter().filter(|block| block.kind == COMMIT).collect();
    let [.., earlier, last] = &commits[..] else { panic!("fewer than two transactions") };
    let whole = of_reader(&open(&disk)).unwrap();
    assert!(whole.contains_key(&b"last"[..]));

    // No commit block, or one that is cut off: the transaction never was.
    let zeroed = changed(&disk, "zeroed", |file| {
        file.write_all_at(&[0; BLOCK as usize], last.at * BLOCK).unwrap()
    });
    let without = of_reader(&open(&zeroed)).unwrap();
    assert_equal(&without, &after_mount(&zeroed), "no commit block");
    assert_ne!(without, whole);
    let damaged = changed(&disk, "damaged", |file| flip(file, last.at * BLOCK + 50));
    assert_eq!(of_reader(&open(&damaged)).unwrap(), without, "the last commit block is damaged");

    // Torn behind its first sector, the commit block still says all it has to say.
    let torn = changed(&disk, "torn", |file| {
        file.write_all_at(&[0x5a; 3584], last.at * BLOCK + 512).unwrap()
    });
    assert_equal(&of_reader(&open(&torn)).unwrap(), &whole, "a torn commit block");
    assert_equal(&after_mount(&torn), &whole, "a torn commit block, mounted");

    let descriptor = log
        .iter()
        .find(|block| block.kind == DESCRIPTOR && block.sequence == last.sequence)
        .unwrap();
    let revoke = log.iter().find(|block| block.kind == REVOKE).unwrap();
    let cases = [
        ("an earlier commit block", earlier.at, 50),
        ("a descriptor of the last transaction", descriptor.at, 40),
        ("a logged block of the last transaction", descriptor.at + 1, 7),
        ("a revoke block", revoke.at, 17),
    ];
    for (what, block, byte) in cases {
        let broken = changed(&disk, "broken", |file| flip(file, block * BLOCK + byte));
        let error = try_open(&broken).err().unwrap_or_else(|| panic!("{what}: no error"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
        assert!(error.chain().contains("journal"), "{what}: {error:?}");
    }
}
