//! Cloning: new volumes on what another disk holds now, at the cost of a record each.

use crate::engine::{Engine, now_ns};
use silt_format::state_of_disk;
use silt_store::{Change, FrozenDelta, Named, VolumeRecord};
use silt_sys::durability::random_bytes;
use silt_types::{DeltaId, DiskId, DiskName, Error, Name, Result, SnapshotId, StateId, VolumeId};
use std::collections::HashSet;

/// What to clone.
#[derive(Clone, Debug)]
pub struct CloneRequest {
    /// The image, volume or snapshot to begin from.
    pub source: DiskName,
    /// Names of the new volumes, each once; at least one.
    pub volumes: Vec<Name>,
}

/// What a clone begins from.
pub(crate) struct Beginning {
    pub(crate) base: DiskId,
    pub(crate) size_bytes: u64,
    pub(crate) frozen: Vec<FrozenDelta>,
    pub(crate) state: StateId,
    pub(crate) head: Option<SnapshotId>,
    pub(crate) volume: Option<VolumeId>,
}

impl CloneRequest {
    pub(crate) fn check(&self) -> Result<()> {
        let distinct: HashSet<_> = self.volumes.iter().collect();
        if distinct.len() != self.volumes.len() || self.volumes.is_empty() {
            return Err(Error::invalid("clones need names, each its own"));
        }
        Ok(())
    }
}

impl Engine {
    /// Makes new volumes that begin as `source` is now: all of them or, on any error, none. The source may be changed or
    /// removed afterwards.
    ///
    /// A volume that was written since it was made, or last frozen, freezes its delta, which all share from then on; its
    /// server is asked to, if it has one. Costs one transaction, whatever the size of the disk.
    pub fn clone_disk(&self, request: &CloneRequest) -> Result<Vec<VolumeRecord>> {
        request.check()?;
        match self.find(&request.source)? {
            Named::Image(image) => self.store.change("cannot publish the volume", |change| {
                // A disk whose only name went meanwhile is kept by nothing.
                let image = change.image(&image.name)?;
                let beginning = Beginning {
                    base: image.disk,
                    size_bytes: image.disk.size_bytes,
                    frozen: Vec::new(),
                    state: state_of_disk(&image.disk),
                    head: None,
                    volume: None,
                };
                publish(change, request, &beginning)
            }),
            Named::Snapshot(snapshot) => self.store.change("cannot publish the volume", |change| {
                // Its oldest deltas may have become a part of its base since it was found.
                let snapshot = change.snapshot(snapshot.id)?;
                let beginning = Beginning {
                    base: snapshot.base,
                    size_bytes: snapshot.size_bytes,
                    frozen: snapshot.frozen,
                    state: snapshot.state,
                    head: Some(snapshot.id),
                    volume: Some(snapshot.volume),
                };
                publish(change, request, &beginning)
            }),
            Named::Volume(volume) => {
                self.freeze_and_publish(&volume, "cannot publish the volume", |change, volume| {
                    let beginning = Beginning {
                        base: volume.base,
                        size_bytes: volume.size_bytes,
                        frozen: volume.frozen,
                        state: volume.state,
                        head: volume.head,
                        volume: Some(volume.id),
                    };
                    publish(change, request, &beginning)
                })
            }
        }
    }
}

pub(crate) fn publish(
    change: &mut Change<'_>,
    request: &CloneRequest,
    beginning: &Beginning,
) -> Result<Vec<VolumeRecord>> {
    let created_ns = now_ns();
    let records = request.volumes.iter().map(|name| {
        let record = VolumeRecord {
            name: name.clone(),
            id: VolumeId::from_bytes(random_bytes()?),
            base: beginning.base,
            size_bytes: beginning.size_bytes,
            frozen: beginning.frozen.clone(),
            state: beginning.state,
            own: DeltaId::from_bytes(random_bytes()?),
            generation: 1,
            head: beginning.head,
            source: request.source.clone(),
            source_volume: beginning.volume,
            created_ns,
        };
        change.add_volume(&record)?;
        Ok(record)
    });
    records.collect()
}
