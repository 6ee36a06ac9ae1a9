//! What can still be read of a damaged database: rows that match their checksums.
//!
//! Where its first page is damaged, which says what tables there are and where, the rest is read behind the first page of a new
//! database: tables are made in one order, so they begin at the same pages. Checksums tell whether that was right.

use crate::{
    catalog::{Listing, State, read_sound},
    database::PAGE_LEN,
    index::{PackRow, Place, sound_chunks, sound_packs},
};
use rusqlite::{Connection, OpenFlags};
use silt_sys::durability;
use silt_types::{Context as _, Error, Result};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// A damaged database, and the rows of it that can be read.
#[derive(Default)]
pub(super) struct Old {
    /// The copy, where rows are read from that.
    reading: Option<Connection>,
    pub(super) listing: Listing,
    pub(super) state: Option<State>,
    pub(super) packs: Vec<PackRow>,
    /// What cannot be read, as far as it can be told what that was.
    pub(super) lost: Vec<String>,
}

impl Old {
    /// Reads what can be read of the database that `alone` is a connection to; nothing, if that is nothing. `patched` is a name for
    /// a copy, `fresh` an empty new database.
    pub(super) fn read(
        path: &Path,
        alone: Option<&Connection>,
        fresh: &Path,
        patched: &Path,
    ) -> Old {
        let old = alone.map(Old::rows_of).unwrap_or_default();
        if old.have_every_name() || !path.is_file() {
            return old;
        }
        let open = || Connection::open_with_flags(patched, OpenFlags::SQLITE_OPEN_READ_WRITE).ok();
        let Some(connection) = patch(path, fresh, patched).ok().and_then(|()| open()) else {
            return old;
        };
        match Old::rows_of(&connection) {
            other if other.is_more_than(&old) => Old { reading: Some(connection), ..other },
            _ => old,
        }
    }

    fn rows_of(connection: &Connection) -> Old {
        let mut lost = Vec::new();
        let listing = Listing {
            images: read_sound(connection, &mut lost),
            volumes: read_sound(connection, &mut lost),
            snapshots: read_sound(connection, &mut lost),
        };
        // No row at all says nothing here.
        let state = State::read(connection).ok().filter(|state| state.number > 0);
        Old { reading: None, listing, state, packs: sound_packs(connection), lost }
    }

    fn is_more_than(&self, other: &Old) -> bool {
        let rows = |old: &Old| old.counts().iter().sum::<i64>() as usize + old.packs.len();
        (self.state.is_some(), rows(self)) > (other.state.is_some(), rows(other))
    }

    /// Whether these are all the names that there were.
    pub(super) fn have_every_name(&self) -> bool {
        self.state
            .is_some_and(|state| self.counts() == [state.images, state.volumes, state.snapshots])
    }

    fn counts(&self) -> [i64; 3] {
        let Listing { images, volumes, snapshots } = &self.listing;
        [images.len(), volumes.len(), snapshots.len()].map(|count| count as i64)
    }

    /// Visits the rows of chunks that can be read, some perhaps twice.
    pub(super) fn for_each_chunk(&self, alone: Option<&Connection>, mut visit: impl FnMut(Place)) {
        if let Some(connection) = self.reading.as_ref().or(alone) {
            sound_chunks(connection, &mut visit);
        }
    }
}

/// Where the header of a database has what differs from one to the next (SQLite, "Database File Format", 1.3): a count of changes,
/// the length in pages, and the pages that are free.
const CHANGES_AT: usize = 24;
const PAGES_AT: usize = 28;
const FREE_AT: usize = 32;
const VALID_FOR_AT: usize = 92;

/// Makes a copy of a database behind the first page of a new one.
fn patch(path: &Path, fresh: &Path, patched: &Path) -> Result<()> {
    let failed = || format!("cannot make {}", patched.display());
    let pages = fs::metadata(path).context(failed)?.len() / PAGE_LEN;
    if pages == 0 {
        return Err(Error::corrupt("it has not got one page"));
    }
    let mut first = vec![0; PAGE_LEN as usize];
    fs::File::open(fresh).and_then(|file| file.read_exact_at(&mut first, 0)).context(failed)?;
    let mut put = |at: usize, bytes: &[u8]| first[at..at + bytes.len()].copy_from_slice(bytes);
    put(CHANGES_AT, &[0, 0, 0, 1]);
    put(PAGES_AT, &(pages as u32).to_be_bytes());
    put(FREE_AT, &[0; 8]);
    put(VALID_FOR_AT, &[0, 0, 0, 1]);
    drop(durability::create_file(patched)?);
    fs::copy(path, patched).context(failed)?;
    let file = OpenOptions::new().write(true).open(patched).context(failed)?;
    file.write_all_at(&first, 0).context(failed)
}
