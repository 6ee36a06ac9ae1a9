//! The model: every name, and what each sector of it may hold after a crash.
//!
//! Sectors are told apart by stamps: each request that writes has its own, which is in every word that it writes, so
//! that what is found on a disk says where it comes from. The rule is invariant 5: a sector holds its value at the last
//! answered flush, or one written since, and nothing else; what is frozen holds one value.

use super::super::guest::SECTOR;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// What a sector holds: 0 is zeros, [`ORIGINAL`] what the first image has there, others are requests.
pub(super) type Stamp = u32;

pub(super) const ORIGINAL: Stamp = Stamp::MAX;

const LEN: usize = SECTOR as usize;

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// What is read now.
    pub(super) now: Vec<Stamp>,
    /// Sectors written since the last flush: all that a crash may leave there.
    may: BTreeMap<usize, BTreeSet<Stamp>>,
}

/// All names.
pub(super) type World = BTreeMap<String, Disk>;

impl Disk {
    /// One that a crash changes nothing of.
    pub(super) fn fixed(now: Vec<Stamp>) -> Disk {
        Disk { now, may: BTreeMap::new() }
    }

    pub(super) fn sectors(&self) -> u64 {
        self.now.len() as u64
    }

    /// A request is under way or answered: its sectors may hold `stamp`, or still what they may hold now.
    pub(super) fn write(&mut self, sectors: Range<u64>, stamp: Stamp) {
        for sector in sectors.start as usize..sectors.end as usize {
            let now = std::mem::replace(&mut self.now[sector], stamp);
            self.may.entry(sector).or_insert_with(|| BTreeSet::from([now])).insert(stamp);
        }
    }

    /// What these sectors hold is durable.
    pub(super) fn settle(&mut self, sectors: Range<u64>) {
        self.may.retain(|sector, _| !sectors.contains(&(*sector as u64)));
    }

    /// Everything is durable.
    pub(super) fn flush(&mut self) {
        self.may.clear();
    }

    /// A killed server left this in the page cache; what is on the disk is as open as before.
    pub(super) fn seen(&mut self, found: Vec<Stamp>) -> Result<(), String> {
        self.allows(&found)?;
        self.now = found;
        Ok(())
    }

    /// Whether a crash may leave this.
    pub(super) fn allows(&self, found: &[Stamp]) -> Result<(), String> {
        if found.len() != self.now.len() {
            return Err(format!("{} sectors instead of {}", found.len(), self.now.len()));
        }
        for (sector, (found, now)) in found.iter().zip(&self.now).enumerate() {
            let is_allowed = match self.may.get(&sector) {
                Some(may) => may.contains(found),
                None => found == now,
            };
            if !is_allowed {
                let may = self.may.get(&sector);
                return Err(format!("sector {sector}: {found}, not {now} nor of {may:?}"));
            }
        }
        Ok(())
    }
}

/// Whether a crash may leave these disks, and no others.
pub(super) fn allows(world: &World, found: &BTreeMap<String, Vec<Stamp>>) -> Result<(), String> {
    if !world.keys().eq(found.keys()) {
        let (expected, found): (Vec<_>, Vec<_>) = (world.keys().collect(), found.keys().collect());
        return Err(format!("the names are {found:?} instead of {expected:?}"));
    }
    for (name, disk) in world {
        disk.allows(&found[name]).map_err(|why| format!("{name}, {why}"))?;
    }
    Ok(())
}

/// What a request with this stamp writes.
pub(super) fn payload(sectors: Range<u64>, stamp: Stamp) -> Vec<u8> {
    let word = |sector: u64| (u64::from(stamp) << 32 | sector).to_le_bytes();
    sectors.flat_map(|sector| word(sector).repeat(LEN / 8)).collect()
}

/// The stamps of a disk; `original` are the bytes of the first image.
pub(super) fn stamps(bytes: &[u8], original: &[u8]) -> Result<Vec<Stamp>, String> {
    let stamp = |(sector, bytes): (usize, &[u8])| {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(0);
        }
        if original.get(sector * LEN..(sector + 1) * LEN) == Some(bytes) {
            return Ok(ORIGINAL);
        }
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[..8]);
        let (stamp, at) = (u64::from_le_bytes(word) >> 32, u64::from_le_bytes(word) as u32);
        let is_whole = bytes.chunks(8).all(|part| part == word) && at as usize == sector;
        match is_whole {
            true => Ok(stamp as Stamp),
            false => Err(format!("sector {sector} is nothing that was ever written: {word:x?}")),
        }
    };
    bytes.chunks(LEN).enumerate().map(stamp).collect()
}

#[test]
fn a_sector_may_be_as_flushed_or_as_written_since_and_what_was_zeroed_never_comes_back() {
    let original = [payload(0..2, 7), vec![0; 1024]].concat();
    let mut disk = Disk::fixed(stamps(&original, &original).unwrap());
    assert_eq!(disk.now, [ORIGINAL, ORIGINAL, 0, 0]);
    disk.write(1..3, 1);
    let found = stamps(
        &[payload(0..0, 0), original[..1024].to_vec(), payload(2..3, 1)].concat(),
        &original,
    );
    let mut found = found.unwrap();
    found.push(0);
    disk.allows(&found).unwrap();
    disk.flush();
    disk.allows(&found).unwrap_err();
    disk.write(0..4, 0);
    disk.settle(0..1);
    disk.allows(&[0, 1, 0, 0]).unwrap();
    disk.allows(&[ORIGINAL, 1, 0, 0]).unwrap_err();
    disk.flush();
    disk.allows(&[0, 1, 0, 0]).unwrap_err();
    let moved = payload(5..6, 1);
    stamps(&moved, &original).unwrap_err();
}
