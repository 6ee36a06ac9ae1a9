//! The index: chunk id -> place in a pack. Can be made again from the packs alone.
//!
//! `packs` has the rows of packs, `removal` what a collection changes, `rebuild` how it is made again.

mod packs;
mod rebuild;
mod removal;

pub use packs::PackTotals;
pub(crate) use packs::{PackRow, PackState, condemned, knows_pack, pack, packs, sound_packs};
pub(crate) use rebuild::{add_rebuilt, put_packs, sound_chunks};
pub(crate) use removal::{condemn, drop_packs, forget_chunks, move_to};

use crate::{
    catalog::change_state,
    database::{Database, sql_error},
};
use packs::{condemned_in, take_from};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use silt_format::{Codec, PackEntry, PackFooter, RowSum};
use silt_types::{ChunkId, DiskId, Error, LeaseId, PackId, Result};
use std::collections::{HashMap, HashSet};

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
    database.read("cannot look a chunk up", |connection| Ok(find_in(connection, id)))?
}

fn find_in(connection: &Connection, id: &ChunkId) -> Result<Option<Place>> {
    let found = (|| {
        let mut statement = connection.prepare_cached("SELECT * FROM chunk WHERE id = ?")?;
        statement.query_row([id.as_bytes()], read_place).optional()
    })();
    let found = found.map_err(|error| sql_error("cannot look a chunk up", error))?;
    found.map(|place| place.ok_or_else(|| damaged_row(id))).transpose()
}

/// Whether the index holds no chunk at all.
pub(crate) fn is_empty(database: &Database) -> Result<bool> {
    database.read("cannot read the index", |c| {
        c.query_row("SELECT NOT EXISTS (SELECT 1 FROM chunk)", [], |r| r.get(0))
    })
}

/// Visits every row of the chunk table, by id. A damaged row is passed as the error that names it.
pub(crate) fn for_each_chunk(
    database: &Database,
    mut visit: impl FnMut(Result<Place>),
) -> Result<()> {
    (0..=u8::MAX).try_for_each(|first| for_each_chunk_from(database, first, &mut visit))
}

/// The same of those whose id begins with this byte.
pub(crate) fn for_each_chunk_from(
    database: &Database,
    first: u8,
    mut visit: impl FnMut(Result<Place>),
) -> Result<()> {
    database.read("cannot read the index", |connection| {
        // A blob that has another one in front is behind it. No id is as long as the end of the last range.
        let end = first.checked_add(1).map_or(vec![u8::MAX; 33], |next| vec![next]);
        let mut statement = connection
            .prepare_cached("SELECT * FROM chunk WHERE id >= ? AND id < ? ORDER BY id")?;
        let mut rows = statement.query(params![[first], end])?;
        while let Some(row) = rows.next()? {
            let id = row.get::<_, [u8; 32]>(0).map(ChunkId::from_bytes);
            let id = id.unwrap_or(DiskId::ZERO_ROOT);
            visit(read_place(row).ok().flatten().ok_or_else(|| damaged_row(&id)));
        }
        Ok(())
    })
}

/// Adds a finished, durable pack in short transactions. A chunk that is there already keeps its place, unless that is
/// condemned. What a crash leaves of it is found again by the next writer, and used.
pub(crate) fn add_pack(
    database: &Database,
    id: PackId,
    lease: LeaseId,
    size: u64,
    footer: &PackFooter,
) -> Result<()> {
    const DOING: &str = "cannot add a pack to the index";
    let mut row = begin_pack(database, id, lease, size, footer)?;
    // Ascending ids touch neighbouring pages one after the other.
    let mut entries: Vec<&PackEntry> = footer.entries.iter().collect();
    entries.sort_unstable_by_key(|entry| entry.id);
    let mut left = entries.len();
    for batch in entries.chunks(ROWS_PER_TRANSACTION) {
        left -= batch.len();
        database.write(DOING, |tx| {
            let condemned = condemned_in(tx)?;
            let mut gone: HashMap<i64, PackTotals> = HashMap::new();
            for entry in batch {
                match insert_chunk(tx, &Place { pack: row.number, entry: **entry }, &condemned)? {
                    Inserted::New => {}
                    Inserted::Instead(of) => {
                        *gone.entry(of.pack).or_default() += PackTotals::of(&of.entry)?;
                    }
                    Inserted::Not => continue,
                }
                row.totals += PackTotals::of(entry)?;
            }
            if left == 0 {
                row.state = PackState::Complete;
            }
            row.write(tx).map_err(|error| sql_error(DOING, error))?;
            gone.iter().try_for_each(|(number, gone)| take_from(tx, *number, gone))
        })?;
    }
    Ok(())
}

/// Gives a pack its number.
fn begin_pack(
    database: &Database,
    id: PackId,
    lease: LeaseId,
    size: u64,
    footer: &PackFooter,
) -> Result<PackRow> {
    const DOING: &str = "cannot add a pack to the index";
    database.write(DOING, |tx| {
        let state = change_state(tx, |state| {
            state.packs += 1;
            state.packs_ever += 1;
        })?;
        let is_empty = footer.entries.is_empty();
        let row = PackRow {
            number: state.packs_ever,
            id,
            size,
            totals: PackTotals::default(),
            state: if is_empty { PackState::Complete } else { PackState::Adding },
            lease,
        };
        row.write(tx).map_err(|error| sql_error(DOING, error))?;
        Ok(row)
    })
}

enum Inserted {
    New,
    /// It was here, in a condemned pack.
    Instead(Place),
    Not,
}

fn insert_chunk(tx: &Transaction<'_>, place: &Place, condemned: &HashSet<i64>) -> Result<Inserted> {
    let before = match condemned.is_empty() {
        true => None,
        false => find_in(tx, &place.entry.id)?,
    };
    if let Some(before) = before {
        if !condemned.contains(&before.pack) {
            return Ok(Inserted::Not);
        }
        put_chunk(tx, place)?;
        return Ok(Inserted::Instead(before));
    }
    let is_new = execute_chunk(tx, "INSERT OR IGNORE", place)? == 1;
    Ok(if is_new { Inserted::New } else { Inserted::Not })
}

/// Writes the row of a chunk, whatever was there.
fn put_chunk(tx: &Transaction<'_>, place: &Place) -> Result<()> {
    execute_chunk(tx, "REPLACE", place).map(drop)
}

fn execute_chunk(tx: &Transaction<'_>, how: &str, place: &Place) -> Result<usize> {
    let e = &place.entry;
    let written = (|| {
        let sql = format!("{how} INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
        let mut statement = tx.prepare_cached(&sql)?;
        statement.execute(params![
            e.id.as_bytes(),
            place.pack,
            e.offset as i64,
            e.stored_len,
            e.len,
            e.kind,
            e.codec as u8,
            chunk_sum(place)
        ])
    })();
    written.map_err(|error| sql_error("cannot write the index", error))
}
