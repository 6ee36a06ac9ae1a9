//! The index: chunk id -> place in a pack. Can be made again from the packs alone.

use crate::{
    catalog::State,
    chunk::ChunkKind,
    database::{Database, sql_error},
};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use silt_format::{Codec, PackEntry, PackFooter, RowSum};
use silt_types::{ChunkId, Error, PackId, Result};

/// Rows per transaction: measured at 3 to 5 ms of write lock, below the 10 ms that others may have to wait.
const ROWS_PER_TRANSACTION: usize = 1000;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the pack within the store.
    pub(crate) pack: i64,
    /// Its entry there.
    pub(crate) entry: PackEntry,
}

/// What a pack holds, as the index accounts for it: each chunk counts in one pack only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackTotals {
    /// Distinct chunks.
    pub chunks: u64,
    /// Uncompressed bytes, by kind of chunk, in the order of [`ChunkKind::ALL`].
    pub bytes: [u64; 4],
    /// Compressed bytes of those chunks.
    pub bytes_stored: u64,
}

impl PackTotals {
    pub(crate) fn add(&mut self, other: &PackTotals) {
        self.chunks += other.chunks;
        self.bytes.iter_mut().zip(other.bytes).for_each(|(sum, bytes)| *sum += bytes);
        self.bytes_stored += other.bytes_stored;
    }

    fn count(&mut self, entry: &PackEntry) -> Result<()> {
        let kind = ChunkKind::from_u8(entry.kind).ok_or_else(|| {
            Error::corrupt(format!("chunk {} has the unknown kind {}", entry.id, entry.kind))
        })?;
        self.chunks += 1;
        self.bytes[kind as usize - 1] += u64::from(entry.len);
        self.bytes_stored += u64::from(entry.stored_len);
        Ok(())
    }
}

/// A pack as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) number: i64,
    pub(crate) id: PackId,
    pub(crate) size: u64,
    pub(crate) totals: PackTotals,
    /// Whether all of its chunks are in the index: false while it is added, and for ever if that was interrupted.
    pub(crate) complete: bool,
}

impl PackRow {
    fn sum(&self) -> i64 {
        let t = &self.totals;
        let sum =
            RowSum::new("pack").int(self.number).blob(self.id.as_bytes()).int(self.size as i64);
        let sum =
            t.bytes.iter().fold(sum.int(t.chunks as i64), |sum, bytes| sum.int(*bytes as i64));
        sum.int(t.bytes_stored as i64).int(self.complete.into()).finish()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<(PackRow, i64)> {
        let unsigned = |column| row.get::<_, i64>(column).map(|value| value as u64);
        let totals = PackTotals {
            chunks: unsigned(3)?,
            bytes: [unsigned(4)?, unsigned(5)?, unsigned(6)?, unsigned(7)?],
            bytes_stored: unsigned(8)?,
        };
        let id = PackId::from_bytes(row.get(1)?);
        let complete = row.get(9)?;
        Ok((
            PackRow { number: row.get(0)?, id, size: unsigned(2)?, totals, complete },
            row.get(10)?,
        ))
    }

    fn checked((row, sum): (PackRow, i64)) -> Result<PackRow> {
        if row.sum() == sum {
            return Ok(row);
        }
        Err(Error::corrupt(format!(
            "the index row of pack {} (number {}) is damaged",
            row.id, row.number
        )))
    }

    fn write(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let t = &self.totals;
        let mut statement =
            tx.prepare_cached("REPLACE INTO pack VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        let [file, disk, map, tree] = t.bytes.map(|bytes| bytes as i64);
        let (size, chunks, stored) = (self.size as i64, t.chunks as i64, t.bytes_stored as i64);
        let id = self.id.as_bytes();
        statement.execute(params![
            self.number,
            id,
            size,
            chunks,
            file,
            disk,
            map,
            tree,
            stored,
            self.complete,
            self.sum()
        ])?;
        Ok(())
    }
}

fn chunk_sum(place: &Place) -> i64 {
    let e = &place.entry;
    let sum = RowSum::new("chunk").blob(e.id.as_bytes()).int(place.pack).int(e.offset as i64);
    sum.int(e.stored_len.into()).int(e.len.into()).int(e.kind.into()).int(e.codec as i64).finish()
}

fn read_place(row: &Row<'_>) -> rusqlite::Result<Option<Place>> {
    let numbers =
        (row.get::<_, i64>(2)?, row.get::<_, u32>(3)?, row.get::<_, u32>(4)?, row.get::<_, u8>(5)?);
    let (offset, stored_len, len, kind) = numbers;
    let Some(codec) = Codec::from_u8(row.get(6)?) else {
        return Ok(None);
    };
    let id = ChunkId::from_bytes(row.get(0)?);
    let entry = PackEntry { id, offset: offset as u64, stored_len, len, kind, codec };
    let place = Place { pack: row.get(1)?, entry };
    Ok((chunk_sum(&place) == row.get::<_, i64>(7)?).then_some(place))
}

fn damaged_row(id: &ChunkId) -> Error {
    Error::corrupt(format!("the index row of chunk {id} is damaged"))
}

/// Looks a chunk up. `Corrupt` if its row is damaged. A few microseconds when the pages are in memory.
pub(crate) fn find(database: &Database, id: &ChunkId) -> Result<Option<Place>> {
    let found = database.read("cannot look a chunk up", |connection| {
        let mut statement = connection.prepare_cached("SELECT * FROM chunk WHERE id = ?")?;
        statement.query_row([id.as_bytes()], read_place).optional()
    })?;
    found.map(|place| place.ok_or_else(|| damaged_row(id))).transpose()
}

/// Whether the index holds no chunk at all.
pub(crate) fn is_empty(database: &Database) -> Result<bool> {
    database.read("cannot read the index", |c| {
        c.query_row("SELECT NOT EXISTS (SELECT 1 FROM chunk)", [], |r| r.get(0))
    })
}

/// Every pack, by number. `Corrupt` if a row is damaged or missing.
pub(crate) fn packs(database: &Database) -> Result<Vec<PackRow>> {
    const DOING: &str = "cannot list the packs";
    let (rows, counted) = database.read_at_once(DOING, |connection| {
        let rows = read_packs(connection).map_err(|error| sql_error(DOING, error))?;
        Ok((rows, State::read(connection)?.packs))
    })?;
    if rows.len() as i64 != counted {
        return Err(Error::corrupt(format!(
            "the index holds {} packs where it counted {counted}",
            rows.len()
        )));
    }
    rows.into_iter().map(PackRow::checked).collect()
}

fn read_packs(connection: &Connection) -> rusqlite::Result<Vec<(PackRow, i64)>> {
    let mut statement = connection.prepare_cached("SELECT * FROM pack ORDER BY number")?;
    statement.query_map([], PackRow::read)?.collect()
}

/// The pack with this number. `Corrupt` if the row is damaged or missing.
pub(crate) fn pack(database: &Database, number: i64) -> Result<PackRow> {
    let found = database.read("cannot look a pack up", |connection| {
        let mut statement = connection.prepare_cached("SELECT * FROM pack WHERE number = ?")?;
        statement.query_row([number], PackRow::read).optional()
    })?;
    let row =
        found.ok_or_else(|| Error::corrupt(format!("the index has no pack number {number}")))?;
    PackRow::checked(row)
}

/// Whether a pack is in the index.
pub(crate) fn knows_pack(database: &Database, id: PackId) -> Result<bool> {
    database.read("cannot look a pack up", |connection| {
        connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM pack WHERE id = ?)",
            [id.as_bytes()],
            |row| row.get(0),
        )
    })
}

