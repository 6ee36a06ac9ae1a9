//! Ranges of blocks.

/// `len` blocks from block `start` of a disk, 4096 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockRange {
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub len: u64,
}

impl BlockRange {
    /// The block after the last one.
    pub const fn end(&self) -> u64 {
        self.start + self.len
    }
}
