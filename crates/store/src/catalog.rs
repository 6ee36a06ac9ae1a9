//! The catalog: names of images and volumes, and what they stand for.
//!
//! One row of state counts the transactions and the rows, so that a name can be said to be absent only after the whole
//! catalog was found whole. The number of the last transaction is kept outside the database too.

use crate::{
    database::{Database, sql_error},
    paths::StorePaths,
};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use silt_format::{CommitSlot, RowSum};
use silt_types::{
    ChunkId, Context as _, DeltaId, DiskId, Error, ErrorKind, Name, Result, TreeId, VolumeId,
};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
};

/// A named, sealed disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its name.
    pub name: Name,
    /// The disk.
    pub disk: DiskId,
    /// The tree it was built from, if it was.
    pub tree: Option<TreeId>,
    /// When it was published, in nanoseconds since 1970.
    pub created_ns: i64,
    /// Bytes of content that the disk maps.
    pub bytes_nonzero: u64,
}

/// A frozen delta that a volume reads through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrozenDelta {
    /// Its id.
    pub delta: DeltaId,
    /// The volume that wrote it, in whose folder it lies.
    pub home: VolumeId,
}

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
    /// The delta it writes to; has a folder only once it was written.
    pub own: DeltaId,
    /// Counts the changes of this record.
    pub generation: u64,
    /// Name of the image or volume that it was cloned from, as it was then.
    pub source: Name,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: i64,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// An image.
    Image(ImageRecord),
    /// A volume.
    Volume(VolumeRecord),
}

impl Named {
    /// `image` or `volume`.
    pub fn kind(&self) -> &'static str {
        match self {
            Named::Image(_) => "image",
            Named::Volume(_) => "volume",
        }
    }
}

/// The state row: how much there must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) number: i64,
    pub(crate) images: i64,
    pub(crate) volumes: i64,
    pub(crate) packs: i64,
}

impl State {
    fn sum(&self) -> i64 {
        RowSum::new("state")
            .int(self.number)
            .int(self.images)
            .int(self.volumes)
            .int(self.packs)
            .finish()
    }

    pub(crate) fn read(connection: &Connection) -> Result<State> {
        let read = |row: &Row<'_>| {
            let state = State {
                number: row.get(1)?,
                images: row.get(2)?,
                volumes: row.get(3)?,
                packs: row.get(4)?,
            };
            Ok((state, row.get::<_, i64>(5)?))
        };
        let row = connection.query_row("SELECT * FROM state", [], read).optional();
        match row.map_err(|error| sql_error("cannot read the state of the catalog", error))? {
            None => Ok(State::default()),
            Some((state, sum)) if sum == state.sum() => Ok(state),
            Some(_) => Err(Error::corrupt("the state row of the catalog is damaged")),
        }
    }
}

/// Changes the state row within a transaction. Answers the new state.
pub(crate) fn change_state(tx: &Transaction<'_>, change: impl FnOnce(&mut State)) -> Result<State> {
    let mut state = State::read(tx)?;
    state.number += 1;
    change(&mut state);
    let row = params![1, state.number, state.images, state.volumes, state.packs, state.sum()];
    let written = tx.execute("REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?)", row);
    written.map_err(|error| sql_error("cannot write the state of the catalog", error))?;
    Ok(state)
}

impl ImageRecord {
    fn sum(&self) -> i64 {
        let sum = RowSum::new("image")
            .blob(self.name.as_str().as_bytes())
            .blob(self.disk.root.as_bytes());
        let sum = sum
            .int(self.disk.size_bytes as i64)
            .optional(self.tree.as_ref().map(|tree| &tree.as_bytes()[..]));
        sum.int(self.created_ns).int(self.bytes_nonzero as i64).finish()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Option<ImageRecord>> {
        let Ok(name) = row.get::<_, String>(0)?.parse() else {
            return Ok(None);
        };
        let disk = DiskId {
            root: ChunkId::from_bytes(row.get(1)?),
            size_bytes: row.get::<_, i64>(2)? as u64,
        };
        let tree = row.get::<_, Option<[u8; 32]>>(3)?.map(TreeId::from_bytes);
        let bytes_nonzero = row.get::<_, i64>(5)? as u64;
        let record = ImageRecord { name, disk, tree, created_ns: row.get(4)?, bytes_nonzero };
        Ok((record.sum() == row.get::<_, i64>(6)?).then_some(record))
    }

    fn write(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let tree = self.tree.as_ref().map(TreeId::as_bytes);
        let row = params![
            self.name.as_str(),
            self.disk.root.as_bytes(),
            self.disk.size_bytes as i64,
            tree,
            self.created_ns,
            self.bytes_nonzero as i64,
            self.sum()
        ];
        tx.execute("REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?, ?)", row).map(drop)
    }
}

impl VolumeRecord {
    fn frozen_bytes(&self) -> Vec<u8> {
        self.frozen
            .iter()
            .flat_map(|f| [*f.delta.as_bytes(), *f.home.as_bytes()].concat())
            .collect()
    }

