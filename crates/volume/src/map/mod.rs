//! The disk map: a persistent Merkle tree from the blocks of a disk to the chunks that hold them.
//!
//! For: building, reading, walking, comparing and changing maps. Not for: chunks' content, nor deltas.
//!
//! Invariants: the same mapping of a disk of the same size has the same root, whatever its history; a part that reads as
//! zero has no node; a node read is checked against its place in the tree before it is used. Names the format:
//! `silt_format::MapNode`. Explained in `docs/internals/disk-map.md`.

mod build;
mod climb;
mod diff;
mod node;
mod read;
mod shrink;
mod update;
mod walk;

#[cfg(test)]
mod tests;

pub use build::MapBuilder;
pub use climb::{MapClimber, NodePlace};
pub(crate) use diff::same_places;
pub use diff::{MapDiff, diff_maps};
pub use read::DiskMap;
pub use shrink::shrink_map;
pub use update::update_map;
pub use walk::{Extents, MapVisitor};

use silt_types::{BlockRange, ChunkId};

/// A block of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The chunk.
    pub chunk: ChunkId,
    /// Block of the chunk, 4096 bytes each, from 0. The last block of a chunk may be short: it reads as zero beyond its end.
    pub offset_blocks: u64,
}

/// What a look-up finds: blocks that are alike from the one asked for on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of blocks, at least 1.
    pub len_blocks: u64,
    /// Where the first of them is, the others right behind it; `None` if they read as zero.
    pub place: Option<ChunkPlace>,
}

/// Blocks of a disk that are consecutive in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedExtent {
    /// The blocks of the disk.
    pub range: BlockRange,
    /// Where the first of them is.
    pub place: ChunkPlace,
}

/// A change of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapChange {
    /// The blocks of the disk.
    pub range: BlockRange,
    /// Where the first of them is from now on; `None` makes them zero.
    pub place: Option<ChunkPlace>,
}
