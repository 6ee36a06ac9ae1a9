//! Transferring: a store, or some names of it, goes to another store, or into an archive and back.
//!
//! `items` says what goes: names with all that the catalog has of them, everything sealed. `walk` goes through what they need
//! and hands it, chunks as they are stored, to a `Target`: `into_store` or `into_archive`. `known` is what the target has
//! whole, which is passed over. `accept` are the rules by which a store takes names. `from_archive` reads an archive into
//! a store, and asks the same walk whether its names are whole.
//!
//! Invariants: a name is published after everything that it needs, and what is needed was looked for under a lease. That the
//! index has a node proves nothing of what is below it: only what a root reaches, or this work has passed, is whole.

mod accept;
mod from_archive;
mod into_archive;
mod into_store;
mod items;
mod known;
mod walk;

pub use from_archive::ArchiveSource;
pub use into_archive::ArchiveTarget;

use items::Item;

/// What was transferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Images that were not there before.
    pub images: u64,
    /// Volumes that were not there before, or were something else.
    pub volumes: u64,
    /// Snapshots of volumes, likewise.
    pub snapshots: u64,
    /// Images, volumes and snapshots that were there already.
    pub unchanged: u64,
    /// Chunks that were looked at; one that several names need may count several times.
    pub chunks: u64,
    /// Chunks that were missing, and written.
    pub chunks_copied: u64,
    /// Their bytes as they are stored.
    pub bytes_copied: u64,
    /// Chunks that an interrupted export had written before.
    pub chunks_resumed: u64,
}

impl Transferred {
    /// Counts an item as new.
    fn count(&mut self, item: &Item) {
        match item {
            Item::Image(_) => self.images += 1,
            Item::Volume(volume) => {
                self.volumes += 1;
                self.snapshots += volume.snapshots.len() as u64;
            }
        }
    }
}
