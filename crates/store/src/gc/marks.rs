//! Which chunks are needed: eight bytes for each chunk of the index, and one bit.
//!
//! Ids are hashes, so those of one first byte are spread evenly: a look-up guesses where an id is among them and searches
//! nearby. Forty bits of an id tell it from others here. Where two of the index have these in common, the whole ids are kept
//! beside. An id that is not in the index may pass for one that is, which keeps too much, never too little: whether a node
//! was walked before is told from whole ids only.

use crate::{
    database::Database,
    index::{self, Place},
};
use silt_types::{ChunkId, Error, Progress, Result};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// Low bits of a key: the pack that has the chunk, by its place in [`Marks::packs`].
const PACK_BITS: u32 = 24;
/// Bits of an id in a key, above those.
const ID_BITS: u32 = 40;

/// Guesses, and then steps, before a look-up searches by halves.
const LOOKS_MAX: usize = 4;
const STEPS_MAX: usize = 32;

/// Chunks that are needed; see [`super::RootWalker`].
pub struct Marks {
    shards: Vec<Shard>,
    /// Numbers of packs, ascending.
    packs: Vec<i64>,
    /// Nodes walked since the second walk began; in the first, their bits say it.
    walked_again: Option<Mutex<HashSet<ChunkId>>>,
    missing: AtomicU64,
    /// What was not needed before, where that is asked for.
    new: Option<Mutex<Vec<ChunkId>>>,
    database: Arc<Database>,
}

/// The chunks whose ids begin with one byte.
#[derive(Default)]
struct Shard {
    /// Bits of the id above the number of the pack, ascending.
    keys: Vec<u64>,
    needed: Vec<AtomicU64>,
    /// Where those are that share these bits with others.
    alike: HashMap<ChunkId, usize>,
}

/// Chunks of a pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// In the index.
    pub(crate) chunks: u64,
    /// Of those, needed.
    pub(crate) needed: u64,
}

impl Marks {
    /// Reads the index with every core, nothing in it being needed yet. `packs` are the numbers of all packs, ascending.
    /// `Corrupt` if a row is damaged.
    pub(super) fn read(
        database: Arc<Database>,
        packs: Vec<i64>,
        chunks: u64,
        progress: &dyn Progress,
    ) -> Result<Marks> {
        if packs.len() >= 1 << PACK_BITS {
            let message = "the store has more packs than can be collected";
            return Err(Error::new(silt_types::ErrorKind::Unsupported, message));
        }
        progress.begin("reading the index", 0);
        let next = AtomicUsize::new(0);
        let read: Vec<Mutex<Option<Result<Shard>>>> = (0..256).map(|_| Mutex::default()).collect();
        thread::scope(|scope| {
            let worker = || {
                loop {
                    let first = next.fetch_add(1, Relaxed);
                    let Some(slot) = read.get(first) else { return };
                    let shard = Shard::read(&database, first, &packs, chunks);
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(shard);
                }
            };
            (0..thread::available_parallelism().map_or(1, usize::from))
                .for_each(|_| drop(scope.spawn(worker)));
        });
        let ended = || Error::internal("a thread that reads the index panicked");
        let shards = read.into_iter().map(|slot| {
            slot.into_inner().unwrap_or_else(PoisonError::into_inner).ok_or_else(ended)?
        });
        let shards = shards.collect::<Result<_>>()?;
        Ok(Marks {
            shards,
            packs,
            walked_again: None,
            missing: AtomicU64::new(0),
            new: None,
            database,
        })
    }

    /// From here on a node counts as walked only if it was since.
    pub(super) fn begin_second_walk(&mut self) {
        self.walked_again = Some(Mutex::default());
    }

    /// From here on what becomes needed is collected, for [`Marks::into_new`].
    pub(super) fn collect_new(&mut self) {
        self.new = Some(Mutex::default());
    }

