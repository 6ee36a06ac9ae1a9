//! Growing: a longer disk from a shorter one, by a few metadata blocks.
//!
//! [`grow`] adds groups behind the last one. No block and no inode moves, no content is read, and everything else stays as
//! it was, down to times and counters in the superblock that this crate has no name for. What is written is the superblock
//! and its copies, descriptors, the bitmap of a last group that was short, the pointers of the resize inode, and bitmaps
//! of new groups that hold tables: the same for the same disk and size, always.
//!
//! Not for file systems in use, and not for repair: who is not cleanly unmounted is refused. Not for moving things either:
//! where the room reserved for descriptors ends, growing ends. The journal keeps its size.
//!
//! | step | file |
//! |---|---|
//! | the disk as it is, checked | `before` |
//! | sizes, counts and places of the grown file system | `shape` |
//! | which block becomes what | `changes` |
//!
//! What is written where, and what it costs, is told in `docs/internals/ext4.md`.

mod before;
mod changes;
mod shape;

use crate::{reader::DiskRead, writer::BlockSink};
use before::Before;
use changes::Changes;
use shape::Shape;
use silt_types::{BLOCK_SIZE_BYTES, DISK_SIZE_BYTES_MAX, Error, Result};

/// What growing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Blocks of the file system before.
    pub blocks_before: u64,
    /// Blocks of the file system now. Fewer than the disk's where the end is too short for a group; the same as before
    /// where nothing was to be added.
    pub blocks: u64,
    /// Groups before.
    pub groups_before: u64,
    /// Groups now.
    pub groups: u64,
    /// Inodes added.
    pub inodes_added: u64,
    /// Blocks handed to the sink.
    pub blocks_written: u64,
}

/// Grows the ext4 file system on `disk` to a disk of `size_bytes`: hands the blocks of the longer disk that are not
/// what they were to `write`, ascending, each once, 4096 bytes. All others are those of `disk`, and zero behind its end; the
/// caller makes the disk longer. The file system may end before the disk, and grows then even if the disk does not.
///
/// For disks of the writer, whatever became of them since, and others that have the same shape: blocks of 4 KiB, 16 groups
/// to a flex group, reserved descriptors, checksums. `Unsupported`, with the reason, for other shapes, for what was not
/// cleanly unmounted, and for sizes beyond the reserved descriptors (the message names the largest) or 2^32 inodes. `Invalid`
/// for sizes below that of the disk or above 16 TiB, and where there is no ext4. `Corrupt` where what it builds on is
/// damaged: everything else is neither read nor checked. All these come before the first block is handed out, and from then
/// on the disk is not read any more: it may be the one that is written. Errors of `write` end it.
///
/// Cost, in blocks written and memory: about half a block for each new group; where a new group holds a copy, besides, all
/// descriptors (at most 2,048 blocks) and the reserved ones that are left (at most 1,024). Reads the descriptors that change
/// or get a new copy, and where new inode tables stand on `disk`, behind its file system, what is there.
pub fn grow(disk: impl DiskRead, size_bytes: u64, write: &mut BlockSink<'_>) -> Result<Growth> {
    if size_bytes < disk.size_bytes() || size_bytes > DISK_SIZE_BYTES_MAX {
        return Err(Error::invalid(format!(
            "cannot grow a disk of {} bytes to {size_bytes} bytes: it may grow to 16 TiB, and not shrink",
            disk.size_bytes()
        )));
    }
    let before = Before::open(disk)?;
    let shape = Shape::new(&before.sizes(), size_bytes / BLOCK_SIZE_BYTES)?;
    let blocks_written =
        if shape.is_larger() { Changes::plan(&before, &shape)?.write(write)? } else { 0 };
    Ok(Growth {
        blocks_before: shape.before.blocks,
        blocks: shape.blocks,
        groups_before: shape.before.groups(),
        groups: shape.groups,
        inodes_added: shape.inodes_added(),
        blocks_written,
    })
}
