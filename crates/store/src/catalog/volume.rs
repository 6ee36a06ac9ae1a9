//! Volumes in the catalog.

use super::{
    layers::{FrozenDelta, frozen_bytes, read_frozen},
    row::{Record, read_disk},
};
use rusqlite::{Row, Transaction, params};
use silt_format::RowSum;
use silt_types::{DeltaId, DiskId, DiskName, Name, SnapshotId, StateId, VolumeId};

/// A named writable disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Its name.
    pub name: Name,
    /// Its folder.
    pub id: VolumeId,
    /// The sealed disk below everything.
    pub base: DiskId,
    /// Length in bytes; not less than the base's.
    pub size_bytes: u64,
    /// Frozen deltas, newest first.
    pub frozen: Vec<FrozenDelta>,
    /// State of what is below the delta it writes to; its own, until that is written.
    pub state: StateId,
    /// The delta it writes to; has a folder only once it was written.
    pub own: DeltaId,
    /// Counts the changes of this record, but for those by which a frozen delta becomes a part of the base.
    pub generation: u64,
    /// The snapshot that its present state goes on from: the last one that was taken of it, rolled back to or cloned.
    pub head: Option<SnapshotId>,
    /// Name of the disk that it was cloned from, as it was then.
    pub source: DiskName,
    /// The volume that was, if it was one.
    pub source_volume: Option<VolumeId>,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: i64,
}

impl VolumeRecord {
    fn sum(&self) -> i64 {
        let sum =
            RowSum::new("volume").blob(self.name.as_str().as_bytes()).blob(self.id.as_bytes());
        let sum = sum
            .blob(self.base.root.as_bytes())
            .int(self.base.size_bytes as i64)
            .int(self.size_bytes as i64);
        let sum = sum
            .blob(&frozen_bytes(&self.frozen))
            .blob(self.state.as_bytes())
            .blob(self.own.as_bytes())
            .int(self.generation as i64);
        let sum = sum.optional(self.head.as_ref().map(|id| &id.as_bytes()[..]));
        let sum = sum.blob(self.source.to_string().as_bytes());
        let sum = sum.optional(self.source_volume.as_ref().map(|id| &id.as_bytes()[..]));
        sum.int(self.created_ns).finish()
    }

    pub(super) fn write(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let row = params![
            self.name.as_str(),
            self.id.as_bytes(),
            self.base.root.as_bytes(),
            self.base.size_bytes as i64,
            self.size_bytes as i64,
            frozen_bytes(&self.frozen),
            self.state.as_bytes(),
            self.own.as_bytes(),
            self.generation as i64,
            self.head.as_ref().map(SnapshotId::as_bytes),
            self.source.to_string(),
            self.source_volume.as_ref().map(VolumeId::as_bytes),
            self.created_ns,
            self.sum()
        ];
        let sql = "REPLACE INTO volume VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        tx.execute(sql, row).map(drop)
    }
}

impl Record for VolumeRecord {
    const TABLE: &'static str = "volume";
    const KEY: &'static str = "name";
    const NAME_COLUMN: usize = 0;

    fn read(row: &Row<'_>) -> rusqlite::Result<Option<VolumeRecord>> {
        let names = (row.get::<_, String>(0)?.parse(), row.get::<_, String>(10)?.parse());
        let (Ok(name), Ok(source)) = names else {
            return Ok(None);
        };
        let record = VolumeRecord {
            name,
            id: VolumeId::from_bytes(row.get(1)?),
            base: read_disk(row, 2)?,
            size_bytes: row.get::<_, i64>(4)? as u64,
            frozen: read_frozen(&row.get::<_, Vec<u8>>(5)?),
            state: StateId::from_bytes(row.get(6)?),
            own: DeltaId::from_bytes(row.get(7)?),
            generation: row.get::<_, i64>(8)? as u64,
            head: row.get::<_, Option<[u8; 16]>>(9)?.map(SnapshotId::from_bytes),
            source,
            source_volume: row.get::<_, Option<[u8; 16]>>(11)?.map(VolumeId::from_bytes),
            created_ns: row.get(12)?,
        };
        Ok((record.sum() == row.get::<_, i64>(13)?).then_some(record))
    }
}
