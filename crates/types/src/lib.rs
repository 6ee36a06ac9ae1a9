//! Ids, sizes, ranges and the error shape that every crate of Siltstone shares.
//!
//! No I/O happens here and nothing here knows a byte layout: persisted forms are in `silt-format`.

mod block;
mod error;
mod id;
mod name;
mod progress;
mod range;
mod size;

pub use block::{is_zero, runs_of_bits};
pub use error::{Context, Error, ErrorKind, Result};
pub use id::{ChunkId, DeltaId, DiskId, LeaseId, PackId, SnapshotId, StateId, TreeId, VolumeId};
pub use name::{DiskName, Name};
pub use progress::{NoProgress, Progress};
pub use range::BlockRange;
pub use size::{format_size, parse_size};

/// The unit of a disk address, in bytes: the page size of x86-64 and the usual block size of ext4.
pub const BLOCK_SIZE_BYTES: u64 = 4096;

/// The most content one chunk holds. Larger chunks would cost dedup and read amplification, smaller
/// ones index rows; measured on Debian images, 64 KiB along files keeps both within a percent of their best.
pub const CHUNK_SIZE_BYTES_MAX: usize = 64 * 1024;

/// Blocks in the largest chunk.
pub const CHUNK_BLOCKS_MAX: u64 = CHUNK_SIZE_BYTES_MAX as u64 / BLOCK_SIZE_BYTES;

/// The largest disk: 2^32 blocks of 4 KiB, the largest ext4 without more than 32-bit block numbers.
pub const DISK_SIZE_BYTES_MAX: u64 = 1 << 44;
