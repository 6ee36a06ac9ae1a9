//! Changing the catalog: what one transaction may do, and how it leaves the rest true.
//!
//! Whoever changes a record reads it in the same transaction, so nothing that others did meanwhile is undone. Records
//! that refer to one another change together: a snapshot that goes leaves its children to its parent.

use super::{
    FrozenDelta, ImageRecord, Listing, Named, Root, SnapshotRecord, State, VolumeRecord, look_up,
    look_up_snapshot,
    root::{bury, clear_graves},
    row::{read_all, read_one},
    snapshots_of,
};
use crate::database::sql_error;
use rusqlite::{Params, Transaction};
use silt_types::{DeltaId, DiskId, Error, ErrorKind, Name, Result, SnapshotId, VolumeId};

/// A transaction on the catalog; see [`crate::Store::change`].
pub struct Change<'a> {
    tx: &'a Transaction<'a>,
    state: State,
}

impl<'a> Change<'a> {
    pub(crate) fn begin(tx: &'a Transaction<'a>) -> Result<Change<'a>> {
        Ok(Change { tx, state: State::read(tx)? })
    }

    /// Counts what was done. Answers the state that it leads to.
    pub(crate) fn finish(self) -> Result<State> {
        self.state.advance(self.tx)
    }

    pub(crate) fn transaction(&self) -> &'a Transaction<'a> {
        self.tx
    }

    /// Says that this transaction condemns a pack; see [`crate::Ingest::removals`].
    pub(crate) fn count_condemned(&mut self) {
        self.state.condemned += 1;
        self.state.removals += 1;
    }

    /// Says that this transaction drops a condemned pack.
    pub(crate) fn count_dropped(&mut self) {
        self.state.condemned -= 1;
        self.state.packs -= 1;
    }

    /// Graves are for collections under way; without one they are in the way of the next.
    pub(crate) fn forget_graves_if_nothing_is_condemned(&self) -> Result<()> {
        if self.state.condemned == 0 { clear_graves(self.tx) } else { Ok(()) }
    }

    /// What keeps chunks alive no more by this transaction. To be told before it does.
    fn bury(&self, roots: &[Root]) -> Result<()> {
        if self.state.condemned == 0 { Ok(()) } else { bury(self.tx, roots) }
    }

    /// What a name stands for, if anything; for who is about to take it.
    pub fn taken_by(&self, name: &Name) -> Result<Option<Named>> {
        look_up(self.tx, name)
    }

    /// The volume with this id, if there is one; for who is about to add it.
    pub fn volume_taken(&self, id: VolumeId) -> Result<Option<VolumeRecord>> {
        read_one(self.tx, "id = ?", [id.as_bytes()])
    }

    /// The snapshot with this id, if there is one; for who is about to add it.
    pub fn snapshot_taken(&self, id: SnapshotId) -> Result<Option<SnapshotRecord>> {
        read_one(self.tx, "id = ?", [id.as_bytes()])
    }

    /// The snapshot of a volume that a name stands for, if there is one; for who is about to take it.
    pub fn snapshot_called(&self, volume: VolumeId, name: &Name) -> Result<Option<SnapshotRecord>> {
        look_up_snapshot(self.tx, volume, name)
    }

    /// The image of this name as it is now. `NotFound` if there is none.
    pub fn image(&self, name: &Name) -> Result<ImageRecord> {
        let found = read_one::<ImageRecord>(self.tx, "name = ?", [name.as_str()])?;
        let gone =
            || Error::new(ErrorKind::NotFound, format!("image {name} was removed meanwhile"));
        found.ok_or_else(gone)
    }

    /// The volume with this id as it is now. `NotFound` if it was removed since its id was learnt.
    pub fn volume(&self, id: VolumeId) -> Result<VolumeRecord> {
        super::volume(self.tx, id)
    }

    /// The snapshot with this id as it is now. `NotFound` if it was removed since its id was learnt.
    pub fn snapshot(&self, id: SnapshotId) -> Result<SnapshotRecord> {
        super::snapshot(self.tx, id)
    }

    /// The snapshots of a volume, in the order in which they were taken.
    pub fn snapshots_of(&self, volume: VolumeId) -> Result<Vec<SnapshotRecord>> {
        snapshots_of(self.tx, volume)
    }

    /// Puts an image in place. `AlreadyExists` if the name is taken, unless it is an image's and `replace` is set.
    pub fn put_image(&mut self, record: &ImageRecord, replace: bool) -> Result<()> {
        let there = look_up(self.tx, &record.name)?;
        match &there {
            Some(Named::Image(image)) if replace => self.bury(&image.roots())?,
            Some(other) => return Err(taken(&record.name, other)),
            None => {}
        }
        self.state.images += i64::from(there.is_none());
        record.write(self.tx).map_err(cannot_write)
    }

    /// Adds a volume. `AlreadyExists` if the name is taken.
    pub fn add_volume(&mut self, record: &VolumeRecord) -> Result<()> {
        self.refuse_taken(&record.name)?;
        self.state.volumes += 1;
        record.write(self.tx).map_err(cannot_write)
    }

    /// Puts a volume's record in place of the one it has now, under the name it has now.
    pub fn put_volume(&mut self, record: &VolumeRecord) -> Result<()> {
        let before = read_one::<VolumeRecord>(self.tx, "id = ?", [record.id.as_bytes()])?;
        if let Some(before) = before.filter(|before| before.base != record.base) {
            self.bury(&[before.root()])?;
        }
        record.write(self.tx).map_err(cannot_write)
    }

    /// Adds a snapshot. `AlreadyExists` if the volume has one of that name.
    pub fn add_snapshot(&mut self, record: &SnapshotRecord) -> Result<()> {
        if look_up_snapshot(self.tx, record.volume, &record.name)?.is_some() {
            let message = format!("the volume has a snapshot {} already", record.name);
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        self.state.snapshots += 1;
        record.write(self.tx).map_err(cannot_write)
    }

    /// Gives something another name. `AlreadyExists` if that is taken, `NotFound` if it is not `named` any more.
    pub fn rename(&mut self, named: &Named, to: &Name) -> Result<()> {
        match named {
            Named::Image(image) => {
                self.must_be(&image.name, named)?;
                self.refuse_taken(to)?;
                self.delete("image", "name = ?", [image.name.as_str()])?;
                ImageRecord { name: to.clone(), ..image.clone() }.write(self.tx)
            }
            Named::Volume(volume) => {
                let now = self.volume(volume.id)?;
                self.refuse_taken(to)?;
                self.delete("volume", "id = ?", [now.id.as_bytes()])?;
                VolumeRecord { name: to.clone(), ..now }.write(self.tx)
            }
            Named::Snapshot(snapshot) => {
                let now = self.snapshot(snapshot.id)?;
                if look_up_snapshot(self.tx, now.volume, to)?.is_some() {
                    let message = format!("the volume has a snapshot {to} already");
                    return Err(Error::new(ErrorKind::AlreadyExists, message));
                }
                SnapshotRecord { name: to.clone(), ..now }.write(self.tx)
            }
        }
        .map_err(cannot_write)
    }

    /// Removes an image, if its name still stands for it.
    pub fn remove_image(&mut self, image: &ImageRecord) -> Result<()> {
        self.must_be(&image.name, &Named::Image(image.clone()))?;
        self.bury(&image.roots())?;
        self.state.images -= 1;
        self.delete("image", "name = ?", [image.name.as_str()])
    }

    /// Removes a volume. Its snapshots must be gone before.
    pub fn remove_volume(&mut self, id: VolumeId) -> Result<()> {
        self.bury(&[self.volume(id)?.root()])?;
        self.state.volumes -= 1;
        self.delete("volume", "id = ?", [id.as_bytes()])
    }

    /// Removes a snapshot. What went on from it goes on from its parent now.
    pub fn remove_snapshot(&mut self, id: SnapshotId) -> Result<()> {
        let gone = self.snapshot(id)?;
        self.bury(&[gone.root()])?;
        self.delete("snapshot", "id = ?", [id.as_bytes()])?;
        self.state.snapshots -= 1;
        for child in read_all::<SnapshotRecord>(self.tx, "parent = ?", [id.as_bytes()])? {
            let child = SnapshotRecord { parent: gone.parent, ..child };
            child.write(self.tx).map_err(cannot_write)?;
        }
        for volume in read_all::<VolumeRecord>(self.tx, "head = ?", [id.as_bytes()])? {
            let volume = VolumeRecord { head: gone.parent, ..volume };
            volume.write(self.tx).map_err(cannot_write)?;
        }
        Ok(())
    }

    /// Lets everybody whose oldest delta is `delta` over `base` stand on `disk` instead, which reads the same. Answers the
    /// volumes among them. Costs a look at every volume and snapshot.
    pub fn rebase(
        &mut self,
        base: DiskId,
        delta: DeltaId,
        disk: DiskId,
    ) -> Result<Vec<VolumeRecord>> {
        const ON_BASE: &str = "root = ? AND base_size = ?";
        let params = (base.root.as_bytes(), base.size_bytes as i64);
        let drop_oldest = |frozen: &mut Vec<FrozenDelta>| match frozen.last() {
            Some(oldest) if oldest.delta == delta => frozen.pop().is_some(),
            _ => false,
        };
        self.bury(&[Root::Disk(base)])?;
        let mut moved = Vec::new();
        for mut volume in read_all::<VolumeRecord>(self.tx, ON_BASE, params)? {
            if drop_oldest(&mut volume.frozen) {
                volume.base = disk;
                volume.write(self.tx).map_err(cannot_write)?;
                moved.push(volume);
            }
        }
        for mut snapshot in read_all::<SnapshotRecord>(self.tx, ON_BASE, params)? {
            if drop_oldest(&mut snapshot.frozen) {
                snapshot.base = disk;
                snapshot.write(self.tx).map_err(cannot_write)?;
            }
        }
        Ok(moved)
    }

    fn must_be(&self, name: &Name, expected: &Named) -> Result<()> {
        match look_up(self.tx, name)? {
            Some(there) if there == *expected => Ok(()),
            _ => {
                let message = format!("{name} was removed or changed meanwhile");
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }

    fn refuse_taken(&self, name: &Name) -> Result<()> {
        look_up(self.tx, name)?.map_or(Ok(()), |other| Err(taken(name, &other)))
    }

    fn delete(&self, table: &str, condition: &str, params: impl Params) -> Result<()> {
        let sql = format!("DELETE FROM {table} WHERE {condition}");
        self.tx.execute(&sql, params).map(drop).map_err(cannot_write)
    }
}

/// Fills an empty catalog with records that were found elsewhere. `state` says the rest. Answers the state that it leads to.
pub(crate) fn write_all(tx: &Transaction<'_>, state: State, listing: &Listing) -> Result<State> {
    let Listing { images, volumes, snapshots } = listing;
    images.iter().try_for_each(|image| image.write(tx)).map_err(cannot_write)?;
    volumes.iter().try_for_each(|volume| volume.write(tx)).map_err(cannot_write)?;
    snapshots.iter().try_for_each(|snapshot| snapshot.write(tx)).map_err(cannot_write)?;
    let counts = [images.len(), volumes.len(), snapshots.len()].map(|count| count as i64);
    let [images, volumes, snapshots] = counts;
    State { images, volumes, snapshots, ..state }.advance(tx)
}

fn cannot_write(error: rusqlite::Error) -> Error {
    sql_error("cannot write the catalog", error)
}

fn taken(name: &Name, by: &Named) -> Error {
    let article = if matches!(by, Named::Image(_)) { "an" } else { "a" };
    let message = format!("the name {name} is taken by {article} {}", by.kind());
    Error::new(ErrorKind::AlreadyExists, message)
}
