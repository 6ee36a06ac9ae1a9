//! Making images of volumes, and volumes without deltas.

use crate::{
    engine::{Engine, now_ns},
    freeze::apply_in,
    seal::{Contended, SealReport},
    snapshot::keep,
};
use silt_store::{ImageRecord, Named, SnapshotPurpose, SnapshotRecord};
use silt_types::{BLOCK_SIZE_BYTES, DiskId, DiskName, Error, Name, Progress, Result};
use silt_volume::DiskMap;
use std::sync::Arc;

/// What becomes an image.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    /// The volume, as it is now, or the snapshot.
    pub source: DiskName,
    /// Name of the image.
    pub image: Name,
    /// Whether the image may take the place of one of that name.
    pub replace: bool,
}

impl Engine {
    /// Makes an image of what a volume holds now, or of a snapshot; the volume goes on. `AlreadyExists` if the name is
    /// taken. Seals what was written since the base, then costs a transaction.
    pub fn commit(&self, request: &CommitRequest, progress: &dyn Progress) -> Result<ImageRecord> {
        silt_image::refuse_taken_name(&self.store, &request.image, request.replace)?;
        match self.find(&request.source)? {
            Named::Snapshot(snapshot) => {
                let disk = self.seal_snapshot(&snapshot, progress)?;
                self.publish_disk(request, disk, None)
            }
            Named::Volume(volume) => {
                // Holds the state until it is an image; whoever finds it without its lease removes it.
                let lease = self.store.lease()?;
                let name: Name = lease.id().to_string().parse()?;
                let (turn, frozen) = self.freeze_with_room(&volume)?;
                let held = self.store.change("cannot hold the state of the volume", |change| {
                    let volume = apply_in(change, &volume, &frozen)?;
                    keep(change, volume, name.clone(), SnapshotPurpose::Passing)
                });
                if held.is_err() {
                    // What was frozen stays so, and the catalog says it if it can.
                    let _ = self.follow(&volume, &frozen);
                }
                drop(turn);
                let passing = held?;
                let disk = self.seal_snapshot(&passing, progress);
                let published =
                    disk.and_then(|disk| self.publish_disk(request, disk, Some(&passing)));
                if published.is_err() {
                    // If that fails too, it goes with the lease.
                    let _ = self.forget_snapshot(&passing);
                }
                published
            }
            Named::Image(_) => {
                Err(Error::invalid(format!("{} is an image already", request.source)))
            }
        }
    }

    fn publish_disk(
        &self,
        request: &CommitRequest,
        disk: DiskId,
        passing: Option<&SnapshotRecord>,
    ) -> Result<ImageRecord> {
        let image = ImageRecord {
            name: request.image.clone(),
            disk,
            tree: None,
            created_ns: now_ns(),
            bytes_nonzero: self.bytes_mapped(disk)?,
        };
        // The pack says it too, so that the catalog can be made again.
        let ingest = self.store.ingest(silt_store::Compression::default())?;
        ingest.publish("cannot publish the image", vec![image.root_record()], |change| {
            if let Some(passing) = passing {
                change.remove_snapshot(passing.id)?;
            }
            change.put_image(&image, request.replace)
        })?;
        Ok(image)
    }

    fn bytes_mapped(&self, disk: DiskId) -> Result<u64> {
        let map = DiskMap::open(Arc::new(self.store.clone()), disk)?;
        map.extents().try_fold(0, |sum, extent| Ok(sum + extent?.range.len * BLOCK_SIZE_BYTES))
    }

    /// Seals everything that a volume has written so far; what its guest writes meanwhile stays in its delta. Afterwards
    /// an idle volume has no delta at all. Its snapshots are sealed too.
    pub fn flatten(&self, volume: &Name, progress: &dyn Progress) -> Result<SealReport> {
        let record = self.find_volume(volume)?;
        let (turn, frozen) = self.freeze_with_room(&record)?;
        self.follow(&record, &frozen)?;
        drop(turn);
        self.seal(Some(volume), Contended::Wait, progress)
    }
}
