//! The history of a volume: its snapshots, what each went on from, and what each holds.

use crate::engine::Engine;
use silt_store::{SnapshotPurpose, SnapshotRecord, VolumeRecord};
use silt_types::{DiskId, DiskName, Name, Result, SnapshotId};

/// A snapshot in a history.
#[derive(Clone, Debug)]
pub struct HistoryEntry {
    /// Its id.
    pub id: SnapshotId,
    /// `volume@snapshot`; the volume may be another one, which this one was cloned from.
    pub name: DiskName,
    /// Why it is there.
    pub purpose: SnapshotPurpose,
    /// When it was taken, in nanoseconds since 1970.
    pub created_ns: i64,
    /// The sealed disk that it is; none until its seal ends.
    pub disk_id: Option<DiskId>,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// The snapshot before it.
    pub parent: Option<SnapshotId>,
    /// Bytes of blocks that differ from the snapshot before it, or that it maps where there is none.
    pub bytes_own: u64,
    /// Bytes of blocks that it maps and shares with the one before.
    pub bytes_shared: u64,
}

/// Where a volume came from and what it was.
#[derive(Clone, Debug)]
pub struct History {
    /// The volume.
    pub volume: VolumeRecord,
    /// Its snapshots, and those of other volumes that it goes on from by being a clone; oldest first.
    pub entries: Vec<HistoryEntry>,
}

impl Engine {
    /// The history of a volume. Costs a comparison of disk maps for each snapshot, which is proportional to what differs,
    /// and a walk over the map of each that has none before it.
    pub fn history(&self, volume: &Name) -> Result<History> {
        let volume = self.find_volume(volume)?;
        let listing = self.list()?;
        let by_id = |id: SnapshotId| listing.snapshots.iter().find(|snapshot| snapshot.id == id);
        let mut shown: Vec<&SnapshotRecord> =
            listing.snapshots.iter().filter(|snapshot| snapshot.volume == volume.id).collect();
        // A clone goes on from snapshots of others.
        let mut next = volume.head.and_then(by_id);
        for snapshot in shown.clone() {
            next = next.or_else(|| snapshot.parent.and_then(by_id));
        }
        while let Some(snapshot) = next {
            if !shown.iter().any(|known| known.id == snapshot.id) {
                shown.push(snapshot);
            }
            next = snapshot.parent.and_then(by_id);
        }
        shown.retain(|snapshot| snapshot.purpose != SnapshotPurpose::Passing);
        shown.sort_by_key(|snapshot| (snapshot.created_ns, snapshot.id));
        let name_of = |snapshot: &SnapshotRecord| {
            let of = listing.volumes.iter().find(|volume| volume.id == snapshot.volume);
            let name = of.map_or_else(|| volume.name.clone(), |of| of.name.clone());
            DiskName { name, snapshot: Some(snapshot.name.clone()) }
        };
        let entries = shown.iter().map(|snapshot| {
            let (bytes_own, bytes_shared) =
                self.sizes(snapshot, snapshot.parent.and_then(by_id))?;
            Ok(HistoryEntry {
                id: snapshot.id,
                name: name_of(snapshot),
                purpose: snapshot.purpose,
                created_ns: snapshot.created_ns,
                disk_id: snapshot.disk_id(),
                size_bytes: snapshot.size_bytes,
                parent: snapshot.parent,
                bytes_own,
                bytes_shared,
            })
        });
        let entries = entries.collect::<Result<_>>()?;
        Ok(History { volume, entries })
    }
}
