//! LMDB through `heed`: a memory-mapped copy-on-write tree, synced at every commit.

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};

use crate::Result;
use crate::engine::{Engine, Mode};
use crate::row::{Key, Row};

/// Address space for the map; the file grows only as needed.
const MAP_SIZE_BYTES: usize = 64 << 30;

pub struct Lmdb {
    env: Env,
    rows: Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    #[allow(unsafe_code)]
    pub fn open(dir: &Path, mode: Mode) -> Result<Self> {
        // SAFETY: nothing but this program touches the folder, except where a flipped bit is the point of
        // the measurement; then a process of its own takes the consequences.
        let env = unsafe { EnvOpenOptions::new().map_size(MAP_SIZE_BYTES).open(dir)? };
        let rows = if mode == Mode::Create {
            let transaction = env.write_txn()?;
            env.create_databases_and_commit(transaction, |opener, transaction| {
                opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
            })?
            .commit()
        } else {
            let transaction = env.read_txn()?;
            env.open_databases_and_commit(transaction, |opener, transaction| {
                opener.open_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
            })?
            .commit()
            .flatten()
        };
        Ok(Self { env, rows: rows.ok_or("the database holds no table")? })
    }
}

impl Engine for Lmdb {
    fn insert(&mut self, rows: &[Row]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for row in rows {
            self.rows.put(&mut transaction, &row.key, &row.encode())?;
        }
        Ok(transaction.commit()?)
    }

    fn look_up(&mut self, keys: &[Key], answer: &mut dyn FnMut(&Key, Option<Row>)) -> Result<()> {
        let transaction = self.env.read_txn()?;
        for key in keys {
            let value = self.rows.get(&transaction, key)?;
            let row =
                value.map(|bytes| Row::decode(*key, bytes).ok_or("a value of another length"));
            answer(key, row.transpose()?);
        }
        Ok(())
    }

    fn scan(&mut self, each: &mut dyn FnMut(Row)) -> Result<()> {
        let transaction = self.env.read_txn()?;
        for entry in self.rows.iter(&transaction)? {
            let (key, value) = entry?;
            each(Row::decode(key.try_into()?, value).ok_or("a value of another length")?);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn tidy(&mut self, _all: bool) -> Result<()> {
        Ok(())
    }
}
