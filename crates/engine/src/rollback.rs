//! Rolling back: a volume goes on from one of its snapshots.

use crate::{
    engine::Engine,
    freeze::apply_in,
    snapshot::{keep, snapshot_of},
};
use silt_format::FROZEN_DELTAS_MAX;
use silt_store::{Change, FrozenDelta, SnapshotPurpose, SnapshotRecord, VolumeRecord};
use silt_sys::durability::random_bytes;
use silt_types::{DeltaId, DiskName, Error, Name, NoProgress, Result};

/// What to roll back to, and what becomes of the present state.
#[derive(Clone, Debug)]
pub struct RollbackRequest {
    /// The snapshot, `volume@snapshot`.
    pub snapshot: DiskName,
    /// Whether the present state is given up instead of kept as a snapshot.
    pub discard: bool,
}

/// What a rollback did.
#[derive(Clone, Debug)]
pub struct RolledBack {
    /// The volume as it is now.
    pub volume: VolumeRecord,
    /// The snapshot that it goes on from.
    pub snapshot: SnapshotRecord,
    /// The snapshot that keeps what it held before; none if that was given up, or was a snapshot already.
    pub kept: Option<SnapshotRecord>,
}

impl Engine {
    /// Lets a volume go on from one of its snapshots, in one transaction, whatever the size of the disk. `Busy` if it is
    /// served: a guest's disk does not change under it.
    pub fn rollback(&self, request: &RollbackRequest) -> Result<RolledBack> {
        let volume = self.find_volume(&request.snapshot.name)?;
        let snapshot = snapshot_of(self.find(&request.snapshot)?, &request.snapshot)?;
        if !request.discard {
            self.make_room_to_freeze(&volume)?;
        }
        let _alone = self.turn_alone(&volume)?;
        let before = self.reconciled(&volume)?;
        let frozen = match request.discard {
            true => None,
            false => Some(self.freeze_at_rest(&volume)?),
        };
        let rolled_back = self.store.change("cannot roll the volume back", |change| {
            let snapshot = change.snapshot(snapshot.id)?;
            let kept = match &frozen {
                None => None,
                Some(frozen) => {
                    let volume = apply_in(change, &volume, frozen)?;
                    keep_unless_kept(change, volume)?
                }
            };
            let mut volume = change.volume(volume.id)?;
            volume.base = snapshot.base;
            volume.size_bytes = snapshot.size_bytes;
            volume.frozen = snapshot.frozen.clone();
            volume.state = snapshot.state;
            volume.own = DeltaId::from_bytes(random_bytes()?);
            volume.head = Some(snapshot.id);
            volume.generation += 1;
            change.put_volume(&volume)?;
            Ok(RolledBack { volume, snapshot, kept })
        })?;
        let own = FrozenDelta { delta: before.own, home: before.id };
        self.remove_unneeded(before.frozen.iter().copied().chain([own]))?;
        Ok(rolled_back)
    }

    /// Seals the oldest frozen delta of a volume that can freeze no more.
    pub(crate) fn make_room_to_freeze(&self, volume: &VolumeRecord) -> Result<()> {
        loop {
            let now = self.volume_now(volume)?;
            if now.frozen.len() < FROZEN_DELTAS_MAX {
                return Ok(());
            }
            self.seal_oldest(&now, &NoProgress)?;
        }
    }
}

/// Keeps what a volume holds, all of it frozen, unless it is just what its last snapshot holds.
fn keep_unless_kept(
    change: &mut Change<'_>,
    volume: VolumeRecord,
) -> Result<Option<SnapshotRecord>> {
    let snapshots = change.snapshots_of(volume.id)?;
    let is_kept = |snapshot: &SnapshotRecord| {
        (snapshot.base, &snapshot.frozen, snapshot.size_bytes)
            == (volume.base, &volume.frozen, volume.size_bytes)
            && snapshot.is_shown()
    };
    if snapshots.iter().any(is_kept) {
        return Ok(None);
    }
    let is_taken = |name: &Name| snapshots.iter().any(|snapshot| snapshot.name == *name);
    let names = (1..).map(|number: u32| format!("before-rollback-{number}"));
    let name = names.filter_map(|name| name.parse().ok()).find(|name| !is_taken(name));
    let name = name.ok_or_else(|| Error::internal("the numbers of names are endless"))?;
    keep(change, volume, name, SnapshotPurpose::Rollback).map(Some)
}
