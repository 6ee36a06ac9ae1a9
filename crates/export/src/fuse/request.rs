//! What a program may ask of the file: every range is held against the disk before anything is done about it.
//!
//! The kernel checks some of this; nothing here counts on it.

use super::limits::REQUEST_BYTES_MAX;
use fuser::Errno;
use silt_types::BLOCK_SIZE_BYTES;
use silt_volume::Geometry;

/// Of fallocate(2).
mod mode {
    pub(super) const KEEP_SIZE: i32 = 1;
    pub(super) const PUNCH_HOLE: i32 = 2;
    pub(super) const ZERO_RANGE: i32 = 16;
}

/// Of lseek(2): the next data, or the next hole.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// What fallocate(2) may do to a range of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It reads as zero from now on; `may_unmap` gives its space back.
    Zero { may_unmap: bool },
    /// Space is wanted for what is there already: there is nothing to do.
    Nothing,
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    Data,
    Hole,
}

/// How many bytes of a read there are: none behind the end.
pub(super) fn readable(offset: u64, len: u32, geometry: Geometry) -> usize {
    let left = geometry.size_bytes.saturating_sub(offset);
    u64::from(len.min(REQUEST_BYTES_MAX)).min(left) as usize
}

/// Whether a write may be done. The disk does not grow by writing: as on a block device there is no space behind its end.
pub(super) fn check_write(offset: u64, len: usize, geometry: Geometry) -> Result<(), Errno> {
    if geometry.read_only {
        return Err(Errno::EROFS);
    }
    check_range(offset, len as u64, geometry)
}

/// Whether a change of allocation gives space back, and so has not to wait for some.
pub(super) fn gives_space_back(mode: i32) -> bool {
    mode & mode::PUNCH_HOLE != 0
}

/// What a call of fallocate(2) asks for.
pub(super) fn check_allocate(
    mode: i32,
    offset: u64,
    len: u64,
    geometry: Geometry,
) -> Result<Change, Errno> {
    let change = match mode & !mode::KEEP_SIZE {
        0 => Change::Nothing,
        mode::PUNCH_HOLE if mode & mode::KEEP_SIZE != 0 => Change::Zero { may_unmap: true },
        mode::ZERO_RANGE => Change::Zero { may_unmap: false },
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if geometry.read_only {
        return Err(Errno::EROFS);
    }
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    check_range(offset, len, geometry).map(|()| change)
}

fn check_range(offset: u64, len: u64, geometry: Geometry) -> Result<(), Errno> {
    match offset.checked_add(len) {
        Some(end) if end <= geometry.size_bytes => Ok(()),
        _ => Err(Errno::ENOSPC),
    }
}

/// What a call of lseek(2) looks for, and from where.
pub(super) fn check_seek(
    offset: i64,
    whence: i32,
    geometry: Geometry,
) -> Result<(Sought, u64), Errno> {
    let sought = match whence {
        SEEK_DATA => Sought::Data,
        SEEK_HOLE => Sought::Hole,
        _ => return Err(Errno::EINVAL),
    };
    let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    if offset < geometry.size_bytes { Ok((sought, offset)) } else { Err(Errno::ENXIO) }
}

/// Whether another length may be given to the file: only the one it has.
pub(super) fn check_resize(size: Option<u64>, geometry: Geometry) -> Result<(), Errno> {
    match size {
        Some(size) if size != geometry.size_bytes => Err(Errno::EPERM),
        _ => Ok(()),
    }
}

/// Whether a write fills the blocks it touches, and so needs nothing of what was there.
pub(super) fn is_whole_blocks(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(BLOCK_SIZE_BYTES) && (len as u64).is_multiple_of(BLOCK_SIZE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;
    const DISK: Geometry = Geometry { size_bytes: SIZE, read_only: false };
    const SEALED: Geometry = Geometry { size_bytes: SIZE, read_only: true };

    #[test]
    fn reads_end_where_the_disk_ends_and_are_never_long() {
        for (offset, len, expected) in [
            (0, 4096, 4096),
            (SIZE - 1, 4096, 1),
            (SIZE, 1, 0),
            (u64::MAX, u32::MAX, 0),
            (0, u32::MAX, 1 << 20),
        ] {
            assert_eq!(readable(offset, len, DISK), expected, "{len} bytes at {offset}");
        }
    }

    #[test]
    fn nothing_is_written_beyond_the_end_or_to_a_sealed_disk() {
        for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX, usize::MAX)] {
            assert_eq!(check_write(offset, len, DISK).unwrap_err().code(), Errno::ENOSPC.code());
        }
        assert!(check_write(SIZE - 1, 1, DISK).is_ok());
        assert_eq!(check_write(0, 1, SEALED).unwrap_err().code(), Errno::EROFS.code());
    }

    #[test]
    fn ranges_are_zeroed_and_nothing_else() {
        let zero = |may_unmap| Change::Zero { may_unmap };
        for (mode, expected) in [
            (0, Change::Nothing),
            (1, Change::Nothing),
            (3, zero(true)),
            (16, zero(false)),
            (17, zero(false)),
        ] {
            assert_eq!(check_allocate(mode, 0, SIZE, DISK).unwrap(), expected, "mode {mode}");
            assert!(check_allocate(mode, 0, SIZE + 1, DISK).is_err());
            assert!(check_allocate(mode, u64::MAX, 2, DISK).is_err());
            assert!(check_allocate(mode, 0, 0, DISK).is_err());
            assert!(check_allocate(mode, 0, 1, SEALED).is_err());
        }
        // PUNCH_HOLE without KEEP_SIZE, COLLAPSE, INSERT, UNSHARE, and what no kernel knows.
        for mode in [2, 8, 32, 64, 19, 1 << 20, -1, i32::MIN] {
            let refused = check_allocate(mode, 0, 1, DISK).unwrap_err();
            assert_eq!(refused.code(), Errno::EOPNOTSUPP.code(), "mode {mode}");
        }
    }

    #[test]
    fn nothing_is_sought_outside_the_disk() {
        assert_eq!(check_seek(5, SEEK_DATA, DISK).unwrap(), (Sought::Data, 5));
        assert_eq!(check_seek(0, SEEK_HOLE, DISK).unwrap(), (Sought::Hole, 0));
        for (offset, whence) in [(SIZE as i64, SEEK_DATA), (-1, SEEK_HOLE), (i64::MIN, SEEK_DATA)] {
            assert_eq!(check_seek(offset, whence, DISK).unwrap_err().code(), Errno::ENXIO.code());
        }
        assert_eq!(check_seek(0, 0, DISK).unwrap_err().code(), Errno::EINVAL.code());
    }

    #[test]
    fn the_length_stays() {
        assert!(check_resize(None, DISK).is_ok() && check_resize(Some(SIZE), DISK).is_ok());
        for size in [0, SIZE - 1, SIZE + 1, u64::MAX] {
            assert_eq!(check_resize(Some(size), DISK).unwrap_err().code(), Errno::EPERM.code());
        }
    }
}
