//! The store as a whole: making it, opening it, reading chunks, reading and changing the catalog.

use crate::{
    catalog::{self, Change, Listing, Named, SnapshotRecord, State, VolumeRecord},
    chunk::{Chunk, ChunkKind, ChunkSource, Domain, KeyContext},
    database::Database,
    index::{self, PackTotals},
    lease::WorkLock,
    pack::PackFiles,
    paths::StorePaths,
    reader::{ChunkReader, IndexPlaces, PackPlace, Places},
    space::SpaceGate,
};
use silt_format::{CommitSlot, StoreFile};
use silt_sys::durability;
use silt_types::{
    ChunkId, Context as _, DiskName, Error, ErrorKind, LeaseId, PackId, Result, SnapshotId,
    VolumeId,
};
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// A store that is open in this process. Cheap to clone; every method may be called from many threads.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What the parts of an open store share.
pub(crate) struct Shared {
    id: [u8; 16],
    pub(crate) paths: StorePaths,
    pub(crate) domain: Domain,
    pub(crate) database: Arc<Database>,
    pub(crate) index: IndexPlaces,
    pub(crate) reader: ChunkReader,
    pub(crate) space: Arc<SpaceGate>,
}

/// While this lives, no collection begins.
pub struct CollectionHeld(#[expect(dead_code, reason = "held")] WorkLock);

/// What a store holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreTotals {
    /// Finished packs.
    pub packs: u64,
    /// Distinct chunks and their bytes.
    pub chunks: PackTotals,
}

