//! Making the database again: an index from the packs, a catalog as the caller decides from what is left.
//!
//! The new database is made beside the old one, under a name of its own until it is whole and durable; the old one then goes to
//! quarantine with its log, and the new one takes its place. A crash between the two leaves a store without a database, and a
//! whole new one that the next repair puts there.

use super::salvage::Old;
use crate::{
    catalog::{self, Listing, State},
    chunk::Domain,
    database::Database,
    index::{self, PackRow, PackState, PackTotals, Place},
    lease::{self, WorkLock},
    pack::{PackFiles, read_footer_of_damaged},
    paths::StorePaths,
    quarantine::quarantine,
    reader::{ChunkReader, IndexPlaces},
};
use rusqlite::Connection;
use silt_format::{PackEntry, RootRecord, StoreFile};
use silt_sys::durability;
use silt_types::{ChunkId, Context as _, Error, LeaseId, PackId, Progress, Result};
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a collection under way is waited for.
const COLLECTION_WAIT: Duration = Duration::from_secs(60);

/// Places sorted in memory at a time: 64 MiB of them. More are read in several passes over the footers.
const PLACES_MAX: u64 = 1 << 20;

/// A database that is being made again. Nobody works with the store while it lives.
pub struct Rebuild {
    paths: StorePaths,
    domain: Domain,
    database: Arc<Database>,
    packs: Vec<PackRow>,
    salvaged: Salvaged,
    /// Of transactions, and of condemnations: more than there ever were.
    number: i64,
    removals: i64,
    /// The old database, if it could be opened: nobody else has it open.
    alone: Option<Connection>,
    _alone: WorkLock,
    _nobody_begins: fs::File,
}

/// What says which names there were.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Records that the old catalog still has.
    pub listing: Listing,
    /// Whether these are all that there were.
    pub is_complete: bool,
    /// Whether the old catalog ends before the last transaction: what packs say may be newer.
    pub is_behind: bool,
    /// What packs say.
    pub roots: Vec<RootRecord>,
    /// Images, volumes and snapshots that the old catalog counted, if it still says.
    pub counted: Option<[u64; 3]>,
    /// Records that the old catalog had and that cannot be read, as far as it can be told what they were.
    pub lost: Vec<String>,
    /// Packs that do not say what they have, and what of them is known from the old index.
    pub packs_without_footer: Vec<(PackId, u64)>,
}

impl Rebuild {
    /// Reads what is left of the old database, and makes an index of all packs. `Busy`, naming who, while somebody works with the
    /// store. Costs a pass over the footers for each million chunks, and a row for each chunk.
    pub fn begin(path: &Path, progress: &dyn Progress) -> Result<Rebuild> {
        let paths = StorePaths::new(path);
        let _alone = WorkLock::alone(&paths, Instant::now() + COLLECTION_WAIT)?;
        let _nobody_begins = lease::turn_without_work(&paths)?;
        let bytes = durability::read_file(&paths.store_file(), StoreFile::LEN as u64)?;
        let domain = Domain::from_secret(&StoreFile::decode(&bytes)?.domain_secret);
        remove_unfinished(&paths)?;
        drop(durability::create_file(&unfinished(&paths))?);
        Database::create(&unfinished(&paths))?;
        let patched = beside(&paths, "-repairing-old");
        let alone = match paths.database().is_file() {
            true => Database::alone(&paths.database())?,
            false => None,
        };
        let fresh = unfinished(&paths);
        let old = Old::read(&paths.database(), alone.as_ref(), &fresh, &patched);
        let recorded = catalog::recorded_commit(&paths).unwrap_or(0) as i64;
        let state = old.state.unwrap_or_default();
        let mut rebuild = Rebuild {
            database: Arc::new(Database::open(&unfinished(&paths))?),
            domain,
            packs: Vec::new(),
            number: state.number.max(recorded),
            removals: state.removals + 1,
            salvaged: Salvaged {
                is_complete: old.have_every_name() && state.number >= recorded,
                counted: old.state.map(|state| {
                    [state.images, state.volumes, state.snapshots].map(|count| count as u64)
                }),
                is_behind: old.state.is_none_or(|state| state.number < recorded),
                ..Salvaged::default()
            },
            paths,
            alone,
            _alone,
            _nobody_begins,
        };
        rebuild.index(&old, progress)?;
        rebuild.salvaged.listing = old.listing;
        rebuild.salvaged.lost = old.lost;
        remove_if_there(&patched)?;
        Ok(rebuild)
    }