    /// What became needed since [`Marks::collect_new`].
    pub(super) fn into_new(self) -> Vec<ChunkId> {
        let new = self.new.unwrap_or_default();
        new.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node of a map or a tree is needed. True if it is to be walked: nobody did before.
    pub fn need_node(&self, node: &ChunkId) -> bool {
        let was_needed = self.set(node);
        match &self.walked_again {
            // What is not among these chunks may only look like one that is.
            None => was_needed != Some(true) || !self.is_among(node),
            Some(walked) => walked.lock().unwrap_or_else(PoisonError::into_inner).insert(*node),
        }
    }

    /// Whether a chunk is one of these, by its whole id: not stored since, and not missing.
    fn is_among(&self, chunk: &ChunkId) -> bool {
        let place = index::find(&self.database, chunk);
        place.is_ok_and(|place| place.is_some_and(|p| self.packs.binary_search(&p.pack).is_ok()))
    }

    /// A chunk of content is needed.
    pub fn need_content(&self, chunk: &ChunkId) {
        let is_unknown = self.set(chunk).is_none() && self.walked_again.is_none();
        // It may have been stored again meanwhile, elsewhere.
        if is_unknown && matches!(index::find(&self.database, chunk), Ok(None)) {
            self.missing.fetch_add(1, Relaxed);
        }
    }

    /// How often content was needed that is not in the index.
    pub(super) fn missing(&self) -> u64 {
        self.missing.load(Relaxed)
    }

    pub(super) fn is_needed(&self, chunk: &ChunkId) -> bool {
        let shard = self.shard(chunk);
        shard
            .find(chunk)
            .is_some_and(|at| shard.needed[at / 64].load(Relaxed) >> (at % 64) & 1 == 1)
    }

    /// What is used of every pack, by number, packs without a chunk in the index too.
    pub(super) fn uses(&self) -> HashMap<i64, Use> {
        let mut uses = vec![Use::default(); self.packs.len()];
        for shard in &self.shards {
            for (at, key) in shard.keys.iter().enumerate() {
                let of_pack = &mut uses[(key & ((1 << PACK_BITS) - 1)) as usize];
                of_pack.chunks += 1;
                of_pack.needed += shard.needed[at / 64].load(Relaxed) >> (at % 64) & 1;
            }
        }
        self.packs.iter().copied().zip(uses).collect()
    }

    /// Answers whether it was needed before; `None` if it is not in the index.
    fn set(&self, chunk: &ChunkId) -> Option<bool> {
        let shard = self.shard(chunk);
        let at = shard.find(chunk)?;
        let bit = 1 << (at % 64);
        let word = &shard.needed[at / 64];
        // Most are met more than once, and reading is cheaper than writing what is there.
        let was = word.load(Relaxed) & bit != 0 || word.fetch_or(bit, Relaxed) & bit != 0;
        if let (false, Some(new)) = (was, &self.new) {
            new.lock().unwrap_or_else(PoisonError::into_inner).push(*chunk);
        }
        Some(was)
    }

    fn shard(&self, chunk: &ChunkId) -> &Shard {
        &self.shards[usize::from(chunk.as_bytes()[0])]
    }
}

impl Shard {
    fn read(database: &Database, first: usize, packs: &[i64], chunks: u64) -> Result<Shard> {
        let mut shard = Shard::default();
        // Evenly spread, give or take: a vector that doubles would take twice the memory for a moment.
        let expected = (chunks / 256) as usize;
        shard.keys.reserve_exact(expected + expected.isqrt() * 4 + 16);
        let mut failed = None;
        let mut last: Option<ChunkId> = None;
        index::for_each_chunk_from(database, first as u8, |place| {
            let added = place.and_then(|place| shard.add(&place, packs, &mut last));
            if let Err(error) = added {
                failed.get_or_insert(error);
            }
        })?;
        shard.needed.resize_with(shard.keys.len().div_ceil(64), AtomicU64::default);
        failed.map_or(Ok(shard), Err)
    }

    fn add(&mut self, place: &Place, packs: &[i64], last: &mut Option<ChunkId>) -> Result<()> {
        let id = place.entry.id;
        let Ok(pack) = packs.binary_search(&place.pack) else {
            // Added since the packs were listed, and so none that is looked at.
            return match packs.last() {
                Some(newest) if place.pack <= *newest => Err(Error::corrupt(format!(
                    "the index has chunk {id} in pack number {}, which it does not know",
                    place.pack
                ))),
                _ => Ok(()),
            };
        };
        let bits = bits_of(&id);
        if let Some(last) = last.replace(id).filter(|last| bits_of(last) == bits) {
            self.alike.insert(last, self.keys.len() - 1);
            self.alike.insert(id, self.keys.len());
        }
        self.keys.push(bits << PACK_BITS | pack as u64);
        Ok(())
    }

