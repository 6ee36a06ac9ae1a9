//! The engine: a store, opened.

use crate::broker::Broker;
use silt_store::{Allowance, ChunkSource, Listing, Named, Store, VolumeRecord};
use silt_types::{Context as _, DiskName, Error, Name, Result};
use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Decoded chunks that a process keeps in memory unless told otherwise: a working set of 512 MiB, and some.
pub const CACHE_SIZE_BYTES_DEFAULT: u64 = 640 << 20;

/// A store and what can be done with it. Cheap to clone; every method may be called from many threads.
#[derive(Clone)]
pub struct Engine {
    pub(crate) store: Store,
    /// What disks are read through.
    pub(crate) source: Arc<dyn ChunkSource>,
    /// Whom those ask that are written, before they grow.
    pub(crate) allowance: Arc<dyn Allowance>,
    /// Decoded chunks that they keep in memory at most.
    pub(crate) cache_bytes: u64,
}

impl Engine {
    /// Opens the store at `path`. `NotFound` if there is none.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Engine> {
        Store::open(path, cache_bytes).map(|store| Engine::new(store, cache_bytes))
    }

    /// Opens the store at `path`; makes it, and the folders above it, where there is none.
    pub fn open_or_create(path: &Path, cache_bytes: u64) -> Result<Engine> {
        Store::open_or_create(path, cache_bytes).map(|store| Engine::new(store, cache_bytes))
    }

    fn new(store: Store, cache_bytes: u64) -> Engine {
        let (source, allowance) = (Arc::new(store.clone()), store.allowance());
        Engine { store, source, allowance, cache_bytes }
    }

    /// The same engine, whose disks find their chunks, and ask for space, through a broker and need nothing of this store but its packs. They keep
    /// at most `cache_bytes` of decoded chunks in memory.
    pub fn reading_through(self, broker: &Broker, cache_bytes: u64) -> Engine {
        let source = Arc::new(self.store.reader(Box::new(broker.clone()), cache_bytes));
        Engine { source, allowance: Arc::new(broker.clone()), cache_bytes, ..self }
    }

    /// What a name stands for. `NotFound` if nothing.
    pub fn find(&self, name: &DiskName) -> Result<Named> {
        self.store.find(name)
    }

    /// Everything that has a name.
    pub fn list(&self) -> Result<Listing> {
        self.store.list()
    }

    /// The volume of this name. `NotFound` if there is none, `Invalid` if the name is an image's.
    pub(crate) fn find_volume(&self, name: &Name) -> Result<VolumeRecord> {
        match self.find(&name.clone().into())? {
            Named::Volume(volume) => Ok(volume),
            other => Err(Error::invalid(format!("{name} is not a volume but an {}", other.kind()))),
        }
    }

    /// The volume as it is now. `NotFound` if it was removed meanwhile.
    pub(crate) fn volume_now(&self, record: &VolumeRecord) -> Result<VolumeRecord> {
        self.store.volume(record.id).context(|| format!("volume {} cannot be had", record.name))
    }
}

/// The present time in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as i64)
}
