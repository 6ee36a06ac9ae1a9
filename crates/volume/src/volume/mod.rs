//! A volume: a sealed base, the frozen deltas over it, and the delta that is written to, as one disk.
//!
//! For: the path of a guest's read, write, flush and discard. Not for: names, the catalog, making and freezing deltas, and
//! where their folders are; the caller gives paths. Images are volumes without deltas.
//!
//! Invariants: a block reads from the newest layer that has it; layers below the own delta never change; what a layer
//! zeroed stays zero. [`read`] goes down the layers, [`write`] makes a block join the own delta, [`status`] tells holes,
//! [`growth`] keeps to bounds, [`rotate`] puts other layers under running I/O. Explained in `docs/internals/block-path.md`.

mod first_touch;
mod growth;
mod layers;
mod mark;
mod read;
mod readahead;
mod rotate;
mod status;
mod write;

#[cfg(test)]
mod tests;

use crate::{
    delta::{Delta, DeltaReader},
    device::{BlockDevice, BlockStatus, Geometry},
    map::{DiskMap, Extent},
};
use first_touch::FirstTouch;
use growth::Growth;
use layers::{Layer, Layers};
use readahead::Readahead;
use rotate::Recorded;
use silt_format::FROZEN_DELTAS_MAX;
use silt_store::{ChunkSource, Lease};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::{BLOCK_SIZE_BYTES, DISK_SIZE_BYTES_MAX, DiskId, Error, Result};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// What a volume is opened from.
pub struct VolumeParts {
    /// Where the chunks of the base are.
    pub source: Arc<dyn ChunkSource>,
    /// The sealed disk below everything.
    pub base: DiskId,
    /// Folders of the frozen deltas, newest first; at most eight. A disk that is only read may have one more: the delta
    /// that is written to at other times.
    pub frozen: Vec<PathBuf>,
    /// Folder of the delta that is written to; without one the disk is read-only.
    pub own: Option<PathBuf>,
    /// Length of the disk in bytes, at least that of the base and of every delta.
    pub size_bytes: u64,
    /// Taken before the catalog was asked for all this; keeps the base, and whatever takes its place, from collection. None
    /// where something else does.
    pub lease: Option<Lease>,
}

/// A disk open for reading, and for writing if it has a delta of its own.
///
/// Dropping it without [`Volume::close`] loses nothing that was flushed.
pub struct Volume {
    source: Arc<dyn ChunkSource>,
    /// Held for reading by every write until it is done, so that whoever holds it for writing meets none in flight.
    layers: RwLock<Arc<Layers>>,
    /// Grows only, when a rotation to a longer delta is recorded.
    size_bytes: AtomicU64,
    first_touch: FirstTouch,
    readahead: Option<Readahead>,
    /// None: it grows as long as the kernel lets it.
    growth: Option<Growth>,
    rotations: Mutex<()>,
    lease: Option<Lease>,
}

impl Volume {
    /// What keeps its base from collection, if it does.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Opens a disk. Reads the records of the deltas, nothing of the base. `Busy` if the own delta is in use, `Invalid` for
    /// sizes that do not fit or too many deltas, `Corrupt` for a damaged one.
    pub fn open(parts: VolumeParts) -> Result<Volume> {
        let VolumeParts { source, base, frozen, own, size_bytes, lease } = parts;
        if size_bytes < base.size_bytes || size_bytes > DISK_SIZE_BYTES_MAX {
            let base = base.size_bytes;
            return Err(Error::invalid(format!(
                "a volume of {size_bytes} bytes does not fit its base of {base} bytes"
            )));
        }
        if frozen.len() > FROZEN_DELTAS_MAX + usize::from(own.is_none()) {
            let count = frozen.len();
            return Err(Error::invalid(format!("{count} frozen deltas are too many for a volume")));
        }
        let open = |dir: &PathBuf| DeltaReader::open(dir).map(Arc::new);
        let frozen = frozen.iter().map(open).collect::<Result<Vec<_>>>()?;
        let own = own.map(|dir| Delta::open(&dir).map(Arc::new)).transpose()?;
        if let Some(delta) = frozen.iter().find(|delta| delta.size_bytes() > size_bytes) {
            let id = delta.id();
            return Err(Error::invalid(format!("frozen delta {id} belongs to a larger disk")));
        }
        if let Some(own) = own.as_ref().filter(|own| own.size_bytes() != size_bytes) {
            let (id, len) = (own.id(), own.size_bytes());
            return Err(Error::invalid(format!(
                "delta {id} belongs to a disk of {len} bytes, not of {size_bytes}"
            )));
        }
        if let Some(lease) = &lease {
            lease.reads(&[base])?;
        }
        let base = Arc::new(DiskMap::open(source.clone(), base)?);
        let layers = Layers { base, frozen, own, recorded: Recorded::already() };
        Ok(Volume {
            source,
            layers: RwLock::new(Arc::new(layers)),
            size_bytes: AtomicU64::new(size_bytes),
            first_touch: FirstTouch::default(),
            readahead: None,
            growth: None,
            rotations: Mutex::default(),
            lease,
        })
    }

