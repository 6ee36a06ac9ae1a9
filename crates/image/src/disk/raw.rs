//! A disk as it lies in a file or on a block device, byte for byte.

use rustix::{
    fs::{FileType, SeekFrom, Stat, fstat, seek},
    io::Errno,
};
use silt_ext4::reader::DiskRead;
use silt_types::{Error, ErrorKind, Result};
use silt_volume::NewDisk;
use std::{fs::File, io, os::unix::fs::FileExt as _};

/// A file or a block device, and what it was when it was opened.
pub(super) struct RawDisk {
    file: File,
    /// For messages.
    name: String,
    size_bytes: u64,
    stamp: Stamp,
}

/// What changes when a file does. A block device has its length alone: its times are those of its name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size_bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    is_device: bool,
}

impl Stamp {
    fn of(stat: &Stat) -> Stamp {
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        let time = |seconds, nanoseconds| if is_device { (0, 0) } else { (seconds, nanoseconds) };
        Stamp {
            size_bytes: stat.st_size as u64,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec as i64),
            is_device,
        }
    }
}

impl RawDisk {
    /// The disk in an open file, called `name` in messages.
    pub(super) fn new(file: File, name: String) -> Result<RawDisk> {
        let unreadable =
            |error: Errno| Error::io(format!("cannot tell the length of {name}"), error.into());
        let stamp = Stamp::of(&fstat(&file).map_err(unreadable)?);
        let size_bytes = match stamp.is_device {
            true => seek(&file, SeekFrom::End(0)).map_err(unreadable)?,
            false => stamp.size_bytes,
        };
        if size_bytes == 0 {
            return Err(Error::invalid(format!("{name} is empty: there is no disk in it")));
        }
        Ok(RawDisk { file, name, size_bytes, stamp })
    }

    /// Adds where the file has data. Of a device, or where the file system cannot tell, that is everywhere.
    pub(super) fn find_data(&self, disk: &mut NewDisk<'_>) -> Result<()> {
        let mut at = 0;
        while !self.stamp.is_device && at < self.size_bytes {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(()),
                Err(Errno::INVAL | Errno::OPNOTSUPP) => break,
                Err(error) => return Err(self.unreadable(error.into())),
            };
            let end = seek(&self.file, SeekFrom::Hole(start));
            let end = end.map_err(|error| self.unreadable(error.into()))?;
            disk.add_data(start..end);
            at = end;
        }
        disk.add_data(at..self.size_bytes);
        Ok(())
    }

    /// `Io`, naming it, if the file was changed since it was opened.
    pub(super) fn must_not_have_changed(&self) -> Result<()> {
        let stat = fstat(&self.file).map_err(|error| self.unreadable(error.into()))?;
        if Stamp::of(&stat) == self.stamp { Ok(()) } else { Err(self.changed()) }
    }

    /// The file, to be read in another way.
    pub(super) fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| self.unreadable(error))
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn unreadable(&self, error: io::Error) -> Error {
        Error::io(format!("cannot read {}", self.name), error)
    }

    fn changed(&self) -> Error {
        Error::new(ErrorKind::Io, format!("{} changed while it was read", self.name))
    }
}

impl DiskRead for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => {
                let what = format!("cannot read {} bytes of {} at {offset}", buf.len(), self.name);
                Error::io(what, error)
            }
        })
    }
}
