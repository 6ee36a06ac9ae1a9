//! The state row: counts transactions and rows, so that a lost row or a lost transaction is noticed.
//!
//! A second row, there from the first removal of chunks on, counts removals. The sum of the first is over both.

use crate::database::sql_error;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use silt_format::RowSum;
use silt_types::{Error, Result};

/// How much there must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) number: i64,
    pub(crate) images: i64,
    pub(crate) volumes: i64,
    pub(crate) snapshots: i64,
    pub(crate) packs: i64,
    /// How often chunks were condemned or removed; see [`State::count_removal`].
    pub(crate) removals: i64,
}

/// Keys of the two rows.
const COUNTS: i64 = 1;
const REMOVALS: i64 = 2;

impl State {
    fn counts(&self) -> [i64; 5] {
        [self.number, self.images, self.volumes, self.snapshots, self.packs]
    }

    fn sum(&self) -> i64 {
        let sum = self.counts().iter().fold(RowSum::new("state"), |sum, count| sum.int(*count));
        // The row of a store that never removed anything is what it was before removals were counted.
        if self.removals == 0 { sum.finish() } else { sum.int(self.removals).finish() }
    }

    /// To be called within every transaction that condemns or removes packs, or rows of the index: whoever finds the count
    /// unchanged knows that every chunk is still there that was.
    pub(crate) fn count_removal(&mut self) {
        self.removals += 1;
    }

    pub(crate) fn read(connection: &Connection) -> Result<State> {
        let read = |row: &Row<'_>| {
            let state = State {
                number: row.get(1)?,
                images: row.get(2)?,
                volumes: row.get(3)?,
                snapshots: row.get(4)?,
                packs: row.get(5)?,
                removals: row.get(7)?,
            };
            Ok((state, row.get::<_, i64>(6)?))
        };
        const BOTH: &str = "SELECT *, coalesce((SELECT number FROM state WHERE one = ?2), 0) FROM state WHERE one = ?1";
        let row = connection.query_row(BOTH, [COUNTS, REMOVALS], read).optional();
        match row.map_err(|error| sql_error("cannot read the state of the catalog", error))? {
            None => Ok(State::default()),
            Some((state, sum)) if sum == state.sum() => Ok(state),
            Some(_) => Err(Error::corrupt("the state row of the catalog is damaged")),
        }
    }

    /// Writes it as that of one transaction more.
    pub(super) fn advance(mut self, tx: &Transaction<'_>) -> Result<State> {
        self.number += 1;
        let [number, images, volumes, snapshots, packs] = self.counts();
        const WRITE: &str = "REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?)";
        let written = (|| {
            let row = params![COUNTS, number, images, volumes, snapshots, packs, self.sum()];
            tx.execute(WRITE, row)?;
            if self.removals > 0 {
                tx.execute(WRITE, params![REMOVALS, self.removals, 0, 0, 0, 0, 0])?;
            }
            Ok(())
        })();
        written.map_err(|error| sql_error("cannot write the state of the catalog", error))?;
        Ok(self)
    }
}

/// Changes the state row within a transaction. Answers the new state.
pub(crate) fn change_state(tx: &Transaction<'_>, change: impl FnOnce(&mut State)) -> Result<State> {
    let mut state = State::read(tx)?;
    change(&mut state);
    state.advance(tx)
}
