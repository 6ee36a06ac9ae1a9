//! Making an index again: sorted rows into an empty one, and what can be read of a damaged one.

use super::{PackRow, PackTotals, Place, execute_chunk, read_place};
use crate::database::{Database, sql_error};
use rusqlite::Connection;
use silt_types::Result;
use std::collections::HashMap;

/// Rows per transaction, where nobody else waits.
const ROWS_PER_TRANSACTION: usize = 1 << 16;

/// Adds places, in the order of ids, to an index that nobody uses yet. The first place of a chunk stays. Counts what was added,
/// by pack.
pub(crate) fn add_rebuilt(
    database: &Database,
    places: &[Place],
    totals: &mut HashMap<i64, PackTotals>,
) -> Result<()> {
    for batch in places.chunks(ROWS_PER_TRANSACTION) {
        database.write("cannot make the index again", |tx| {
            for place in batch {
                if execute_chunk(tx, "INSERT OR IGNORE", place)? == 1 {
                    *totals.entry(place.pack).or_default() += PackTotals::of(&place.entry)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Writes the rows of packs.
pub(crate) fn put_packs(database: &Database, packs: &[PackRow]) -> Result<()> {
    const DOING: &str = "cannot make the index again";
    database.write(DOING, |tx| {
        packs.iter().try_for_each(|pack| pack.write(tx)).map_err(|error| sql_error(DOING, error))
    })
}

/// The rows of chunks that can be read of a damaged index, from its one end and from its other.
pub(crate) fn sound_chunks(connection: &Connection, visit: &mut dyn FnMut(Place)) {
    for order in ["ASC", "DESC"] {
        let query = format!("SELECT * FROM chunk ORDER BY id {order}");
        let Ok(mut statement) = connection.prepare(&query) else { continue };
        let Ok(mut rows) = statement.query([]) else { continue };
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    if let Ok(Some(place)) = read_place(row) {
                        visit(place);
                    }
                }
                Ok(None) => return, // All of it was read.
                Err(_) => break,
            }
        }
    }
}
