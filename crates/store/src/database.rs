//! The embedded database: SQLite in WAL mode, read by many processes and written by one at a time.
//!
//! It is durable after each commit. `docs/design/0001-index-and-catalog-database.md` has the measurement behind the
//! choice. Each row carries a checksum of its own, checked by whoever decodes it; this module knows connections,
//! transactions and errors only.

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::Access;
use silt_sys::durability;
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    fs::File,
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

/// How long a writer waits for another one. Transactions last milliseconds; this is for a machine that stalls.
const WRITER_WAIT: Duration = Duration::from_secs(60);

/// How long others are waited for by who must have the database alone.
const ALONE_WAIT: Duration = Duration::from_secs(5);

/// How long the log is asked for, at the end of a process that wrote.
const LOG_WAIT: Duration = Duration::from_millis(20);

/// Pages that a connection keeps in memory, in KiB: the inner pages of an index of 16 million chunks fit.
const WRITER_CACHE_KIB: i64 = 20 << 10;
const READER_CACHE_KIB: i64 = 8 << 10;

/// Length of a page of the file in bytes, SQLite's default.
pub(crate) const PAGE_LEN: u64 = 4096;

/// Free space below which nothing is begun where blocks of the file system are shorter than pages of memory. SQLite makes each page
/// of its shared memory sure by one byte of it, which there is only a part of the page; without space for the rest, the
/// kernel ends whoever writes to it (SIGBUS). Shared memory is 32 KiB, and once more for each 16 MiB of log.
const SHORT_BLOCKS_FREE_MIN: u64 = 256 << 10;

/// Gives back so many pages in one transaction: about as many as a thousand new rows touch.
const GIVE_BACK: &str = "PRAGMA incremental_vacuum(256)";

