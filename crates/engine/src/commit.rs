//! Making images of volumes, and volumes without deltas.

use crate::{
    engine::{Engine, now_ns},
    seal::{Contended, SealReport},
};
use silt_store::{ImageRecord, Named};
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
        if let Named::Image(_) = self.find(&request.source)? {
            return Err(Error::invalid(format!("{} is an image already", request.source)));
        }
        self.with_sealed_state(&request.source, progress, |state| {
            let image = ImageRecord {
                name: request.image.clone(),
                disk: state.disk,
                tree: None,
                config: None,
                created_ns: now_ns(),
                bytes_nonzero: self.bytes_mapped(state.disk)?,
            };
            // The pack says it too, so that the catalog can be made again.
            let ingest = self.store.ingest(silt_store::Compression::default())?;
            ingest.publish("cannot publish the image", vec![image.root_record()], |change| {
                state.release_in(change)?;
                change.put_image(&image, request.replace)
            })?;
            Ok(image)
        })
    }

    pub(crate) fn bytes_mapped(&self, disk: DiskId) -> Result<u64> {
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
