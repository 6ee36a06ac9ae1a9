//! What stat(2) says of the file of a disk.

use super::mount::Access;
use fuser::{FileAttr, FileType, INodeNo};
use silt_volume::Geometry;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The unit of `st_blocks`.
const SECTOR_BYTES: u64 = 512;

/// Permissions: no set-user-id bit ever.
pub(super) const PERMISSIONS: u32 = 0o777;

/// What of a file is not its content. Kept in memory: a new mount begins anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Of every kind of time: a disk has none of its own.
    pub(super) time: SystemTime,
}

impl Attributes {
    /// Those of a new file of this process's user, for everybody whom the kernel lets in.
    pub(super) fn of_own(access: Access) -> Attributes {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mode = match access {
            Access::Owner => 0o600,
            Access::AllowOther => 0o666,
        };
        Attributes { mode, uid, gid, time: SystemTime::now() }
    }

    /// The same of what can only be read.
    pub(super) fn read_only(self) -> Attributes {
        Attributes { mode: self.mode & 0o444, ..self }
    }

    /// The answer to stat(2) for a disk.
    pub(super) fn disk(&self, node: INodeNo, geometry: Geometry) -> FileAttr {
        let size = geometry.size_bytes;
        // One sector less than there are: so programs look for holes, with SEEK_HOLE. How much is really held would cost a
        // walk through the whole map.
        let blocks = (size.div_ceil(SECTOR_BYTES)).saturating_sub(1).max(1);
        self.answer(node, FileType::RegularFile, (size, blocks))
    }

    /// The answer for a folder.
    pub(super) fn folder(&self, node: INodeNo) -> FileAttr {
        self.answer(node, FileType::Directory, (0, 0))
    }

    fn answer(&self, node: INodeNo, kind: FileType, (size, blocks): (u64, u64)) -> FileAttr {
        FileAttr {
            ino: node,
            size,
            blocks,
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            crtime: self.time,
            kind,
            perm: self.mode,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: silt_types::BLOCK_SIZE_BYTES as u32,
            flags: 0,
        }
    }
}

/// A time in nanoseconds since 1970.
pub(super) fn time_of(ns: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns.max(0).unsigned_abs())
}
