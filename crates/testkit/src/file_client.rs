//! A device that is a file of fixed length, used as any program would: the client of exports that look like files.

use crate::block_device::{read_through_private_memory, write_through_private_memory};
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::Errno,
};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::{BLOCK_SIZE_BYTES, Error, ErrorKind, Result};
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

/// An open file.
#[derive(Debug)]
pub struct FileClient(File);

impl FileClient {
    /// Opens a file to read and write.
    pub fn open(path: &Path) -> io::Result<FileClient> {
        File::options().read(true).write(true).open(path).map(FileClient)
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.0
    }

    fn zero(&self, offset: u64, len: u64, flags: FallocateFlags) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        fallocate(&self.0, flags | FallocateFlags::KEEP_SIZE, offset, len)
            .map_err(|errno| failed("zero", errno.into()))
    }
}

/// What programs are told of ranges that are not within a file that cannot grow.
fn failed(what: &str, error: io::Error) -> Error {
    let beyond = [Errno::NOSPC, Errno::INVAL, Errno::FBIG, Errno::OVERFLOW, Errno::NXIO];
    let is_beyond = beyond.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
        || error.kind() == io::ErrorKind::UnexpectedEof;
    let kind = if is_beyond { ErrorKind::Invalid } else { ErrorKind::Io };
    Error::with_source(kind, format!("cannot {what}"), error)
}

impl BlockDevice for FileClient {
    fn geometry(&self) -> Geometry {
        let size_bytes = self.0.metadata().map_or(0, |metadata| metadata.len());
        Geometry { size_bytes, read_only: false }
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        read_through_private_memory(self, buf, offset)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        write_through_private_memory(self, buf, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_exact_at(buf, offset).map_err(|error| failed("read", error))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.0.write_all_at(buf, offset).map_err(|error| failed("write", error))
    }

    fn flush(&self) -> Result<()> {
        self.0.sync_data().map_err(|error| failed("flush", error))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let start = offset.next_multiple_of(BLOCK_SIZE_BYTES);
        let end = offset.saturating_add(len) / BLOCK_SIZE_BYTES * BLOCK_SIZE_BYTES;
        self.zero(start.min(end), end.saturating_sub(start), FallocateFlags::PUNCH_HOLE)
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> Result<()> {
        let how = if may_unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        self.zero(offset, len, how)
    }

    fn block_status(&self, offset: u64, len: u64, runs_max: usize) -> Result<Vec<BlockStatus>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.geometry().size_bytes);
        let end = end.ok_or_else(|| Error::invalid("a range that is not within the file"))?;
        let (mut at, mut runs) = (offset, Vec::new());
        while at < end && runs.len() < runs_max {
            let data = match seek(&self.0, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => Ok(end),
                found => found.map_err(|errno| failed("seek", errno.into())),
            }?;
            let hole = data > at;
            let to = match hole {
                true => data,
                false => seek(&self.0, SeekFrom::Hole(at)).map_err(|e| failed("seek", e.into()))?,
            };
            runs.push(BlockStatus { len_bytes: to.min(end) - at, hole, zero: hole });
            at = to;
        }
        Ok(runs)
    }
}
