//! Where the bytes of a disk come from: one small trait and the adapters for memory and files.
//!
//! Not for writing, and not for caching: `blocks` does that.

use silt_types::{Context as _, Error, Result};
use std::{
    fs::File,
    io::{Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
};

/// A disk that can be read at any place. The bytes must not change while a reader is open on it.
pub trait DiskRead {
    /// Length of the disk in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on. A range that does not lie on the disk is an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
}

impl<T: DiskRead + ?Sized> DiskRead for &T {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_at(buf, offset)
    }
}

impl DiskRead for [u8] {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let from = usize::try_from(offset).ok().and_then(|start| self.get(start..));
        let source = from.and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(source.ok_or_else(|| {
            Error::invalid(format!(
                "cannot read {} bytes at {offset}: the disk ends before",
                buf.len()
            ))
        })?);
        Ok(())
    }
}

impl DiskRead for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        self.as_slice().size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.as_slice().read_at(buf, offset)
    }
}

/// A disk in a file or a block device.
pub struct FileDisk {
    file: File,
    size_bytes: u64,
}

impl FileDisk {
    /// The disk in `file`, as long as the file is now.
    pub fn new(mut file: File) -> Result<FileDisk> {
        let size_bytes =
            file.seek(SeekFrom::End(0)).context(|| "cannot tell the size of the disk".into())?;
        Ok(FileDisk { file, size_bytes })
    }
}

impl DiskRead for FileDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buf, offset)
            .context(|| format!("cannot read {} bytes of the disk at {offset}", buf.len()))
    }
}
