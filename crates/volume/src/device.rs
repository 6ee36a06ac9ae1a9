//! `BlockDevice`: what every export serves. One trait, and the simplest implementation beside it.

use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::{Error, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a client needs to know of a disk before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Length in bytes; any request beyond it is refused.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A run of bytes of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStatus {
    /// Length of the run in bytes, at least 1.
    pub len_bytes: u64,
    /// The run takes no space.
    pub hole: bool,
    /// The run reads as zero.
    pub zero: bool,
}

/// A disk as its exports see it. Offsets and lengths are bytes, of any alignment, within the disk: a caller checks
/// against [`Geometry`] first, an implementation refuses the rest with `Invalid`.
///
/// Every method may be called from many threads at once. Writes that overlap in time and place end in either order.
pub trait BlockDevice: Send + Sync {
    /// Size and rights. While it is served a device may become longer, never shorter, and its rights stay: an export that
    /// cannot tell its clients goes by what it was told first.
    fn geometry(&self) -> Geometry;

    /// Fills `buf` from `offset`. `Corrupt` or `Io` if any byte could not be had and verified; `buf` is then undefined.
    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()>;

    /// As [`BlockDevice::readv_at`] if that needs no decoding and no look-up that may wait; otherwise answers false, and
    /// `buf` is undefined. A server answers such requests on the spot and hands the others to a pool.
    fn read_hot(&self, _buf: IoBufMut<'_>, _offset: u64) -> Result<bool> {
        Ok(false)
    }

    /// Brings what a range reads from to where reads are hot, as far as that takes work that a read would have to wait for.
    /// A hint: nothing depends on it, and an error says no more than that a read might fail.
    fn prefetch(&self, _offset: u64, _len_bytes: u64) -> Result<()> {
        Ok(())
    }

    /// Whether a read or write would have to wait for its turn before it is begun, since the device is over a limit. A server
    /// that asks before it does a write on the spot hands it to a pool then.
    fn must_wait(&self) -> bool {
        false
    }

    /// Writes `buf` at `offset`. Durable only after the next [`BlockDevice::flush`]. `NoSpace` when the store is full.
    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()>;

    /// As [`BlockDevice::writev_at`] if that is not to wait, for its turn or for space; otherwise answers false, and the bytes are
    /// as they were or as they are to be. A server does such writes on the spot and hands the others to a pool.
    fn write_hot(&self, buf: IoBuf<'_>, offset: u64) -> Result<bool> {
        self.writev_at(buf, offset).map(|()| true)
    }

    /// [`BlockDevice::readv_at`] into one piece of memory.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.readv_at(buf.into(), offset)
    }

    /// [`BlockDevice::writev_at`] from one piece of memory.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.writev_at(buf.into(), offset)
    }

    /// Makes everything written, zeroed and discarded before the call durable. After a failure every later write and
    /// flush fails until the volume is opened anew.
    fn flush(&self) -> Result<()>;

    /// Gives the whole blocks inside the range back; they read as zero from now on. Bytes at the edges that do not fill
    /// a block keep their value.
    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()>;

    /// Makes exactly this range read as zero. `may_unmap` allows the space to be given back; otherwise it stays allocated.
    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()>;

    /// The status of the range in runs that together cover its beginning: at least one run, at most `runs_max`, all of
    /// them together at most `len_bytes`. Neighbours may have the same status.
    fn block_status(
        &self,
        offset: u64,
        len_bytes: u64,
        runs_max: usize,
    ) -> Result<Vec<BlockStatus>>;
}

/// A disk in memory, for tests: the reference that every other implementation is compared with.
pub struct MemoryDevice {
    bytes: Mutex<Vec<u8>>,
    read_only: bool,
}

impl MemoryDevice {
    /// A disk with this content.
    pub fn new(bytes: Vec<u8>, read_only: bool) -> MemoryDevice {
        MemoryDevice { bytes: Mutex::new(bytes), read_only }
    }

    fn range(
        &self,
        offset: u64,
        len: usize,
    ) -> Result<(MutexGuard<'_, Vec<u8>>, std::ops::Range<usize>)> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset.checked_add(len as u64).filter(|end| *end <= bytes.len() as u64);
        let end = end.ok_or_else(|| {
            Error::invalid(format!("{len} bytes at {offset} are beyond the disk"))
        })?;
        Ok((bytes, offset as usize..end as usize))
    }

    fn writable(&self) -> Result<()> {
        if self.read_only { Err(Error::invalid("the disk is read-only")) } else { Ok(()) }
    }
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        let size_bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        Geometry { size_bytes, read_only: self.read_only }
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        let (bytes, range) = self.range(offset, buf.len())?;
        buf.copy_from(&bytes[range]);
        Ok(())
    }

    fn read_hot(&self, buf: IoBufMut<'_>, offset: u64) -> Result<bool> {
        self.readv_at(buf, offset).map(|()| true)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.writable()?;
        let (mut bytes, range) = self.range(offset, buf.len())?;
        buf.copy_to(&mut bytes[range]);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.writable()
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        let block = silt_types::BLOCK_SIZE_BYTES;
        let start = offset.next_multiple_of(block);
        let end = (offset + len_bytes) / block * block;
        self.write_zeroes(start.min(end), end.saturating_sub(start), true)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, _may_unmap: bool) -> Result<()> {
        self.writable()?;
        let (mut bytes, range) = self.range(offset, len_bytes as usize)?;
        bytes[range].fill(0);
        Ok(())
    }

    fn block_status(
        &self,
        offset: u64,
        len_bytes: u64,
        _runs_max: usize,
    ) -> Result<Vec<BlockStatus>> {
        let (bytes, range) = self.range(offset, len_bytes as usize)?;
        let zero = bytes[range].iter().all(|byte| *byte == 0);
        Ok(vec![BlockStatus { len_bytes, hole: false, zero }])
    }
}
