//! Healing: packs of which something is damaged are replaced by packs of what is sound in them.
//!
//! Others go on meanwhile. A chunk that is damaged is not in the store any more afterwards, so whoever builds it stores it again.

use crate::{
    chunk::ChunkKind,
    gc::Mover,
    index::{self, PackRow},
    lease::{self, WorkLock},
    pack::{PackFiles, read_footer_of_damaged},
    quarantine::quarantine,
    reader::{ChunkReader, NoPlaces, PackPlace},
    store::{Shared, Store},
};
use rustix::io::Errno;
use silt_format::{PackEntry, PackFooter, RootRecord};
use silt_types::{ChunkId, Error, ErrorKind, LeaseId, PackId, Progress, Result};
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

/// How long a collection under way is waited for.
const COLLECTION_WAIT: Duration = Duration::from_secs(60);

/// Packs whose rows are in memory at a time, a megabyte for each; more cost another pass over the index.
const PACKS_AT_A_TIME: usize = 64;

/// What became of damaged packs.
#[derive(Debug, Default)]
pub struct Healed {
    /// The packs, which are in quarantine now.
    pub packs: Vec<PackId>,
    /// Packs that somebody is still writing, and that are as they were.
    pub in_use: Vec<PackId>,
    /// Chunks that the store has not got any more.
    pub lost: Vec<(ChunkId, ChunkKind)>,
}

impl Store {
    /// Moves what is sound in `damaged` packs to new ones, and the rest to quarantine. Packs that cannot say which roots were
    /// published with them are made up for by `roots`. `Busy`, naming who, if a collection does not end in time. Costs a pass over
    /// the index, and reading and writing those packs.
    pub fn heal(
        &self,
        damaged: &HashSet<PackId>,
        roots: &[RootRecord],
        progress: &dyn Progress,
    ) -> Result<Healed> {
        let _alone = WorkLock::alone(self.paths(), Instant::now() + COLLECTION_WAIT)?;
        let lease = self.lease()?;
        let shared = self.shared();
        let packs = index::packs(&shared.database)?;
        // After the packs: whoever wrote one of them is seen, or has ended.
        let working = lease::held(&shared.paths, lease.id())?;
        let is_young = |pack: &PackRow| working.iter().any(|held| held.id == pack.lease);
        let packs = packs.into_iter().filter(|pack| damaged.contains(&pack.id));
        let (young, packs): (Vec<_>, Vec<_>) = packs.partition(is_young);
        progress.begin("healing packs", packs.iter().map(|pack| pack.size).sum());
        let in_use = young.iter().map(|pack| pack.id).collect();
        let mut healed = Healed { in_use, ..Healed::default() };
        for group in packs.chunks(PACKS_AT_A_TIME) {
            let mut entries = entries_of(shared, group)?;
            for pack in group {
                let entries = entries.remove(&pack.number).unwrap_or_default();
                heal(shared, lease.id(), pack, &entries, roots, progress, &mut healed)?;
            }
        }
        Ok(healed)
    }
}

/// A reader that reads what is left of packs.
fn damaged_reader(shared: &Shared) -> ChunkReader {
    let packs = PackFiles::of_damaged(shared.paths.clone());
    ChunkReader::new(shared.domain.clone(), packs, Box::new(NoPlaces), 0).without_footers()
}

/// Where other packs have chunks, though the index does not say so: two ingests at once may have stored them twice. Costs a look at
/// every footer.
fn copies_of(
    shared: &Shared,
    chunks: &HashMap<ChunkId, PackEntry>,
    but: PackId,
) -> Result<Vec<PackPlace>> {
    let mut places = Vec::new();
    if chunks.is_empty() {
        return Ok(places);
    }
    for pack in index::packs(&shared.database)?.into_iter().filter(|pack| pack.id != but) {
        let Ok((_, footer)) = read_footer_of_damaged(&shared.paths, pack.id) else { continue };
        let copies = footer.entries.into_iter().filter(|entry| chunks.contains_key(&entry.id));
        places.extend(copies.map(|entry| PackPlace { pack: pack.id, entry }));
    }
    Ok(places)
}

/// What the index says of packs, each in the order in which it lies there.
fn entries_of(shared: &Shared, packs: &[PackRow]) -> Result<HashMap<i64, Vec<PackEntry>>> {
    let mut entries: HashMap<i64, Vec<PackEntry>> =
        packs.iter().map(|pack| (pack.number, Vec::new())).collect();
    let mut damaged = None;
    index::for_each_chunk(&shared.database, |row| match row {
        Ok(place) => entries.get_mut(&place.pack).into_iter().for_each(|all| all.push(place.entry)),
        Err(error) => damaged = Some(error),
    })?;
    entries.values_mut().for_each(|entries| entries.sort_by_key(|entry| entry.offset));
    damaged.map_or(Ok(entries), Err)
}

fn heal(
    shared: &Shared,
    lease: LeaseId,
    pack: &PackRow,
    entries: &[PackEntry],
    roots: &[RootRecord],
    progress: &dyn Progress,
    healed: &mut Healed,
) -> Result<()> {
    let roots = match read_footer_of_damaged(&shared.paths, pack.id) {
        Ok((_, PackFooter { roots, .. })) => roots,
        Err(_) => roots.to_vec(),
    };
    // From here on what it has does not count as stored, and no cache of a folder says that it does.
    shared
        .change("cannot condemn a damaged pack", |change| index::condemn(change, &[pack.number]))?;
    let reader = damaged_reader(shared);
    let mut mover = Mover::new(shared, &reader, lease, progress);
    let mut lost = HashMap::new();
    for entry in entries {
        match mover.read(&PackPlace { pack: pack.id, entry: *entry }) {
            Ok(()) => mover.append(pack, entry)?,
            Err(error) if is_lost(&error) => drop(lost.insert(entry.id, *entry)),
            Err(error) => return Err(error),
        }
    }
    for copy in copies_of(shared, &lost, pack.id)? {
        if lost.contains_key(&copy.entry.id) && mover.read(&copy).is_ok() {
            mover.append(pack, &copy.entry)?;
            lost.remove(&copy.entry.id);
        }
    }
    mover.keep(roots)?;
    mover.finish()?;
    let ids: Vec<ChunkId> = lost.keys().copied().collect();
    index::forget_chunks(&shared.database, pack.number, &ids)?;
    let left = index::pack(&shared.database, pack.number)?.totals.chunks;
    if left > 0 {
        return Err(Error::corrupt(format!(
            "{left} chunks of pack {} could not be moved",
            pack.id
        )));
    }
    quarantine(&shared.paths, &shared.paths.pack(pack.id))?;
    shared.change("cannot take a damaged pack out of the index", |change| {
        index::drop_packs(change, &[pack.number])?;
        change.forget_graves_if_nothing_is_condemned()
    })?;
    healed.packs.push(pack.id);
    let kind = |entry: &PackEntry| ChunkKind::from_u8(entry.kind).unwrap_or(ChunkKind::DiskData);
    healed.lost.extend(lost.values().map(|entry| (entry.id, kind(entry))));
    Ok(())
}

/// Whether what could not be read is gone, and it is not this process that cannot read it now.
pub(crate) fn is_lost(error: &Error) -> bool {
    let disk_says_so = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA];
    let of_disk = |errno| disk_says_so.iter().any(|known| known.raw_os_error() == errno);
    error.kind() == ErrorKind::Corrupt || error.os_error().is_some_and(of_disk)
}
