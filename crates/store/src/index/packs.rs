//! Packs as the index knows them: a row for each.

use crate::{
    catalog::State,
    chunk::ChunkKind,
    database::{Database, sql_error},
};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use silt_format::{PackEntry, RowSum};
use silt_types::{Error, LeaseId, PackId, Result};
use std::{collections::HashSet, ops::AddAssign};

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

impl AddAssign for PackTotals {
    fn add_assign(&mut self, other: PackTotals) {
        self.chunks += other.chunks;
        self.bytes.iter_mut().zip(other.bytes).for_each(|(sum, bytes)| *sum += bytes);
        self.bytes_stored += other.bytes_stored;
    }
}

impl PackTotals {
    /// One chunk alone. `Corrupt` if its kind is none.
    pub(super) fn of(entry: &PackEntry) -> Result<PackTotals> {
        let kind = ChunkKind::from_u8(entry.kind).ok_or_else(|| {
            Error::corrupt(format!("chunk {} has the unknown kind {}", entry.id, entry.kind))
        })?;
        let mut totals =
            PackTotals { chunks: 1, bytes: [0; 4], bytes_stored: entry.stored_len.into() };
        totals.bytes[kind as usize - 1] = entry.len.into();
        Ok(totals)
    }

    /// What is left when `other` is taken away; `None` if it never was there.
    fn without(&self, other: &PackTotals) -> Option<PackTotals> {
        let mut left = PackTotals {
            chunks: self.chunks.checked_sub(other.chunks)?,
            bytes: self.bytes,
            bytes_stored: self.bytes_stored.checked_sub(other.bytes_stored)?,
        };
        for (bytes, gone) in left.bytes.iter_mut().zip(other.bytes) {
            *bytes = bytes.checked_sub(gone)?;
        }
        Some(left)
    }
}

/// What may be done with a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PackState {
    /// Not all of its chunks are in the index: it is being added, or that was interrupted.
    Adding = 0,
    /// It is as it is to stay.
    Complete = 1,
    /// A collection is about to remove it. What is looked up there is read, but does not count as stored.
    Condemned = 2,
}

impl PackState {
    fn from_number(number: i64) -> Option<PackState> {
        let all = [PackState::Adding, PackState::Complete, PackState::Condemned];
        all.into_iter().find(|state| *state as i64 == number)
    }
}

/// A pack as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackRow {
    /// Its number in this index, never given to another one.
    pub(crate) number: i64,
    pub(crate) id: PackId,
    pub(crate) size: u64,
    pub(crate) totals: PackTotals,
    pub(crate) state: PackState,
    /// The lease of the work that wrote it. While that is held, nothing needs to name its chunks yet.
    pub(crate) lease: LeaseId,
}

impl PackRow {
    fn sum(&self) -> i64 {
        let t = &self.totals;
        let sum =
            RowSum::new("pack").int(self.number).blob(self.id.as_bytes()).int(self.size as i64);
        let sum =
            t.bytes.iter().fold(sum.int(t.chunks as i64), |sum, bytes| sum.int(*bytes as i64));
        let sum = sum.int(t.bytes_stored as i64).int(self.state as i64);
        sum.blob(self.lease.as_bytes()).finish()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Result<PackRow>> {
        let unsigned = |column| row.get::<_, i64>(column).map(|value| value as u64);
        let totals = PackTotals {
            chunks: unsigned(3)?,
            bytes: [unsigned(4)?, unsigned(5)?, unsigned(6)?, unsigned(7)?],
            bytes_stored: unsigned(8)?,
        };
        let (number, id) = (row.get(0)?, PackId::from_bytes(row.get(1)?));
        let found = PackState::from_number(row.get(9)?).map(|state| {
            let lease = LeaseId::from_bytes(row.get(10)?);
            let found = PackRow { number, id, size: unsigned(2)?, totals, state, lease };
            Ok::<_, rusqlite::Error>((found, row.get::<_, i64>(11)?))
        });
        let sound = found.transpose()?.filter(|(row, sum)| row.sum() == *sum);
        let what = format!("the index row of pack {id} (number {number}) is damaged");
        Ok(sound.map(|(row, _)| row).ok_or_else(|| Error::corrupt(what)))
    }

    pub(crate) fn write(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let t = &self.totals;
        let mut statement =
            tx.prepare_cached("REPLACE INTO pack VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
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
            self.state as i64,
            self.lease.as_bytes(),
            self.sum()
        ])?;
        Ok(())
    }
}