impl Store {
    /// Opens the store at `path`, with at most `cache_bytes` of decoded chunks kept in memory. `NotFound` if there is
    /// none; `Corrupt` if its catalog is shorter than what was acknowledged.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Store> {
        let paths = StorePaths::new(path);
        let file = paths.store_file();
        if fs::symlink_metadata(&file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no store at {}", path.display()),
            ));
        }
        let bytes = durability::read_file(&file, StoreFile::LEN as u64)?;
        let about =
            StoreFile::decode(&bytes).context(|| format!("{} is damaged", file.display()))?;
        let database = Database::open(&paths.database());
        let database = Arc::new(database.map_err(|error| read_only_or(&paths, error))?);
        catalog::check_commit(&paths, &database)?;
        let domain = Domain::from_secret(&about.domain_secret);
        let index = IndexPlaces::new(database.clone());
        let (packs, places) = (PackFiles::new(paths.clone()), Box::new(index.clone()));
        let reader = ChunkReader::new(domain.clone(), packs, places, cache_bytes);
        let space = Arc::new(SpaceGate::new(about.id, paths.clone()));
        let shared = Shared { id: about.id, paths, domain, database, index, reader, space };
        Ok(Store { shared: Arc::new(shared) })
    }

    /// As [`Store::open`], but makes the store, and the folders above it, where there is none. `Invalid` if the folder
    /// holds something else.
    pub fn open_or_create(path: &Path, cache_bytes: u64) -> Result<Store> {
        match Store::open(path, cache_bytes) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create(&StorePaths::new(path))?;
                Store::open(path, cache_bytes)
            }
            other => other,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The random id that the store was given when it was made.
    pub fn id(&self) -> [u8; 16] {
        self.shared.id
    }

    /// Where things lie.
    pub fn paths(&self) -> &StorePaths {
        &self.shared.paths
    }

    /// The dedup domain.
    pub fn domain(&self) -> &Domain {
        &self.shared.domain
    }

    /// What a name stands for. `NotFound` if nothing; `Corrupt` if the catalog is damaged.
    pub fn find(&self, name: &DiskName) -> Result<Named> {
        let database = &self.shared.database;
        let found = database.read_at_once("cannot look a name up", |c| catalog::find(c, name))?;
        found.ok_or_else(|| {
            let what = if name.snapshot.is_some() { "snapshot" } else { "image or volume" };
            Error::new(ErrorKind::NotFound, format!("there is no {what} {name}"))
        })
    }

    /// The number of the last transaction that changed the catalog or the packs. Whoever finds it unchanged has missed
    /// nothing meanwhile.
    pub fn last_change(&self) -> Result<u64> {
        let doing = "cannot read the state of the catalog";
        let state = self.shared.database.read(doing, |c| Ok(State::read(c)))??;
        Ok(state.number as u64)
    }

    /// The volume with this id, whatever its name is now. `NotFound` if it was removed since its id was learnt.
    pub fn volume(&self, id: VolumeId) -> Result<VolumeRecord> {
        let doing = "cannot look a volume up";
        self.shared.database.read_at_once(doing, |c| catalog::volume(c, id))
    }

    /// The snapshot with this id, whatever its name is now. `NotFound` if it was removed since its id was learnt.
    pub fn snapshot(&self, id: SnapshotId) -> Result<SnapshotRecord> {
        let doing = "cannot look a snapshot up";
        self.shared.database.read_at_once(doing, |c| catalog::snapshot(c, id))
    }

    /// Where a chunk is: what [`ChunkReader`]s in other processes ask for. `None` if it is not in the index.
    pub fn place_of(&self, id: &ChunkId) -> Result<Option<PackPlace>> {
        self.shared.index.find(id)
    }

    /// A reader of this store's chunks that needs nothing but its packs and `places`, with at most `cache_bytes` of decoded
    /// chunks kept in memory. It lives on without the store.
    pub fn reader(&self, places: Box<dyn Places>, cache_bytes: u64) -> ChunkReader {
        let packs = PackFiles::new(self.shared.paths.clone());
        ChunkReader::new(self.shared.domain.clone(), packs, places, cache_bytes)
    }

    /// A reader that asks this store's index, and keeps at most `cache_bytes` of decoded chunks in a memory of its own.
    pub fn separate_reader(&self, cache_bytes: u64) -> ChunkReader {
        self.reader(Box::new(self.shared.index.clone()), cache_bytes)
    }

    /// A reader for nodes of many disks and trees, each of which is read once: it keeps nothing.
    pub fn walking_reader(&self) -> ChunkReader {
        self.separate_reader(0).without_footers()
    }

    /// Every image, volume and snapshot, by name.
    pub fn list(&self) -> Result<Listing> {
        self.shared.database.read_at_once("cannot list the catalog", catalog::list)
    }

    /// Keeps the store from being collected, for who reads all of it. `Busy`, naming who, if a collection does not end in time.
    pub fn hold_collection(&self, wait: Duration) -> Result<CollectionHeld> {
        WorkLock::shared(self.paths(), Instant::now() + wait).map(CollectionHeld)
    }

    /// Changes the catalog in one transaction, which is durable when this returns; an error of `f` leaves everything as it
    /// was. `doing` says what for, in errors. Others wait meanwhile: `f` is to be short, and does no I/O of its own.
    pub fn change<T>(
        &self,
        doing: &str,
        f: impl FnOnce(&mut Change<'_>) -> Result<T>,
    ) -> Result<T> {
        self.shared.change(doing, f)
    }

    /// Looks at the catalog as of one moment, by what a change asks; nothing can be changed. To be kept short.
    pub fn consult<T>(&self, doing: &str, f: impl FnOnce(&Change<'_>) -> Result<T>) -> Result<T> {
        self.shared.database.read(doing, |connection| {
            let moment = connection.unchecked_transaction()?;
            Ok(Change::begin(&moment).and_then(|change| f(&change)))
        })?
    }

    /// Whether the index has a chunk, to be read in this context. `Corrupt` if its row is damaged.
    pub fn contains(&self, context: KeyContext, id: &ChunkId) -> Result<bool> {
        let found = index::find(&self.shared.database, id)?;
        let kind = found.and_then(|place| ChunkKind::from_u8(place.entry.kind));
        Ok(kind.is_some_and(|kind| kind.context() == context))
    }

    /// Whether another database has taken the place of the one that is open here: a repair does that.
    pub fn is_replaced(&self) -> Result<bool> {
        self.shared.database.is_replaced()
    }

    /// Packs that a collection has condemned and not removed yet.
    pub fn packs_condemned(&self) -> Result<u64> {
        let doing = "cannot read the state of the catalog";
        let state = self.shared.database.read(doing, |c| Ok(State::read(c)))??;
        Ok(state.condemned as u64)
    }

    /// What the store holds. Costs a row for each pack.
    pub fn totals(&self) -> Result<StoreTotals> {
        let mut totals = StoreTotals::default();
        for pack in index::packs(&self.shared.database)? {
            totals.packs += 1;
            totals.chunks += pack.totals;
        }
        Ok(totals)
    }
}

impl ChunkSource for Store {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        self.shared.reader.get(context, id)
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.shared.reader.get_hot(context, id)
    }
}

impl Shared {
    /// Removes what dead work left behind. `own` is a lease of this process.
    pub(crate) fn remove_leftovers(&self, own: LeaseId) -> Result<u64> {
        crate::lease::remove_leftovers(&self.paths, own, |pack| match pack.parse::<PackId>() {
            Ok(pack) => index::knows_pack(&self.database, pack),
            Err(_) => Ok(true), // Not one of ours: not ours to remove.
        })
    }

