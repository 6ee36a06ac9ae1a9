//! Roots: what keeps chunks alive, and the graves of those that went while a collection was under way.
//!
//! Work that began before a collection condemned packs may publish a root that needs what was condemned; other work may build
//! on that root before it is removed again. So while packs are condemned, a root that goes is buried in the transaction that
//! removes it, and the collection still counts it among the living. The next one does not. See `docs/internals/gc.md`.

use super::{ImageRecord, SnapshotRecord, VolumeRecord};
use crate::database::sql_error;
use rusqlite::{Connection, Row, Transaction, params};
use silt_format::RowSum;
use silt_types::{ChunkId, DiskId, Error, Result, TreeId};

/// Something sealed that is needed with everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// A disk: its map and what that names.
    Disk(DiskId),
    /// A tree: its nodes and the content of its files.
    Tree(TreeId),
}

/// In place of the length of a disk, for a tree.
const TREE_SIZE: i64 = -1;

impl Root {
    fn columns(&self) -> (&[u8; 32], i64) {
        match self {
            Root::Disk(disk) => (disk.root.as_bytes(), disk.size_bytes as i64),
            Root::Tree(tree) => (tree.as_bytes(), TREE_SIZE),
        }
    }

    fn sum(&self) -> i64 {
        let (root, size) = self.columns();
        RowSum::new("grave").blob(root).int(size).finish()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Option<Root>> {
        let (bytes, size) = (row.get(0)?, row.get(1)?);
        let root = match size {
            TREE_SIZE => Root::Tree(TreeId::from_bytes(bytes)),
            size => {
                Root::Disk(DiskId { root: ChunkId::from_bytes(bytes), size_bytes: size as u64 })
            }
        };
        Ok((root.sum() == row.get::<_, i64>(2)?).then_some(root))
    }
}

impl ImageRecord {
    /// What it keeps alive.
    pub fn roots(&self) -> Vec<Root> {
        let disks = [Some(self.disk), self.config].into_iter().flatten().map(Root::Disk);
        disks.chain(self.tree.map(Root::Tree)).collect()
    }
}

impl VolumeRecord {
    /// What it keeps alive; deltas are files of their own.
    pub fn root(&self) -> Root {
        Root::Disk(self.base)
    }
}

impl SnapshotRecord {
    /// What it keeps alive; deltas are files of their own.
    pub fn root(&self) -> Root {
        Root::Disk(self.base)
    }
}

/// Buries roots that are removed.
pub(super) fn bury(tx: &Transaction<'_>, roots: &[Root]) -> Result<()> {
    for root in roots {
        let (bytes, size) = root.columns();
        let buried =
            tx.execute("REPLACE INTO grave VALUES (?, ?, ?)", params![bytes, size, root.sum()]);
        buried.map_err(|error| sql_error("cannot write the catalog", error))?;
    }
    Ok(())
}

/// What is buried. `Corrupt` if a row is damaged.
pub(crate) fn graves(connection: &Connection) -> Result<Vec<Root>> {
    let sql = |error| sql_error("cannot read the graves", error);
    let mut statement = connection.prepare_cached("SELECT * FROM grave").map_err(sql)?;
    let rows = statement.query_map([], |row| Ok(Root::read(row).ok().flatten())).map_err(sql)?;
    let damaged = || Error::corrupt("a row of the graves is damaged");
    rows.map(|row| row.map_err(sql)?.ok_or_else(damaged)).collect()
}

/// Forgets all of them.
pub(crate) fn clear_graves(tx: &Transaction<'_>) -> Result<()> {
    let cleared = tx.execute("DELETE FROM grave", []);
    cleared.map(drop).map_err(|error| sql_error("cannot clear the graves", error))
}
