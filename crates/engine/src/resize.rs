//! Other lengths of a volume's disk. The file system on it is its guest's to grow.

use crate::{
    control::{ControlClient, Layering},
    engine::Engine,
    freeze::{Frozen, apply_in},
};
use silt_format::{FROZEN_DELTAS_MAX, state_of_disk, state_of_length};
use silt_store::{FrozenDelta, VolumeRecord};
use silt_sys::durability::random_bytes;
use silt_types::{
    BLOCK_SIZE_BYTES, DISK_SIZE_BYTES_MAX, DeltaId, DiskId, Error, ErrorKind, Name, NoProgress,
    Progress, Result, StateId, format_size,
};
use silt_volume::{DiskMap, shrink_map};
use std::sync::Arc;

/// A length to give to a volume.
#[derive(Clone, Debug)]
pub struct ResizeRequest {
    /// The volume.
    pub volume: Name,
    /// Its length from now on, in bytes; 1 to 16 TiB.
    pub size_bytes: u64,
    /// Whether it may become shorter, if nothing is in the part that goes.
    pub shrink: bool,
}

/// `Invalid` for what no disk can have.
pub(crate) fn must_be_a_size(size_bytes: u64) -> Result<()> {
    if (1..=DISK_SIZE_BYTES_MAX).contains(&size_bytes) {
        return Ok(());
    }
    Err(Error::invalid(format!("a disk has 1 byte to 16 TiB, not {size_bytes} bytes")))
}

/// The state of a disk that holds what `base` does, and zeros behind it.
fn state_of_resized(base: &DiskId, size_bytes: u64) -> StateId {
    let state = state_of_disk(base);
    if base.size_bytes == size_bytes { state } else { state_of_length(&state, size_bytes) }
}

impl Engine {
    /// Gives a volume another length. What is added reads as zero. It becomes shorter only with `shrink`, and only if the
    /// part that goes is empty, or behind the end of its ext4: `Invalid` otherwise. A volume that is served grows
    /// under its clients if they can be told, and is `Busy` otherwise. Growing costs a transaction; shrinking seals the volume
    /// first.
    pub fn resize(&self, request: &ResizeRequest, progress: &dyn Progress) -> Result<VolumeRecord> {
        let size = request.size_bytes;
        must_be_a_size(size)?;
        let volume = self.find_volume(&request.volume)?;
        if size >= volume.size_bytes {
            return self.grow(&volume, size);
        }
        if !request.shrink {
            let (name, now) = (&volume.name, format_size(volume.size_bytes));
            let message =
                format!("volume {name} has {now} and would lose its end: allow it with --shrink");
            return Err(Error::invalid(message));
        }
        self.shrink(&volume, size, progress)
    }

    fn grow(&self, volume: &VolumeRecord, size_bytes: u64) -> Result<VolumeRecord> {
        if let Some(grown) = self.grow_served(volume, size_bytes)? {
            return Ok(grown);
        }
        self.make_room_to_freeze(volume)?;
        let _alone = self.turn_alone(volume)?;
        let frozen = self.freeze_at_rest(volume)?;
        let mut emptied = None;
        let grown = self.store.change("cannot resize the volume", |change| {
            let mut volume = apply_in(change, volume, &frozen)?;
            if volume.size_bytes < size_bytes {
                volume.size_bytes = size_bytes;
                volume.state = state_of_length(&volume.state, size_bytes);
                // A delta belongs to a disk of its length. What is replaced here has no blocks.
                emptied = Some(FrozenDelta { delta: volume.own, home: volume.id });
                volume.own = DeltaId::from_bytes(random_bytes()?);
                volume.generation += 1;
                change.put_volume(&volume)?;
            }
            Ok(volume)
        })?;
        self.remove_unneeded(emptied)?;
        Ok(grown)
    }

    /// Lets the server of a volume grow it, and the catalog follow. `None` if nobody serves it.
    fn grow_served(&self, volume: &VolumeRecord, size_bytes: u64) -> Result<Option<VolumeRecord>> {
        loop {
            let turn = self.turn(volume)?;
            let now = self.volume_now(volume)?;
            let Some(server) = ControlClient::connect(self.store.paths(), &now)? else {
                return Ok(None);
            };
            let state = server.grow(&Layering::of(&now), now.generation + 1, size_bytes)?;
            let is_done = state.size_bytes >= size_bytes;
            let now = self.follow(&now, &Frozen::of(state))?;
            if is_done {
                return Ok(Some(now));
            }
            // It has as many frozen deltas as it can have.
            drop(turn);
            if now.frozen.len() >= FROZEN_DELTAS_MAX {
                self.seal_oldest(&now, &NoProgress)?;
            }
        }
    }

    fn shrink(
        &self,
        volume: &VolumeRecord,
        size_bytes: u64,
        progress: &dyn Progress,
    ) -> Result<VolumeRecord> {
        drop(self.turn_alone(volume)?);
        self.flatten(&volume.name, progress)?;
        let _alone = self.turn_alone(volume)?;
        let before = self.reconciled(volume)?;
        let disk = self.read_only_volume(&before)?;
        if !before.frozen.is_empty() || disk.blocks_modified() > 0 {
            let message = format!("volume {} was written meanwhile", before.name);
            return Err(Error::new(ErrorKind::Busy, message));
        }
        self.must_be_free(&before, size_bytes)?;
        let ingest = self.store.ingest(silt_store::Compression::default())?;
        let base =
            shrink_map(&self.store, &ingest, before.base, size_bytes.min(before.base.size_bytes))?;
        let doing = "cannot resize the volume";
        let shrunk = ingest.publish(doing, Vec::new(), |change| {
            let now = change.volume(before.id)?;
            let volume = VolumeRecord {
                base,
                size_bytes,
                state: state_of_resized(&base, size_bytes),
                own: DeltaId::from_bytes(random_bytes()?),
                generation: now.generation + 1,
                ..now
            };
            change.put_volume(&volume)?;
            Ok(volume)
        })?;
        self.remove_unneeded([FrozenDelta { delta: before.own, home: before.id }])?;
        Ok(shrunk)
    }

    /// `Invalid` unless the part from `size_bytes` on reads as zero or is behind the end of the ext4 on the disk.
    fn must_be_free(&self, volume: &VolumeRecord, size_bytes: u64) -> Result<()> {
        if self.mapped_end(volume.base)? <= size_bytes {
            return Ok(());
        }
        let disk = self.open_sealed(volume.base, None, None)?;
        let file_system = silt_ext4::reader::Ext4::open(crate::device::AsDisk(&disk.volume));
        match file_system {
            Ok(ext4) if ext4.size_bytes() <= size_bytes => Ok(()),
            Ok(ext4) => Err(Error::invalid(format!(
                "the ext4 of volume {} has {} and needs them: shrink it first (resize2fs)",
                volume.name,
                format_size(ext4.size_bytes())
            ))),
            Err(error) => {
                let (name, size) = (&volume.name, format_size(size_bytes));
                let message = format!(
                    "volume {name} has data behind {size} and no ext4 that says whether it counts"
                );
                Err(Error::with_source(ErrorKind::Invalid, message, error))
            }
        }
    }

    /// The end of the last block that a disk maps, in bytes.
    fn mapped_end(&self, disk: DiskId) -> Result<u64> {
        let map = DiskMap::open(Arc::new(self.store.clone()), disk)?;
        map.extents().try_fold(0, |_, extent| Ok(extent?.range.end() * BLOCK_SIZE_BYTES))
    }
}
