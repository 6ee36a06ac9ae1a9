//! Snapshots in the catalog.

use super::{
    layers::{FrozenDelta, frozen_bytes, read_frozen},
    row::{Record, read_disk},
};
use rusqlite::{Row, Transaction, params};
use silt_format::{RootRecord, RowSum};
use silt_types::{DiskId, Name, SnapshotId, StateId, VolumeId};

/// Why there is a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotPurpose {
    /// Somebody asked for it.
    Asked = 0,
    /// A rollback kept what it replaced.
    Rollback = 1,
    /// It holds a state for work in progress, whose lease its name is; nobody is shown it, and it goes with the work.
    Passing = 2,
}

/// A kept state of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its id, for ever.
    pub id: SnapshotId,
    /// The volume it is of.
    pub volume: VolumeId,
    /// Its name within the volume.
    pub name: Name,
    /// The sealed disk below everything.
    pub base: DiskId,
    /// Length in bytes; not less than the base's.
    pub size_bytes: u64,
    /// Frozen deltas that are not a part of the base yet, newest first.
    pub frozen: Vec<FrozenDelta>,
    /// Its state id.
    pub state: StateId,
    /// The snapshot that the volume had gone on from when this one was taken.
    pub parent: Option<SnapshotId>,
    /// Why it is there.
    pub purpose: SnapshotPurpose,
    /// When it was taken, in nanoseconds since 1970.
    pub created_ns: i64,
}

impl SnapshotRecord {
    /// The sealed disk that it is; none until all of it is sealed.
    pub fn disk_id(&self) -> Option<DiskId> {
        (self.frozen.is_empty() && self.base.size_bytes == self.size_bytes).then_some(self.base)
    }

    /// Whether people are shown it.
    pub fn is_shown(&self) -> bool {
        self.purpose != SnapshotPurpose::Passing
    }

    /// What a pack says of it, once it is sealed as `disk`.
    pub fn root_record(&self, disk: DiskId) -> RootRecord {
        RootRecord::Snapshot {
            volume: self.volume,
            id: self.id,
            name: self.name.clone(),
            parent: self.parent,
            disk,
            state: self.state,
            created_ns: self.created_ns,
        }
    }

    fn sum(&self) -> i64 {
        let sum = RowSum::new("snapshot")
            .blob(self.id.as_bytes())
            .blob(self.volume.as_bytes())
            .blob(self.name.as_str().as_bytes());
        let sum = sum
            .blob(self.base.root.as_bytes())
            .int(self.base.size_bytes as i64)
            .int(self.size_bytes as i64)
            .blob(&frozen_bytes(&self.frozen))
            .blob(self.state.as_bytes());
        let sum = sum.optional(self.parent.as_ref().map(|id| &id.as_bytes()[..]));
        sum.int(self.purpose as i64).int(self.created_ns).finish()
    }

    pub(super) fn write(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let row = params![
            self.id.as_bytes(),
            self.volume.as_bytes(),
            self.name.as_str(),
            self.base.root.as_bytes(),
            self.base.size_bytes as i64,
            self.size_bytes as i64,
            frozen_bytes(&self.frozen),
            self.state.as_bytes(),
            self.parent.as_ref().map(SnapshotId::as_bytes),
            self.purpose as i64,
            self.created_ns,
            self.sum()
        ];
        let sql = "REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        tx.execute(sql, row).map(drop)
    }
}

impl Record for SnapshotRecord {
    const TABLE: &'static str = "snapshot";
    const KEY: &'static str = "id";
    const NAME_COLUMN: usize = 2;

    fn read(row: &Row<'_>) -> rusqlite::Result<Option<SnapshotRecord>> {
        let purposes =
            [SnapshotPurpose::Asked, SnapshotPurpose::Rollback, SnapshotPurpose::Passing];
        let number = row.get::<_, i64>(9)?;
        let purpose = purposes.into_iter().find(|purpose| *purpose as i64 == number);
        let (Ok(name), Some(purpose)) = (row.get::<_, String>(2)?.parse(), purpose) else {
            return Ok(None);
        };
        let record = SnapshotRecord {
            id: SnapshotId::from_bytes(row.get(0)?),
            volume: VolumeId::from_bytes(row.get(1)?),
            name,
            base: read_disk(row, 3)?,
            size_bytes: row.get::<_, i64>(5)? as u64,
            frozen: read_frozen(&row.get::<_, Vec<u8>>(6)?),
            state: StateId::from_bytes(row.get(7)?),
            parent: row.get::<_, Option<[u8; 16]>>(8)?.map(SnapshotId::from_bytes),
            purpose,
            created_ns: row.get(10)?,
        };
        Ok((record.sum() == row.get::<_, i64>(11)?).then_some(record))
    }
}
