//! The seam between the measurements and the databases under test.

use std::path::Path;

use crate::Result;
use crate::row::{Key, Row};

/// What a process means to do with the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Make it, empty.
    Create,
    /// Open it to read and write.
    Write,
    /// Open it only to look up.
    Read,
}

/// A database of chunk rows, used by one thread.
pub trait Engine {
    /// Adds the rows in one transaction, durable on return. Rows come sorted by key.
    fn insert(&mut self, rows: &[Row]) -> Result<()>;

    /// Looks all keys up in one read transaction and hands each answer on, in order.
    fn look_up(&mut self, keys: &[Key], answer: &mut dyn FnMut(&Key, Option<Row>)) -> Result<()>;

    /// Hands every row on, in whatever order the engine keeps.
    fn scan(&mut self, each: &mut dyn FnMut(Row)) -> Result<()>;

    /// The engine's own full check of its file: sound or not. An engine that has none calls it sound.
    fn check(&mut self) -> Result<bool>;

    /// Work put off by [`Self::insert`] that holds no write lock (SQLite's checkpoint); `all` of it, or
    /// as much as is due.
    fn tidy(&mut self, all: bool) -> Result<()>;
}

/// Opens the engine called `name` in `dir`.
pub fn open(name: &str, dir: &Path, mode: Mode) -> Result<Box<dyn Engine>> {
    let (engine, settings) = name.split_once(':').unwrap_or((name, ""));
    Ok(match engine {
        "sqlite" => Box::new(crate::sqlite::Sqlite::open(dir, mode, settings)?),
        "lmdb" => Box::new(crate::lmdb::Lmdb::open(dir, mode)?),
        "redb" => Box::new(crate::redb::Redb::open(dir, mode)?),
        _ => return Err(format!("no engine is called {name}").into()),
    })
}
