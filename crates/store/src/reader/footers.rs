//! Footers of packs that are being read: who reads one chunk of a pack usually wants its neighbours next, and the footer
//! says where they are without asking anybody.
//!
//! Only ever a shortcut: what is not found here is looked up, and so is what turns out to be gone.

use super::PackPlace;
use silt_format::{PackEntry, PackFooter};
use silt_types::{ChunkId, PackId, Result};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Entries kept, of all footers together: 7 MiB. Two packs of the smallest chunks, or sixty of the largest.
const ENTRIES_MAX: usize = PackFooter::ENTRIES_MAX;
/// Footers kept: each costs a binary search at every miss.
const FOOTERS_MAX: usize = 32;
/// Look-ups remembered: a pack that is found twice among so many is one whose footer is worth reading. Who reads at random
/// in a large store does not meet one twice.
const LOOKUPS_REMEMBERED: usize = 8;

/// The footers, by use.
#[derive(Default)]
pub(super) struct Footers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Used last first.
    footers: VecDeque<Footer>,
    entries: usize,
    lookups: VecDeque<PackId>,
}

struct Footer {
    pack: PackId,
    /// By id.
    entries: Vec<PackEntry>,
}

impl Footers {
    /// Where a chunk is, if one of the footers says so.
    pub(super) fn find(&self, id: &ChunkId) -> Option<PackPlace> {
        let mut state = self.lock();
        let found = state.footers.iter().enumerate().find_map(|(at, footer)| {
            let entry = footer.entries.binary_search_by_key(id, |entry| entry.id).ok()?;
            Some((at, PackPlace { pack: footer.pack, entry: footer.entries[entry] }))
        });
        let (at, place) = found?;
        if at > 0
            && let Some(footer) = state.footers.remove(at)
        {
            state.footers.push_front(footer);
        }
        Some(place)
    }

    /// A chunk had to be looked up, and was in `pack`. If that happens again, `read` gives the footer; if it cannot, looking
    /// up goes on.
    pub(super) fn found_in(&self, pack: PackId, read: impl FnOnce() -> Result<PackFooter>) {
        if !self.lock().is_worth_reading(pack) {
            return;
        }
        let Ok(footer) = read() else { return };
        let mut entries = footer.entries;
        entries.sort_unstable_by_key(|entry| entry.id);
        self.lock().keep(Footer { pack, entries });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_worth_reading(&mut self, pack: PackId) -> bool {
        if self.footers.iter().any(|footer| footer.pack == pack) {
            return false; // It does not have this chunk, or another thread has just read it.
        }
        let again = self.lookups.contains(&pack);
        self.lookups.push_front(pack);
        self.lookups.truncate(LOOKUPS_REMEMBERED);
        again
    }

    fn keep(&mut self, footer: Footer) {
        if self.footers.iter().any(|there| there.pack == footer.pack) {
            return;
        }
        self.entries += footer.entries.len();
        self.footers.push_front(footer);
        while self.footers.len() > FOOTERS_MAX
            || (self.entries > ENTRIES_MAX && self.footers.len() > 1)
        {
            let gone = self.footers.pop_back();
            self.entries -= gone.map_or(0, |footer| footer.entries.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_format::Codec;

    fn entry(number: u64) -> PackEntry {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let id = ChunkId::from_bytes(id);
        PackEntry { id, offset: number, stored_len: 1, len: 1, kind: 1, codec: Codec::Raw }
    }

    fn footer(numbers: std::ops::Range<u64>) -> Result<PackFooter> {
        Ok(PackFooter { entries: numbers.map(entry).collect(), roots: Vec::new() })
    }

    fn pack(number: u8) -> PackId {
        PackId::from_bytes([number; 16])
    }

    #[test]
    fn a_pack_that_is_met_again_tells_where_its_other_chunks_are() {
        let footers = Footers::default();
        footers.found_in(pack(1), || unreachable!("met once"));
        assert_eq!(footers.find(&entry(5).id), None);
        footers.found_in(pack(1), || footer(0..10));
        let place = footers.find(&entry(5).id).unwrap();
        assert_eq!((place.pack, place.entry), (pack(1), entry(5)));
        assert_eq!(footers.find(&entry(10).id), None);
        footers.found_in(pack(1), || unreachable!("it is there"));
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let footers = Footers::default();
        let each = ENTRIES_MAX as u64 / 4;
        for number in 0..6u64 {
            let first = number * each;
            (0..2).for_each(|_| {
                footers.found_in(pack(number as u8), || footer(first..first + each));
            });
            assert!(footers.find(&entry(0).id).is_some(), "used every time");
        }
        let state = footers.lock();
        assert!(state.entries <= ENTRIES_MAX);
        assert_eq!(state.entries, state.footers.iter().map(|f| f.entries.len()).sum::<usize>());
        drop(state);
        assert_eq!(footers.find(&entry(each).id), None, "not used since");
    }

    #[test]
    fn random_reads_of_many_packs_read_no_footer() {
        let footers = Footers::default();
        for number in 0..200 {
            footers.found_in(pack(number), || unreachable!("never met twice in a row of looks"));
        }
    }
}
