//! Disk maps, deltas, sealing, and the read and write path of volumes.

mod compare;
mod delta;
mod device;
mod folder;
mod map;
mod partitions;
mod seal;
mod volume;
mod wanted;

pub use compare::{DifferingBlocks, VolumePair};
pub use delta::{BOOT_NOTES, Delta, DeltaReader, DeltaRun, DeltaRuns, Space, WriteMark};
pub use device::{BlockDevice, BlockStatus, Geometry, MemoryDevice};
pub use folder::{VolumeLock, read_volume_header, write_volume_header};
pub use map::{
    ChunkPlace, DiskMap, Extent, Extents, MapBuilder, MapChange, MapClimber, MapDiff, MapVisitor,
    MappedExtent, NodePlace, diff_maps, shrink_map, update_map,
};
pub use partitions::{PartOfDisk, Partition, ext4_places, partitions};
pub use seal::{DirtyBlocks, DirtyRuns, NewDisk, SealCounts, SealParts, Sealed, seal};
pub use volume::{Volume, VolumeParts};
pub use wanted::{is_wanted, is_wanted_while};
