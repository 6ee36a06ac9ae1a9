//! What can still be read of a damaged database: rows that match their checksums.

use crate::{
    catalog::{Listing, State, read_sound},
    database::Database,
    index::{PackRow, Place, sound_chunks, sound_packs},
};
use rusqlite::Connection;
use std::path::Path;

/// Rows of a damaged database.
#[derive(Default)]
pub(super) struct OldRows {
    pub(super) listing: Listing,
    pub(super) state: Option<State>,
    pub(super) packs: Vec<PackRow>,
}

impl OldRows {
    /// Whether these are all the names that there were.
    pub(super) fn have_every_name(&self) -> bool {
        let Listing { images, volumes, snapshots } = &self.listing;
        let counts = [images.len(), volumes.len(), snapshots.len()].map(|count| count as i64);
        self.state.is_some_and(|state| counts == [state.images, state.volumes, state.snapshots])
    }
}

/// Reads what can be read; nothing, if that is nothing.
pub(super) fn read(path: &Path) -> OldRows {
    let rows = |connection: &Connection| {
        Ok(OldRows {
            listing: Listing {
                images: read_sound(connection),
                volumes: read_sound(connection),
                snapshots: read_sound(connection),
            },
            // No row at all says nothing here.
            state: State::read(connection).ok().filter(|state| state.number > 0),
            packs: sound_packs(connection),
        })
    };
    if !path.is_file() {
        return OldRows::default();
    }
    Database::for_repair(path)
        .read("cannot read what is left of the database", rows)
        .unwrap_or_default()
}

/// Visits the rows of chunks that can be read, some perhaps twice.
pub(super) fn for_each_chunk(path: &Path, mut visit: impl FnMut(Place)) {
    if path.is_file() {
        let doing = "cannot read what is left of the index";
        let _ = Database::for_repair(path).read(doing, |connection| {
            sound_chunks(connection, &mut visit);
            Ok(())
        });
    }
}
