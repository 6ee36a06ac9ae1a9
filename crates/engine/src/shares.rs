//! What images add to one another and share: the numbers behind `silt info --graph`.

use crate::engine::Engine;
use silt_store::{ImageRecord, Named};
use silt_types::{BLOCK_SIZE_BYTES, ChunkId, Error, Name, Result};
use silt_volume::DiskMap;
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

/// What one image of a set holds, all in bytes. Content is what its disk maps, without what reads as zero; the nodes of maps
/// and trees are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageShare {
    /// Its name.
    pub name: Name,
    /// Length of its disk.
    pub size_bytes: u64,
    /// Content in blocks of 4 KiB: what is not saved by holes.
    pub content_bytes: u64,
    /// Of its distinct chunks, those that images before it in the set have too.
    pub shared_bytes: u64,
    /// Of its distinct chunks, those that none before it has.
    pub added_bytes: u64,
    /// What the added chunks take in packs.
    pub stored_bytes: u64,
    /// Of its distinct chunks, those that no other image of the set has: what would go with it.
    pub own_bytes: u64,
}

impl ImageShare {
    /// Content that the image holds more than once, and the ends of blocks behind the ends of files.
    pub fn repeated_bytes(&self) -> u64 {
        self.content_bytes.saturating_sub(self.shared_bytes + self.added_bytes)
    }
}

/// A chunk of the set.
struct Known {
    first: usize,
    is_shared: bool,
    len: u64,
}

impl Engine {
    /// What images add and share, the oldest first; all there are if none is named. `NotFound` for a name that is none,
    /// `Invalid` for one that is no image's. Costs the nodes of their maps, a look-up for each distinct chunk, and about 80
    /// bytes of memory for it.
    pub fn shares(&self, names: &[Name]) -> Result<Vec<ImageShare>> {
        let _lease = self.store.lease()?;
        let mut images = match names {
            [] => self.list()?.images,
            _ => names.iter().map(|name| self.find_image(name)).collect::<Result<_>>()?,
        };
        images.sort_by(|a, b| (a.created_ns, &a.name).cmp(&(b.created_ns, &b.name)));
        images.dedup_by(|a, b| a.name == b.name);
        let mut known: HashMap<ChunkId, Known> = HashMap::new();
        let mut shares = Vec::with_capacity(images.len());
        for (number, image) in images.iter().enumerate() {
            shares.push(self.share(number, image, &mut known)?);
        }
        for chunk in known.values().filter(|chunk| !chunk.is_shared) {
            shares[chunk.first].own_bytes += chunk.len;
        }
        Ok(shares)
    }

    fn find_image(&self, name: &Name) -> Result<ImageRecord> {
        match self.find(&name.clone().into())? {
            Named::Image(image) => Ok(image),
            other => Err(Error::invalid(format!("{name} is not an image but a {}", other.kind()))),
        }
    }

    fn share(
        &self,
        number: usize,
        image: &ImageRecord,
        known: &mut HashMap<ChunkId, Known>,
    ) -> Result<ImageShare> {
        let mut share = ImageShare {
            name: image.name.clone(),
            size_bytes: image.disk.size_bytes,
            content_bytes: 0,
            shared_bytes: 0,
            added_bytes: 0,
            stored_bytes: 0,
            own_bytes: 0,
        };
        let mut seen = HashSet::new();
        for extent in DiskMap::open(Arc::new(self.store.clone()), image.disk)?.extents() {
            let extent = extent?;
            share.content_bytes += extent.range.len * BLOCK_SIZE_BYTES;
            if !seen.insert(extent.place.chunk) {
                continue;
            }
            match known.entry(extent.place.chunk) {
                Entry::Occupied(mut there) => {
                    share.shared_bytes += there.get().len;
                    there.get_mut().is_shared = true;
                }
                Entry::Vacant(free) => {
                    let chunk = free.key();
                    let place = self.store.place_of(chunk)?.ok_or_else(|| {
                        Error::corrupt(format!("chunk {chunk} of image {} is missing", image.name))
                    })?;
                    let (len, stored) = (place.entry.len.into(), u64::from(place.entry.stored_len));
                    share.added_bytes += len;
                    share.stored_bytes += stored;
                    free.insert(Known { first: number, is_shared: false, len });
                }
            }
        }
        Ok(share)
    }
}
