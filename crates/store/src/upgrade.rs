//! Bringing a store of the format before to this one, in place.
//!
//! The database changes in one transaction: until that commits, the store is what it was, for builds that know only that.
//! The `store` file follows, which says that it is done; a crash between the two is made good by doing it again.
//!
//! From version 2: packs have a state and the lease they were written under, counts have a row of their own, and there are graves.

use crate::{
    database::{Database, SCHEMA_VERSION, sql_error},
    index::{PackRow, PackState, PackTotals},
    lease,
    paths::StorePaths,
};
use rusqlite::{Connection, Transaction};
use silt_format::{RowSum, STORE_VERSION, StoreFile};
use silt_sys::durability;
use silt_types::{Context as _, Error, ErrorKind, LeaseId, PackId, Result};
use std::path::Path;

/// The oldest version that is understood.
const FROM_VERSION: u16 = 2;
const DOING: &str = "cannot upgrade the database";

/// Brings the store at `path` to the version of this build, unless it has that. Answers the version that it had. `Busy` while
/// somebody works with it; whoever serves its disks is for the caller to look for. Costs a row for each pack, and a copy of the
/// database, which is shorter afterwards.
pub fn upgrade_store(path: &Path) -> Result<u16> {
    let paths = StorePaths::new(path);
    let file = paths.store_file();
    let bytes = durability::read_file(&file, StoreFile::LEN as u64)?;
    let (about, version) = StoreFile::decode_since(&bytes, FROM_VERSION)
        .context(|| format!("cannot upgrade the store at {}", path.display()))?;
    if version == STORE_VERSION {
        return Ok(version);
    }
    let _nobody_begins = lease::turn_without_work(&paths)?;
    let database = Database::for_upgrade(&paths.database())?;
    if database.version()? != SCHEMA_VERSION {
        database.write(DOING, from_2)?;
    }
    // What the file is made of can change only as a whole. Without the space for that, less is given back later.
    let _ = database.make_compact();
    drop(database);
    durability::replace_file(&file, &about.encode())?;
    Ok(version)
}

fn from_2(tx: &Transaction<'_>) -> Result<()> {
    let sql = |error| sql_error(DOING, error);
    let (state, packs) = (read_state(tx)?, read_packs(tx)?);
    if state.packs != packs.len() as i64 {
        return Err(Error::corrupt(
            "the index has lost packs: verify the store with the build it is of",
        ));
    }
    tx.execute_batch("DROP TABLE state; DROP TABLE pack").map_err(sql)?;
    tx.execute_batch(crate::database::SCHEMA).map_err(sql)?;
    for pack in &packs {
        pack.write(tx).map_err(sql)?;
    }
    let packs_ever = packs.iter().map(|pack| pack.number).max().unwrap_or(0);
    crate::catalog::change_state(tx, |new| {
        *new = crate::catalog::State { packs_ever, ..state };
    })?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(sql)
}

/// The counts, in a row, and in a second one, once there was one, removals.
fn read_state(connection: &Connection) -> Result<crate::catalog::State> {
    let read = || {
        let mut counts = [0; 6];
        let mut sum = RowSum::new("state").finish();
        let mut rows = connection.prepare("SELECT * FROM state ORDER BY one")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            match row.get::<_, i64>(0)? {
                1 => {
                    for (at, count) in counts[..5].iter_mut().enumerate() {
                        *count = row.get(at + 1)?;
                    }
                    sum = row.get(6)?;
                }
                _ => counts[5] = row.get(1)?,
            }
        }
        Ok((counts, sum))
    };
    let (counts, sum) = read().map_err(|error| sql_error(DOING, error))?;
    let expected = counts[..5].iter().fold(RowSum::new("state"), |sum, count| sum.int(*count));
    let expected = if counts[5] == 0 { expected } else { expected.int(counts[5]) };
    // A store in which nothing was ever done has no row.
    if counts != [0; 6] && expected.finish() != sum {
        return Err(Error::corrupt("the state row of the catalog is damaged"));
    }
    let [number, images, volumes, snapshots, packs, removals] = counts;
    Ok(crate::catalog::State {
        number,
        images,
        volumes,
        snapshots,
        packs,
        removals,
        ..crate::catalog::State::default()
    })
}

fn read_packs(connection: &Connection) -> Result<Vec<PackRow>> {
    let read = || {
        let mut statement = connection.prepare("SELECT * FROM pack ORDER BY number")?;
        let rows = statement.query_map([], |row| {
            let count = |column| row.get::<_, i64>(column);
            let counts: [i64; 7] =
                [count(2)?, count(3)?, count(4)?, count(5)?, count(6)?, count(7)?, count(8)?];
            let (number, id, complete) = (count(0)?, row.get::<_, [u8; 16]>(1)?, count(9)?);
            let sum = RowSum::new("pack").int(number).blob(&id).int(counts[0]).int(counts[1]);
            let sum = counts[2..].iter().fold(sum, |sum, count| sum.int(*count)).int(complete);
            let [size, chunks, file, disk, map, tree, stored] = counts.map(|count| count as u64);
            let pack = PackRow {
                number,
                id: PackId::from_bytes(id),
                size,
                totals: PackTotals { chunks, bytes: [file, disk, map, tree], bytes_stored: stored },
                state: if complete != 0 { PackState::Complete } else { PackState::Adding },
                // Of work that ended long ago.
                lease: LeaseId::from_bytes([0; 16]),
            };
            Ok((pack, sum.finish() == row.get::<_, i64>(10)?))
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    let rows = read().map_err(|error| sql_error(DOING, error))?;
    let sound = rows.into_iter().map(|(pack, is_sound)| {
        let what = || {
            Error::new(ErrorKind::Corrupt, format!("the index row of pack {} is damaged", pack.id))
        };
        if is_sound { Ok(pack) } else { Err(what()) }
    });
    sound.collect()
}
