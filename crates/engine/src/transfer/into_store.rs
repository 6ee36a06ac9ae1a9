//! Into a store: chunks that are missing become parts of its packs, as they are, and names are published once they are whole.

use super::{
    Transferred,
    accept::{self, Step, Taken},
    items::Item,
    known::Known,
    walk::{At, Needed, Passed, Place, Target, Walk},
};
use crate::{engine::Engine, freeze::Turn};
use silt_store::{Change, ChunkReader, Compression, Domain, Ingest};
use silt_types::{ChunkId, Context as _, DiskName, Error, ErrorKind, Progress, Result, VolumeId};
use silt_volume::VolumeLock;
use std::{collections::HashMap, path::Path, sync::Arc};

/// Names that are whole are published with the next ones, until there are so many.
const NAMES_WAITING_MAX: usize = 256;
/// Or so many bytes were written for them. Small enough that a copy that is killed has little to do again.
const BYTES_WAITING_MAX: u64 = 16 << 20;

impl Engine {
    /// Copies these names, or all that there are, with all that they need to the store at `path`, which is made where there
    /// is none. Volumes bring their snapshots; what they hold now is sealed for it. Only what is missing there is written, as
    /// it is stored here, verified on the way. A name is there whole or not at all, whenever it is stopped, and the next one
    /// goes on from there.
    ///
    /// Names that cannot be read whole are left out: `Corrupt`, naming them, once all others are there. A volume that cannot be sealed
    /// ends it before anything is copied.
    ///
    /// A name that stands for something else there is `AlreadyExists`, unless `replace` is set; then a volume that is served
    /// there is `Busy`. `Invalid` if the two stores have different dedup domains. Costs what is missing; of a state that is
    /// like an earlier one, the difference.
    pub fn copy_to(
        &self,
        path: &Path,
        names: &[DiskName],
        replace: bool,
        progress: &dyn Progress,
    ) -> Result<Transferred> {
        // Before the catalog is looked at: what is found stays until it was copied.
        let _lease = self.store.lease().context(|| "cannot begin to read this store".into())?;
        let into = IntoStore::begin(self.store_to_copy_to(path)?, replace)?;
        let items = self.items(names, progress)?;
        let mut done = Transferred::default();
        let items = into.to_be_taken(items, &mut done)?;
        let mut known = into.known()?;
        progress.begin("copying", 0);
        let source = Arc::new(self.store.walking_reader());
        let (mut waiting, mut written) = (Vec::new(), 0);
        let mut damaged = Vec::new();
        for item in items {
            match (Walk { source: source.clone(), target: &into }).item(&item, &mut known) {
                // What is damaged keeps the rest from nothing.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    into.passed.forget();
                    damaged.push(format!("{}: {}", item.title(), error.chain()));
                    continue;
                }
                other => other?,
            }
            waiting.push(item);
            let now = into.ingest.counts().bytes_stored;
            if waiting.len() >= NAMES_WAITING_MAX || now - written >= BYTES_WAITING_MAX {
                into.publish(&std::mem::take(&mut waiting), &mut done)?;
                written = now;
            }
        }
        into.publish(&waiting, &mut done)?;
        if !damaged.is_empty() {
            let message = "copied all but what is damaged here";
            return Err(Error::corrupt(format!("{message}: {}", damaged.join("; "))));
        }
        into.count_chunks(&mut done);
        Ok(done)
    }

    fn store_to_copy_to(&self, path: &Path) -> Result<Engine> {
        let opened = || format!("the store at {} cannot be copied to", path.display());
        let (own, published) = (self.store.domain().id(), Domain::published().id());
        let engine = match Engine::open(path, self.cache_bytes) {
            Err(error) if error.kind() == ErrorKind::NotFound && own == published => {
                Engine::open_or_create(path, self.cache_bytes)
            }
            other => other,
        };
        let engine = engine.context(opened)?;
        let (here, there) = (self.store.paths().root(), engine.store.paths().root());
        if here.canonicalize().ok() == there.canonicalize().ok() {
            return Err(Error::invalid("it is this store itself").context(opened()));
        }
        must_be_in_domain(own, engine.store.domain().id()).context(opened)?;
        Ok(engine)
    }
}

/// `Invalid` if the chunks of two stores, or of an archive and a store, go by different names.
pub(super) fn must_be_in_domain(from: [u8; 16], to: [u8; 16]) -> Result<()> {
    match from == to {
        true => Ok(()),
        false => Err(Error::invalid(
            "the two have different dedup domains: what is the same has other ids there",
        )),
    }
}

