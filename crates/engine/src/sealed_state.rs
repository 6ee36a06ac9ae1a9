//! A state of a disk, sealed and held for whoever makes something of it: an image, or a longer clone.
//!
//! What a volume holds is frozen under a passing snapshot, which goes in the transaction that publishes what was made, or
//! with the lease of a process that was killed.

use crate::{engine::Engine, snapshot::keep};
use silt_format::state_of_disk;
use silt_store::{Change, Lease, Named, SnapshotPurpose, SnapshotRecord};
use silt_types::{DiskId, DiskName, Name, Progress, Result, SnapshotId, StateId, VolumeId};

/// A sealed disk, and where it comes from.
pub(crate) struct SealedState {
    pub(crate) disk: DiskId,
    /// Its state id.
    pub(crate) state: StateId,
    /// The volume it was.
    pub(crate) volume: Option<VolumeId>,
    /// The snapshot it was.
    snapshot: Option<SnapshotId>,
    passing: Option<(SnapshotRecord, Lease)>,
}

impl SealedState {
    /// The snapshot that a volume made of it goes on from, as the transaction that publishes it has it: those before it may
    /// have been removed while it was sealed. To be asked before it is let go of; `NotFound` if it was removed itself.
    pub(crate) fn head_in(&self, change: &Change<'_>) -> Result<Option<SnapshotId>> {
        match (&self.passing, self.snapshot) {
            (Some((passing, _)), _) => Ok(change.snapshot(passing.id)?.parent),
            (None, Some(snapshot)) => Ok(Some(change.snapshot(snapshot)?.id)),
            (None, None) => Ok(None),
        }
    }

    /// Lets go of it in the transaction that publishes what was made of it.
    pub(crate) fn release_in(&self, change: &mut Change<'_>) -> Result<()> {
        match &self.passing {
            Some((passing, _)) => change.remove_snapshot(passing.id),
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Makes something of what `source` is now. Freezes a volume, seals what was written since its base or, of a snapshot,
    /// before it, and hands the disk to `make`, which must release it.
    pub(crate) fn with_sealed_state<T>(
        &self,
        source: &DiskName,
        progress: &dyn Progress,
        make: impl FnOnce(&SealedState) -> Result<T>,
    ) -> Result<T> {
        // Before the catalog is looked at: what is found stays until something is made of it, whoever removes it meanwhile.
        let lease = self.store.lease()?;
        match self.find(source)? {
            Named::Image(image) => {
                let (disk, state) = (image.disk, state_of_disk(&image.disk));
                make(&SealedState { disk, state, volume: None, snapshot: None, passing: None })
            }
            Named::Snapshot(snapshot) => make(&SealedState {
                disk: self.seal_snapshot(&snapshot, progress)?,
                state: snapshot.state,
                volume: Some(snapshot.volume),
                snapshot: Some(snapshot.id),
                passing: None,
            }),
            Named::Volume(volume) => {
                let name: Name = lease.id().to_string().parse()?;
                let doing = "cannot hold the state of the volume";
                let passing = self.freeze_and_publish(&volume, doing, |change, volume| {
                    keep(change, volume, name, SnapshotPurpose::Passing)
                })?;
                let made = self.seal_snapshot(&passing, progress).and_then(|disk| {
                    make(&SealedState {
                        disk,
                        state: passing.state,
                        volume: Some(volume.id),
                        snapshot: None,
                        passing: Some((passing.clone(), lease)),
                    })
                });
                if made.is_err() {
                    // If that fails too, it goes with the lease.
                    let _ = self.forget_snapshot(&passing);
                }
                made
            }
        }
    }
}