    pub(crate) fn change<T>(
        &self,
        doing: &str,
        f: impl FnOnce(&mut Change<'_>) -> Result<T>,
    ) -> Result<T> {
        let (value, state) = self.database.write(doing, |tx| {
            let mut change = Change::begin(tx)?;
            let value = f(&mut change)?;
            Ok((value, change.finish()?))
        })?;
        catalog::record_commit(&self.paths, state)?;
        Ok(value)
    }
}

/// The database does not say that it could not make its log. Even who reads needs that, and leases.
fn read_only_or(paths: &StorePaths, error: Error) -> Error {
    match rustix::fs::access(paths.root(), rustix::fs::Access::WRITE_OK) {
        Err(rustix::io::Errno::ROFS) if error.kind() == ErrorKind::Io => {
            let root = paths.root().display();
            error.context(format!(
                "the store at {root} is on a read-only file system: opening it needs to write there"
            ))
        }
        _ => error,
    }
}

/// Makes an empty store. Whatever step a crash stops it at, it can be made again; the store file comes last, so there is
/// no store before it is whole.
fn create(paths: &StorePaths) -> Result<()> {
    let root = paths.root();
    make_with_parents(root)?;
    // One at a time: SQLite does not wait while another one turns the same file into a database.
    let turn = fs::File::open(root).context(|| format!("cannot open {}", root.display()))?;
    turn.lock().context(|| format!("cannot lock {}", root.display()))?;
    if paths.store_file().exists() {
        return Ok(()); // Somebody else was first.
    }
    refuse_foreign_files(paths)?;
    for folder in paths.folders() {
        durability::create_dir(&folder)?;
    }
    make_file(&paths.database(), 0)?;
    make_file(&paths.commit_file(), 2 * CommitSlot::LEN as u64)?;
    Database::create(&paths.database())?;
    // The names of all this before the one that says that it is there.
    durability::sync_dir(root)?;
    publish_store_file(paths)
}

/// Makes a file of zeros, or makes one whole that a crash left or that somebody makes beside us.
pub(crate) fn make_file(path: &Path, len: u64) -> Result<()> {
    let file = match durability::create_file(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let open = fs::OpenOptions::new().read(true).write(true).open(path);
            open.context(|| format!("cannot open {}", path.display()))?
        }
        other => other?,
    };
    let whole = (|| {
        if file.metadata()?.len() < len {
            file.set_len(len)?;
        }
        file.sync_all()
    })();
    whole.context(|| format!("cannot make {}", path.display()))
}

/// Under the lock of [`create`], so what is there under the passing name was left by a process that was killed.
fn publish_store_file(paths: &StorePaths) -> Result<()> {
    let about = StoreFile { id: durability::random_bytes()?, domain_secret: [0; 32] };
    let (file, temp) = (paths.store_file(), paths.root().join("store.tmp"));
    let _ = fs::remove_file(&temp);
    let published = (|| {
        let mut made = durability::create_file(&temp)?;
        let written = made.write_all(&about.encode()).and_then(|()| made.sync_all());
        written.context(|| format!("cannot write {}", temp.display()))?;
        fs::rename(&temp, &file).context(|| format!("cannot make {}", file.display()))
    })();
    if published.is_err() {
        let _ = fs::remove_file(&temp);
    }
    published?;
    durability::sync_dir(paths.root())
}

fn make_with_parents(root: &Path) -> Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at =
        std::path::absolute(root).context(|| format!("cannot resolve {}", root.display()))?;
    while !at.exists() {
        missing.push(at.clone());
        if !at.pop() {
            break;
        }
    }
    for folder in missing.iter().rev() {
        durability::create_dir(folder)?;
        if let Some(parent) = folder.parent() {
            durability::sync_dir(parent)?;
        }
    }
    Ok(())
}

fn refuse_foreign_files(paths: &StorePaths) -> Result<()> {
    const OURS: [&str; 12] = [
        "catalog.db",
        "catalog.db-wal",
        "catalog.db-shm",
        "commit",
        "limits",
        "packs",
        "leases",
        "volumes",
        "caches",
        "quarantine",
        "run",
        "scrub",
    ];
    let root = paths.root();
    for entry in fs::read_dir(root).context(|| format!("cannot list {}", root.display()))? {
        let name = entry.context(|| format!("cannot list {}", root.display()))?.file_name();
        let name = name.to_string_lossy();
        if !OURS.contains(&&*name) && !name.starts_with("store") && !name.starts_with("catalog.db-")
        {
            let message = format!(
                "{} holds {name:?} and is no store: name an empty or new folder",
                root.display()
            );
            return Err(Error::invalid(message));
        }
    }
    Ok(())
}