    fn sum(&self) -> i64 {
        let sum =
            RowSum::new("volume").blob(self.name.as_str().as_bytes()).blob(self.id.as_bytes());
        let sum = sum
            .blob(self.base.root.as_bytes())
            .int(self.base.size_bytes as i64)
            .int(self.size_bytes as i64);
        let sum =
            sum.blob(&self.frozen_bytes()).blob(self.own.as_bytes()).int(self.generation as i64);
        sum.blob(self.source.as_str().as_bytes()).int(self.created_ns).finish()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Option<VolumeRecord>> {
        let names = (row.get::<_, String>(0)?.parse(), row.get::<_, String>(8)?.parse());
        let (Ok(name), Ok(source)) = names else {
            return Ok(None);
        };
        let half = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).unwrap_or_default();
        let frozen = row.get::<_, Vec<u8>>(5)?;
        let frozen = frozen.chunks_exact(32).map(|pair| FrozenDelta {
            delta: DeltaId::from_bytes(half(&pair[..16])),
            home: VolumeId::from_bytes(half(&pair[16..])),
        });
        let record = VolumeRecord {
            name,
            id: VolumeId::from_bytes(row.get(1)?),
            base: DiskId {
                root: ChunkId::from_bytes(row.get(2)?),
                size_bytes: row.get::<_, i64>(3)? as u64,
            },
            size_bytes: row.get::<_, i64>(4)? as u64,
            frozen: frozen.collect(),
            own: DeltaId::from_bytes(row.get(6)?),
            generation: row.get::<_, i64>(7)? as u64,
            source,
            created_ns: row.get(9)?,
        };
        Ok((record.sum() == row.get::<_, i64>(10)?).then_some(record))
    }

    fn write(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let row = params![
            self.name.as_str(),
            self.id.as_bytes(),
            self.base.root.as_bytes(),
            self.base.size_bytes as i64,
            self.size_bytes as i64,
            self.frozen_bytes(),
            self.own.as_bytes(),
            self.generation as i64,
            self.source.as_str(),
            self.created_ns,
            self.sum()
        ];
        tx.execute("REPLACE INTO volume VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row).map(drop)
    }
}

/// Looks a name up. `None` only after the whole catalog was found whole.
pub(crate) fn find(connection: &Connection, name: &Name) -> Result<Option<Named>> {
    match look_up(connection, name)? {
        None => list(connection).map(|_| None),
        found => Ok(found),
    }
}

/// Looks a name up by its rows alone, whatever else there is: for who is about to take it.
fn look_up(connection: &Connection, name: &Name) -> Result<Option<Named>> {
    let sql = |error| sql_error("cannot look a name up", error);
    let damaged = || Error::corrupt(format!("the catalog row of {name} is damaged"));
    let mut image = connection.prepare_cached("SELECT * FROM image WHERE name = ?").map_err(sql)?;
    if let Some(found) = image
        .query_row([name.as_str()], |row| Ok(whole(ImageRecord::read(row))))
        .optional()
        .map_err(sql)?
    {
        return found.map(|record| Some(Named::Image(record))).ok_or_else(damaged);
    }
    let mut volume =
        connection.prepare_cached("SELECT * FROM volume WHERE name = ?").map_err(sql)?;
    if let Some(found) = volume
        .query_row([name.as_str()], |row| Ok(whole(VolumeRecord::read(row))))
        .optional()
        .map_err(sql)?
    {
        return found.map(|record| Some(Named::Volume(record))).ok_or_else(damaged);
    }
    Ok(None)
}

/// Every image and volume, each by name. `Corrupt` if a row is damaged or missing.
pub(crate) fn list(connection: &Connection) -> Result<(Vec<ImageRecord>, Vec<VolumeRecord>)> {
    let state = State::read(connection)?;
    let images = read_all(connection, "image", ImageRecord::read)?;
    let volumes = read_all(connection, "volume", VolumeRecord::read)?;
    for (what, rows, counted) in
        [("images", images.len(), state.images), ("volumes", volumes.len(), state.volumes)]
    {
        if rows as i64 != counted {
            return Err(Error::corrupt(format!(
                "the catalog holds {rows} {what} where it counted {counted}"
            )));
        }
    }
    Ok((images, volumes))
}

/// A row that was read; `None` if it is damaged, be it that a column has another type than it should.
fn whole<T>(read: rusqlite::Result<Option<T>>) -> Option<T> {
    read.ok().flatten()
}

fn read_all<T>(
    connection: &Connection,
    table: &str,
    read: fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
) -> Result<Vec<T>> {
    let sql = |error| sql_error("cannot list the catalog", error);
    let mut statement =
        connection.prepare_cached(&format!("SELECT * FROM {table} ORDER BY name")).map_err(sql)?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0).unwrap_or_default(), whole(read(row)))))
        .map_err(sql)?;
    rows.map(|row| {
        let (name, record): (String, _) = row.map_err(sql)?;
        record.ok_or_else(|| {
            Error::corrupt(format!("the catalog row of {table} {name:?} is damaged"))
        })
    })
    .collect()
}

