//! SQLite through `rusqlite`: write-ahead log, full sync, one table clustered by its key.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};

use crate::Result;
use crate::engine::{Engine, Mode};
use crate::row::{Key, Row};

pub struct Sqlite {
    connection: Connection,
    /// Pages in the log as of the last commit.
    log_pages: Arc<AtomicU64>,
    settings: Settings,
}

/// What may be varied; the defaults are what the note recommends.
struct Settings {
    page_bytes: u32,
    cache_mib: u32,
    mmap_mib: u32,
    log_mib: u64,
    sync: &'static str,
    rowid: bool,
}

impl Settings {
    fn parse(text: &str) -> Result<Self> {
        let mut settings = Self {
            page_bytes: 4096,
            cache_mib: 16,
            mmap_mib: 0,
            log_mib: 16,
            sync: "FULL",
            rowid: false,
        };
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or("a setting is KEY=VALUE")?;
            match (key, value) {
                ("page", _) => settings.page_bytes = value.parse()?,
                ("cache", _) => settings.cache_mib = value.parse()?,
                ("mmap", _) => settings.mmap_mib = value.parse()?,
                ("wal", _) => settings.log_mib = value.parse()?,
                ("sync", "normal") => settings.sync = "NORMAL",
                ("rowid", _) => settings.rowid = value == "1",
                ("order", _) => {} // taken by the measurement
                _ => return Err(format!("no SQLite setting {pair}").into()),
            }
        }
        Ok(settings)
    }
}

impl Sqlite {
    pub fn open(dir: &Path, mode: Mode, settings: &str) -> Result<Self> {
        let path = dir.join("index.sqlite");
        let settings = Settings::parse(settings)?;
        let access = match mode {
            Mode::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Mode::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Mode::Create => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        };
        let mut connection =
            Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        let Settings { page_bytes, cache_mib, mmap_mib, sync, rowid, .. } = settings;
        if mode == Mode::Create {
            connection.execute_batch(&format!(
                "PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL;"
            ))?;
            let clustered = if rowid { "" } else { "WITHOUT ROWID" };
            connection.execute_batch(&format!(
                "CREATE TABLE chunk(id BLOB PRIMARY KEY NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
                 stored INTEGER NOT NULL, length INTEGER NOT NULL, kind INTEGER NOT NULL, sum INTEGER NOT NULL)
                 {clustered}"
            ))?;
        }
        connection.execute_batch(&format!(
            "PRAGMA synchronous={sync}; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-{};
             PRAGMA mmap_size={}; PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF;",
            cache_mib * 1024,
            u64::from(mmap_mib) << 20,
        ))?;
        let log_pages = Arc::new(AtomicU64::new(0));
        let count = log_pages.clone();
        connection.wal_hook(Some(move |_: &mut _, pages: i32| {
            count.store(pages.try_into().unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self { connection, log_pages, settings })
    }
}

/// A row as selected; a field of another type or out of range is an error, as damage would make it.
fn decode(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        key: row.get(0)?,
        pack: row.get::<_, i64>(1)? as u64,
        offset: row.get::<_, i64>(2)? as u64,
        stored: row.get(3)?,
        length: row.get(4)?,
        kind: row.get(5)?,
        sum: row.get(6)?,
    })
}

impl Engine for Sqlite {
    fn insert(&mut self, rows: &[Row]) -> Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut insert =
            transaction.prepare_cached("INSERT INTO chunk VALUES(?1,?2,?3,?4,?5,?6,?7)")?;
        for row in rows {
            let (pack, offset) = (row.pack as i64, row.offset as i64);
            insert.execute(params![
                &row.key[..],
                pack,
                offset,
                row.stored,
                row.length,
                row.kind,
                row.sum
            ])?;
        }
        drop(insert);
        Ok(transaction.commit()?)
    }

    fn look_up(&mut self, keys: &[Key], answer: &mut dyn FnMut(&Key, Option<Row>)) -> Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let mut select = transaction.prepare_cached("SELECT * FROM chunk WHERE id=?1")?;
        for key in keys {
            answer(key, select.query_row([&key[..]], decode).optional()?);
        }
        drop(select);
        Ok(transaction.commit()?)
    }

    fn scan(&mut self, each: &mut dyn FnMut(Row)) -> Result<()> {
        let mut select = self.connection.prepare_cached("SELECT * FROM chunk")?;
        for row in select.query_map([], decode)? {
            each(row?);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<bool> {
        let answer: String =
            self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok(answer == "ok")
    }

    fn tidy(&mut self, all: bool) -> Result<()> {
        let log_bytes =
            self.log_pages.load(Ordering::Relaxed) * u64::from(self.settings.page_bytes);
        if all || log_bytes >= self.settings.log_mib << 20 {
            // PASSIVE neither waits for readers nor keeps writers out.
            let how = if all { "TRUNCATE" } else { "PASSIVE" };
            self.connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()))?;
        }
        Ok(())
    }
}
