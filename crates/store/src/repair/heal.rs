//! Healing: packs of which something is damaged are replaced by packs of what is sound in them.
//!
//! Others go on meanwhile. A chunk that is damaged is not in the store any more afterwards, so whoever builds it stores it again.

use crate::{
    chunk::ChunkKind,
    gc::Mover,
    index::{self, PackRow},
    lease::WorkLock,
    pack::{PackFiles, read_footer_of_damaged},
    quarantine::quarantine,
    reader::{ChunkReader, NoPlaces, PackPlace, Places},
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
    /// Chunks that were sound, and are in other packs now.
    pub chunks_moved: u64,
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
        let packs: Vec<_> = packs.into_iter().filter(|pack| damaged.contains(&pack.id)).collect();
        progress.begin("healing packs", packs.iter().map(|pack| pack.size).sum());
        let mut healed = Healed::default();
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

impl Store {
    /// A reader of chunks that some pack has, though the index does not say so: two ingests at once may have stored them twice.
    /// Costs a look at every footer.
    pub fn other_copies(&self, chunks: &HashSet<ChunkId>) -> Result<ChunkReader> {
        let mut places = HashMap::new();
        for pack in index::packs(&self.shared().database)? {
            let Ok((_, footer)) = read_footer_of_damaged(self.paths(), pack.id) else { continue };
            for entry in footer.entries.into_iter().filter(|entry| chunks.contains(&entry.id)) {
                places.insert(entry.id, PackPlace { pack: pack.id, entry });
            }
        }
        Ok(damaged_reader(self.shared(), Box::new(Copies(places))))
    }
}

/// A reader that reads what is left of packs.
fn damaged_reader(shared: &Shared, places: Box<dyn Places>) -> ChunkReader {
    let packs = PackFiles::of_damaged(shared.paths.clone());
    ChunkReader::new(shared.domain.clone(), packs, places, 0).without_footers()
}

/// Where some chunks are.
struct Copies(HashMap<ChunkId, PackPlace>);

impl Places for Copies {
    fn find(&self, id: &ChunkId) -> Result<Option<PackPlace>> {
        Ok(self.0.get(id).copied())
    }
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
    let reader = damaged_reader(shared, Box::new(NoPlaces));
    let mut mover = Mover::new(shared, &reader, lease, progress);
    let mut lost = Vec::new();
    for entry in entries {
        match mover.read(pack, entry) {
            Ok(()) => mover.append(pack, entry)?,
            Err(error) if is_lost(&error) => {
                let kind = ChunkKind::from_u8(entry.kind).unwrap_or(ChunkKind::DiskData);
                lost.push((entry.id, kind));
            }
            Err(error) => return Err(error),
        }
    }
    mover.keep(roots)?;
    healed.chunks_moved += mover.finish()?.chunks;
    let ids: Vec<ChunkId> = lost.iter().map(|(id, _)| *id).collect();
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
    healed.lost.extend(lost);
    Ok(())
}

/// Whether what could not be read is gone, and it is not this process that cannot read it now.
fn is_lost(error: &Error) -> bool {
    let disk_says_so = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA];
    let of_disk = |errno| disk_says_so.iter().any(|known| known.raw_os_error() == errno);
    error.kind() == ErrorKind::Corrupt || error.os_error().is_some_and(of_disk)
}
