//! Disk maps, deltas, and the read and write path of volumes.

mod device;
mod map;

pub use device::{BlockDevice, BlockStatus, Geometry, MemoryDevice};
pub use map::{
    ChunkPlace, DiskMap, Extent, Extents, MapBuilder, MapChange, MapVisitor, MappedExtent,
    update_map,
};
