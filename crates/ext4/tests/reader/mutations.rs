//! Thousands of disks with something wrong: none makes the reader panic, hang, or take what is not there for content.
//!
//! Most disks have no checksums, so that what is wrong is not found out at the door. Which bytes change is decided by a fixed
//! sequence; the disk that a failure is about is kept, and the failure says where.

use super::{
    images::{fill, sh},
    log_writer::{LogWriter, blocks_of},
    walk::walk,
};
use silt_ext4::reader::{DiskPair, Ext4, changes};
use silt_types::{ErrorKind, Result};
use std::{fs, panic, path::Path};

const DISKS_PER_SEED: u64 = 1200;

/// Many times the steps of a walk over one of the disks while it is sound.
const STEPS_MAX: u64 = 3_000_000;

/// Arguments of `mke2fs`.
const SEEDS: [&str; 4] = [
    "-t ext4 -b 4096 -O ^metadata_csum",
    "-t ext4 -b 1024 -O ^metadata_csum,inline_data,meta_bg,^resize_inode -I 512 -g 1024 -J size=1",
    "-t ext3 -b 1024 -J size=1",
    "-t ext4 -b 1024",
];

/// What may be said of a disk that is wrong.
const EXPECTED: [ErrorKind; 3] = [ErrorKind::Corrupt, ErrorKind::Unsupported, ErrorKind::Invalid];

/// The numbers that decide, one after the other.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

fn seed_disk(folder: &Path, source: &Path, features: &str) -> Vec<u8> {
    let disk = folder.join("disk");
    sh(&format!(
        "rm -f {0}; mke2fs -q -F {features} -d {1} {0} 10M; e2fsck -fyD {0} >&2 || [ $? = 1 ]",
        disk.display(),
        source.display()
    ));
    let mut bytes = fs::read(&disk).unwrap();
    if features.contains("ext3") {
        dirty(&mut bytes);
    }
    bytes
}

/// Gives the journal of a disk of 1 KiB blocks something to replay: metadata blocks, as they are.
fn dirty(bytes: &mut Vec<u8>) {
    let content = |block: u64| bytes[block as usize * 1024..][..1024].to_vec();
    let homes: Vec<(u64, Vec<u8>)> = (40..80).map(|block| (block, content(block))).collect();
    let journal = blocks_of(bytes, 8);
    let mut log = LogWriter::new(bytes, 1024, &journal, 0, 1);
    for home in homes.chunks(10) {
        log.write(home);
        log.revoke(&[9000, 9001]);
        log.commit();
    }
}

/// Places worth changing: everything that is not zero in blocks that do not look like the content of files.
fn places(bytes: &[u8]) -> Vec<usize> {
    let blocks = bytes.chunks(1024).enumerate();
    let metadata = blocks.filter(|(_, block)| {
        let zeros = block.iter().filter(|byte| **byte == 0).count();
        (100..1024).contains(&zeros)
    });
    metadata
        .flat_map(|(index, block)| {
            (0..block.len()).filter(|at| block[*at] != 0).map(move |at| index * 1024 + at)
        })
        .collect()
}

/// Changes up to four places; gives what stood there.
fn change(bytes: &mut [u8], places: &[usize], numbers: &mut Numbers) -> Vec<(usize, Vec<u8>)> {
    let mut before = Vec::new();
    for _ in 0..=numbers.below(4) {
        let at = places[numbers.below(places.len())] & !3;
        let len = if numbers.below(4) == 0 { 64 } else { 4 };
        let len = len.min(bytes.len() - at);
        before.push((at, bytes[at..at + len].to_vec()));
        let number = numbers.next();
        let other = places[numbers.below(places.len())].min(bytes.len() - 64);
        match numbers.below(7) {
            0 => bytes[at + (number % 4) as usize] ^= 1 << (number >> 8 & 7),
            1 => bytes[at..at + len].fill(0),
            2 => bytes[at..at + len].fill(0xff),
            3 => bytes[at..at + 4].copy_from_slice(&(number as u32).to_le_bytes()),
            4 => bytes[at..at + 4].copy_from_slice(&(number as u32 % 11_000).to_le_bytes()),
            5 => bytes[at..at + 2].copy_from_slice(&(number as u16 % 70).to_le_bytes()),
            _ => bytes.copy_within(other..other + len, at),
        }
    }
    before
}

/// What two disks in memory have in common at the same place.
struct Known<'a>(&'a [u8], &'a [u8]);

impl DiskPair for Known<'_> {
    fn known_equal(&self, before: u64, after: u64, len_bytes: u64) -> Result<u64> {
        let part = |bytes: &'_ [u8], at: u64| {
            bytes.get(at as usize..(at + len_bytes) as usize).map(<[u8]>::to_vec)
        };
        let (a, b) = (part(self.0, before), part(self.1, after));
        Ok(if before == after && a.is_some() && a == b { len_bytes } else { 0 })
    }
}

/// Tells what changed from one disk to the other.
fn compare(before: &[u8], after: &[u8]) -> Result<u64> {
    let (a, b) = (Ext4::open(before)?, Ext4::open(after)?);
    Ok(changes(&a, &b, &Known(before, after))?.len() as u64)
}

/// Writes a disk that a failure is about where it stays, and says where.
fn keep(bytes: &[u8]) -> String {
    let path = std::env::temp_dir().join("silt-ext4-mutated-disk");
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

#[test]
fn no_mutated_disk_makes_the_reader_panic_or_run_away() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fill(&source);
    sh(&format!(
        "cd {0}; rm -f sparse; truncate -s 900000 deep/er/and/deeper/large; rm many/*[1-9]",
        source.display()
    ));
    for features in SEEDS {
        let mut bytes = seed_disk(folder.path(), &source, features);
        walk(&bytes).unwrap_or_else(|error| panic!("{features}: {error:?}"));
        let (sound, places) = (bytes.clone(), places(&bytes));
        let mut refused = 0;
        for number in 0..DISKS_PER_SEED {
            let before = change(&mut bytes, &places, &mut Numbers(number));
            let asked: [&dyn Fn() -> Result<u64>; 3] =
                [&|| walk(&bytes), &|| compare(&sound, &bytes), &|| compare(&bytes, &sound)];
            for ask in asked {
                match panic::catch_unwind(panic::AssertUnwindSafe(ask)) {
                    Ok(Ok(steps)) if steps < STEPS_MAX => {}
                    Ok(Err(error)) if EXPECTED.contains(&error.kind()) => refused += 1,
                    Ok(outcome) => panic!("{features}: {}: {outcome:?}", keep(&bytes)),
                    Err(_) => panic!("{features}: {}: the reader panics", keep(&bytes)),
                }
            }
            before
                .into_iter()
                .rev()
                .for_each(|(at, old)| bytes[at..at + old.len()].copy_from_slice(&old));
        }
        println!("{features}: {refused} of {} questions refused", 3 * DISKS_PER_SEED);
        assert!(walk(&bytes).is_ok(), "{features}: the disk was not put back");
    }
}