/// A store that takes what comes.
pub(super) struct IntoStore {
    engine: Engine,
    pub(super) ingest: Ingest,
    replace: bool,
    passed: Passed,
}

impl Target for IntoStore {
    fn wants(&self, id: &ChunkId, place: &At) -> bool {
        self.passed.wants(id, place)
    }

    fn take(&self, batch: &[Needed], source: &ChunkReader, _place: &Place<'_>) -> Result<()> {
        let mut batch = batch.iter();
        batch.try_for_each(|(context, id)| {
            self.ingest.put_stored(id, || source.get_stored(*context, id))
        })
    }
}

impl IntoStore {
    /// Takes a lease in the store, before it is looked at.
    pub(super) fn begin(engine: Engine, replace: bool) -> Result<IntoStore> {
        let ingest = engine.store.ingest(Compression::default())?;
        Ok(IntoStore { engine, ingest, replace, passed: Passed::default() })
    }

    /// What is there.
    pub(super) fn known(&self) -> Result<Known> {
        Ok(Known::of(self.engine.list()?, Arc::new(self.engine.store.walking_reader())))
    }

    /// Those of the items of which something is not there. `AlreadyExists` or `Busy`, naming it, if one of them would be
    /// refused in the end.
    pub(super) fn to_be_taken(
        &self,
        items: Vec<Item>,
        done: &mut Transferred,
    ) -> Result<Vec<Item>> {
        let news = self.consult(&items, |change, item| {
            accept::is_new(&self.engine, change, item, self.replace)
        })?;
        let (mut new, mut rest) = (Vec::new(), 0);
        for (item, is_new) in items.into_iter().zip(news) {
            match is_new {
                true => new.push(item),
                false => rest += item.names(),
            }
        }
        done.unchanged += rest;
        self.locked(&new)?;
        Ok(new)
    }

    fn consult<T>(
        &self,
        items: &[Item],
        ask: impl Fn(&Change<'_>, &Item) -> Result<T>,
    ) -> Result<Vec<T>> {
        let doing = "cannot look names up";
        self.engine
            .store
            .consult(doing, |change| items.iter().map(|item| ask(change, item)).collect())
    }

    /// Keeps the volumes from others that will change. `Busy` if one of them is served.
    fn locked(&self, items: &[Item]) -> Result<HashMap<VolumeId, (Turn, VolumeLock)>> {
        let changing = self.consult(items, |change, item| match item {
            Item::Image(_) => Ok(None),
            Item::Volume(volume) => {
                let step = accept::volume_step(&self.engine, change, &volume.record, self.replace)?;
                Ok(if let Step::Change(there) = step { Some(there) } else { None })
            }
        })?;
        let mut changing: Vec<_> = changing.into_iter().flatten().collect();
        changing.sort_by_key(|volume| volume.id);
        let mut locked = HashMap::new();
        for volume in &changing {
            locked.insert(volume.id, self.engine.turn_alone(volume)?);
            self.engine.reconciled(volume)?;
        }
        Ok(locked)
    }

    /// Publishes items that are whole, in one transaction.
    pub(super) fn publish(&self, items: &[Item], done: &mut Transferred) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let locked = self.locked(items)?;
        let roots = items.iter().flat_map(Item::root_records).collect();
        let taken = self.ingest.publish_so_far("cannot publish the names", roots, |change| {
            let put = |item: &Item| {
                let taken = accept::put(&self.engine, change, item, self.replace)?;
                match taken.replaced {
                    Some(volume) if !locked.contains_key(&volume) => {
                        let message = format!("{} changed meanwhile", item.title());
                        Err(Error::new(ErrorKind::Busy, message))
                    }
                    _ => Ok(taken),
                }
            };
            items.iter().map(put).collect::<Result<Vec<Taken>>>()
        })?;
        for (item, taken) in items.iter().zip(&taken) {
            done.images += u64::from(taken.image);
            done.volumes += u64::from(taken.volume);
            done.snapshots += taken.snapshots;
            done.unchanged += item.names() - taken.names();
        }
        self.engine.remove_unneeded(taken.into_iter().flat_map(|taken| taken.given_up))
    }

    /// Counts the chunks that were handed over.
    pub(super) fn count_chunks(&self, done: &mut Transferred) {
        let counts = self.ingest.counts();
        done.chunks = counts.chunks;
        done.chunks_copied = counts.chunks_new;
        done.bytes_copied = counts.bytes_stored;
    }
}
