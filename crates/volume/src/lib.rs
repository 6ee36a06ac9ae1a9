//! Disk maps, deltas, and the read and write path of volumes.

mod device;

pub use device::{BlockDevice, BlockStatus, Geometry, MemoryDevice};
