//! Snapshots: a kept state of a volume, taken while it is written.

use crate::{
    control::ControlClient,
    engine::{Engine, now_ns},
    freeze::{Frozen, Turn, apply_in},
};
use silt_format::FROZEN_DELTAS_MAX;
use silt_store::{Change, Named, SnapshotPurpose, SnapshotRecord, VolumeRecord};
use silt_sys::durability::random_bytes;
use silt_types::{DiskName, Error, ErrorKind, Name, NoProgress, Result, SnapshotId};

impl Engine {
    /// Keeps what the volume holds now as `volume@snapshot`. A served volume is asked through its server: writes that were
    /// answered before are in it, and it is as durable as after a flush. `AlreadyExists` if there is one of that name.
    ///
    /// Costs an fsync of what was written since the last flush and a transaction, whatever the size of the disk. Sealing
    /// is left for later ([`Engine::seal`]), but for the oldest of eight frozen deltas, which a ninth waits for.
    pub fn snapshot(&self, name: &DiskName) -> Result<SnapshotRecord> {
        let Some(snapshot) = &name.snapshot else {
            let message = format!("give the snapshot a name: {name}@NAME");
            return Err(Error::invalid(message));
        };
        let volume = self.find_volume(&name.name)?;
        self.refuse_taken_snapshot(name)?;
        self.freeze_and_publish(&volume, "cannot publish the snapshot", |change, volume| {
            keep(change, volume, snapshot.clone(), SnapshotPurpose::Asked)
        })
    }

    /// Freezes what a volume holds, and in the transaction that lets the catalog follow publishes something of it: `publish`
    /// is given the record as it is then, all of it frozen.
    pub(crate) fn freeze_and_publish<T>(
        &self,
        volume: &VolumeRecord,
        doing: &str,
        publish: impl FnOnce(&mut Change<'_>, VolumeRecord) -> Result<T>,
    ) -> Result<T> {
        let (_turn, frozen) = self.freeze_with_room(volume)?;
        let published = self.store.change(doing, |change| {
            let volume = apply_in(change, volume, &frozen)?;
            publish(change, volume)
        });
        if published.is_err() {
            // What was frozen stays so, and the catalog says it if it can.
            let _ = self.follow(volume, &frozen);
        }
        published
    }

    fn refuse_taken_snapshot(&self, name: &DiskName) -> Result<()> {
        match self.find(name) {
            Ok(_) => {
                let message = format!("there is a snapshot {name} already");
                Err(Error::new(ErrorKind::AlreadyExists, message))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The record, the catalog having followed the volume's server, if it has one.
    fn caught_up(&self, volume: &VolumeRecord) -> Result<VolumeRecord> {
        let now = self.volume_now(volume)?;
        match ControlClient::connect(self.store.paths(), &now)? {
            Some(server) => self.follow(&now, &Frozen::of(server.layers()?)),
            None => Ok(now),
        }
    }

    /// Freezes what a volume holds, and seals the oldest of its frozen deltas before where it has no room for another one.
    /// Nobody else changes the volume before the turn is dropped.
    pub(crate) fn freeze_with_room(&self, volume: &VolumeRecord) -> Result<(Turn, Frozen)> {
        loop {
            let turn = self.turn(volume)?;
            let before = self.volume_now(volume)?;
            match self.freeze(volume, &turn) {
                Err(error) if error.kind() == ErrorKind::Busy => {
                    // A server may be ahead of the catalog, and another process may have made room meanwhile.
                    let now = self.caught_up(volume)?;
                    drop(turn);
                    if now.frozen.len() >= FROZEN_DELTAS_MAX {
                        self.seal_oldest(&now, &NoProgress)?;
                    } else if now == before {
                        return Err(error);
                    }
                }
                other => return other.map(|frozen| (turn, frozen)),
            }
        }
    }
}

/// Adds a snapshot of what the record of a volume stands for, all of it frozen, and lets the volume go on from it.
pub(crate) fn keep(
    change: &mut Change<'_>,
    mut volume: VolumeRecord,
    name: Name,
    purpose: SnapshotPurpose,
) -> Result<SnapshotRecord> {
    let snapshot = SnapshotRecord {
        id: SnapshotId::from_bytes(random_bytes()?),
        volume: volume.id,
        name,
        base: volume.base,
        size_bytes: volume.size_bytes,
        frozen: volume.frozen.clone(),
        state: volume.state,
        parent: volume.head,
        purpose,
        created_ns: now_ns(),
    };
    change.add_snapshot(&snapshot)?;
    if purpose != SnapshotPurpose::Passing {
        volume.head = Some(snapshot.id);
        change.put_volume(&volume)?;
    }
    Ok(snapshot)
}

/// What a snapshot is called by, its volume's name as it is now.
pub(crate) fn snapshot_of(named: Named, name: &DiskName) -> Result<SnapshotRecord> {
    match named {
        Named::Snapshot(snapshot) => Ok(snapshot),
        _ => Err(Error::invalid(format!("{name} is not a snapshot: give VOLUME@NAME"))),
    }
}
