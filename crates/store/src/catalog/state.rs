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
    /// The packs that there ever were: the number of the newest.
    pub(crate) packs_ever: i64,
    /// Packs that a collection has condemned and not removed yet.
    pub(crate) condemned: i64,
    /// How often packs were condemned: whoever finds it unchanged knows that every chunk still counts as stored that did.
    pub(crate) removals: i64,
}

impl State {
    fn counts(&self) -> [i64; 8] {
        [
            self.number,
            self.images,
            self.volumes,
            self.snapshots,
            self.packs,
            self.packs_ever,
            self.condemned,
            self.removals,
        ]
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
                packs_ever: row.get(6)?,
                condemned: row.get(7)?,
                removals: row.get(8)?,
            };
            Ok((state, row.get::<_, i64>(9)?))
        };
        let found = (|| {
            let mut statement = connection.prepare_cached("SELECT * FROM state WHERE one = 1")?;
            statement.query_row([], read).optional()
        })();
        match found.map_err(|error| sql_error("cannot read the state of the catalog", error))? {
            None => Ok(State::default()),
            Some((state, sum)) if sum == state.sum() => Ok(state),
            Some(_) => Err(Error::corrupt("the state row of the catalog is damaged")),
        }
    }

    /// Writes it as that of one transaction more.
    pub(super) fn advance(mut self, tx: &Transaction<'_>) -> Result<State> {
        self.number += 1;
        const WRITE: &str = "REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let [number, images, volumes, snapshots, packs, ever, condemned, removals] = self.counts();
        let row = params![
            number,
            images,
            volumes,
            snapshots,
            packs,
            ever,
            condemned,
            removals,
            self.sum()
        ];
        let written = tx.execute(WRITE, row).map(|_| self);
        written.map_err(|error| sql_error("cannot write the state of the catalog", error))
    }
}

/// Changes the state row within a transaction. Answers the new state.
pub(crate) fn change_state(tx: &Transaction<'_>, change: impl FnOnce(&mut State)) -> Result<State> {
    let mut state = State::read(tx)?;
    change(&mut state);
    state.advance(tx)
}