/// `SILT` in the header of the database file.
const APPLICATION_ID: i64 = 0x5349_4c54;
/// Version of the tables below. A new one takes a new version of the store, too.
pub(crate) const SCHEMA_VERSION: i64 = 3;

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS state (
    one INTEGER PRIMARY KEY, number INTEGER NOT NULL, images INTEGER NOT NULL, volumes INTEGER NOT NULL,
    snapshots INTEGER NOT NULL, packs INTEGER NOT NULL, packs_ever INTEGER NOT NULL, condemned INTEGER NOT NULL,
    removals INTEGER NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pack (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, chunks INTEGER NOT NULL,
    bytes_file_data INTEGER NOT NULL, bytes_disk_data INTEGER NOT NULL, bytes_map INTEGER NOT NULL,
    bytes_tree INTEGER NOT NULL, bytes_stored INTEGER NOT NULL, state INTEGER NOT NULL, lease BLOB NOT NULL,
    sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS chunk (
    id BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, stored INTEGER NOT NULL,
    length INTEGER NOT NULL, kind INTEGER NOT NULL, codec INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image (
    name TEXT PRIMARY KEY, root BLOB NOT NULL, size INTEGER NOT NULL, tree BLOB, config_root BLOB,
    config_size INTEGER NOT NULL, created INTEGER NOT NULL, bytes_nonzero INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS volume (
    name TEXT PRIMARY KEY, id BLOB NOT NULL UNIQUE, root BLOB NOT NULL, base_size INTEGER NOT NULL,
    size INTEGER NOT NULL, frozen BLOB NOT NULL, state BLOB NOT NULL, own BLOB NOT NULL,
    generation INTEGER NOT NULL, head BLOB, source TEXT NOT NULL, source_volume BLOB, created INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshot (
    id BLOB PRIMARY KEY, volume BLOB NOT NULL, name TEXT NOT NULL, root BLOB NOT NULL, base_size INTEGER NOT NULL,
    size INTEGER NOT NULL, frozen BLOB NOT NULL, state BLOB NOT NULL, parent BLOB, purpose INTEGER NOT NULL,
    created INTEGER NOT NULL, sum INTEGER NOT NULL, UNIQUE (volume, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grave (
    root BLOB NOT NULL, size INTEGER NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (root, size)) WITHOUT ROWID;
";

/// The connections of this process to the database.
pub(crate) struct Database {
    path: PathBuf,
    /// Nothing can be written where it lies: it is read as it is.
    is_read_only: bool,
    /// Device and number of the file that connections are to.
    file: OnceLock<(u64, u64)>,
    writer: Mutex<Option<Connection>>,
    readers: Mutex<Vec<Connection>>,
}

impl Drop for Database {
    /// Moves what this process wrote out of the log. SQLite does it for the last process that leaves, but the brokers of
    /// servers stay for long, and what damage can be met is to be in one file. Where others are reading it is theirs to do.
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = writer {
            let _ = connection.busy_timeout(LOG_WAIT);
            let _ = connection.pragma(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
        }
    }
}

impl Database {
    /// Makes the tables in the empty file at `path`; harmless where they are there already.
    pub(crate) fn create(path: &Path) -> Result<()> {
        let database = Database::new(path);
        database.must_have_room_for_shared_memory()?;
        let make = || {
            let connection = database.connect(WRITER_CACHE_KIB, OpenFlags::SQLITE_OPEN_CREATE)?;
            // Before there is a page: so that a collection can give back what it empties, a little at a time.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            let tx = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
            tx.execute_batch(SCHEMA)?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            tx.commit()
        };
        make().map_err(|error| database.error("cannot make the database", error))
    }

    /// The database at `path`, which exists. `Corrupt` if it is none of ours.
    pub(crate) fn open(path: &Path) -> Result<Database> {
        if std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Err(Error::corrupt(format!("{} is missing", path.display())));
        }
        let database = Database::new(path);
        database.must_have_room_for_shared_memory()?;
        let (application, version) = database.read("cannot open the database", |connection| {
            let pragma =
                |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            Ok((pragma("application_id")?, pragma("user_version")?))
        })?;
        if application != APPLICATION_ID {
            return Err(Error::corrupt(format!(
                "{} is not the database of a store",
                path.display()
            )));
        }
        // What this build can read, the store file says, with a checksum; by that the version here is known.
        if version != SCHEMA_VERSION {
            let path = path.display();
            return Err(Error::corrupt(format!("{path} says version {version} of its tables")));
        }
        database.check_schema()?;
        database.sync_log()?;
        Ok(database)
    }

    /// The database at `path`, whatever its version.
    pub(crate) fn for_upgrade(path: &Path) -> Result<Database> {
        let database = Database::new(path);
        database.must_have_room_for_shared_memory()?;
        database.sync_log()?;
        Ok(database)
    }

    /// The database at `path`, which may be damaged.
    pub(crate) fn for_repair(path: &Path) -> Database {
        Database::new(path)
    }

    /// The version of its tables.
    pub(crate) fn version(&self) -> Result<i64> {
        let doing = "cannot read the version of the database";
        self.read(doing, |c| c.pragma_query_value(None, "user_version", |row| row.get(0)))
    }

    /// Writes the file anew, so that from then on it can give back what is free in it.
    pub(crate) fn make_compact(&self) -> Result<()> {
        let doing = "cannot write the database anew";
        self.read(doing, |connection| {
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.execute_batch("VACUUM")
        })
    }

    /// Refuses a damaged definition of a table, by which rows would be written that nobody finds.
    fn check_schema(&self) -> Result<()> {
        let damaged = |what: &str| {
            Error::corrupt(format!("the {what} of {} is damaged", self.path.display()))
        };
        let (found, is_read_only) =
            self.read("cannot read the schema of the database", |connection| {
                let mut statement =
                    connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
                let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
                Ok((rows.collect::<rusqlite::Result<Vec<_>>>()?, connection.is_readonly("main")?))
            })?;
        // A version of the file that SQLite does not know, too, makes it read-only.
        if is_read_only && rustix::fs::access(&self.path, Access::WRITE_OK).is_ok() {
            return Err(damaged("header"));
        }
        let wanted = SCHEMA.split(';').map(|table| table.trim().replace("IF NOT EXISTS ", ""));
        // In the order in which they were made, which an upgrade changes.
        let in_order = |tables: &mut dyn Iterator<Item = String>| {
            let mut tables: Vec<_> = tables.filter(|table| !table.is_empty()).collect();
            tables.sort();
            tables
        };
        if in_order(&mut { wanted }) == in_order(&mut found.into_iter()) {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "the schema of the database {} is damaged",
            self.path.display()
        )))
    }

    /// `Corrupt` if the file ends within a page: SQLite reads what is missing as zeros, and an empty page as if it were
    /// whole.
    pub(crate) fn must_end_with_a_page(&self) -> Result<()> {
        let name = || format!("cannot read the length of {}", self.path.display());
        let len = std::fs::metadata(&self.path).context(name)?.len();
        if len.is_multiple_of(PAGE_LEN) {
            return Ok(());
        }
        Err(Error::corrupt(format!("{} ends within a page", self.path.display())))
    }

    /// Makes durable what can be seen. A process that was killed inside a commit may have left it in the log, where the
    /// next one finds it whole but not synced; nothing may be built on that. Costs nothing where there is no log.
    fn sync_log(&self) -> Result<()> {
        if self.is_read_only {
            return Ok(());
        }
        let log = self.log();
        let failed = || "cannot sync the log of the database".to_owned();
        match File::open(&log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => {
                let file = file.context(failed)?;
                if file.metadata().context(failed)?.len() == 0 {
                    return Ok(());
                }
                file.sync_data().context(failed)?;
            }
        }
        self.path.parent().map_or(Ok(()), durability::sync_dir)
    }

    /// See [`SHORT_BLOCKS_FREE_MIN`]. Costs a system call.
    fn must_have_room_for_shared_memory(&self) -> Result<()> {
        let found = rustix::fs::statvfs(&self.path).map_err(io::Error::from);
        let found = found.context(|| format!("cannot look at {}", self.path.display()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if found.f_frsize >= PAGE_LEN || free >= SHORT_BLOCKS_FREE_MIN || self.is_read_only {
            return Ok(());
        }
        let path = self.path.display();
        let message =
            format!("{path} cannot be used: its file system is full but for {free} bytes");
        Err(Error::new(ErrorKind::NoSpace, message))
    }

    /// Its log, which is there while somebody has it open, or after they were killed.
    fn log(&self) -> PathBuf {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        log.into()
    }

    /// Its path as SQLite takes it with options: whatever may mean something else there is written as a number.
    fn uri(&self, is_immutable: bool) -> String {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut uri = String::from("file://");
        for byte in path.as_os_str().as_bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                    uri.push(char::from(*byte));
                }
                other => uri.push_str(&format!("%{other:02X}")),
            }
        }
        uri + if is_immutable { "?immutable=1" } else { "" }
    }

    fn new(path: &Path) -> Database {
        Database {
            path: path.to_owned(),
            is_read_only: durability::is_on_read_only(path),
            file: OnceLock::new(),
            writer: Mutex::default(),
            readers: Mutex::default(),
        }
    }

    /// Reads with a connection of its own; sees everything committed before. `doing` says what for, in errors.
    pub(crate) fn read<T>(
        &self,
        doing: &str,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let pooled = lock(&self.readers).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => self
                .connect(READER_CACHE_KIB, OpenFlags::empty())
                .map_err(|error| self.error(doing, error))?,
        };
        let result = f(&connection).map_err(|error| self.error(doing, error));
        lock(&self.readers).push(connection);
        result
    }

    /// As [`Database::read`], but all that is read is of one moment, whatever others write. To be kept short, as the log
    /// cannot be emptied meanwhile.
    pub(crate) fn read_at_once<T>(
        &self,
        doing: &str,
        f: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.read(doing, |connection| {
            let moment = connection.unchecked_transaction()?;
            Ok(f(&moment))
        })?
    }

    /// Writes in one transaction, durable when this returns. Waits for other writers; keep it short.
    pub(crate) fn write<T>(
        &self,
        doing: &str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        if self.is_read_only {
            let message = format!("{doing}: {} is on a read-only file system", self.path.display());
            return Err(Error::new(ErrorKind::Io, message));
        }
        self.must_have_room_for_shared_memory()?;
        let failed = |error| self.error(doing, error);
        let mut writer = lock(&self.writer);
        let connection = match writer.take() {
            Some(connection) => connection,
            None => self.connect(WRITER_CACHE_KIB, OpenFlags::empty()).map_err(failed)?,
        };
        let result = (|| {
            let tx = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)
                .map_err(failed)?;
            // What is written there nobody would find.
            if self.is_replaced()? {
                let message = format!("{doing}: the database was made again meanwhile: try again");
                return Err(Error::new(ErrorKind::Busy, message));
            }
            let value = f(&tx)?;
            tx.commit().map_err(failed)?;
            Ok(value)
        })();
        *writer = Some(connection);
        result
    }

    /// Whether another file has taken the place of the one that connections are to.
    pub(crate) fn is_replaced(&self) -> Result<bool> {
        Ok(self.file.get().is_some_and(|file| file_of(&self.path).ok() != Some(*file)))
    }

    /// A connection that nobody else has one beside; `None` if what is there is no database that could be opened. `Busy` if others
    /// have it open: one that closes it later would take the log of whatever lies there then along.
    pub(crate) fn alone(path: &Path) -> Result<Option<Connection>> {
        let open = || -> rusqlite::Result<Connection> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(ALONE_WAIT)?;
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
            Ok(connection)
        };
        let error = match open() {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) => error,
        };
        // A version of the file that SQLite does not know makes it read-only.
        let is_of_no_version = error.sqlite_error_code()
            == Some(rusqlite::ffi::ErrorCode::ReadOnly)
            && rustix::fs::access(path, Access::WRITE_OK).is_ok();
        let error = Database::new(path).error("cannot have the database alone", error);
        match is_of_no_version || error.kind() == ErrorKind::Corrupt {
            true => Ok(None),
            false => Err(error),
        }
    }

    /// Gives back to the file system what is free in the file, a little at a time.
    pub(crate) fn give_back(&self) -> Result<()> {
        const DOING: &str = "cannot shorten the database";
        let mut before = i64::MAX;
        loop {
            let left = self.write(DOING, |tx| {
                let step = (|| {
                    let mut statement = tx.prepare_cached(GIVE_BACK)?;
                    let mut rows = statement.query([])?;
                    while rows.next()?.is_some() {}
                    tx.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0))
                })();
                step.map_err(|error| sql_error(DOING, error))
            })?;
            // A database that was made before this could be done has nothing to give.
            if left == 0 || left == before {
                return Ok(());
            }
            before = left;
        }
    }

    /// As [`sql_error`]. SQLite does not say why it could not make its log, so whether anything can be made is tried.
    fn error(&self, doing: &str, error: rusqlite::Error) -> Error {
        let error = sql_error(doing, error);
        if error.kind() != ErrorKind::Io {
            return error;
        }
        let mut passing = self.path.clone().into_os_string();
        passing.push(format!("-{}.tmp", std::process::id()));
        let made = durability::create_file(passing.as_ref());
        let _ = std::fs::remove_file(&passing);
        match made {
            Err(why) if why.kind() == ErrorKind::NoSpace => {
                Error::with_source(why.kind(), doing, error)
            }
            _ => error,
        }
    }

    /// On a read-only file system SQLite cannot make the files by which it takes turns, and is told that nobody else writes;
    /// where they are there it can use them, and then somebody may.
    fn connect(&self, cache_kib: i64, extra: OpenFlags) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | extra;
        let connection = match self.is_read_only {
            false => {
                Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)?
            }
            true => {
                let flags = flags | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
                Connection::open_with_flags(self.uri(!self.log().exists()), flags)?
            }
        };
        if let Ok(file) = file_of(&self.path) {
            let _ = self.file.set(file);
        }
        connection.busy_timeout(WRITER_WAIT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -cache_kib)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        // What a row was before is not to stay in a page, whole and with a right checksum, for a damaged pointer to find.
        connection.pragma_update(None, "secure_delete", "FAST")?;
        Ok(connection)
    }
}

fn file_of(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of a database operation, by what the caller can do about it.
pub(crate) fn sql_error(doing: &str, error: rusqlite::Error) -> Error {
    use rusqlite::ffi::ErrorCode;
    let kind = match error.sqlite_error_code() {
        // The statements never change, so one that SQLite cannot make sense of was given a damaged schema.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => {
            ErrorKind::Corrupt
        }
        Some(ErrorCode::DiskFull) => ErrorKind::NoSpace,
        // SQLite calls a full disk by that name only where it writes, not where it makes, grows or syncs a file.
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            ErrorKind::of_io(&io::Error::last_os_error())
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
        Some(_) => ErrorKind::Io,
        // A column of another type or size than the schema says: only damage does that.
        None => ErrorKind::Corrupt,
    };
    match kind {
        ErrorKind::Corrupt => {
            Error::with_source(kind, format!("{doing}: the database is damaged"), error)
        }
        _ => Error::with_source(kind, doing, error),
    }
}
