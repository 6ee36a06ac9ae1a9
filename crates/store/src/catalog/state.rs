//! The state row: counts transactions and rows, so that a lost row or a lost transaction is noticed.

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
}

impl State {
    fn counts(&self) -> [i64; 5] {
        [self.number, self.images, self.volumes, self.snapshots, self.packs]
    }

    fn sum(&self) -> i64 {
        self.counts().iter().fold(RowSum::new("state"), |sum, count| sum.int(*count)).finish()
    }

    pub(crate) fn read(connection: &Connection) -> Result<State> {
        let read = |row: &Row<'_>| {
            let state = State {
                number: row.get(1)?,
                images: row.get(2)?,
                volumes: row.get(3)?,
                snapshots: row.get(4)?,
                packs: row.get(5)?,
            };
            Ok((state, row.get::<_, i64>(6)?))
        };
        let row = connection.query_row("SELECT * FROM state", [], read).optional();
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
        let row = params![1, number, images, volumes, snapshots, packs, self.sum()];
        let written = tx.execute("REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?)", row);
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
