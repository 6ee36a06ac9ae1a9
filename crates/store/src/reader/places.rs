//! Where chunks are: a seam, since a process that serves guests may not open the database and asks another one.

use crate::{
    database::Database,
    index::{self, Place},
};
use silt_format::PackEntry;
use silt_types::{ChunkId, PackId, Result};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackPlace {
    /// The pack.
    pub pack: PackId,
    /// The chunk's entry there.
    pub entry: PackEntry,
}

/// Somebody who knows where chunks are. What is answered need not be right: content is verified.
pub trait Places: Send + Sync {
    /// Where a chunk is; `None` if it is not in the store. `Corrupt` if that cannot be told.
    fn find(&self, id: &ChunkId) -> Result<Option<PackPlace>>;
}

/// Nobody knows where anything is: for who has places of its own.
pub(crate) struct NoPlaces;

impl Places for NoPlaces {
    fn find(&self, _id: &ChunkId) -> Result<Option<PackPlace>> {
        Ok(None)
    }
}

/// The index of a store, asked by this process itself.
#[derive(Clone)]
pub(crate) struct IndexPlaces {
    database: Arc<Database>,
    packs: Arc<RwLock<HashMap<i64, PackId>>>,
}

impl IndexPlaces {
    pub(crate) fn new(database: Arc<Database>) -> IndexPlaces {
        IndexPlaces { database, packs: Arc::default() }
    }

    /// The place with its pack's name instead of its number.
    pub(crate) fn named(&self, place: &Place) -> Result<PackPlace> {
        Ok(PackPlace { pack: self.pack(place.pack)?, entry: place.entry })
    }

    fn pack(&self, number: i64) -> Result<PackId> {
        if let Some(id) = self.packs.read().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(*id);
        }
        let id = index::pack(&self.database, number)?.id;
        self.packs.write().unwrap_or_else(PoisonError::into_inner).insert(number, id);
        Ok(id)
    }
}

impl Places for IndexPlaces {
    fn find(&self, id: &ChunkId) -> Result<Option<PackPlace>> {
        let place = index::find(&self.database, id)?;
        place.map(|place| self.named(&place)).transpose()
    }
}