/// Puts an image in place within a transaction. `AlreadyExists` if the name is taken, unless it is an image's and
/// `replace` is set.
pub(crate) fn put_image(
    tx: &Transaction<'_>,
    record: &ImageRecord,
    replace: bool,
) -> Result<State> {
    let there = look_up(tx, &record.name)?;
    match &there {
        Some(Named::Image(_)) if replace => {}
        Some(other) => return Err(taken(&record.name, other)),
        None => {}
    }
    record.write(tx).map_err(|error| sql_error("cannot write the catalog", error))?;
    change_state(tx, |state| state.images += i64::from(there.is_none()))
}

/// Adds volumes within a transaction. `AlreadyExists` if a name is taken.
pub(crate) fn add_volume(tx: &Transaction<'_>, record: &VolumeRecord) -> Result<State> {
    if let Some(other) = look_up(tx, &record.name)? {
        return Err(taken(&record.name, &other));
    }
    record.write(tx).map_err(|error| sql_error("cannot write the catalog", error))?;
    change_state(tx, |state| state.volumes += 1)
}

/// Changes a volume within a transaction. `Busy` if somebody changed it since `record` was read.
pub(crate) fn change_volume(tx: &Transaction<'_>, record: &VolumeRecord) -> Result<State> {
    match look_up(tx, &record.name)? {
        Some(Named::Volume(there))
            if there.id == record.id && there.generation + 1 == record.generation => {}
        _ => {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("volume {} was changed meanwhile", record.name),
            ));
        }
    }
    record.write(tx).map_err(|error| sql_error("cannot write the catalog", error))?;
    change_state(tx, |_| ())
}

/// Removes a name within a transaction. `NotFound` if it stands for something else than `expected` by now.
pub(crate) fn remove(tx: &Transaction<'_>, name: &Name, expected: &Named) -> Result<State> {
    if look_up(tx, name)?.as_ref() != Some(expected) {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("{name} was removed or changed meanwhile"),
        ));
    }
    let sql = format!("DELETE FROM {} WHERE name = ?", expected.kind());
    tx.execute(&sql, [name.as_str()])
        .map_err(|error| sql_error("cannot write the catalog", error))?;
    change_state(tx, |state| match expected {
        Named::Image(_) => state.images -= 1,
        Named::Volume(_) => state.volumes -= 1,
    })
}

fn taken(name: &Name, by: &Named) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("the name {name} is taken by {} {}", article(by), by.kind()),
    )
}

fn article(named: &Named) -> &'static str {
    match named {
        Named::Image(_) => "an",
        Named::Volume(_) => "a",
    }
}

/// Records outside the database that it has come to `state`. Costs one fsync; runs after the commit, so that a crash
/// between them leaves the database ahead, never behind.
pub(crate) fn record_commit(paths: &StorePaths, state: State) -> Result<()> {
    let path = paths.commit_file();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .context(|| format!("cannot open {}", path.display()))?;
    file.lock().context(|| format!("cannot lock {}", path.display()))?;
    let number = state.number as u64;
    if read_commit_slots(&file)? < number {
        let at = number % 2 * CommitSlot::LEN as u64;
        let written =
            file.write_all_at(&CommitSlot { number }.encode(), at).and_then(|()| file.sync_data());
        written.context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Checks that the database has come at least as far as was recorded outside of it.
pub(crate) fn check_commit(paths: &StorePaths, database: &Database) -> Result<()> {
    let path = paths.commit_file();
    let file = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(format!("{} is missing", path.display())),
        _ => Error::io(format!("cannot open {}", path.display()), error),
    })?;
    let recorded = read_commit_slots(&file).context(|| format!("{} is damaged", path.display()))?;
    let state = database.read("cannot read the state of the catalog", |c| Ok(State::read(c)))??;
    if (state.number as u64) < recorded {
        let message = format!(
            "the catalog ends at transaction {} of {recorded}: later ones are lost",
            state.number
        );
        return Err(Error::corrupt(message));
    }
    Ok(())
}

fn read_commit_slots(file: &File) -> Result<u64> {
    let mut bytes = [0; 2 * CommitSlot::LEN];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| Error::with_source(ErrorKind::Corrupt, "too short", error))?;
    let (first, second) = bytes.split_at(CommitSlot::LEN);
    let number = |slot| CommitSlot::decode(slot).map(|slot| slot.map_or(0, |slot| slot.number));
    Ok(number(first)?.max(number(second)?))
}