    /// What says which names there were.
    pub fn salvaged(&self) -> &Salvaged {
        &self.salvaged
    }

    /// Whether the new index has a chunk.
    pub fn has(&self, chunk: &ChunkId) -> Result<bool> {
        Ok(index::find(&self.database, chunk)?.is_some())
    }

    /// A reader of the chunks that the new index has.
    pub fn source(&self) -> ChunkReader {
        let places = Box::new(IndexPlaces::new(self.database.clone()));
        ChunkReader::new(self.domain.clone(), PackFiles::of_damaged(self.paths.clone()), places, 0)
    }

    /// Puts the new database, with these names, in the place of the old one. Durable when this returns.
    pub fn finish(self, listing: &Listing) -> Result<()> {
        let Rebuild { paths, database, packs, number, removals, alone, .. } = self;
        let state = State {
            number,
            packs: packs.len() as i64,
            packs_ever: packs.len() as i64,
            removals,
            ..State::default()
        };
        let state = database
            .write("cannot make the catalog again", |tx| catalog::write_all(tx, state, listing))?;
        let in_use = || Error::internal("the new database is still being read");
        drop(Arc::into_inner(database).ok_or_else(in_use)?); // Nothing is left in a log.
        let (made, whole) = (unfinished(&paths), finished(&paths));
        let synced = fs::File::open(&made).and_then(|file| file.sync_all());
        synced.context(|| format!("cannot sync {}", made.display()))?;
        // They rely on counts, and numbers of packs, that the old database had.
        remove_if_there(&paths.scrub_file())?;
        match fs::remove_dir_all(paths.folder_caches()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.context(|| "cannot remove the caches of folders".to_owned())?,
        }
        fs::rename(&made, &whole).context(|| format!("cannot rename {}", made.display()))?;
        durability::sync_dir(paths.root())?;
        quarantine(&paths, &paths.database())?;
        // It takes its log along when it is closed; from here on nobody opens it.
        drop(alone);
        take_place(&paths)?;
        catalog::record_commit(&paths, state)
    }

    fn index(&mut self, old: &Old, progress: &dyn Progress) -> Result<()> {
        let mut without_footer = HashMap::new();
        let mut total = 0;
        for id in pack_ids(&self.paths)? {
            let number = self.packs.len() as i64 + 1;
            let mut size = fs::metadata(self.paths.pack(id)).map_or(0, |file| file.len());
            match read_footer_of_damaged(&self.paths, id) {
                Ok((len, footer)) => {
                    size = len;
                    total += footer.entries.len() as u64;
                    self.salvaged.roots.extend(footer.roots);
                }
                // Its chunks are where the old index says, if that says anything.
                Err(_) => match old.packs.iter().find(|pack| pack.id == id) {
                    Some(pack) => drop(without_footer.insert(pack.number, number)),
                    None => self.salvaged.packs_without_footer.push((id, 0)),
                },
            }
            self.packs.push(PackRow {
                number,
                id,
                size,
                totals: PackTotals::default(),
                state: PackState::Complete,
                lease: LeaseId::from_bytes([0; 16]),
            });
        }
        let rows = rows_of(old, self.alone.as_ref(), &without_footer);
        for number in without_footer.values() {
            let known = rows.iter().filter(|place| place.pack == *number).count();
            let id = self.packs[*number as usize - 1].id;
            self.salvaged.packs_without_footer.push((id, known as u64));
        }
        total += rows.len() as u64;
        progress.begin("making the index again", total * PackEntry::LEN as u64);
        let mut totals = HashMap::new();
        let passes = total.div_ceil(PLACES_MAX).max(1);
        for pass in 0..passes {
            let is_in = |id: &ChunkId| share_of(id, passes) == pass;
            let mut places: Vec<Place> =
                rows.iter().filter(|row| is_in(&row.entry.id)).copied().collect();
            for pack in &self.packs {
                let Ok((_, footer)) = read_footer_of_damaged(&self.paths, pack.id) else {
                    continue;
                };
                let entries = footer.entries.into_iter().filter(|entry| is_in(&entry.id));
                places.extend(entries.map(|entry| Place { pack: pack.number, entry }));
            }
            places.sort_by_key(|place| place.entry.id);
            index::add_rebuilt(&self.database, &places, &mut totals)?;
            progress.advance(places.len() as u64 * PackEntry::LEN as u64);
        }
        for pack in &mut self.packs {
            pack.totals = totals.remove(&pack.number).unwrap_or_default();
        }
        index::put_packs(&self.database, &self.packs)
    }
}

