//! The engine: a store, opened.

use silt_store::{ImageRecord, Named, Store, VolumeRecord};
use silt_types::{Name, Result};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// Decoded chunks that a process keeps in memory unless told otherwise: a working set of 512 MiB, and some.
pub const CACHE_SIZE_BYTES_DEFAULT: u64 = 640 << 20;

/// A store and what can be done with it. Cheap to clone; every method may be called from many threads.
#[derive(Clone)]
pub struct Engine {
    pub(crate) store: Store,
}

impl Engine {
    /// Opens the store at `path`. `NotFound` if there is none.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Engine> {
        Ok(Engine { store: Store::open(path, cache_bytes)? })
    }

    /// Opens the store at `path`; makes it, and the folders above it, where there is none.
    pub fn open_or_create(path: &Path, cache_bytes: u64) -> Result<Engine> {
        Ok(Engine { store: Store::open_or_create(path, cache_bytes)? })
    }

    /// What a name stands for. `NotFound` if nothing.
    pub fn find(&self, name: &Name) -> Result<Named> {
        self.store.find(name)
    }

    /// Every image and every volume, by name.
    pub fn list(&self) -> Result<(Vec<ImageRecord>, Vec<VolumeRecord>)> {
        self.store.list()
    }
}

/// The present time in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as i64)
}
