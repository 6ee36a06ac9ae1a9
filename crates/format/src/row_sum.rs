//! The checksum that every row of the index and the catalog carries.

use crate::wire::WireWrite;

/// CRC-32C over the columns of a row: the name of its table, then each column with its type and length, so that a
/// value can neither move to another column nor a row to another table unnoticed.
pub struct RowSum(Vec<u8>);

impl RowSum {
    /// Begins the checksum of a row of `table`.
    pub fn new(table: &str) -> RowSum {
        RowSum(Vec::with_capacity(96)).blob(table.as_bytes())
    }

    /// An integer column.
    #[must_use]
    pub fn int(mut self, value: i64) -> RowSum {
        self.0.put_u8(1);
        self.0.put_u64(value as u64);
        self
    }

    /// A text or blob column.
    #[must_use]
    pub fn blob(mut self, bytes: &[u8]) -> RowSum {
        self.0.put_u8(2);
        self.0.put_u64(bytes.len() as u64);
        self.0.put_bytes(bytes);
        self
    }

    /// A blob column that may be null.
    #[must_use]
    pub fn optional(mut self, bytes: Option<&[u8]>) -> RowSum {
        match bytes {
            Some(bytes) => self.blob(bytes),
            None => {
                self.0.put_u8(0);
                self
            }
        }
    }

    /// The checksum.
    pub fn finish(&self) -> i64 {
        i64::from(crc32c::crc32c(&self.0))
    }
}
