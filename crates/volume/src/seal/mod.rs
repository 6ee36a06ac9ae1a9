//! Sealing: a disk that is a base and a frozen delta becomes a disk map over chunks, cut along the files of its ext4.
//!
//! For: reading what changed, deciding what of it is new, cutting it, and the new map. Not for: where the delta's folder
//! is, the catalog, and when a delta may go; the caller publishes what the sink has taken.
//!
//! Invariants: the sealed disk reads exactly as base and delta did, whatever the metadata on it says, for the file system
//! is only ever asked where to cut ([`hints`]); the same base and delta give the same `DiskId`, whatever the number of
//! threads; memory is bounded, because the delta is gone through in [`region`]s of at most 4 MiB. A [`unit`] is what is
//! cut as one; a [`worker`] does one region after the other, [`workers`] let them do so side by side. Explained in `docs/internals/seal.md`.

mod dirty;
mod frozen;
mod hints;
mod region;
mod unit;
mod worker;
mod workers;

#[cfg(test)]
mod tests;

pub use dirty::{DirtyBlocks, DirtyRuns, NewDisk};
use frozen::FrozenDisk;
use hints::FileHints;
use silt_store::{ChunkSink, ChunkSource, Domain};
use silt_types::{BLOCK_SIZE_BYTES, DiskId, Error, Progress, Result};
use std::{num::NonZeroUsize, ops::AddAssign, sync::Arc, thread};
use worker::Work;

/// What to seal.
pub struct SealParts<'a> {
    /// Where the chunks of the base are.
    pub source: Arc<dyn ChunkSource>,
    /// The dedup domain in which the sink names chunks: blocks written again as they were are told by the name alone.
    pub domain: &'a Domain,
    /// The sealed disk below the delta.
    pub base: DiskId,
    /// What was written over it. As long as the base or longer; nobody may write it meanwhile.
    pub delta: &'a dyn DirtyBlocks,
}

/// What a seal made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The disk, as long as the delta.
    pub disk: DiskId,
    /// What was done.
    pub counts: SealCounts,
    /// Why some or all blocks could not be cut along their files: the disk holds no ext4, or it is damaged or not
    /// understood. What is lost is dedup alone.
    pub hints_lost: Option<String>,
}

/// What became of the blocks of a delta. Every block counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealCounts {
    /// All of them. One more where the disk has grown from a base that ended within a block.
    pub blocks_dirty: u64,
    /// Of those, blocks that read as zero now.
    pub blocks_zero: u64,
    /// Blocks that hold what they held in the base.
    pub blocks_unchanged: u64,
    /// Changed blocks that were cut along files.
    pub blocks_along_files: u64,
    /// Changed blocks that were cut on the grid.
    pub blocks_on_grid: u64,
    /// Chunks handed to the sink, those of the map left out.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl AddAssign for SealCounts {
    fn add_assign(&mut self, other: SealCounts) {
        self.blocks_dirty += other.blocks_dirty;
        self.blocks_zero += other.blocks_zero;
        self.blocks_unchanged += other.blocks_unchanged;
        self.blocks_along_files += other.blocks_along_files;
        self.blocks_on_grid += other.blocks_on_grid;
        self.chunks += other.chunks;
        self.bytes += other.bytes;
    }
}

/// Makes the disk that reads as base and delta together do. Chunks and map nodes go to `sink`; they are durable once the
/// sink's work is published.
///
/// `Invalid` if the delta is shorter than the base. An error of the delta, of the sink, or of a chunk of the base that is
/// needed ends it; what is wrong with the file system on the disk does not. Costs reading and hashing what the delta
/// has, reading of the base what lies below it unless that is gone or named alike, and reading the file system's
/// journal and the inodes that were changed. Memory, besides source and sink: at most 36 MiB for the base's map, 56 MiB for
/// where files lie, and 4.5 MiB for each processor.
pub fn seal(parts: SealParts<'_>, sink: &dyn ChunkSink, progress: &dyn Progress) -> Result<Sealed> {
    let workers = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    seal_with(parts, sink, progress, workers)
}

fn seal_with(
    parts: SealParts<'_>,
    sink: &dyn ChunkSink,
    progress: &dyn Progress,
    workers: NonZeroUsize,
) -> Result<Sealed> {
    let SealParts { source, domain, base, delta } = parts;
    if delta.size_bytes() < base.size_bytes {
        let (len, base) = (delta.size_bytes(), base.size_bytes);
        return Err(Error::invalid(format!(
            "a delta of a disk of {len} bytes does not fit its base of {base} bytes"
        )));
    }
    let frozen = FrozenDisk::new(source, base, delta)?;
    progress.begin("reading the file system", 0);
    let hints = FileHints::read(&frozen)?;
    progress.begin("sealing", delta.blocks_dirty() * BLOCK_SIZE_BYTES);
    let work = Work { frozen: &frozen, hints: &hints, domain, sink, progress };
    let (disk, counts) = workers::seal_all(work, workers)?;
    Ok(Sealed { disk, counts, hints_lost: hints.lost })
}
