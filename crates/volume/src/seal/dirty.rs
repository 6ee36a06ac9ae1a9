//! What is sealed: the dirty blocks of a disk. Those of a frozen delta, or all that a disk from elsewhere has: importing it
//! is sealing it over the empty disk.

use super::{SealParts, Sealed, seal};
use crate::delta::{DeltaReader, DeltaRun};
use roaring::RoaringBitmap;
use silt_ext4::reader::DiskRead;
use silt_store::{Chunk, ChunkSink, ChunkSource, Domain, KeyContext};
use silt_types::{
    BLOCK_SIZE_BYTES, BlockRange, CHUNK_BLOCKS_MAX, CHUNK_SIZE_BYTES_MAX, ChunkId,
    DISK_SIZE_BYTES_MAX, DiskId, Error, ErrorKind, Progress, Result,
};
use std::{ops::Range, sync::Arc};

/// Runs of dirty blocks, ascending.
pub type DirtyRuns<'a> = Box<dyn Iterator<Item = Result<DeltaRun>> + 'a>;

/// Blocks that were written or zeroed since a base, which many threads read and nobody changes.
pub trait DirtyBlocks: Sync {
    /// Length of the disk in bytes.
    fn size_bytes(&self) -> u64;

    /// Number of dirty blocks.
    fn blocks_dirty(&self) -> u64;

    /// Whether a block is dirty.
    fn contains(&self, block: u64) -> bool;

    /// The first dirty block at or behind this one.
    fn next_dirty(&self, block: u64) -> Option<u64>;

    /// All of them.
    fn runs(&self) -> DirtyRuns<'_>;

    /// Reads bytes of dirty blocks, up to the end of a block that the disk ends in.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
}

impl DirtyBlocks for DeltaReader {
    fn size_bytes(&self) -> u64 {
        self.size_bytes()
    }

    fn blocks_dirty(&self) -> u64 {
        self.blocks_modified()
    }

    fn contains(&self, block: u64) -> bool {
        self.contains(block)
    }

    fn next_dirty(&self, block: u64) -> Option<u64> {
        self.members().range(u32::try_from(block).ok()?..).next().map(u64::from)
    }

    fn runs(&self) -> DirtyRuns<'_> {
        Box::new(self.runs())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read_at(buf, offset)
    }
}

/// A disk from elsewhere, and where it may have data.
///
/// That is kept by cells of 64 KiB: at most 32 MiB of memory however it is scattered, and a block that turns out zero is a
/// hole all the same.
pub struct NewDisk<'a> {
    disk: &'a (dyn DiskRead + Sync),
    cells: RoaringBitmap,
}

impl<'a> NewDisk<'a> {
    /// A disk without data so far. `Invalid` beyond 16 TiB.
    pub fn new(disk: &'a (dyn DiskRead + Sync)) -> Result<NewDisk<'a>> {
        let size_bytes = disk.size_bytes();
        if size_bytes > DISK_SIZE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a disk of {size_bytes} bytes is larger than 16 TiB"
            )));
        }
        Ok(NewDisk { disk, cells: RoaringBitmap::new() })
    }

    /// These bytes may be something else than zero; what is behind the end does not count.
    pub fn add_data(&mut self, bytes: Range<u64>) {
        let end = bytes.end.min(self.size_bytes());
        if bytes.start < end {
            let cell = |byte: u64| (byte / CHUNK_SIZE_BYTES_MAX as u64) as u32; // Below 2^28.
            self.cells.insert_range(cell(bytes.start)..=cell(end - 1));
        }
    }

    /// Length of what may have data, in bytes: what an import reads.
    pub fn data_bytes(&self) -> u64 {
        let cells = self.cells.len() * CHUNK_SIZE_BYTES_MAX as u64;
        let cut = match self.cells.max() {
            Some(last) => (u64::from(last) + 1) * CHUNK_SIZE_BYTES_MAX as u64,
            None => 0,
        };
        cells - cut.saturating_sub(self.size_bytes())
    }

    /// Makes the disk one of the store; see [`seal`], which this is over the empty disk. An error of the disk ends it.
    pub fn import(
        &self,
        domain: &Domain,
        sink: &dyn ChunkSink,
        progress: &dyn Progress,
    ) -> Result<Sealed> {
        let base = DiskId { root: DiskId::ZERO_ROOT, size_bytes: 0 };
        seal(SealParts { source: Arc::new(NoChunks), domain, base, delta: self }, sink, progress)
    }

    fn blocks(&self) -> u64 {
        self.size_bytes().div_ceil(BLOCK_SIZE_BYTES)
    }

    /// The blocks of these cells.
    fn blocks_of(&self, first: u32, last: u32) -> BlockRange {
        let start = u64::from(first) * CHUNK_BLOCKS_MAX;
        let end = ((u64::from(last) + 1) * CHUNK_BLOCKS_MAX).min(self.blocks());
        BlockRange { start, len: end - start }
    }
}

impl DirtyBlocks for NewDisk<'_> {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn blocks_dirty(&self) -> u64 {
        self.data_bytes().div_ceil(BLOCK_SIZE_BYTES)
    }

    fn contains(&self, block: u64) -> bool {
        block < self.blocks() && self.cells.contains((block / CHUNK_BLOCKS_MAX) as u32)
    }

    fn next_dirty(&self, block: u64) -> Option<u64> {
        let first = u32::try_from(block / CHUNK_BLOCKS_MAX).ok()?;
        let cell = self.cells.range(first..).next()?;
        let found = block.max(u64::from(cell) * CHUNK_BLOCKS_MAX);
        (found < self.blocks()).then_some(found)
    }

    fn runs(&self) -> DirtyRuns<'_> {
        let mut cells = self.cells.iter();
        Box::new(std::iter::from_fn(move || {
            let run = cells.next_range()?;
            let range = self.blocks_of(*run.start(), *run.end());
            Some(Ok(DeltaRun { range, hole: false }))
        }))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = self.size_bytes().saturating_sub(offset).min(buf.len() as u64);
        let (found, behind) = buf.split_at_mut(len as usize);
        behind.fill(0);
        self.disk.read_at(found, offset)
    }
}

/// The chunks of the empty disk.
struct NoChunks;

impl ChunkSource for NoChunks {
    fn get(&self, _context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        Err(Error::new(ErrorKind::NotFound, format!("the empty disk has no chunk {id}")))
    }

    fn get_hot(&self, _context: KeyContext, _id: &ChunkId) -> Option<Chunk> {
        None
    }
}
