//! What a collection changes in the index: chunks get another place, packs are condemned, and go.
//!
//! Every transaction is short, and leaves an index that is true; the order of them is the collection's.

use super::{
    Place, ROWS_PER_TRANSACTION, begin_pack, damaged_row, find_in,
    packs::{PackState, PackTotals, pack_in, take_from},
    put_chunk, read_place,
};
use crate::{
    catalog::Change,
    database::{Database, sql_error},
};
use rusqlite::{OptionalExtension as _, Transaction, params};
use silt_format::{PackEntry, PackFooter};
use silt_types::{ChunkId, LeaseId, PackId, Result};
use std::collections::HashMap;

/// Adds a finished, durable pack of chunks that are in the index already, and lets them be found there: each of them that
/// still is where it was copied from, `sources`, in the order of the footer.
pub(crate) fn move_to(
    database: &Database,
    id: PackId,
    lease: LeaseId,
    size: u64,
    footer: &PackFooter,
    sources: &[i64],
) -> Result<()> {
    const DOING: &str = "cannot move chunks to another pack";
    let mut row = begin_pack(database, id, lease, size, footer)?;
    let mut moves: Vec<_> = footer.entries.iter().zip(sources).collect();
    moves.sort_unstable_by_key(|(entry, _)| entry.id);
    let mut left = moves.len();
    for batch in moves.chunks(ROWS_PER_TRANSACTION) {
        left -= batch.len();
        database.write(DOING, |tx| {
            let mut gone: HashMap<i64, PackTotals> = HashMap::new();
            for (entry, source) in batch {
                if let Some(before) = move_chunk(tx, row.number, entry, **source)? {
                    row.totals += PackTotals::of(entry)?;
                    *gone.entry(**source).or_default() += PackTotals::of(&before)?;
                }
            }
            if left == 0 {
                row.state = PackState::Complete;
            }
            row.write(tx).map_err(|error| sql_error(DOING, error))?;
            gone.iter().try_for_each(|(source, gone)| take_from(tx, *source, gone))
        })?;
    }
    Ok(())
}

/// Answers the entry that it had before.
fn move_chunk(
    tx: &Transaction<'_>,
    number: i64,
    entry: &PackEntry,
    source: i64,
) -> Result<Option<PackEntry>> {
    let before = find_in(tx, &entry.id)?.filter(|place| place.pack == source);
    if before.is_some() {
        put_chunk(tx, &Place { pack: number, entry: *entry })?;
    }
    Ok(before.map(|place| place.entry))
}

/// Condemns packs: from now on, what they hold does not count as stored for work that begins.
pub(crate) fn condemn(change: &mut Change<'_>, numbers: &[i64]) -> Result<()> {
    for number in numbers {
        let tx = change.transaction();
        let mut row = pack_in(tx, *number)?;
        if row.state != PackState::Condemned {
            row.state = PackState::Condemned;
            row.write(tx).map_err(|error| sql_error("cannot condemn a pack", error))?;
            change.count_condemned();
        }
    }
    Ok(())
}

/// Removes chunks from the index that are in a condemned pack; others are left. Answers how many went.
pub(crate) fn forget_chunks(database: &Database, number: i64, ids: &[ChunkId]) -> Result<u64> {
    const DOING: &str = "cannot remove the chunks of a pack";
    let mut removed = 0;
    for batch in ids.chunks(ROWS_PER_TRANSACTION) {
        removed += database.write(DOING, |tx| delete_chunks(tx, number, batch))?;
    }
    Ok(removed)
}

/// The last step: the files are gone, nothing points to them.
pub(crate) fn drop_packs(change: &mut Change<'_>, numbers: &[i64]) -> Result<()> {
    for number in numbers {
        let deleted = change.transaction().execute("DELETE FROM pack WHERE number = ?", [number]);
        deleted.map_err(|error| sql_error("cannot remove a pack from the index", error))?;
        change.count_dropped();
    }
    Ok(())
}

fn delete_chunks(tx: &Transaction<'_>, number: i64, ids: &[ChunkId]) -> Result<u64> {
    let sql = |error| sql_error("cannot remove chunks", error);
    let mut gone = PackTotals::default();
    for id in ids {
        let mut statement = tx
            .prepare_cached("DELETE FROM chunk WHERE id = ? AND pack = ? RETURNING *")
            .map_err(sql)?;
        let found = statement.query_row(params![id.as_bytes(), number], read_place).optional();
        if let Some(place) = found.map_err(sql)? {
            gone += PackTotals::of(&place.ok_or_else(|| damaged_row(id))?.entry)?;
        }
    }
    if gone.chunks > 0 {
        take_from(tx, number, &gone)?;
    }
    Ok(gone.chunks)
}