    /// From now on chunks are fetched ahead of whoever reads in order, by threads that the first such reader starts. The source
    /// must keep some 32 MiB of them.
    pub fn read_ahead(&mut self) {
        self.readahead = Some(Readahead::new(self.source.clone()));
    }

    /// Flushes, and records that the volume was left in good order, so that a shortened record of its delta is noticed, and
    /// that its state may be told. The volume can be used on. Does nothing for a read-only one.
    pub fn close(&self) -> Result<()> {
        match self.flushable()? {
            None => Ok(()),
            Some(_) => {
                self.settle()?;
                self.flushable()?.map_or(Ok(()), |own| own.close())
            }
        }
    }

    /// Number of blocks written or zeroed since the base, in all deltas together.
    pub fn blocks_modified(&self) -> u64 {
        self.layers().blocks_modified()
    }

    /// Space that the deltas take on their file system, in bytes.
    pub fn delta_bytes_allocated(&self) -> Result<u64> {
        self.layers().allocated_bytes()
    }

    /// What the sealed disk below says of a block that no delta has, and how many from it on are alike, at most `len_blocks`;
    /// `None` if a delta has the block, or the sealed disk ends within it.
    pub fn sealed_extent(&self, block: u64, len_blocks: u64) -> Result<Option<Extent>> {
        let layers = self.layers();
        let end = block + len_blocks.max(1);
        let (Layer::Base, blocks) = layers.locate(block, end) else { return Ok(None) };
        let sealed_bytes = layers.base.disk_id().size_bytes;
        if block >= sealed_bytes.div_ceil(BLOCK_SIZE_BYTES) {
            return Ok(Some(Extent { len_blocks: blocks, place: None }));
        }
        let whole = sealed_bytes / BLOCK_SIZE_BYTES;
        if block >= whole {
            return Ok(None);
        }
        let found = layers.base.lookup(block)?;
        let len_blocks = found.len_blocks.min(blocks).min(whole - block);
        Ok(Some(Extent { len_blocks, ..found }))
    }

    /// The layers as they are now. Those below the own delta stay what they are for whoever holds this.
    fn layers(&self) -> Arc<Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The map of the sealed disk below everything.
    pub(crate) fn base_map(&self) -> Arc<DiskMap> {
        self.layers().base.clone()
    }

    /// The deltas that are only read, newest first; of a read-only disk all there are.
    pub(crate) fn frozen(&self) -> Vec<Arc<DeltaReader>> {
        self.layers().frozen.clone()
    }

    /// The delta whose flush covers everything that was answered so far; none for a read-only volume.
    fn flushable(&self) -> Result<Option<Arc<Delta>>> {
        let layers = self.layers();
        layers.recorded.wait()?;
        Ok(layers.own.clone())
    }

    fn check(&self, offset: u64, len_bytes: u64) -> Result<()> {
        match offset.checked_add(len_bytes) {
            Some(end) if end <= self.size_bytes() => Ok(()),
            _ => Err(Error::invalid(format!(
                "{len_bytes} bytes at {offset} are beyond the disk of {} bytes",
                self.size_bytes()
            ))),
        }
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }
}

impl BlockDevice for Volume {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.size_bytes(), read_only: self.layers().own.is_none() }
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.read(buf, offset)
    }

    fn read_hot(&self, buf: IoBufMut<'_>, offset: u64) -> Result<bool> {
        self.read_if_hot(buf, offset)
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.check(offset, len_bytes)?;
        readahead::fetch(&self.layers(), self.source.as_ref(), offset, offset + len_bytes)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.write(buf, offset)
    }

    fn flush(&self) -> Result<()> {
        self.flushable()?.ok_or_else(read_only)?.flush()
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.discard_whole_blocks(offset, len_bytes)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        self.zero(offset, len_bytes, may_unmap)
    }

    fn block_status(
        &self,
        offset: u64,
        len_bytes: u64,
        runs_max: usize,
    ) -> Result<Vec<BlockStatus>> {
        self.status(offset, len_bytes, runs_max)
    }
}

fn read_only() -> Error {
    Error::invalid("the disk is read-only")
}
