//! What would go with some names: exactly what they alone reach. And what keeps a pack.

use super::{Holder, Marks, RootWalker, roots::roots, walk};
use crate::{
    catalog::Root,
    index::{self, PackState},
    pack::read_footer,
    store::Store,
};
use silt_types::{ChunkId, Error, ErrorKind, LeaseId, PackId, Progress, Result};
use std::collections::HashSet;

/// Chunks that nothing would need any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// How many.
    pub chunks: u64,
    /// Their length.
    pub bytes: u64,
    /// Their length as stored: what a collection gives back, but for what it leaves in packs.
    pub bytes_stored: u64,
}

/// What is in a pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackContent {
    /// Bytes of the file.
    pub size_bytes: u64,
    /// Chunks that are found there.
    pub chunks: u64,
    /// Their length as stored.
    pub bytes_stored: u64,
    /// Whether a collection is about to remove it.
    pub is_condemned: bool,
}

impl Store {
    /// Everything that keeps chunks alive now, and who needs it; what this process reads too.
    pub fn roots(&self) -> Result<Vec<(Root, Holder)>> {
        roots(self.shared(), &self.list()?, LeaseId::from_bytes([0; 16]))
    }

    /// What a pack has, and its chunks. `NotFound` if there is no such pack, `Corrupt` if it is damaged.
    pub fn pack_content(&self, pack: PackId) -> Result<(PackContent, HashSet<ChunkId>)> {
        let database = &self.shared().database;
        let packs = index::packs(database)?;
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no pack {pack}"));
        let row = packs.iter().find(|row| row.id == pack).ok_or_else(missing)?;
        let (_, footer) = read_footer(self.paths(), pack)?;
        let mut chunks = HashSet::new();
        for entry in &footer.entries {
            if index::find(database, &entry.id)?.is_some_and(|place| place.pack == row.number) {
                chunks.insert(entry.id);
            }
        }
        let content = PackContent {
            size_bytes: row.size,
            chunks: chunks.len() as u64,
            bytes_stored: row.totals.bytes_stored,
            is_condemned: row.state == PackState::Condemned,
        };
        Ok((content, chunks))
    }

    /// What would not be needed any more if everybody went for whom `goes` holds; what several of them share counts once, and
    /// what nothing needs now, not at all. `Corrupt` if a root cannot be read. Costs what marking does, see [`Store::collect`],
    /// and a look-up for each chunk that would go.
    pub fn would_free(
        &self,
        goes: &dyn Fn(&Holder) -> bool,
        walker: &dyn RootWalker,
        progress: &dyn Progress,
    ) -> Result<Freed> {
        let lease = self.lease()?;
        let shared = self.shared();
        let packs = index::packs(&shared.database)?;
        let roots = roots(shared, &self.list()?, lease.id())?;
        let chunks = packs.iter().map(|pack| pack.totals.chunks).sum();
        let numbers = packs.iter().map(|pack| pack.number).collect();
        let mut marks = Marks::read(shared.database.clone(), numbers, chunks, progress)?;
        progress.begin("walking what is needed", 0);
        let (going, staying): (Vec<_>, Vec<_>) =
            roots.into_iter().partition(|(_, holder)| goes(holder));
        walk(walker, staying, &marks)?;
        marks.collect_new();
        walk(walker, going, &marks)?;
        let mut freed = Freed::default();
        for chunk in marks.into_new() {
            if let Some(place) = index::find(&shared.database, &chunk)? {
                freed.chunks += 1;
                freed.bytes += u64::from(place.entry.len);
                freed.bytes_stored += u64::from(place.entry.stored_len);
            }
        }
        Ok(freed)
    }
}
