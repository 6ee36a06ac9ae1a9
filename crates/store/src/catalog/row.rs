//! Reading rows of records: each is whole, by its checksum, or damage that names it.

use crate::database::sql_error;
use rusqlite::{Connection, OptionalExtension as _, Params, Row};
use silt_types::{ChunkId, DiskId, Error, Result};
use std::{collections::HashSet, fmt::Debug};

/// A kind of record with a table of its own.
pub(crate) trait Record: Sized + Debug {
    /// The table.
    const TABLE: &'static str;
    /// The column by which rows lie in the table.
    const KEY: &'static str;
    /// The column that names a record to people, by its number.
    const NAME_COLUMN: usize;

    /// Reads all columns; `None` if the row's checksum does not match.
    fn read(row: &Row<'_>) -> rusqlite::Result<Option<Self>>;
}

/// The record that a condition finds, if there is one.
pub(super) fn read_one<R: Record>(
    connection: &Connection,
    condition: &str,
    params: impl Params,
) -> Result<Option<R>> {
    let sql = |error| sql_error("cannot read the catalog", error);
    let query = format!("SELECT * FROM {} WHERE {condition}", R::TABLE);
    let mut statement = connection.prepare_cached(&query).map_err(sql)?;
    statement.query_row(params, read_named::<R>).optional().map_err(sql)?.transpose()
}

/// The records that a condition finds, in an order. `Corrupt` if one is damaged.
pub(super) fn read_all<R: Record>(
    connection: &Connection,
    condition: &str,
    params: impl Params,
) -> Result<Vec<R>> {
    let sql = |error| sql_error("cannot list the catalog", error);
    let query = format!("SELECT * FROM {} WHERE {condition}", R::TABLE);
    let mut statement = connection.prepare_cached(&query).map_err(sql)?;
    let rows = statement.query_map(params, read_named::<R>).map_err(sql)?;
    rows.map(|row| row.map_err(sql)?).collect()
}

/// Rows of a damaged table that are looked at: pages that point in circles have no end.
const ROWS_MAX: u64 = 1 << 24;
/// Records that are lost which are told one by one.
const LOST_MAX: usize = 1000;

/// What a damaged table has: the records that can be read, from its one end and from its other, and the names of those that cannot,
/// as far as they can be told.
pub(crate) fn read_sound<R: Record>(connection: &Connection, lost: &mut Vec<String>) -> Vec<R> {
    let (mut sound, mut seen) = (Vec::new(), HashSet::new());
    for order in ["ASC", "DESC"] {
        let query = format!("SELECT * FROM {} ORDER BY {} {order}", R::TABLE, R::KEY);
        let Ok(mut statement) = connection.prepare(&query) else { break };
        let Ok(mut rows) = statement.query([]) else { break };
        let mut visited = 0;
        let ended = loop {
            let row = match rows.next() {
                Ok(Some(row)) if visited < ROWS_MAX => row,
                Ok(None) => break true,
                _ => break false,
            };
            visited += 1;
            match R::read(row).ok().flatten() {
                Some(record) if seen.insert(format!("{record:?}")) => sound.push(record),
                Some(_) => {}
                None if lost.len() >= LOST_MAX => {}
                None => {
                    let name: String = row.get(R::NAME_COLUMN).unwrap_or_default();
                    lost.push(format!("{} {name:?}", R::TABLE));
                }
            }
        };
        if ended {
            break; // All of it was read.
        }
    }
    lost.sort();
    lost.dedup();
    sound
}

/// A column of another type than it should have is damage like any other.
fn read_named<R: Record>(row: &Row<'_>) -> rusqlite::Result<Result<R>> {
    let damaged = || {
        let name: String = row.get(R::NAME_COLUMN).unwrap_or_default();
        Error::corrupt(format!("the catalog row of {} {name:?} is damaged", R::TABLE))
    };
    Ok(R::read(row).ok().flatten().ok_or_else(damaged))
}

/// A disk in two columns, the root and the size.
pub(super) fn read_disk(row: &Row<'_>, first: usize) -> rusqlite::Result<DiskId> {
    let size_bytes = row.get::<_, i64>(first + 1)? as u64;
    Ok(DiskId { root: ChunkId::from_bytes(row.get(first)?), size_bytes })
}

/// The same where there may be none.
pub(super) fn read_optional_disk(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<DiskId>> {
    let is_there = row.get::<_, Option<[u8; 32]>>(first)?.is_some();
    is_there.then(|| read_disk(row, first)).transpose()
}
