//! Clones that are longer than what they begin from, the file system on them grown to their length.
//!
//! The growth is made once, as a sealed disk that all clones stand on: a few chunks of ext4 metadata and the map nodes on the
//! way to them. No content is read.

use crate::{
    clone::{Beginning, CloneRequest, publish},
    device::AsDisk,
    engine::Engine,
    resize::must_be_a_size,
};
use silt_ext4::growth::{Growth, grow};
use silt_format::state_of_disk;
use silt_store::{ChunkKind, ChunkSink, Compression, Ingest, Named, VolumeRecord};
use silt_types::{
    BLOCK_SIZE_BYTES, BlockRange, CHUNK_BLOCKS_MAX, DiskId, Error, ErrorKind, Progress, Result,
    format_size, is_zero,
};
use silt_volume::{ChunkPlace, MapChange, update_map};

/// Clones that were made longer.
#[derive(Debug)]
pub struct LongerClones {
    /// The volumes.
    pub volumes: Vec<VolumeRecord>,
    /// What became of the file system on them.
    pub file_system: FileSystem,
}

/// What became of the file system on a disk that was made longer.
#[derive(Debug)]
pub enum FileSystem {
    /// It is as long as the disk, but for an end that is too short for a group.
    Grown(Growth),
    /// It is what it was, for this reason: there is none, or it is one that only its own tools can grow. What was added to
    /// the disk reads as zero.
    Left(Error),
}

impl Engine {
    /// [`Engine::clone_disk`], with disks of `size_bytes`: at least the length of the source, at most 16 TiB, `Invalid`
    /// otherwise. An ext4 of ours on them is grown, if it was cleanly unmounted; `Corrupt` if it is damaged.
    ///
    /// Seals what was written since the base of the source. Then costs what [`grow`] does, stored as chunks, and a transaction.
    pub fn clone_longer(
        &self,
        request: &CloneRequest,
        size_bytes: u64,
        progress: &dyn Progress,
    ) -> Result<LongerClones> {
        request.check()?;
        must_be_a_size(size_bytes)?;
        for name in &request.volumes {
            silt_image::refuse_taken_name(&self.store, name, false)?;
        }
        // Before anything is frozen for it; what is held decides.
        let size_now = match self.find(&request.source)? {
            Named::Image(image) => image.disk.size_bytes,
            Named::Snapshot(snapshot) => snapshot.size_bytes,
            Named::Volume(volume) => volume.size_bytes,
        };
        must_not_be_shorter(request, size_bytes, size_now)?;
        self.with_sealed_state(&request.source, progress, |state| {
            must_not_be_shorter(request, size_bytes, state.disk.size_bytes)?;
            let ingest = self.store.ingest(Compression::default())?;
            let (base, file_system) = self.lengthen(&ingest, state.disk, size_bytes)?;
            let volumes = ingest.publish("cannot publish the volume", Vec::new(), |change| {
                let beginning = Beginning {
                    base,
                    size_bytes,
                    frozen: Vec::new(),
                    state: state_of_disk(&base),
                    head: state.head_in(change)?,
                    volume: state.volume,
                };
                state.release_in(change)?;
                publish(change, request, &beginning)
            })?;
            Ok(LongerClones { volumes, file_system })
        })
    }

    /// A sealed disk of `size_bytes` with all that `disk` has, and its file system grown if that can be done.
    fn lengthen(
        &self,
        ingest: &Ingest,
        disk: DiskId,
        size_bytes: u64,
    ) -> Result<(DiskId, FileSystem)> {
        let before = self.open_sealed(disk, None, None)?;
        let mut changes = Changes::new(ingest);
        let file_system =
            match grow(AsDisk(&before.volume), size_bytes, &mut |at, bytes| changes.add(at, bytes))
            {
                Ok(growth) => FileSystem::Grown(growth),
                // Nothing was handed out: both are found out before.
                Err(error)
                    if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Invalid) =>
                {
                    FileSystem::Left(error)
                }
                Err(error) => return Err(error),
            };
        let changes = changes.finish()?;
        let longer =
            update_map(&self.store, ingest, disk, size_bytes, changes.into_iter().map(Ok))?;
        Ok((longer, file_system))
    }
}

fn must_not_be_shorter(request: &CloneRequest, size_bytes: u64, size_now: u64) -> Result<()> {
    if size_bytes >= size_now {
        return Ok(());
    }
    let (source, now) = (&request.source, format_size(size_now));
    Err(Error::invalid(format!("{source} has {now}: a clone of it cannot be shorter")))
}

/// Blocks, ascending, on their way into chunks and a map.
struct Changes<'a> {
    sink: &'a dyn ChunkSink,
    changes: Vec<MapChange>,
    /// Neighbouring blocks that become one chunk, or that are all zero.
    run: Vec<u8>,
    run_start: u64,
    run_is_zero: bool,
}

impl Changes<'_> {
    fn new(sink: &dyn ChunkSink) -> Changes<'_> {
        Changes { sink, changes: Vec::new(), run: Vec::new(), run_start: 0, run_is_zero: false }
    }

    fn add(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        let run_end = self.run_start + self.run.len() as u64 / BLOCK_SIZE_BYTES;
        let zero = is_zero(bytes);
        // Cut where an image would be, so that a disk grown and one built at this length share chunks.
        if block != run_end || block.is_multiple_of(CHUNK_BLOCKS_MAX) || zero != self.run_is_zero {
            self.finish_run()?;
            (self.run_start, self.run_is_zero) = (block, zero);
        }
        self.run.extend_from_slice(bytes);
        Ok(())
    }

    fn finish_run(&mut self) -> Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        let len = self.run.len() as u64 / BLOCK_SIZE_BYTES;
        let range = BlockRange { start: self.run_start, len };
        let place = match self.run_is_zero {
            true => None,
            false => {
                let chunk = self.sink.put(ChunkKind::DiskData, &self.run)?;
                Some(ChunkPlace { chunk, offset_blocks: 0 })
            }
        };
        self.changes.push(MapChange { range, place });
        self.run.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<MapChange>> {
        self.finish_run()?;
        Ok(self.changes)
    }
}
