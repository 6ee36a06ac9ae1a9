//! redb, in its experimental mode for several processes (by default one process locks the file).

use std::path::Path;

use redb::{
    Builder, ConcurrencyMode, Database, ReadOnlyDatabase, ReadableDatabase as _,
    ReadableTable as _, TableDefinition,
};

use crate::Result;
use crate::engine::{Engine, Mode};
use crate::row::{Key, Row, VALUE_SIZE_BYTES};

const ROWS: TableDefinition<'_, &Key, &[u8; VALUE_SIZE_BYTES]> = TableDefinition::new("chunk");

/// The default cache holds a gibibyte; an index may not take that from the machine.
const CACHE_SIZE_BYTES: usize = 64 << 20;

pub enum Redb {
    Writer(Database),
    Reader(ReadOnlyDatabase),
}

impl Redb {
    pub fn open(dir: &Path, mode: Mode) -> Result<Self> {
        let path = dir.join("index.redb");
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_SIZE_BYTES).set_concurrency_mode(ConcurrencyMode::MultiWriter);
        Ok(match mode {
            Mode::Create => Self::Writer(builder.create(path)?),
            Mode::Write => Self::Writer(builder.open(path)?),
            Mode::Read => Self::Reader(builder.open_read_only(path)?),
        })
    }
}

impl Engine for Redb {
    fn insert(&mut self, rows: &[Row]) -> Result<()> {
        let Self::Writer(database) = self else { return Err("opened only to read".into()) };
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(ROWS)?;
            for row in rows {
                table.insert(&row.key, &row.encode())?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn look_up(&mut self, keys: &[Key], answer: &mut dyn FnMut(&Key, Option<Row>)) -> Result<()> {
        let transaction = match self {
            Self::Writer(database) => database.begin_read()?,
            Self::Reader(database) => database.begin_read()?,
        };
        let table = transaction.open_table(ROWS)?;
        for key in keys {
            let value = table.get(key)?;
            let row = value
                .map(|value| Row::decode(*key, value.value()).ok_or("a value of another length"));
            answer(key, row.transpose()?);
        }
        Ok(())
    }

    fn scan(&mut self, each: &mut dyn FnMut(Row)) -> Result<()> {
        let transaction = match self {
            Self::Writer(database) => database.begin_read()?,
            Self::Reader(database) => database.begin_read()?,
        };
        for entry in transaction.open_table(ROWS)?.iter()? {
            let (key, value) = entry?;
            each(Row::decode(*key.value(), value.value()).ok_or("a value of another length")?);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<bool> {
        let Self::Writer(database) = self else { return Err("opened only to read".into()) };
        Ok(database.check_integrity()?)
    }

    fn tidy(&mut self, _all: bool) -> Result<()> {
        Ok(())
    }
}