/// Visits every row of the chunk table. A damaged row is passed as the error that names it.
pub(crate) fn for_each_chunk(
    database: &Database,
    mut visit: impl FnMut(Result<Place>),
) -> Result<()> {
    database.read("cannot read the index", |connection| {
        let mut statement = connection.prepare("SELECT * FROM chunk ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = row.get::<_, [u8; 32]>(0).map(ChunkId::from_bytes);
            let id = id.unwrap_or(silt_types::DiskId::ZERO_ROOT);
            visit(read_place(row).ok().flatten().ok_or_else(|| damaged_row(&id)));
        }
        Ok(())
    })
}

/// Adds a finished, durable pack in short transactions. A chunk that is there already keeps its place. What a crash
/// leaves of it is found again by the next writer, and used.
pub(crate) fn add_pack(
    database: &Database,
    id: PackId,
    size: u64,
    footer: &PackFooter,
) -> Result<()> {
    const DOING: &str = "cannot add a pack to the index";
    let sql = |error| sql_error(DOING, error);
    let mut row = database.write(DOING, |tx| {
        let number = tx
            .query_row("SELECT coalesce(max(number), 0) + 1 FROM pack", [], |r| r.get(0))
            .map_err(sql)?;
        let row = PackRow {
            number,
            id,
            size,
            totals: PackTotals::default(),
            complete: footer.entries.is_empty(),
        };
        row.write(tx).map_err(sql)?;
        crate::catalog::change_state(tx, |state| state.packs += 1)?;
        Ok(row)
    })?;
    // Ascending ids touch neighbouring pages one after the other.
    let mut entries: Vec<&PackEntry> = footer.entries.iter().collect();
    entries.sort_unstable_by_key(|entry| entry.id);
    let mut left = entries.len();
    for batch in entries.chunks(ROWS_PER_TRANSACTION) {
        left -= batch.len();
        database.write(DOING, |tx| {
            for entry in batch {
                if insert_chunk(tx, &Place { pack: row.number, entry: **entry }).map_err(sql)? {
                    row.totals.count(entry)?;
                }
            }
            row.complete = left == 0;
            row.write(tx).map_err(sql)
        })?;
    }
    Ok(())
}

fn insert_chunk(tx: &Transaction<'_>, place: &Place) -> rusqlite::Result<bool> {
    let e = &place.entry;
    let mut statement =
        tx.prepare_cached("INSERT OR IGNORE INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?;
    let row = params![
        e.id.as_bytes(),
        place.pack,
        e.offset as i64,
        e.stored_len,
        e.len,
        e.kind,
        e.codec as u8,
        chunk_sum(place)
    ];
    Ok(statement.execute(row)? == 1)
}