    fn find(&self, id: &ChunkId) -> Option<usize> {
        let bits = bits_of(id);
        let at = self.near(bits);
        let is_of = |at: usize| self.keys.get(at).is_some_and(|key| key >> PACK_BITS == bits);
        match (is_of(at), is_of(at + 1)) {
            (true, true) => self.alike.get(id).copied(),
            (true, false) => Some(at),
            (false, _) => None,
        }
    }

    /// Where the first key of these bits is, or would be. Each look costs a miss of the caches, so where the key that was found
    /// should not be tells where to look next: two or three looks, where a search by halves takes ten.
    fn near(&self, bits: u64) -> usize {
        let len = self.keys.len();
        let of = |at: usize| self.keys[at] >> PACK_BITS;
        let is_before = |key: &u64| key >> PACK_BITS < bits;
        let mut at = ((bits as u128 * len as u128) >> ID_BITS) as usize;
        for _ in 0..LOOKS_MAX {
            let Some(key) = self.keys.get(at) else { break };
            let apart = i128::from(bits) - i128::from(key >> PACK_BITS);
            let step = (apart * len as i128) >> ID_BITS;
            if step.unsigned_abs() <= 2 {
                break;
            }
            at = (at as i128 + step).clamp(0, len as i128 - 1) as usize;
        }
        for _ in 0..STEPS_MAX {
            match (at > 0 && of(at - 1) >= bits, at < len && of(at) < bits) {
                (true, _) => at -= 1,
                (_, true) => at += 1,
                (false, false) => return at,
            }
        }
        // These ids are not spread as ids are.
        self.keys.partition_point(is_before)
    }
}

/// The bits of an id behind its first byte.
fn bits_of(id: &ChunkId) -> u64 {
    let [_, a, b, c, d, e, ..] = *id.as_bytes();
    u64::from_be_bytes([0, 0, 0, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ChunkId {
        ChunkId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    /// A shard of these ids, all of whose first bytes are the same.
    fn shard(ids: impl Iterator<Item = ChunkId>) -> (Shard, Vec<ChunkId>) {
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        let (mut shard, mut last) = (Shard::default(), None);
        for id in &ids {
            let entry = silt_format::PackEntry {
                id: *id,
                offset: 0,
                stored_len: 1,
                len: 1,
                kind: 1,
                codec: silt_format::Codec::Raw,
            };
            shard.add(&Place { pack: 1, entry }, &[1], &mut last).unwrap();
        }
        (shard, ids)
    }

    fn with_first_byte(mut id: [u8; 32]) -> ChunkId {
        id[0] = 7;
        ChunkId::from_bytes(id)
    }

    #[test]
    fn every_id_is_found_where_it_is_and_no_other() {
        for count in [0, 1, 2, 3, 100, 30_000] {
            let of = |number| with_first_byte(*id(number).as_bytes());
            let (shard, ids) = shard((0..count).map(of));
            for (at, id) in ids.iter().enumerate() {
                assert_eq!(shard.find(id), Some(at));
            }
            assert!((count..count + 1000).all(|number| shard.find(&of(number)).is_none()));
        }
    }

    #[test]
    fn ids_that_are_alike_or_crowded_are_told_apart() {
        // Alike in all that a key has of them; then crowded at one end.
        let alike = (0..5_u8).map(|last| {
            let mut bytes = [9; 32];
            bytes[31] = last;
            with_first_byte(bytes)
        });
        let crowded = (0..2000_u32).map(|number| {
            let mut bytes = [0; 32];
            bytes[2..6].copy_from_slice(&number.to_be_bytes());
            with_first_byte(bytes)
        });
        let (shard, ids) = shard(alike.chain(crowded));
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(shard.find(id), Some(at), "{id}");
        }
        let mut other = [9; 32];
        other[31] = 200;
        assert_eq!(shard.find(&with_first_byte(other)), None);
    }
}
