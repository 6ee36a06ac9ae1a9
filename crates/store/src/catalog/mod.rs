//! The catalog: names of images, volumes and snapshots, and what they stand for.
//!
//! One row of state counts the transactions and the rows, so that a name can be said to be absent only after the whole
//! catalog was found whole. The number of the last transaction is kept outside the database too.
//!
//! Where to look next: `image`, `volume`, `snapshot` for the records, `change` for everything that changes them.

mod change;
mod commit;
mod image;
mod layers;
mod root;
mod row;
mod snapshot;
mod state;
mod volume;

pub use change::Change;
pub(crate) use change::write_all;
pub(crate) use commit::{check_commit, record_commit, recorded_commit};
pub use image::ImageRecord;
pub use layers::FrozenDelta;
pub use root::Root;
pub(crate) use root::{clear_graves, graves};
pub use snapshot::{SnapshotPurpose, SnapshotRecord};
pub(crate) use state::{State, change_state};
pub use volume::VolumeRecord;

pub(crate) use row::{Record, read_sound};

use row::{read_all, read_one};
use rusqlite::Connection;
use silt_types::{DiskName, Error, ErrorKind, Name, Result, SnapshotId, VolumeId};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// An image.
    Image(ImageRecord),
    /// A volume.
    Volume(VolumeRecord),
    /// A snapshot of a volume.
    Snapshot(SnapshotRecord),
}

impl Named {
    /// `image`, `volume` or `snapshot`.
    pub fn kind(&self) -> &'static str {
        match self {
            Named::Image(_) => "image",
            Named::Volume(_) => "volume",
            Named::Snapshot(_) => "snapshot",
        }
    }
}

/// Everything that has a name, each kind by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The images.
    pub images: Vec<ImageRecord>,
    /// The volumes.
    pub volumes: Vec<VolumeRecord>,
    /// The snapshots, those of one volume together and in the order in which they were taken. Passing ones are among
    /// them.
    pub snapshots: Vec<SnapshotRecord>,
}

impl Listing {
    /// The name of everything: of an image or volume, or of a volume and a snapshot of it.
    fn names(&self) -> impl Iterator<Item = (&Name, Option<&Name>)> {
        let images = self.images.iter().map(|image| (&image.name, None));
        let volumes = self.volumes.iter().map(|volume| (&volume.name, None));
        let snapshots = self.snapshots.iter().filter_map(|snapshot| {
            let volume = self.volumes.iter().find(|volume| volume.id == snapshot.volume)?;
            Some((&volume.name, Some(&snapshot.name)))
        });
        images.chain(volumes).chain(snapshots)
    }
}

/// Looks a disk up. `None` only after the whole catalog was found whole.
pub(crate) fn find(connection: &Connection, name: &DiskName) -> Result<Option<Named>> {
    let found = match (look_up(connection, &name.name)?, &name.snapshot) {
        (found, None) => found,
        (Some(Named::Volume(volume)), Some(snapshot)) => {
            look_up_snapshot(connection, volume.id, snapshot)?.map(Named::Snapshot)
        }
        (Some(other), Some(_)) => {
            let (name, kind) = (&name.name, other.kind());
            let message = format!("{name} is an {kind}, which has no snapshots");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        (None, Some(_)) => None,
    };
    if found.is_some() {
        return Ok(found);
    }
    let listing = list(connection)?;
    let mut names = listing.names();
    // What a look-up did not find and a listing has was lost by a damaged index of the database.
    if names.any(|(of, snapshot)| *of == name.name && snapshot == name.snapshot.as_ref()) {
        return Err(Error::corrupt(format!("the catalog has {name}, but an index of it does not")));
    }
    Ok(None)
}

/// The volume with an id. `NotFound` if it was removed since the id was learnt.
pub(crate) fn volume(connection: &Connection, id: VolumeId) -> Result<VolumeRecord> {
    let is_listed = |all: &Listing| all.volumes.iter().any(|volume| volume.id == id);
    by_id(connection, id.as_bytes(), is_listed)
}

/// The snapshot with an id. `NotFound` if it was removed since the id was learnt.
pub(crate) fn snapshot(connection: &Connection, id: SnapshotId) -> Result<SnapshotRecord> {
    let is_listed = |all: &Listing| all.snapshots.iter().any(|snapshot| snapshot.id == id);
    by_id(connection, id.as_bytes(), is_listed)
}

/// `NotFound` only after a listing, which uses no index of ids, has not got it either.
fn by_id<R: Record>(
    connection: &Connection,
    id: &[u8; 16],
    is_listed: impl Fn(&Listing) -> bool,
) -> Result<R> {
    if let Some(found) = read_one(connection, "id = ?", [id])? {
        return Ok(found);
    }
    let table = R::TABLE;
    match is_listed(&list(connection)?) {
        true => Err(Error::corrupt(format!("the index of {table} ids in the catalog is damaged"))),
        false => Err(Error::new(ErrorKind::NotFound, format!("the {table} was removed meanwhile"))),
    }
}

/// Looks a name up by its rows alone, whatever else there is: for who is about to take it.
fn look_up(connection: &Connection, name: &Name) -> Result<Option<Named>> {
    if let Some(image) = read_one(connection, "name = ?", [name.as_str()])? {
        return Ok(Some(Named::Image(image)));
    }
    Ok(read_one(connection, "name = ?", [name.as_str()])?.map(Named::Volume))
}

/// The same for a snapshot.
fn look_up_snapshot(
    connection: &Connection,
    volume: VolumeId,
    name: &Name,
) -> Result<Option<SnapshotRecord>> {
    read_one(connection, "volume = ? AND name = ?", (volume.as_bytes(), name.as_str()))
}

/// The snapshots of a volume, in the order in which they were taken.
fn snapshots_of(connection: &Connection, volume: VolumeId) -> Result<Vec<SnapshotRecord>> {
    // The plus keeps an index out of it, which could be damaged and hide some.
    read_all(connection, "+volume = ? ORDER BY created, name", [volume.as_bytes()])
}

/// Every name. `Corrupt` if a row is damaged or missing.
pub(crate) fn list(connection: &Connection) -> Result<Listing> {
    let state = State::read(connection)?;
    let listing = Listing {
        images: read_all(connection, "true ORDER BY name", [])?,
        volumes: read_all(connection, "true ORDER BY name", [])?,
        snapshots: read_all(connection, "true ORDER BY volume, created, name", [])?,
    };
    for (what, rows, counted) in [
        ("images", listing.images.len(), state.images),
        ("volumes", listing.volumes.len(), state.volumes),
        ("snapshots", listing.snapshots.len(), state.snapshots),
    ] {
        if rows as i64 != counted {
            return Err(Error::corrupt(format!(
                "the catalog holds {rows} {what} where it counted {counted}"
            )));
        }
    }
    Ok(listing)
}