/// What the old index says of packs, which are given with their new numbers.
fn rows_of(old: &Old, alone: Option<&Connection>, packs: &HashMap<i64, i64>) -> Vec<Place> {
    let mut rows = HashMap::new();
    if !packs.is_empty() {
        old.for_each_chunk(alone, |place| {
            if let Some(number) = packs.get(&place.pack) {
                rows.insert(place.entry.id, Place { pack: *number, ..place });
            }
        });
    }
    rows.into_values().collect()
}

/// Which of so many equal parts of all ids one is in.
fn share_of(id: &ChunkId, parts: u64) -> u64 {
    let head = id.as_bytes().first_chunk().map_or(0, |head| u32::from_be_bytes(*head));
    (u64::from(head) * parts) >> 32
}

/// By name, so that the new index does not depend on the order of the folder.
fn pack_ids(paths: &StorePaths) -> Result<Vec<PackId>> {
    let names = lease::names_in(&paths.packs())?;
    let ids = names.iter().filter_map(|name| name.strip_suffix(".pack")?.parse().ok());
    let mut ids: Vec<PackId> = ids.collect();
    ids.sort_by_key(|id| *id.as_bytes());
    Ok(ids)
}

fn beside(paths: &StorePaths, ending: &str) -> PathBuf {
    let mut path = paths.database().into_os_string();
    path.push(ending);
    path.into()
}

/// A new database that is not whole yet.
fn unfinished(paths: &StorePaths) -> PathBuf {
    beside(paths, "-repairing")
}

/// One that is.
fn finished(paths: &StorePaths) -> PathBuf {
    beside(paths, "-repaired")
}

fn remove_unfinished(paths: &StorePaths) -> Result<()> {
    let of = |name: &'static str| ["", "-wal", "-shm"].map(|ending| format!("{name}{ending}"));
    let passing = [of("-repairing"), of("-repairing-old"), of("-repaired")];
    let mut passing = passing.into_iter().flatten();
    passing.try_for_each(|ending| remove_if_there(&beside(paths, &ending)))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("cannot remove {}", path.display())),
    }
}

/// Whether a repair was interrupted within its last step. Before that, the old database may have gone on.
pub(super) fn is_to_be_finished(paths: &StorePaths) -> bool {
    finished(paths).exists() && !paths.database().exists()
}

/// The last step: the new database in the place of the old one. The old one goes first, so that nobody can go on with it; then its log,
/// which would count as the new one's.
pub(super) fn take_place(paths: &StorePaths) -> Result<()> {
    for ending in ["", "-wal", "-shm"] {
        quarantine(paths, &beside(paths, ending))?;
    }
    let (from, to) = (finished(paths), paths.database());
    fs::rename(&from, &to).context(|| format!("cannot rename {}", from.display()))?;
    durability::sync_dir(paths.root())
}
