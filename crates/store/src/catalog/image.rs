//! Images in the catalog.

use super::row::{Record, read_disk, read_optional_disk};
use rusqlite::{Row, Transaction, params};
use silt_format::{RootRecord, RowSum};
use silt_types::{DiskId, Name, TreeId};

/// A named, sealed disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its name.
    pub name: Name,
    /// The disk.
    pub disk: DiskId,
    /// The tree it was built from, if it was.
    pub tree: Option<TreeId>,
    /// The configuration it came with, if it did: JSON as a disk of its length.
    pub config: Option<DiskId>,
    /// When it was published, in nanoseconds since 1970.
    pub created_ns: i64,
    /// Bytes of content that the disk maps.
    pub bytes_nonzero: u64,
}

impl ImageRecord {
    /// What a pack says of it.
    pub fn root_record(&self) -> RootRecord {
        RootRecord::Image {
            name: self.name.clone(),
            disk: self.disk,
            tree: self.tree,
            config: self.config,
            created_ns: self.created_ns,
        }
    }

    fn sum(&self) -> i64 {
        let sum = RowSum::new("image")
            .blob(self.name.as_str().as_bytes())
            .blob(self.disk.root.as_bytes());
        let sum = sum
            .int(self.disk.size_bytes as i64)
            .optional(self.tree.as_ref().map(|tree| &tree.as_bytes()[..]))
            .optional(self.config.as_ref().map(|config| &config.root.as_bytes()[..]))
            .int(self.config_size());
        sum.int(self.created_ns).int(self.bytes_nonzero as i64).finish()
    }

    fn config_size(&self) -> i64 {
        self.config.map_or(0, |config| config.size_bytes as i64)
    }

    pub(super) fn write(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let tree = self.tree.as_ref().map(TreeId::as_bytes);
        let row = params![
            self.name.as_str(),
            self.disk.root.as_bytes(),
            self.disk.size_bytes as i64,
            tree,
            self.config.as_ref().map(|config| config.root.as_bytes()),
            self.config_size(),
            self.created_ns,
            self.bytes_nonzero as i64,
            self.sum()
        ];
        tx.execute("REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row).map(drop)
    }
}

impl Record for ImageRecord {
    const TABLE: &'static str = "image";
    const KEY: &'static str = "name";
    const NAME_COLUMN: usize = 0;

    fn read(row: &Row<'_>) -> rusqlite::Result<Option<ImageRecord>> {
        let Ok(name) = row.get::<_, String>(0)?.parse() else {
            return Ok(None);
        };
        let tree = row.get::<_, Option<[u8; 32]>>(3)?.map(TreeId::from_bytes);
        let record = ImageRecord {
            name,
            disk: read_disk(row, 1)?,
            tree,
            config: read_optional_disk(row, 4)?,
            created_ns: row.get(6)?,
            bytes_nonzero: row.get::<_, i64>(7)? as u64,
        };
        Ok((record.sum() == row.get::<_, i64>(8)?).then_some(record))
    }
}
