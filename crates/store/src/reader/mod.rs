//! Reading chunks: from memory, or from where they are in a pack, decoded and verified.
//!
//! Needs packs, which it only reads, and somebody who knows where chunks are. So the server of a disk reads what it must
//! without a handle on the database. Not for: writing, names, deciding what is damaged; `verify` reads each place itself.
//!
//! Invariants: nothing is handed out before its hash was compared, in private memory. A place that turns out wrong, since
//! packs come and go, is looked up again once before it is an error.

mod footers;
mod places;

pub(crate) use places::{IndexPlaces, NoPlaces};
pub use places::{PackPlace, Places};

use crate::{
    chunk::{Chunk, ChunkKind, ChunkSource, Domain, KeyContext},
    codec,
    pack::PackFiles,
    stored::StoredChunk,
};
use footers::Footers;
use quick_cache::{
    Weighter,
    sync::{Cache, GuardResult},
};
use silt_format::{ArchivedChunk, Codec, PackEntry};
use silt_types::{CHUNK_SIZE_BYTES_MAX, ChunkId, Context as _, Error, Result};
use std::cell::RefCell;

thread_local! {
    // What is stored, before it is decoded.
    static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads the chunks of a store, and keeps decoded content that was read lately. Every method may be called from many
/// threads.
pub struct ChunkReader {
    domain: Domain,
    packs: PackFiles,
    places: Box<dyn Places>,
    /// None for who goes from pack to pack: then looking up costs less than they do.
    footers: Option<Footers>,
    cache: Cache<ChunkId, Chunk, ByLength>,
}

/// A cached chunk weighs its content and about what its bookkeeping takes.
#[derive(Clone)]
struct ByLength;

impl Weighter<ChunkId, Chunk> for ByLength {
    fn weight(&self, _id: &ChunkId, chunk: &Chunk) -> u64 {
        chunk.len() as u64 + 128
    }
}

impl ChunkReader {
    pub(crate) fn new(
        domain: Domain,
        packs: PackFiles,
        places: Box<dyn Places>,
        cache_bytes: u64,
    ) -> ChunkReader {
        let items = (cache_bytes / (32 << 10)).max(16) as usize;
        let cache = Cache::with_weighter(items, cache_bytes, ByLength);
        ChunkReader { domain, packs, places, footers: Some(Footers::default()), cache }
    }

    /// The same, for who reads here and there, each chunk once.
    pub(crate) fn without_footers(self) -> ChunkReader {
        ChunkReader { footers: None, ..self }
    }

    fn find(&self, id: &ChunkId) -> Result<PackPlace> {
        let place = self.places.find(id)?;
        place.ok_or_else(|| Error::corrupt(format!("chunk {id} is missing from the index")))
    }

    fn fetch(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        if let Some(place) = self.footers.as_ref().and_then(|footers| footers.find(id))
            && let Ok(chunk) = self.read_place(context, &place)
        {
            return Ok(chunk);
        }
        let (chunk, place) = self.where_it_is(id, |place| self.read_place(context, place))?;
        if let Some(footers) = &self.footers {
            footers.found_in(place.pack, || self.packs.footer(place.pack));
        }
        Ok(chunk)
    }

    /// Reads a chunk where it is said to be, and once more if it has moved meanwhile. Answers the place, too.
    fn where_it_is<T>(
        &self,
        id: &ChunkId,
        read: impl Fn(&PackPlace) -> Result<T>,
    ) -> Result<(T, PackPlace)> {
        let place = self.find(id)?;
        match read(&place) {
            Ok(read) => Ok((read, place)),
            Err(error) => match self.find(id)? {
                same if same == place => Err(error),
                moved => Ok((read(&moved)?, moved)),
            },
        }
    }

    /// A chunk as it is stored, verified. `Corrupt`, naming it, if it is missing or damaged.
    pub fn get_stored(&self, context: KeyContext, id: &ChunkId) -> Result<StoredChunk> {
        let read = |place: &PackPlace| {
            let PackEntry { id, len, kind, codec, .. } = place.entry;
            let is_meant = ChunkKind::from_u8(kind).is_some_and(|kind| kind.context() == context);
            if !is_meant {
                return Err(damaged(place));
            }
            let mut bytes = Vec::new();
            self.read_stored(context, place, &mut bytes)?;
            Ok(StoredChunk::of_verified(ArchivedChunk { id, len, kind, codec }, bytes))
        };
        self.where_it_is(id, read).map(|(chunk, _)| chunk)
    }

    /// Reads, decodes and verifies one chunk.
    pub(crate) fn read_place(&self, context: KeyContext, place: &PackPlace) -> Result<Chunk> {
        let entry = &place.entry;
        let content = if entry.codec == Codec::Raw && entry.len == entry.stored_len {
            let mut content = Vec::new();
            self.read_bytes(place, &mut content)?;
            content
        } else {
            STORED.with_borrow_mut(|stored| {
                self.read_bytes(place, stored)?;
                decode(place, stored)
            })?
        };
        self.must_be(context, place, &content)?;
        Ok(Chunk::new(content))
    }

    /// Reads one chunk as it is stored, and verifies that it is what it should be.
    pub(crate) fn read_stored(
        &self,
        context: KeyContext,
        place: &PackPlace,
        stored: &mut Vec<u8>,
    ) -> Result<()> {
        self.read_bytes(place, stored)?;
        match place.entry.codec {
            Codec::Raw => self.must_be(context, place, stored),
            _ => self.must_be(context, place, &decode(place, stored)?),
        }
    }

    fn read_bytes(&self, place: &PackPlace, stored: &mut Vec<u8>) -> Result<()> {
        let entry = &place.entry;
        let chunk_len_max = CHUNK_SIZE_BYTES_MAX as u32;
        // Stored chunks are never longer than their content: see `codec`.
        if entry.len > chunk_len_max || entry.stored_len > chunk_len_max {
            return Err(damaged(place));
        }
        stored.resize(entry.stored_len as usize, 0);
        self.packs.read(place.pack, entry.offset, stored)
    }

    fn must_be(&self, context: KeyContext, place: &PackPlace, content: &[u8]) -> Result<()> {
        let is_whole = content.len() == place.entry.len as usize
            && self.domain.chunk_id(context, content) == place.entry.id;
        if is_whole { Ok(()) } else { Err(damaged(place)) }
    }
}

fn decode(place: &PackPlace, stored: &[u8]) -> Result<Vec<u8>> {
    let PackPlace { pack, entry } = place;
    codec::decompress(stored, entry.codec, entry.len as usize)
        .context(|| format!("chunk {} of pack {pack} is damaged", entry.id))
}

fn damaged(place: &PackPlace) -> Error {
    Error::corrupt(format!("chunk {} of pack {} is damaged", place.entry.id, place.pack))
}

impl ChunkSource for ChunkReader {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        if context != KeyContext::Content {
            return self.fetch(context, id); // Nodes are cached decoded, by who decodes them.
        }
        match self.cache.get_value_or_guard(id, None) {
            GuardResult::Value(chunk) => Ok(chunk),
            GuardResult::Guard(guard) => {
                let chunk = self.fetch(context, id)?;
                // It fails only if the cache was emptied meanwhile.
                let _ = guard.insert(chunk.clone());
                Ok(chunk)
            }
            GuardResult::Timeout => self.fetch(context, id),
        }
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        (context == KeyContext::Content).then(|| self.cache.get(id)).flatten()
    }
}