/// Every pack, by number. `Corrupt` if a row is damaged or missing.
pub(crate) fn packs(database: &Database) -> Result<Vec<PackRow>> {
    database.read_at_once("cannot list the packs", packs_in)
}

fn packs_in(connection: &Connection) -> Result<Vec<PackRow>> {
    let sql = |error| sql_error("cannot list the packs", error);
    let counted = State::read(connection)?.packs;
    let mut statement =
        connection.prepare_cached("SELECT * FROM pack ORDER BY number").map_err(sql)?;
    let rows = statement.query_map([], PackRow::read).map_err(sql)?;
    let rows = rows.map(|row| row.map_err(sql)?).collect::<Result<Vec<_>>>()?;
    if rows.len() as i64 != counted {
        let found = rows.len();
        return Err(Error::corrupt(format!(
            "the index holds {found} packs where it counted {counted}"
        )));
    }
    Ok(rows)
}

/// The rows of packs that can be read of a damaged index, from its one end and from its other.
pub(crate) fn sound_packs(connection: &Connection) -> Vec<PackRow> {
    let from = |order: &str| {
        let mut sound = Vec::new();
        let query = format!("SELECT * FROM pack ORDER BY number {order}");
        let Ok(mut statement) = connection.prepare(&query) else { return sound };
        let Ok(mut rows) = statement.query([]) else { return sound };
        while let Ok(Some(row)) = rows.next() {
            sound.extend(PackRow::read(row).ok().and_then(Result::ok));
        }
        sound
    };
    let mut sound = from("ASC");
    sound.extend(from("DESC"));
    sound.sort_by_key(|pack| pack.number);
    sound.dedup();
    sound
}

/// The pack with this number. `Corrupt` if the row is damaged or missing.
pub(crate) fn pack(database: &Database, number: i64) -> Result<PackRow> {
    database.read_at_once("cannot look a pack up", |connection| pack_in(connection, number))
}

pub(super) fn pack_in(connection: &Connection, number: i64) -> Result<PackRow> {
    let found = (|| {
        let mut statement = connection.prepare_cached("SELECT * FROM pack WHERE number = ?")?;
        statement.query_row([number], PackRow::read).optional()
    })();
    let found = found.map_err(|error| sql_error("cannot look a pack up", error))?;
    found.ok_or_else(|| Error::corrupt(format!("the index has no pack number {number}")))?
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

/// Numbers of the condemned packs.
pub(crate) fn condemned(database: &Database) -> Result<HashSet<i64>> {
    database.read_at_once("cannot list the packs", condemned_in)
}

pub(super) fn condemned_in(connection: &Connection) -> Result<HashSet<i64>> {
    if State::read(connection)?.condemned == 0 {
        return Ok(HashSet::new());
    }
    let packs = packs_in(connection)?.into_iter();
    Ok(packs.filter(|pack| pack.state == PackState::Condemned).map(|pack| pack.number).collect())
}

/// Takes chunks out of the account of a pack that another one has now.
pub(super) fn take_from(tx: &Transaction<'_>, number: i64, gone: &PackTotals) -> Result<()> {
    let mut row = pack_in(tx, number)?;
    row.totals = row.totals.without(gone).ok_or_else(|| {
        Error::corrupt(format!("the index counts fewer chunks in pack {} than it has", row.id))
    })?;
    row.write(tx).map_err(|error| sql_error("cannot account for a pack", error))
}
